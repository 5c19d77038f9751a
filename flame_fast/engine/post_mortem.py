"""Post-mortem: what the errors of calls say whose process died or was ended by force."""

from __future__ import annotations

import contextlib
import os
import signal

from flame_fast._records import record
from flame_fast.engine.capture import LAST_LINES
from flame_fast.engine.spec import ServiceSpec
from flame_fast.errors import FlameError, TaskTimeoutError, WorkerDiedError
from flame_fast.kernels.runtime import Role, serialization
from flame_fast.kernels.runtime.serialization.described import described_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.runtime import DueCall, LostCall, Supervisor

#: In the place of a cancelled call's error: `None`, as the native codec writes it.
CANCELLED = b"N"

#: How a worker of the supervisor before this one ended.
WITH_SUPERVISOR = "with the process that supervised it"

#: How a worker ended that was killed because of a call that it ran, for the other calls that it takes with it.
BY_FORCE = "because a call in it was ended by force: it was cancelled, or past its time"

#: Where the runtime's own code lies.
RUNTIME = os.path.dirname(os.path.abspath(__file__)) + os.sep

#: Bytes of the stacks that a worker's fault handler wrote.
MOST_STACK = 1 << 14

CAUSES = {
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "memory that could not be had, or a file that was cut while mapped",
    signal.SIGABRT: "native code gave up",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGILL: "an instruction this CPU does not have",
    signal.SIGTERM: "somebody asked it to end",
}

#: Causes of a SIGKILL, by whether the kernel counted a kill for want of memory.
KILLERS: dict[bool | None, str] = {
    True: "the kernel killed it for want of memory",
    False: "somebody killed it; the kernel did not, for want of memory",
    None: "somebody killed it, or the system was out of memory (see `dmesg`)",
}


def users_paths(text: str, tree: str, directory: str) -> str:
    """Return a text with the user's paths, in the project's directory, in place of those in its unpacked tree."""
    return text.replace(tree + os.sep, directory.rstrip(os.sep) + os.sep)


def users_stack(written: str) -> str:
    """Return a fault handler's stacks, the most recent call first, without the runtime's frames at the end of each."""
    kept, inside = [], False
    for line in written.splitlines():
        inside = line.startswith("  File ") and (inside or f'File "{RUNTIME}' in line)
        if not inside and not line.startswith("Extension modules:"):
            kept.append(line)
    return "\n".join(kept).strip() + "\n" if kept else ""


@record
class Death:
    """How a worker's process ended.

    Parameters
    ----------
    how : str
        Follows "died" in a sentence.
    facts : dict
        Attributes of a `WorkerDiedError`.
    """

    how: str
    facts: dict[str, Any]


def death_of(pid: int, code: int, peak_memory: int | None, out_of_memory: bool | None, stack: str) -> Death:
    """Return how a process ended by itself or by a signal.

    Parameters
    ----------
    pid : int
    code : int
        As of `os.waitstatus_to_exitcode`.
    peak_memory : int, optional
        Bytes.
    out_of_memory : bool, optional
        Whether the kernel has killed a process for want of memory just now.
    stack : str
        What its fault handler wrote.
    """
    out_of_memory = out_of_memory if code == -signal.SIGKILL else False
    facts = {"pid": pid, "peak_memory": peak_memory, "out_of_memory": out_of_memory, "stack": stack}
    if code >= 0:
        how = f"with exit code {code} (likely cause: the task called os._exit or native code called exit)"
        return Death(how, facts | {"exit_code": code})
    try:
        number = signal.Signals(-code)
    except ValueError:
        return Death(f"by signal {-code}", facts | {"signal": f"signal {-code}"})
    cause = KILLERS[out_of_memory] if number == signal.SIGKILL else CAUSES.get(number)
    how = f"by {number.name} (signal {-code}" + (f"; likely cause: {cause})" if cause else ")")
    return Death(how, facts | {"signal": number.name})


def call_name(spec: ServiceSpec, method: int, call: int) -> str:
    """Return how messages name a call."""
    name = spec.methods[method] if method < len(spec.methods) else ""
    return f"call {call} of " + (f"{name!r} of " if name else "") + f"service {spec.name!r}"


def late_error(called: str, seconds: float, attempts: int) -> TaskTimeoutError:
    """Return the error of a call that does not run when its deadline comes.

    Parameters
    ----------
    called : str
        Its name in messages.
    seconds : float
        From its submission to its deadline.
    attempts : int
        That have failed.
    """
    failed = f"{attempts} times" if attempts > 1 else "once"
    state = f"had failed {failed} and was to be tried again at" if attempts else "had not begun by"
    return TaskTimeoutError(f"{called} {state} its deadline, {seconds:g} s after it was made")


def _limit_of(call: LostCall) -> str:
    if call.past_deadline:
        return f"had not ended by its deadline, {call.allowed:g} s after it was made"
    return f"ran longer than its timeout of {call.timeout:g} s"


class PostMortem:
    """Composes the errors of calls that a process had begun, or that are past a limit.

    Parameters
    ----------
    supervisor : Supervisor
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def death_error(self, index: int, death: Death) -> WorkerDiedError:
        """Return the error of the calls of a dead instance, or of those that a dead worker had begun."""
        what, facts = "a worker process", dict(death.facts)
        instance = any(one.index == index and one.role == Role.INSTANCE for one in self._supervisor.processes())
        found = self._supervisor.current_service(index)
        if found is not None:
            with contextlib.suppress(Exception):  # its service may be closed and gone just now
                spec, method = self._names(*found)
                what = f"the worker process of service {spec.name!r}" + (f" (in {method!r})" if method else "")
                facts |= {"service": spec.name, "method": method or None}
        if self._supervisor.restarts(index):
            lost = "its state is lost, and the call it ran; the service goes on with the object as it was at Runner.service"
        elif instance:
            lost = "its state is lost, and with it the calls that were running, queued or made later; make a new service"
        else:
            lost = "the call it ran is lost (and any that waited in the same process for it), no other is"
        return WorkerDiedError(f"{what} died {death.how}; {lost}", facts)

    def end_of(self, call: LostCall, death: WorkerDiedError, printed: str | None = None) -> bytes | list[str]:
        """Return how a call ends that a dead process had begun, as `Supervisor.recover_process` takes it.

        Parameters
        ----------
        call : LostCall
        death : WorkerDiedError
            Its error, if it was not ended by force.
        printed : str, optional
            What it has printed, if that was captured.
        """
        if call.unwanted:
            return CANCELLED
        if printed is None and call.captured:
            printed = ""
        error: FlameError = WorkerDiedError(death.message, death.facts | self._facts(call, printed or ""))
        if call.by_force:
            error = TaskTimeoutError(f"{self._called(call)} {_limit_of(call)}; its worker was ended with it")
        if call.retried:
            return [*call.earlier, serialization.attempt_text(call.attempts, error)]
        for text in call.earlier:
            error.add_note(text)
        return serialization.dump_error(error, output=printed)

    def _facts(self, call: LostCall, printed: str) -> dict[str, Any]:
        """Return what a dead process's tables tell of a call, as attributes of a `WorkerDiedError`."""
        facts: dict[str, Any] = {"call": call.slot, "run_time": call.seconds if call.seconds >= 0 else None}
        if printed:
            facts["output"] = printed.splitlines()[-LAST_LINES:]
        if call.arguments:
            facts["arguments"] = described_arguments(call.arguments, call.pickled, call.nbytes)
        with contextlib.suppress(Exception):  # its service may be closed and gone just now
            spec, method = self._names(call.service, call.method)
            facts |= {"service": spec.name, "method": method or None}
        return facts

    def late_notice(self, call: DueCall) -> bytes:
        """Return the outcome of a call that does not run, and does not run any more."""
        if call.unwanted:
            return CANCELLED
        error = late_error(self._called(call), call.allowed, len(call.earlier))
        for text in call.earlier:
            error.add_note(text)
        return serialization.dump_error(error)

    def _called(self, call: LostCall | DueCall) -> str:
        try:
            return call_name(ServiceSpec.from_blob(self._supervisor.service_blob(call.service)), call.method, call.slot)
        except Exception:  # its service may be closed and gone just now
            return f"call {call.slot}"

    def _names(self, service: int, method: int) -> tuple[ServiceSpec, str]:
        spec = ServiceSpec.from_blob(self._supervisor.service_blob(service))
        return spec, spec.methods[method] if method < len(spec.methods) else ""

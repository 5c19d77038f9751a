"""Post-mortem: what the errors of calls say whose process died or was ended by force."""

from __future__ import annotations

import contextlib
import signal
from copy import copy

from flame_fast.engine.spec import ServiceSpec
from flame_fast.errors import FlameError, TaskTimeoutError, WorkerDiedError
from flame_fast.kernels.runtime import Role, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.runtime import DueCall, LostCall, Supervisor

#: In the place of a cancelled call's error: `None`, as the native codec writes it.
CANCELLED = b"N"

#: How a worker of the supervisor before this one ended.
WITH_SUPERVISOR = "with the process that supervised it"

#: How a worker ended that was killed because of a call that it ran, for the other calls that it takes with it.
BY_FORCE = "because a call in it was ended by force: it was cancelled, or past its time"

CAUSES = {
    signal.SIGKILL: "somebody killed it, or the system was out of memory (see `dmesg`)",
    signal.SIGSEGV: "a crash in native code; its stack is on standard error",
    signal.SIGBUS: "memory that could not be had, or a file that was cut while mapped",
    signal.SIGABRT: "native code gave up; its stack is on standard error",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGILL: "an instruction this CPU does not have",
    signal.SIGTERM: "somebody asked it to end",
}


def describe_exit(code: int) -> str:
    """Describe an exit by name and number, with the likely cause; `code` as of `os.waitstatus_to_exitcode`."""
    if code >= 0:
        return f"with exit code {code} (likely cause: the task called os._exit or native code called exit)"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"by signal {-code}"
    cause = CAUSES.get(number)
    return f"by {number.name} (signal {-code}" + (f"; likely cause: {cause})" if cause else ")")


def call_name(spec: ServiceSpec, method: int, call: int) -> str:
    """Return how messages name a call."""
    name = spec.methods[method] if method < len(spec.methods) else ""
    return f"call {call} of " + (f"{name!r} of " if name else "") + f"service {spec.name!r}"


def late_error(called: str, seconds: float) -> TaskTimeoutError:
    """Return the error of a call that has not begun by its deadline, so many seconds after it was made."""
    return TaskTimeoutError(f"{called} had not begun by its deadline, {seconds:g} s after it was made")


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

    def death_error(self, index: int, how: str) -> WorkerDiedError:
        """Return the error of the calls of a dead instance, or of those that a dead worker had begun."""
        what = "a worker process"
        instance = any(one.index == index and one.role == Role.INSTANCE for one in self._supervisor.processes())
        found = self._supervisor.current_service(index)
        if found is not None:
            with contextlib.suppress(Exception):  # its service may be closed and gone just now
                spec, method = self._names(*found)
                what = f"the worker process of service {spec.name!r}" + (f" (in {method!r})" if method else "")
        if self._supervisor.restarts(index):
            lost = "its state is lost, and the call it ran; the service goes on with the object as it was at Runner.service"
        elif instance:
            lost = "its state is lost, and with it the calls that were running, queued or made later; make a new service"
        else:
            lost = "the call it ran is lost (and any that waited in the same process for it), no other is"
        return WorkerDiedError(f"{what} died {how}; {lost}")

    def end_of(self, call: LostCall, death: WorkerDiedError) -> bytes | list[str]:
        """Return how a call ends that a dead process had begun, as `Supervisor.recover_process` takes it.

        Parameters
        ----------
        call : LostCall
        death : WorkerDiedError
            Its error, if it was not ended by force.
        """
        if call.unwanted:
            return CANCELLED
        error: FlameError = copy(death)
        if call.by_force:
            error = TaskTimeoutError(f"{self._called(call)} {_limit_of(call)}; its worker was ended with it")
        if call.retried:
            return [*call.earlier, serialization.attempt_text(call.attempts, error)]
        for text in call.earlier:
            error.add_note(text)
        return serialization.dump_error(error)

    def late_notice(self, call: DueCall) -> bytes:
        """Return the error of a call that has not begun by its deadline."""
        return serialization.dump_error(late_error(self._called(call), call.allowed))

    def _called(self, call: LostCall | DueCall) -> str:
        try:
            return call_name(ServiceSpec.from_blob(self._supervisor.service_blob(call.service)), call.method, call.slot)
        except Exception:  # its service may be closed and gone just now
            return f"call {call.slot}"

    def _names(self, service: int, method: int) -> tuple[ServiceSpec, str]:
        spec = ServiceSpec.from_blob(self._supervisor.service_blob(service))
        return spec, spec.methods[method] if method < len(spec.methods) else ""

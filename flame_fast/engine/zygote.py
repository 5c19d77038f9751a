"""Supervisor process (zygote): forks workers, watches them and the driver, recovers after deaths.

A small single-threaded process of its own session, started by exec, so that forking it is always safe.

    driver ---- eventfd (doorbell), segment ----> zygote ---- fork ----> workers
    driver <--- SEQPACKET: read ends of each worker's stdout and stderr --- workers; stacks of crashes --- zygote
    zygote polls: the driver's pidfd, the doorbell, a pidfd per worker

When the driver is gone it kills the workers, removes the runner's package and registry row, and exits. When the runner is
closed it ends the workers, and stays until the driver has removed these, and kills it. Should the zygote itself die, its
workers die with it (parent-death signal) and the driver starts another one, with `recover` set.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import select
import signal
import socket
import sys
import time

from flame_fast.engine import program, worker
from flame_fast.engine.capture import mirrored
from flame_fast.engine.left_behind import LeftBehind
from flame_fast.engine.post_mortem import (
    BY_FORCE,
    MOST_STACK,
    WITH_SUPERVISOR,
    Death,
    PostMortem,
    death_of,
    users_paths,
    users_stack,
)
from flame_fast.engine.preload import Preloading
from flame_fast.engine.shortage import Shortage
from flame_fast.engine.spawn import (
    CONTROL_FD,
    DEBUG_MARK,
    DOORBELL_FD,
    DRIVER_FD,
    EXIT_DAMAGED,
    SEGMENT_FD,
    STACK_MARK,
    STEP_MARK,
    WARNING_MARK,
    start_time,
)
from flame_fast.errors import FlameError, WorkerDiedError
from flame_fast.kernels.runtime import ZYGOTE, ProcessState, Role, Supervisor, Worker, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.engine.memory_kills import MemoryKills
    from flame_fast.kernels.runtime import ProcessInfo

#: Seconds that a surplus pool worker stays, in case a blocked task needs it again.
SURPLUS_S = 1.0
#: Seconds that idle workers get to leave by themselves when the runner ends, with all that their programs do at exit.
LEAVE_S = 1.2
#: Seconds between two looks at closed services whose calls still run.
REAP_S = 0.1
#: Seconds without an extent allocation after which cached extents return their pages to the system.
IDLE_S = 5.0
#: Bytes of values in shared memory from which on the driver's log tells of it each time that they have doubled.
MUCH_MEMORY = 1 << 26
#: Seconds that a new supervisor waits until the workers of the one before have ended.
RECOVER_S = 2.0


class Child:
    """A worker that this supervisor forked, or that outlives the supervisor before."""

    __slots__ = ("index", "pid", "pidfd", "role", "stack")

    def __init__(self, index: int, role: int, pid: int, stack: int = -1) -> None:
        self.index: int = index
        self.role: int = role
        self.pid: int = pid
        self.pidfd: int = os.pidfd_open(pid)
        self.stack: int = stack  # descriptor of the file of its fault handler and of a captured text; -1: there is none

    def close(self) -> None:
        os.close(self.pidfd)
        if self.stack >= 0:
            os.close(self.stack)

    def written_stack(self) -> str:
        """Return what the fault handler wrote."""
        if self.stack < 0:
            return ""
        return os.pread(self.stack, MOST_STACK, 0).rstrip(b"\0").decode("utf-8", "replace")

    def captured(self) -> tuple[int, str] | None:
        """Return what `engine.capture.mirrored` returns of it."""
        return mirrored(self.stack) if self.stack >= 0 else None


class Zygote:
    """The supervisor's process.

    Parameters
    ----------
    template : Worker
        What each forked worker goes on with as its own; not used here.
    recover : bool
        Another supervisor was there before.
    preload : list of str
        Modules to import before the first fork.
    """

    def __init__(self, template: Worker, recover: bool, preload: list[str]) -> None:
        self.template = template
        self.supervisor: Supervisor = Supervisor(template)
        self.post_mortem: PostMortem = PostMortem(self.supervisor)
        self.memory_kills: MemoryKills | None = None
        self.control: socket.socket = socket.socket(fileno=CONTROL_FD)
        self.control.settimeout(5.0)
        self.children: dict[int, Child] = {}  # by pidfd
        self.poller: select.poll = select.poll()
        self.poller.register(DRIVER_FD, select.POLLIN)
        self.poller.register(DOORBELL_FD, select.POLLIN)
        self.preloading: Preloading = Preloading(ring_own_bell, preload, lambda text: self.tell(STEP_MARK, text))
        self.shortage: Shortage = Shortage(self.supervisor)
        self.doomed: set[int] = set()  # processes killed because of a call that they run, and not reaped yet
        self.left_behind: LeftBehind = LeftBehind(os.getsid(0))
        self.surplus_since: float | None = None
        self.memory_takes: int = -1
        self.memory_since: float = 0.0
        self.memory_told: int = MUCH_MEMORY // 2
        before = self.supervisor.adopt_supervision(os.getpid())
        if recover:
            self.recover(before)

    def recover(self, before: int) -> None:
        """Recover the supervisor before this one and its workers, which died with it or are killed now.

        A worker in an uninterruptible system call may end late: this supervisor recovers it then.
        """
        for process in self.supervisor.processes():
            if process.state == ProcessState.STARTING:
                self.supervisor.cancel_start(process.index)
        dead, left = [], []
        for process in self.supervisor.processes():
            if process.state == ProcessState.LIVE:
                child = worker_left(
                    process.index, process.role, process.pid, self.supervisor.start_time(process.index), before
                )
                if child is None:
                    dead.append(process.index)
                else:
                    kill(child)
                    left.append(child)
        if before:
            self.left_behind.take_over(before)
        self.supervisor.recover_process(
            ZYGOTE, serialization.dump_error(WorkerDiedError("the process that supervises the workers died"))
        )
        for index in dead:
            self.recover_worker(index, Death(WITH_SUPERVISOR, {}))
        deadline = time.monotonic() + RECOVER_S
        for child in left:
            self.watch(child)
            if wait_for_end(child.pidfd, max(0.0, deadline - time.monotonic())):
                self.reap(child)

    def run(self) -> None:
        timeout: float | None = 0.0
        while True:
            ready = dict(self.poller.poll(None if timeout is None else timeout * 1000))
            if DRIVER_FD in ready:
                self.end()
                release_application(self.supervisor.get_setup())
                return
            if DOORBELL_FD in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(DOORBELL_FD)
            for pidfd in ready:
                if pidfd in self.children:
                    self.reap(self.children[pidfd])
            if not self.preloading.imports:
                self.left_behind.reap({child.pid for child in self.children.values()})
            if self.supervisor.closing or self.supervisor.is_damaged:
                self.end()
                if not self.supervisor.is_damaged:
                    self.stand_by()
                return
            closing = self.supervisor.reap_services()
            timeout = self.staff()
            if self.memory_kills is None:  # only now: the first workers do not wait for it
                self.memory_kills = prepare_for_deaths()
            if closing:
                timeout = soonest(timeout, REAP_S)
            timeout = soonest(timeout, self.watch_memory(), self.enforce_limits())

    def watch_memory(self) -> float | None:
        """Return cached memory to the system after a while without use; return the seconds until the next look.

        The process that caches the first extent rings the doorbell.
        """
        peak = self.supervisor.peak_memory
        if peak >= 2 * self.memory_told:
            self.memory_told = peak
            self.tell(DEBUG_MARK, f"values have taken up to {peak:,} bytes of shared memory")
        kept, takes = self.supervisor.cached_memory()
        now = time.monotonic()
        if not kept:
            self.memory_takes = -1
            return None
        if takes != self.memory_takes:
            self.memory_takes = takes
            self.memory_since = now
        left = self.memory_since + IDLE_S - now
        if left > 0:
            return left
        self.supervisor.trim()
        return None

    # ---- staffing ----------------------------------------------------------------------------------------------------

    def staff(self) -> float | None:
        """Fork missing workers and retire surplus ones; return the seconds until the next look."""
        wanted = self.supervisor.preload
        try:
            if self.preloading.will_be_long(wanted):
                self.start_for_others()
            if self.preloading.is_busy(wanted):
                return None
            processes = self.supervisor.processes()
            pool, missing = self.pool_of(processes)
            self.start_missing(processes, missing)
        except (OSError, MemoryError, FlameError) as error:  # no process to be had just now, or no room in the table
            return self.shortage.goes_on(error)
        idle = [one.index for one in pool if one.idle]
        self.shortage.end()
        if missing >= 0 or not idle:
            self.surplus_since = None
            return None
        now = time.monotonic()
        if self.surplus_since is None:
            self.surplus_since = now
        left = self.surplus_since + SURPLUS_S - now
        if left > 0:
            return left
        self.surplus_since = None
        for index in idle[missing:]:  # the youngest: an older one may hold a class service's state
            self.supervisor.retire(index)
        return None

    def pool_of(self, processes: list[ProcessInfo]) -> tuple[list[ProcessInfo], int]:
        """Return the pool workers, and how many of them are missing; a negative number: too many."""
        pool = [
            one for one in processes if one.role == Role.POOL and not one.retiring and one.index not in self.doomed
        ]  # what one that retires does at its end may take long: nobody waits for it
        return pool, self.supervisor.workers + sum(one.blocked for one in pool) - len(pool)

    def start_for_others(self) -> None:
        """Start what shall not wait for a long import: the processes of instances asked for, and one pool worker."""
        processes = self.supervisor.processes()
        pool, _ = self.pool_of(processes)
        self.start_missing(processes, 0 if pool else 1)

    def start_missing(self, processes: list[ProcessInfo], workers: int) -> None:
        """Start the processes that instances ask for, and pool workers: in the place of a spare, if one stands by."""
        spares = [one for one in processes if one.role == Role.SPARE]
        standing = [one.index for one in spares if one.state == ProcessState.LIVE]
        left = len(spares)
        for one in processes:
            if one.state != ProcessState.REQUESTED or not self.supervisor.is_requested(one.index):
                continue
            if standing and self.supervisor.deploy(standing.pop(), one.index):
                left -= 1
            else:
                self.fork(one.role, one.index)
        for _ in range(workers):
            if standing and self.supervisor.deploy(standing.pop()):
                left -= 1
            else:
                self.fork(Role.POOL)
        if not self.doomed:  # first their calls' outcomes: a fork takes longer than those
            for _ in range(self.supervisor.spares - left):
                self.fork(Role.SPARE)

    def fork(self, role: int, requested: int | None = None) -> None:
        """Fork the process of a requested entry, or of a new one."""
        me = os.getpid()
        with contextlib.ExitStack() as closing:
            out_read, out_write = open_pipe(closing)
            err_read, err_write = open_pipe(closing)
            index = self.supervisor.request_process(role, 0) if requested is None else requested
            token = self.supervisor.start(index, self.preloading.loaded)
            stack = open_stack()
            try:
                pid = os.fork()
            except OSError:
                self.supervisor.cancel_start(index)
                close_stack(stack)
                raise
            if pid == 0:
                streams = out_write, err_write, stack
                worker.run_and_exit(lambda: self.become_worker(index, token, streams, me, (out_read, err_read)))
            try:
                self.watch(Child(index, role, pid, stack))
            except OSError:  # no descriptor to watch it by
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                close_stack(stack)
                if not self.supervisor.cancel_start(index):
                    self.recover_worker(index, Death("at its start: there was no descriptor to watch it by", {"pid": pid}))
                raise

    def watch(self, child: Child) -> None:
        self.children[child.pidfd] = child
        self.poller.register(child.pidfd, select.POLLIN)

    def become_worker(
        self, index: int, token: int, streams: tuple[int, int, int], zygote: int, others: tuple[int, ...]
    ) -> None:
        # The worker itself sends its pipes' read ends: so the driver has them before anything that a task prints.
        with contextlib.suppress(OSError):  # the driver is going: the supervisor notices that
            socket.send_fds(self.control, [str(os.getpid()).encode()], list(others))
        for fd in others:  # else this worker would never see that nobody reads them
            os.close(fd)
        for child in self.children.values():
            child.close()
        self.control.close()
        os.close(DRIVER_FD)
        worker.run(index, token, streams, zygote, self.template)

    # ---- deaths ------------------------------------------------------------------------------------------------------

    def reap(self, child: Child) -> None:
        self.poller.unregister(child.pidfd)
        del self.children[child.pidfd]
        death = self.death_of(child)
        captured = child.captured()
        child.close()
        self.recover_worker(child.index, death, captured)

    def death_of(self, child: Child) -> Death:
        """Reap an ended child; return how it ended. Its fault handler's stack goes to the driver's standard error, too."""
        stack = self.users_stack(child.written_stack())
        if stack:
            with contextlib.suppress(OSError):
                self.control.send(STACK_MARK + stack.encode())
        try:
            # By the descriptor first: the number of one that the supervisor before had forked may be a younger worker's.
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
            _, status, usage = os.wait4(child.pid, 0)
        except ChildProcessError:
            return Death(WITH_SUPERVISOR, {"pid": child.pid, "stack": stack})
        code = os.waitstatus_to_exitcode(status)
        out_of_memory = None if self.memory_kills is None else self.memory_kills.since_last_look()
        return death_of(child.pid, code, usage.ru_maxrss << 10, out_of_memory, stack)

    def users_stack(self, written: str) -> str:
        """Return what a fault handler wrote as the user knows it: without the runtime's frames, and with his own paths."""
        stack = users_stack(written)
        setup = self.supervisor.get_setup() if stack else None
        if not setup:
            return stack
        project = pickle.loads(setup)
        return users_paths(stack, project["tree"], project["directory"])

    def recover_worker(self, index: int, death: Death, captured: tuple[int, str] | None = None) -> None:
        """Recover an ended worker. `captured`: a call that it ran, and what that had printed."""
        self.doomed.discard(index)
        lost = self.supervisor.lost_calls(index)
        if any(call.by_force for call in lost):
            death = Death(BY_FORCE, death.facts)
        error = self.post_mortem.death_error(index, death)
        pid = death.facts.get("pid")
        if not lost and death.facts.get("exit_code") == 0:
            self.tell(DEBUG_MARK, f"worker process {pid} has left")
        else:
            self.tell(DEBUG_MARK if death.how == BY_FORCE else WARNING_MARK, f"process {pid}: {error.message}")
        printed = dict([captured] if captured else [])
        ends = {call.slot: self.post_mortem.end_of(call, error, printed.get(call.slot)) for call in lost}
        self.supervisor.recover_process(index, serialization.dump_error(error), ends)
        self.supervisor.look_soon()  # it may have died before it set the alarm

    def tell(self, mark: bytes, text: str) -> None:
        """Have the driver log a line."""
        with contextlib.suppress(OSError):  # it is going, or does not listen: the line is no reason to wait for it
            self.control.send(mark + text.encode(), socket.MSG_DONTWAIT)

    # ---- limits of calls ---------------------------------------------------------------------------------------------

    def enforce_limits(self) -> float | None:
        """End calls that are past a limit; return the seconds until the next look."""
        alarm = self.supervisor.alarm
        if alarm and alarm <= time.monotonic_ns():
            doomed = len(self.doomed)
            for call in self.supervisor.due_calls():
                if not call.running:
                    if self.supervisor.claim_due(call):
                        self.supervisor.fail_claimed(call, self.post_mortem.late_notice(call))
                elif self.supervisor.condemn(call):
                    self.kill_worker(call.process)
            if len(self.doomed) > doomed:
                self.replace_doomed()
            alarm = self.supervisor.alarm
        return max(0.0, (alarm - time.monotonic_ns()) / 1e9) if alarm else None

    def kill_worker(self, index: int) -> None:
        for child in self.children.values():
            if child.index == index:
                kill(child)
                self.doomed.add(index)

    def replace_doomed(self) -> None:
        """Give the places of pool workers that are being killed to spares: other calls do not wait for the ends."""
        processes = self.supervisor.processes()
        standing = [one.index for one in processes if one.role == Role.SPARE and one.state == ProcessState.LIVE]
        _, missing = self.pool_of(processes)
        for spare in standing[: max(0, missing)]:
            self.supervisor.deploy(spare)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End every worker: idle ones leave by themselves, busy ones are killed."""
        busy = {process.index for process in self.supervisor.processes() if not process.idle}
        for child in self.children.values():
            if child.index in busy or not self.supervisor.closing or self.supervisor.is_damaged:
                kill(child)
        deadline = time.monotonic() + LEAVE_S
        waiting = select.poll()
        for pidfd in self.children:
            waiting.register(pidfd, select.POLLIN)
        left = set(self.children)
        while left:
            remaining = deadline - time.monotonic()
            for pidfd, _ in waiting.poll(max(0.0, remaining) * 1000):
                left.discard(pidfd)
                waiting.unregister(pidfd)
            if remaining <= 0:
                for pidfd in left:
                    kill(self.children[pidfd])
                    wait_for_end(pidfd, 1.0)
                break
        for child in self.children.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)
        self.left_behind.end()

    def stand_by(self) -> None:
        """Wait until the driver has released its application, and kills this process; release it if it dies before."""
        setup = self.supervisor.get_setup()
        self.supervisor.announce_end()
        wait_for_end(DRIVER_FD)
        release_application(setup)


def prepare_for_deaths() -> MemoryKills:
    """Count the kernel's kills, and import what `os.wait4` imports: there may be no descriptor for that at a death."""
    import resource  # noqa: F401

    from flame_fast.engine.memory_kills import MemoryKills

    return MemoryKills()


def soonest(*seconds: float | None) -> float | None:
    """Return the least of some times; None stands for never."""
    return min((one for one in seconds if one is not None), default=None)


def kill(child: Child) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def worker_left(index: int, role: int, pid: int, started_at: int, session: int) -> Child | None:
    """Return the worker that an entry of a dead supervisor names, unless it has ended: its pid may be in use again.

    `started_at`: when it started. One that has not told that yet has run no task: it is in its zygote's session still.
    """
    if not 0 < pid < 1 << 31:  # overwritten
        return None
    try:
        child = Child(index, role, pid)
    except ProcessLookupError:
        return None
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if start_time(pid) == started_at if started_at else os.getsid(pid) == session:
            return child
    child.close()
    return None


def open_pipe(closing: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        closing.callback(os.close, fd)
    return ends


def open_stack() -> int:
    """Return a file for a worker's fault handler; -1 if there is no descriptor left for it."""
    try:
        return os.memfd_create("flame_stack")
    except OSError:
        return -1


def close_stack(stack: int) -> None:
    if stack >= 0:
        os.close(stack)


def ring_own_bell() -> None:
    with contextlib.suppress(OSError):
        os.eventfd_write(DOORBELL_FD, 1)


def wait_for_end(pidfd: int, patience_s: float | None = None) -> bool:
    """Return whether the process ends in time. By poll: select refuses descriptors above 1,023."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(None if patience_s is None else patience_s * 1000))


def release_application(setup: bytes | None) -> None:
    """Release the application's lease for a driver that no longer can."""
    project = pickle.loads(setup) if setup else None
    if project:
        from flame_fast.application.lifecycle import release_owner

        release_owner(project["home"], project["token"])


def main(argument: str) -> None:
    """Run the supervisor's whole life; `argument` is JSON: name, recover, preload, directory."""
    options = json.loads(argument)
    program.forget_mark()
    if options["directory"]:
        with contextlib.suppress(OSError):  # it is gone
            os.chdir(options["directory"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a driver that ignores it would hide how workers end
    os.closerange(DRIVER_FD + 1, min(os.sysconf("SC_OPEN_MAX"), 65536))
    for fd in (SEGMENT_FD, DOORBELL_FD, CONTROL_FD, DRIVER_FD):
        os.set_inheritable(fd, False)
    template = Worker.attach(SEGMENT_FD, ZYGOTE, options["name"], DOORBELL_FD)
    template.pickling = serialization
    gc.collect()
    gc.freeze()
    zygote = Zygote(template, options["recover"], options["preload"])
    try:
        zygote.run()
    except FlameError:
        if not zygote.supervisor.is_damaged:
            raise
        zygote.end()
    finally:
        zygote.control.close()
    sys.stderr.flush()
    # Taking the libraries' objects apart one by one would keep the driver waiting.
    os._exit(EXIT_DAMAGED if zygote.supervisor.is_damaged else 0)

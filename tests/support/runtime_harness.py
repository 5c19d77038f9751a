"""The native runtime without its engines, to test the tables themselves: in one process, or with forked relatives."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import time
import traceback

import audit
from flame_fast.kernels.runtime import CallPolicy, CallTarget, ProcessState, Role, Supervisor, Worker, serialization
from gates import PATIENCE_S

from flame_fast import StoreFullError
from flame_fast.engine.spawn import start_time
from flame_fast.engine.spec import FUNCTION, INSTANCE, ServiceSpec
from flame_fast.engine.task_host import Host

REQUESTED = ProcessState.REQUESTED
POOL = Role.POOL
INSTANCE_ROLE = Role.INSTANCE


class Alone:
    """A runtime whose tasks run when `work` is called."""

    #: Only debug builds have these counts; a death costs a count here and there.
    counts_blocks = True

    def __init__(self, limit=1 << 26, workers=1, cpus=1, cgroups=()):
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.runtime = Worker.create("alone", self.bell, workers, cpus, limit, cgroups)
        self.runtime.pickling = serialization
        self.supervisor = Supervisor(self.runtime)
        self.host = Host(self.runtime)
        self.serve()

    def serve(self):
        self.runtime.serve_inline()

    def service(self, target, kind=FUNCTION, methods=(), **options):
        spec = ServiceSpec("s", kind, pickle.dumps(target), methods, 1, "s-1", "a")
        return self.runtime.add_service(spec.to_blob(), instance=kind == INSTANCE, **options)

    def target(self, service, method=0, policy=None):
        target = CallTarget()
        target.bind(self.runtime, service, method, policy=policy)
        return target

    def call(self, service, *args, method=0, **kwargs):
        return self.target(service, method)(*args, **kwargs)

    def detached(self, service, *args, method=0, **kwargs):
        """Make a call that runs although its future is dropped."""
        return self.target(service, method, CallPolicy(detached=True))(*args, **kwargs)

    def work(self):
        self.runtime.run_queued(self.host)

    def in_use(self):
        """Return (slots, bytes of values and arguments): as before once everything is dropped."""
        statistics = self.runtime.statistics()
        balanced(statistics)
        return statistics["slots"], statistics["bytes"]

    def room(self):
        """Return the bytes of whole extents still available, as the store says when it refuses a value.

        Unlike `in_use` it shows memory that no value lies in and that no process can allocate all the same.
        """
        try:
            self.runtime.put(bytes(self.runtime.statistics()["limit_bytes"] + 1))
        except StoreFullError as error:
            return error.free
        raise AssertionError("a value larger than the store found room")

    def check(self):
        """Check the tables while nothing runs."""
        assert not (faults := audit.faults(self.runtime)), "\n".join(faults)
        statistics = self.runtime.statistics()
        if "blocks_taken" in statistics and self.counts_blocks:
            assert statistics["blocks_taken"] - statistics["blocks_freed"] == audit.blocks_in_use(self.runtime)

    def close(self):
        self.runtime.mark_closed()
        os.close(self.runtime.fd)
        os.close(self.bell)


def balanced(statistics):
    """Check that allocations and frees balance, which debug builds count."""
    if "slots_taken" in statistics:
        assert statistics["slots_taken"] - statistics["slots_freed"] == statistics["slots"]


class Death(Exception):
    """The error of the calls of a relative that died."""


class Relative:
    """A forked process with an entry in the process table."""

    def __init__(self, index, pid):
        self.index = index
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def kill(self):
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def has_ended(self, timeout_s=0.0):
        waiting = select.poll()
        waiting.register(self.pidfd, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))


def end_of(call, error):
    """Return how a call ends whose process died: see `PostMortem.end_of`."""
    if call.unwanted:
        return b"N"  # cancelled
    return [*call.earlier, f"attempt {call.attempts}"] if call.retried else error


class Family(Alone):
    """A runtime with relatives: this process is their driver and their supervisor (zygote).

    It runs tasks itself if `inline`.
    """

    counts_blocks = False

    def __init__(self, limit=1 << 26, workers=1, cpus=1, cgroups=(), inline=False):
        self.inline = inline
        self.relatives = []
        super().__init__(limit, workers, cpus, cgroups)

    def serve(self):
        if self.inline:
            super().serve()

    def in_use(self):
        """Return what `Alone.in_use` does, without the counts of the debug build.

        Those need not balance: relatives are in the middle of something.
        """
        statistics = self.runtime.statistics()
        return statistics["slots"], statistics["bytes"]

    def wait_until_in_use(self, expected):
        """Return once the relatives have freed what they have finished with."""
        deadline = time.monotonic() + PATIENCE_S
        while self.in_use() != expected:
            assert time.monotonic() < deadline, f"(slots, bytes) in use: {self.in_use()}, not {expected}"
            time.sleep(0.001)

    def fork(self, life, index=None):
        """Fork a relative that lives `life()`; `index` is its entry in the process table, None: a new one."""
        if index is None:
            index = self.runtime.request_process(POOL, 0)
        sys.stdout.flush()
        token = self.supervisor.start(index)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.runtime.become(index, "alone", self.bell)
                assert self.runtime.claim_entry(token, os.getpid(), start_time(os.getpid()))
                life()
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        relative = Relative(index, pid)
        self.relatives.append(relative)
        return relative

    def take_in_children(self, index, tokens):
        """Tell which tokens let a process that was just forked claim an entry, one after the other."""
        took = []
        for token in tokens:
            pid = os.fork()
            if pid == 0:
                self.runtime.become(index, "alone", self.bell)
                os._exit(self.runtime.claim_entry(token, os.getpid(), start_time(os.getpid())))
            took.append(os.waitpid(pid, 0)[1] != 0)
        return took

    def fork_worker(self, index=None):
        return self.fork(lambda: self.runtime.serve(Host(self.runtime)), index)

    def fork_requested(self):
        """Fork workers for the instances that ask for one."""
        return [self.fork_worker(one.index) for one in self.supervisor.processes() if one.state == REQUESTED]

    def wait_until_idle(self):
        """Return once every call has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            statistics = self.runtime.statistics()
            unfinished = {name: statistics[name] for name in ("waiting", "queued", "running") if statistics[name]}
            if not unfinished:
                return
            assert time.monotonic() < deadline, f"calls that do not end: {unfinished}"
            time.sleep(0.001)

    def recover_process(self, relative, error=None):
        """Wait for a relative's end and recover what it left; return its exit code."""
        code = self.forget(relative)
        dumped = serialization.dump_error(error or Death())
        ends = {call.slot: end_of(call, dumped) for call in self.supervisor.lost_calls(relative.index)}
        self.supervisor.recover_process(relative.index, dumped, ends)
        return code

    def forget(self, relative):
        """Wait for the end of a relative that another process recovers; return its exit code."""
        if not relative.has_ended(PATIENCE_S):
            relative.kill()
            raise AssertionError(f"relative {relative.index} does not end")
        code = os.waitstatus_to_exitcode(os.waitpid(relative.pid, 0)[1])
        os.close(relative.pidfd)
        self.relatives.remove(relative)
        return code

    def close(self):
        for relative in self.relatives:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it may have ended, and been reaped elsewhere
                relative.kill()
                os.waitpid(relative.pid, 0)
            os.close(relative.pidfd)
        super().close()

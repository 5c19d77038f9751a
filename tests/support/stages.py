"""Pieces of a call that are met one after the other: the first that its plan names brings about an end of the process.

Imports nothing heavy: workers import this module.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from flame_fast import Runner

#: Seconds for what somebody else ends.
LONG_S = 30.0


class Plan:
    """What happens where in a call; it travels with the call in pieces that are met one after the other."""

    def __init__(self, stage, manner, directory):
        self.stage, self.manner, self.directory = stage, manner, str(directory)

    def reach(self, stage):
        if stage != self.stage:
            return
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(self.directory, "reached"), os.O_CREAT | os.O_EXCL))
            self.die()

    def die(self):
        with open(os.path.join(self.directory, "fifo"), "w") as fifo:
            fifo.write("here\n")
        if self.manner == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.manner == "crashed":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # the fault handler would print a stack
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.manner == "left":
            os._exit(3)
        elif self.manner == "with the supervisor":
            os.kill(os.getppid(), signal.SIGKILL)
        while True:  # the driver, or the supervisor's end, ends it
            time.sleep(LONG_S)


class Loaded:
    """Something that a function refers to: a worker reads it when it loads the service."""

    def __init__(self, plan):
        self.plan = plan

    def __setstate__(self, state):
        self.__dict__ = state
        self.plan.reach("loading the service")


class Argument:
    def __init__(self, plan):
        self.plan = plan
        self.is_workers = False

    def __setstate__(self, state):
        self.__dict__ = state
        self.is_workers = True
        self.plan.reach("reading the arguments")

    def __del__(self):
        if self.is_workers:
            self.plan.reach("freeing the arguments")


class Submitted:
    def __init__(self, plan):
        self.plan = plan

    def __reduce__(self):
        self.plan.reach("submitting a call")
        return int, (7,)


class Value:
    def __init__(self, plan):
        self.plan = plan

    def __reduce__(self):
        self.plan.reach("writing the value")
        return int, (7,)

    def __del__(self):
        self.plan.reach("freeing the value")


class Endless:
    """Something that a function refers to, and that is never read to its end."""

    def __init__(self, fifo):
        self.fifo = str(fifo)

    def __setstate__(self, state):
        with open(state["fifo"], "w") as fifo:
            fifo.write("here\n")
        signal.pause()


def same(value):
    return value


def make_call(rr, plan, **options):
    loaded = Loaded(plan)

    def work(argument):
        argument.plan.reach("running")
        if argument.plan.stage == "submitting a call":
            with Runner("inner") as inner:
                inner.service(same)(Submitted(argument.plan)).get()
        return Value(loaded.plan)

    service = rr.service(work)
    return (service.options(**options) if options else service)(Argument(plan))

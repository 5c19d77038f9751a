"""Synchronization of tests with the tasks they start; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path

#: Seconds that a test waits for anything before it fails.
PATIENCE_S = 20.0
_numbers = itertools.count()


def wait_until(look, what="it"):
    """Look repeatedly until it finds something; return that."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {PATIENCE_S} s")
        time.sleep(0.001)
    return found


class Gate:
    """A fifo that holds a task until the driver opens it.

    As a context manager, it opens at the end at the latest. Travels to the task as an argument.
    """

    def __init__(self, directory="."):
        self.path = os.path.abspath(os.path.join(directory, f"gate-{next(_numbers)}"))
        self.fd = -1
        os.mkfifo(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __reduce__(self):
        return _gate_at, (self.path,)

    def _try_enter(self):
        try:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        return True

    def entered(self):
        """In the driver: return once a task stands at the gate."""
        if self.fd < 0:
            wait_until(self._try_enter, "a task's reaching the gate")

    def open(self):
        """In the driver: let the task at the gate pass; wait for it if need be."""
        self.entered()
        self.__exit__()

    def wait(self):
        """In the task: wait until the driver opens the gate."""
        with open(self.path, "rb") as fifo:
            fifo.read()


def _gate_at(path):
    gate = Gate.__new__(Gate)
    gate.path, gate.fd = path, -1
    return gate


def hold(gate, value=None):
    """Task: stand at the gate, then return a value, or raise it if it is an exception."""
    gate.wait()
    if isinstance(value, BaseException):
        raise value
    return value


def meet(directory, count, number):
    """Task: return its process's id once `count` calls of it, each with its own number, run at the same time."""
    os.makedirs(directory, exist_ok=True)
    Path(directory, str(number)).touch()
    wait_until(lambda: len(os.listdir(directory)) >= count, f"a meeting of {count} calls")
    return os.getpid()


def start_workers(rr, directory, count=2):
    """Return the ids of the pool's processes once all of them have run a call at the same time."""
    service = rr.service(meet)
    pids = set(rr.get([service(str(directory), count, number) for number in range(count)], timeout=PATIENCE_S))
    assert len(pids) == count
    return pids


def add(a, b=0):
    return a + b


def same(value):
    return value


def fail(error):
    raise error


@functools.lru_cache
def cached_square(number):
    return number * number


def new_module(monkeypatch, project, text, name=None):
    """Write a module into the project, import it here and forget it after the test."""
    import sys

    name = name or f"project_module_{next(_numbers)}_{os.getpid()}"
    Path(project, f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def run_script(project, text, *, check=True, **settings):
    """Run a script from the project directory as a user would; return what it prints."""
    import subprocess
    import sys

    path = Path(project, f"script_{next(_numbers)}.py")
    path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, path.name], cwd=project, capture_output=True, text=True, timeout=60, env=os.environ | settings
    )
    if check:
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout
    return done


def in_child(work: Callable[[], object]) -> int:
    """Fork; the child does the work and nothing else, even if the work fails.

    Its exit status is 0 unless the work raises or returns False.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 1 if work() is False else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def passes_in_child(work: Callable[[], object]) -> bool:
    return os.waitpid(in_child(work), 0)[1] == 0


class Log(list):
    """An instance that keeps the values it gets, in order."""

    def note(self, value):
        self.append(value)
        return list(self)

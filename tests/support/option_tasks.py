"""Tasks that fail, die, take too long or print; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import os
import signal
import sys

from flame_fast import Runner, TaskTimeoutError


class Refused(Exception):
    def __init__(self, number):
        super().__init__(f"try {number}")
        self.number = number

    def __reduce__(self):
        return (type(self), (self.number,))


def attempts_at(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def attempt(path, succeeds, how="raise"):
    """Task: fail until the attempt of that number; return the number of attempts."""
    with open(path, "a") as file:
        file.write("x")
    number = attempts_at(path)
    if number < succeeds:
        if how == "raise":
            raise Refused(number)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            pass
    return number


def spin(path=None):
    if path is not None:
        open(path, "w").close()
    while True:
        pass


def note(path, text, *_):
    with open(path, "a") as file:
        file.write(text)


def prints(text, error=None):
    print(text, end="")
    print("warned", file=sys.stderr)
    if error is not None:
        raise error
    return text * 2


def prints_and_ends(how, lines=3):
    for number in range(lines):
        print("line", number)
    print("é \udc80", end="", file=sys.stderr)
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    spin()


def attempt_nothing():
    return "done"


class Spinner:
    def spin(self):
        spin()


class Lines:
    def __init__(self):
        self.lines = []

    def hold(self, gate):
        gate.wait()

    def add(self, line, path=None):
        if path is not None:
            attempt(path, 2)
        self.lines.append(line)
        return list(self.lines)


class Letters:
    def __init__(self):
        self.text = ""

    def hold(self, gate):
        gate.wait()

    def add(self, text, *_):
        self.text += text
        return self.text


class Dies:
    def __init__(self):
        self.calls = 0

    def work(self, path):
        self.calls += 1
        return attempt(path, 2, "die"), self.calls


def attempt_to_add(path, array, text):
    attempt(path, 3)
    array[0] += 1
    return array.sum(), text


def print_and_attempt(path):
    print("attempt")
    return attempt(path, 3)


def print_and_count():
    import numpy

    print("made")
    return numpy.arange(100_000.0)


def double(item):
    return item * 2


def inverse(item):
    return 1 / item


# ---- calls inside of calls -----------------------------------------------------------------------------------------------


def hold_inside(service, gate):
    with Runner("inner"):
        return service(gate, 5).get()


def survive(service):
    with Runner("inner"):
        try:
            service().get()
        except TaskTimeoutError:
            return "went on"


def attempt_inside(service, path):
    with Runner("inner"):
        return service(path, 3).get()


def prints_around(service):
    print("outer begins")
    with Runner("inner"):
        value = service("inner").get()
    print("outer ends")
    return value

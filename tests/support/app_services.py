"""Functions and classes of an application; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import functools
import os
import signal

from flame_fast import app


@app.service
def square(number):
    """Square a number."""
    return number * number


@app.service
@functools.lru_cache
def cube(number):
    return number**3


@app.service()
def where(*_):
    return os.getpid()


@app.service
def fibonacci(number):
    return number if number < 2 else sum(app.get([fibonacci.remote(number - 1), fibonacci.remote(number - 2)]))


@app.service
class Counter:
    def __init__(self, start=0, *, step=1):
        self.made_in = os.getpid()
        self.total = start
        self.step = step

    def add(self, times=1):
        self.total += times * self.step
        return self.total

    def pids(self):
        return self.made_in, os.getpid()

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


@app.service
class Broken:
    def __init__(self, text):
        raise LookupError(text, 7)

    def work(self):
        return "never"


@app.service
def nested(number, counter):
    """Use the application in a task: functions, instances, its own init and destroy."""
    runner = app.init("any name", workers=7)
    assert app.init("face") is runner

    @app.service(warmup=1)
    def shifted(value):
        return value + number

    mine = Counter.remote(number)
    found = app.get([shifted.remote(1), square.remote(number), mine.add(), counter.add(number)])
    mine.close()
    app.destroy()
    return found, len(runner._sessions)


def shifting(offset):
    """Return a function with a variable of its own, and what changes that."""

    @app.service(autoscale=False, warmup=1)
    def shifted(number):
        return number + offset

    def shift(to):
        nonlocal offset
        offset = to

    return shifted, shift


def scaling():
    """Return a class without a name in a module, and one derived from it."""

    @app.service
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, number):
            return self.factor * number

    class Offset(Scale):
        def shift(self, number):
            return self.factor + number

    return Scale, Offset

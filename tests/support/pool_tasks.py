"""What tests have pools call. Workers import this module, so it loads next to nothing."""

from __future__ import annotations

import multiprocessing
import os
import pickle

from flame_fast import Pool

VALUE = None


def identity():
    me = multiprocessing.current_process()
    return me.name, me._identity


def square(number):
    return number * number


def inverse(number):
    return 10 // number


def touch(path):
    with open(path, "a") as file:
        file.write("x")


class Adds:
    def __init__(self, number):
        self.number = number

    def method(self, other, *, times=1):
        return (self.number + other) * times

    def __call__(self, other):
        return self.number + other


class Refusing:
    def __reduce__(self):
        raise pickle.PicklingError("it refuses")


def set_value(value):
    global VALUE
    VALUE = value


def read_value(_=None):
    return VALUE, os.getpid()


def in_a_task(number):
    with Pool(2) as inner:
        values = inner.map(square, range(number)) + list(inner.imap(square, [number]))
        inner.close()
        inner.join()
    return values

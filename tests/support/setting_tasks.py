"""Looks at a process's settings, as tasks, and classes that settings name; workers import this, so it loads little."""

from __future__ import annotations

import contextlib
import decimal
import locale
import os
import sys
import warnings

from flame_fast.engine import settings


class OwnWarning(UserWarning):
    pass


class NarrowerWarning(OwnWarning):
    pass


class Looking:
    def limit(self):
        return sys.getrecursionlimit()


def look_at_process():
    return os.getcwd(), os.environ.get("SETTING"), umask()


def umask():
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


class Hashing:
    def of(self, text):
        return hash(text)


def names_of_locale():
    return locale.setlocale(locale.LC_ALL)


def warned(category, text="a text"):
    """Task: tell how a warning ends."""
    with contextlib.ExitStack() as undone:
        undone.enter_context(warnings.catch_warnings())
        shown = []
        warnings.showwarning = lambda *args: shown.append(args)
        try:
            warnings.warn(text, category, stacklevel=1)
        except Warning as error:
            return f"error: {error}"
        return "shown" if shown else "ignored"


def divided():
    import numpy as np

    return np.ones(1) / np.zeros(1)


class Unsendable:
    def __call__(self, number):
        return "x"

    def __reduce__(self):
        raise TypeError("stays here")


class Unloadable(Unsendable):
    def __reduce__(self):
        return int, ("no number",)


def described(context):
    return (
        *(getattr(context, name) for name in settings.CONTEXT),
        {signal.__name__ for signal, is_set in context.traps.items() if is_set},
    )


def contexts():
    """Task: describe this thread's context, and the one that new threads get."""
    return described(decimal.getcontext()), described(decimal.DefaultContext)


def called(functions):
    """Return what functions without arguments return, by their names."""
    return {function.__name__: function() for function in functions}


def attributes_of_sys(names):
    return {name: getattr(sys, name) for name in names}


def pid_and_limit():
    return os.getpid(), sys.getrecursionlimit()


def is_loaded(name):
    return name in sys.modules


def current_filters():
    return warnings.filters


def with_filters(value):
    return lambda: (value, warnings.filters)


def all_warned(categories):
    return [warned(category) for category in categories]


def printed(*values):
    return tuple(map(repr, values))


def in_angles(number):
    return f"<{number:.1f}>"


def give_up(kind, flag):
    raise LookupError(kind)

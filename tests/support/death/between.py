"""Lets another process act between one's look at a word of the segment and its change of it, by the processor's watchpoints.

The watched process stops after each instruction that reads or writes the word. A single atomic step cannot be stopped in the
middle; a look and a change that are two steps can, and so can the time between an atomic step and what it was decided by.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import pickle
import signal

import pytest
import stepping
from flame_fast.kernels.runtime import serialization
from gates import Log
from runtime_harness import POOL, Death, Family
from stepping import CONT, PEEKUSER, POKEUSER, is_trap, ptrace
from words import Words, segment_at

from flame_fast.engine.spec import INSTANCE

DETACH, SYSCALL = 17, 24  # requests of ptrace
ORIG_RAX = 15 * 8
WRITE, FUTEX = 1, 202
#: Where the debug registers lie in struct user of x86-64, and what the last of them says: stop at reads and writes of it.
DEBUG_REGISTERS = 848
CONTROL = DEBUG_REGISTERS + 7 * 8
#: Looks of a process that changes nothing, at each of which it is interrupted; a few look in a loop.
MOST = 16
#: Looks after which the count stops.
ENOUGH = 40
READ_OR_WRITTEN = {4: 0xF << 16 | 1, 8: 0xB << 16 | 1}


@functools.cache
def is_possible():
    """Return whether this machine lets a process watch a word of its child's."""
    if not stepping.is_possible():
        return False
    word = ctypes.c_uint64()
    pid = os.fork()
    if pid == 0:
        try:
            stepping.be_traced()
            stepping.mark()
            word.value += 1
        finally:
            os._exit(0)
    try:
        stepping.await_mark(pid)
        watch(pid, ctypes.addressof(word), 8)
        return runs_to_access(pid)
    except OSError:
        return False
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def watch(pid, address, size):
    ptrace(POKEUSER, pid, DEBUG_REGISTERS, address)
    ptrace(POKEUSER, pid, CONTROL, READ_OR_WRITTEN[size])


def runs_to_access(pid):
    """Run a process to its next access to the watched word, or to its mark; return whether the access came first."""
    ptrace(CONT, pid)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), f"the watched process ended: {status:#x}"
    assert is_trap(status) or os.WSTOPSIG(status) == signal.SIGSTOP, f"the watched process was stopped: {status:#x}"
    return is_trap(status)


def runs_to_call(pid, number):
    """Run a process to a system call of a number, or to its mark; return whether the call came first."""
    while True:
        ptrace(SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not is_trap(status):
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, f"the watched process ended: {status:#x}"
            return False
        if ptrace(PEEKUSER, pid, ORIG_RAX) == number:
            return True


#: Marks tests that need it.
possible = pytest.mark.skipif(not is_possible(), reason="no process may watch a word of another here, or it is not x86-64")


class Scenes(dict):
    """Scenes of a test file, by name; called, a decorator that takes in one, or one for each argument that it shall have.

    Options: see `play`.
    """

    def __call__(self, *arguments, **options):
        def taken_in(generator):
            vars(generator).update(options)
            for argument in arguments:
                self[f"{generator.__name__}: {argument}"] = with_last(generator, argument)
            if not arguments:
                self[generator.__name__] = generator
            return generator

        return taken_in


def with_last(generator, argument):
    def one(family, words):
        return generator(family, words, argument)

    vars(one).update(vars(generator))
    return one


def play(scene):
    """Interrupt a scene's process after the look before each change of the word, or after each look if there is none.

    A scene is a generator of (family, words). It yields the word, as `Words.place` tells it, and what the process does,
    perhaps with what makes what that needs before the process is watched; then what follows is done meanwhile, up to a
    yield; then it is given what the process returned, and looks what became of all. The process is recovered after that.
    """
    seen = played(scene, None)
    assert len(seen) > 1 or hasattr(scene, "may_not_look"), "the process does not look at the word"
    changes = [number for number, (one, following) in enumerate(itertools.pairwise(seen)) if one != following and number]
    most = getattr(scene, "most", MOST)
    for number in changes if changes and not hasattr(scene, "at_each_look") else range(1, min(len(seen), most)):
        played(scene, number)


def played(scene, number, is_killed=False):
    """Return what the word was before and after each access. With a number, interrupt the process after so many accesses."""
    family = Family(workers=2, cpus=2)
    try:
        words = Words(family.runtime)
        playing = scene(family, words)
        (offset, kind), act, *needs = next(playing)
        reading, writing = os.pipe()

        def life():
            made = [need() for need in needs]
            stepping.be_traced()
            stepping.mark()
            returned = act(*made)
            stepping.mark()
            os.write(writing, pickle.dumps(returned))

        with open(reading, "rb") as pipe:
            relative = family.fork(life)
            os.close(writing)
            stepping.await_mark(relative.pid)
            size = ctypes.sizeof(kind)
            watch(relative.pid, segment_at(words.fd) + offset, size)
            seen = [os.pread(words.fd, size, offset)]
            while len(seen) - 1 != number and len(seen) <= ENOUGH and runs_to_access(relative.pid):
                seen.append(os.pread(words.fd, size, offset))
            if number is None:
                return seen
            assert len(seen) - 1 == number, "the process does not look at the word as often as it did"
            if is_killed:
                relative.kill()
                assert family.recover_process(relative) == -signal.SIGKILL
                next(playing, None)
            else:
                ptrace(POKEUSER, relative.pid, CONTROL, 0)
                next(playing)
                assert stepping.run_to_mark(relative.pid), "the process did not come to its end"
                ptrace(CONT, relative.pid)
                returned = pickle.load(pipe)
                with contextlib.suppress(StopIteration):
                    playing.send(returned)
                assert family.recover_process(relative) == 0
        family.check()
        return seen
    finally:
        family.close()


def play_deaths(scene):
    """Kill a scene's process right after each of its changes of the word and recover it; the scene looks what came of that.

    Such a scene is a generator of (family, words) that yields the word and what the process does, and then looks.
    """
    seen = played(scene, None)
    changes = [number for number, (one, following) in enumerate(itertools.pairwise(seen), 1) if one != following]
    assert changes, "the process does not change the word"
    for number in changes:
        played(scene, number, is_killed=True)


def play_call(scene):
    """Stop a scene's process right before the system call that wakes another; the scene looks what that one finds.

    Such a scene is a generator of (family, words) that yields the number of the system call and what the process does, looks
    at what there is before the call, and looks once more after the end.
    """
    family = Family(workers=2, cpus=2)
    try:
        playing = scene(family, Words(family.runtime))
        number, act = next(playing)

        def life():
            stepping.be_traced()
            stepping.mark()
            act()
            stepping.mark()

        relative = family.fork(life)
        stepping.await_mark(relative.pid)
        assert runs_to_call(relative.pid, number), "the process wakes no other"
        next(playing)
        assert stepping.run_to_mark(relative.pid), "the process did not come to its end"
        ptrace(CONT, relative.pid)
        assert family.recover_process(relative) == 0
        next(playing, None)
        family.check()
    finally:
        family.close()


@contextlib.contextmanager
def stopped_at_change(family, words, place, act):
    """Fork a relative that acts, and stop it at its first change of a word; let it go on in the end."""
    offset, kind = place
    size = ctypes.sizeof(kind)

    def life():
        stepping.be_traced()
        stepping.mark()
        act()

    relative = family.fork(life)
    stepping.await_mark(relative.pid)
    watch(relative.pid, segment_at(words.fd) + offset, size)
    before = os.pread(words.fd, size, offset)
    while os.pread(words.fd, size, offset) == before:
        assert runs_to_access(relative.pid), "the process does not change the word"
    yield relative
    ptrace(POKEUSER, relative.pid, CONTROL, 0)
    ptrace(DETACH, relative.pid)


# ---- processes of a scene --------------------------------------------------------------------------------------------


def one_that_has_died(family):
    """Return the entry of a process that was forked, and ended at once."""
    index = family.runtime.request_process(POOL, 0)
    family.supervisor.start(index)
    return index


def instance_whose_process_has_died(family):
    """Return an instance's (service, generation, queue), and the entry of its dead process."""
    log = family.service(Log(), INSTANCE, ("note",), warmup=1)
    (index,) = [entry.index for entry in family.supervisor.processes()]
    family.supervisor.start(index)
    return log, index


def death():
    return serialization.dump_error(Death())

"""Stops a process before a chosen instruction of the native runtime, by ptrace: to kill it there, or to let others go first.

A traced process marks the beginning and the end of what it does (`mark`). A first one is single-stepped from mark to mark,
to find the instructions after which the segment is another than before: the stops. Each further one runs up to a breakpoint
at one of them. So every state that its death can leave to the others is met once, and none twice.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import shutil
import signal
import subprocess

from flame_fast.kernels.runtime import _native

TRACEME, PEEKTEXT, PEEKUSER, POKETEXT, POKEUSER, CONT, SINGLESTEP, SETOPTIONS = 0, 1, 3, 4, 6, 7, 9, 0x4200
EXITKILL = 0x100000
RIP, RSP = 16 * 8, 19 * 8  # in struct user of x86-64
TRAP = 0xCC
PAGE = 4096
EMPTY = bytes(PAGE)
#: Pages in a row that change: a value's bytes, by which no other process decides anything.
BULK_PAGES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_traced = False


def ptrace(request, pid, address=0, data=0):
    ctypes.set_errno(0)
    value = _libc.ptrace(request, pid, address, data)
    if value == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace request {request}: {os.strerror(ctypes.get_errno())}")
    return value & 0xFFFFFFFFFFFFFFFF


def is_possible():
    """Return whether a process may trace its child here, on a machine whose registers this module knows."""
    if platform.machine() != "x86_64" or shutil.which("nm") is None:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            be_traced()
            mark()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        try:
            ptrace(SINGLESTEP, pid)
            _, status = os.waitpid(pid, 0)
            return os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP
        except OSError:
            return False
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return False


def be_traced():
    """In the child: let its marks stop it from now on."""
    global _traced
    ptrace(TRACEME, 0)
    _traced = True


def mark():
    """In the child: mark the beginning, or the end, of what is looked at. Anywhere else do nothing."""
    if _traced:
        os.kill(os.getpid(), signal.SIGSTOP)


def await_mark(pid):
    """Wait until the child has reached a mark."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, f"the traced process ended early: {status:#x}"
    ptrace(SETOPTIONS, pid, 0, EXITKILL)


@functools.cache
def code_range():
    """Return where the native runtime's code lies, here and in every process forked from here."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(_native.__file__) and " r-xp " in line:
                begin, _, end = line.split()[0].partition("-")
                return int(begin, 16), int(end, 16), int(line.split()[2], 16)
    raise AssertionError("the native runtime is not mapped")


def pages_in_use(fd):
    """Return numbers and contents of the segment's pages that are not all zero."""
    found, at = {}, 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return found
        end = os.lseek(fd, at, os.SEEK_HOLE)
        data = os.pread(fd, end - at, at)
        for offset in range(0, len(data), PAGE):
            page = data[offset : offset + PAGE]
            if page != EMPTY:
                found[(at + offset) // PAGE] = page
        at = end


def pages_that_tell(before, after):
    """Return the pages to compare between two instructions: those in use, without the long stretches that values fill."""
    changed = {page for page in before.keys() | after.keys() if before.get(page) != after.get(page)}
    bulk = set()
    for page in changed:
        stretch = range(page, page + BULK_PAGES)
        if changed.issuperset(stretch):
            bulk.update(stretch)
    return sorted((before.keys() | after.keys()) - bulk)


class Watch:
    """A copy of some of the segment's pages, which tells whether they have changed since the last look."""

    def __init__(self, fd, pages):
        self.segment = mmap.mmap(fd, (max(pages) + 1) * PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.segment))
        self.stretches = [(first * PAGE, (last + 1 - first) * PAGE) for first, last in stretches(pages)]
        self.last = [None] * len(self.stretches)

    def changed(self):
        changed = False
        for number, (offset, length) in enumerate(self.stretches):
            if self.last[number] is None or _libc.memcmp(self.address + offset, self.last[number], length):
                self.last[number] = self.segment[offset : offset + length]
                changed = True
        return changed


def stretches(numbers):
    """Return (first, last) of each row of consecutive numbers."""
    found = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def run_to_mark(pid):
    ptrace(CONT, pid)
    _, status = os.waitpid(pid, 0)
    return os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP


class Doors:
    """Breakpoints wherever the runtime's code can be entered: at its functions, and where a call from it returns to.

    So a process runs at full speed while it is somewhere else.
    """

    def __init__(self, pid):
        self.pid = pid
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self.bytes = {}
        for address in entries():
            self.guard(address)

    def guard(self, address):
        if address not in self.bytes:
            self.bytes[address] = os.pread(self.memory, 1, address)
            os.pwrite(self.memory, bytes([TRAP]), address)

    def step(self, address):
        """Execute the one instruction that the process stands at."""
        if address in self.bytes:
            os.pwrite(self.memory, self.bytes[address], address)
        ptrace(SINGLESTEP, self.pid)
        _, status = os.waitpid(self.pid, 0)
        if address in self.bytes:
            os.pwrite(self.memory, bytes([TRAP]), address)
        return status

    def come_back(self):
        """Run from outside of the runtime's code until it is entered."""
        begin, end, _ = code_range()
        back = ptrace(PEEKTEXT, self.pid, ptrace(PEEKUSER, self.pid, RSP))
        if begin <= back < end:
            self.guard(back)
        ptrace(CONT, self.pid)
        _, status = os.waitpid(self.pid, 0)
        if is_trap(status):
            ptrace(POKEUSER, self.pid, RIP, ptrace(PEEKUSER, self.pid, RIP) - 1)
        return status

    def close(self):
        os.close(self.memory)


def is_trap(status):
    return os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP


@functools.cache
def entries():
    """Return the addresses of the runtime's functions."""
    begin, end, offset = code_range()
    lines = subprocess.run(["nm", _native.__file__], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [line.split() for line in lines]
    found = {int(fields[0], 16) - offset + begin for fields in symbols if len(fields) == 3 and fields[1] in "tT"}
    return sorted(address for address in found if begin <= address < end)


def find_stops(pid, fd, pages):
    """Step a process from its mark to the next; return the stops, as (address, how many times it is passed before).

    Two lists of equal length: the instructions that follow a change of the segment, and those that make it. A process that
    is stopped before a change has read what decides it, and has not acted yet.
    """
    begin, end, _ = code_range()
    watch, doors = Watch(fd, pages), Doors(pid)
    passed, after, making, maker = {}, [], [], None
    try:
        while True:
            address = ptrace(PEEKUSER, pid, RIP)
            if begin <= address < end:
                here = address, passed.get(address, 0)
                if watch.changed():
                    after.append(here)
                    making.append(maker or here)
                passed[address] = here[1] + 1
                maker = here
                status = doors.step(address)
            else:
                status = doors.come_back()
            if not is_trap(status):
                assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, (
                    f"the traced process ended: {status:#x}"
                )
                return after, making
    finally:
        doors.close()


def run_to(pid, address, passes):
    """Run until an instruction is about to be executed for the given time, the first being 0; 0 if a mark comes before."""
    word = ptrace(PEEKTEXT, pid, address)
    while True:
        ptrace(POKETEXT, pid, address, word & ~0xFF | TRAP)
        ptrace(CONT, pid)
        _, status = os.waitpid(pid, 0)
        if not (os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP):
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, f"the traced process ended: {status:#x}"
            ptrace(POKETEXT, pid, address, word)
            return 0
        ptrace(POKETEXT, pid, address, word)
        ptrace(POKEUSER, pid, RIP, address)
        if passes == 0:
            return 1
        passes -= 1
        ptrace(SINGLESTEP, pid)
        os.waitpid(pid, 0)


@functools.cache
def describe(address):
    """Return where an instruction stands, as well as the debug information and the tools here tell."""
    begin, _, offset = code_range()
    place = address - begin + offset
    if shutil.which("addr2line") is None:
        return f"runtime+{place:#x}"
    out = subprocess.run(
        ["addr2line", "-f", "-i", "-s", "-e", _native.__file__, hex(place)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    names = [name.rpartition("_7kernels_7runtime_")[2] for name in out[::2]]
    return f"runtime+{place:#x} in " + " < ".join(names)

"""System calls refused, as an old kernel or a container does it: by a seccomp filter on the calling process, for good."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

#: Numbers by the machine: (AUDIT_ARCH, calls).
NUMBERS = {
    "x86_64": (0xC000003E, {"eventfd": 290, "flock": 73, "memfd_create": 319, "pidfd_open": 434, "sched_getaffinity": 204}),
    "aarch64": (0xC00000B7, {"eventfd": 19, "flock": 32, "memfd_create": 279, "pidfd_open": 434, "sched_getaffinity": 123}),
}

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(call: str, error: int) -> None:
    """Have a system call fail, in this process and all that it starts."""
    architecture, numbers = NUMBERS[platform.machine()]
    steps = [
        (LOAD_WORD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 0, 2, architecture),
        (LOAD_WORD, 0, 0, NUMBER_AT),
        (JUMP_EQUAL, 1, 0, numbers[call]),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | error),
    ]
    program = Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

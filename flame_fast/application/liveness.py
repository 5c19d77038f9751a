"""Liveness of owners: one lock file per owner, locked for as long as its process lives.

An owner is a Runner of some process. It holds a POSIX record lock on ``<home>/owners/<token>.lock``. The kernel drops the
lock when the process ends, however it ends, and shows it to every process of this kernel that sees the file. So an owner in
another container is seen alive, where its process id would say nothing.

Guarantees
    A living process's token is alive to every process; a dead process's token is dead at the latest when the process is
    reaped. A forked child holds no lock of its parent.
Assumes
    A file system whose record locks work between the processes that share it (all local ones; NFS with its lock daemon).
Rejected
    ``flock``: it is inherited by fork, so a user's child would keep its dead parent alive. The process id with its start
    time: another container's number means nothing here.

Two traps:

- A process loses its record locks on a file when it closes *any* descriptor of that file. So a process never opens the lock
  files of its own tokens (`_held`).
- A lock file exists for a moment before it is locked. So the clean-up takes a file's lock before it removes the file, and
  the owner, once it has the lock, checks that its file is still there.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os

from flame_fast.package.file_lock import still_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: This process's own tokens, and the descriptor that holds each lock (-1 while it is being made).
_held: dict[str, int] = {}

#: Held while another owner's lock file is open: another thread's close would drop the lock that `reap` took.
_looking = _thread.allocate_lock()


def _forget_parent() -> None:
    # The locks stayed with the parent; closing our copies of the descriptors does not touch them.
    for descriptor in _held.values():
        if descriptor >= 0:
            os.close(descriptor)
    _held.clear()
    global _looking
    _looking = _thread.allocate_lock()  # a thread that is not here may have held the old one


os.register_at_fork(after_in_child=_forget_parent)


def is_token(token: str) -> bool:
    """Return whether a text is one that `acquire` makes: it names a file or directory, and must not name another."""
    return len(token) == 24 and set(token) <= set("0123456789abcdef")


def owners_directory(home: str) -> str:
    """Return the directory of the lock files."""
    return os.path.join(home, "owners")


def lock_path(home: str, token: str) -> str:
    """Return a token's lock file."""
    return os.path.join(owners_directory(home), token + ".lock")


def acquire(home: str) -> str:
    """Return a fresh token whose lock this process holds until `release`, or until its end."""
    token = os.urandom(12).hex()
    path = lock_path(home, token)
    # Before the file exists, so that another thread's clean-up, which lists files first, finds the token here.
    _held[token] = -1
    try:
        while True:
            descriptor = _open_lock(path)
            fcntl.lockf(descriptor, fcntl.LOCK_EX)  # waits only for a clean-up that is about to unlink the file
            _held[token] = descriptor
            if still_names(path, descriptor):
                return token
            os.close(descriptor)
            _held[token] = -1
    except BaseException:
        release(home, token)
        raise


def _open_lock(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def holds(token: str) -> bool:
    """Return whether this very process is the owner (a forked child is not)."""
    return token in _held


def release(home: str, token: str) -> None:
    """Give a token's lock back; a token that this process does not hold is left alone."""
    descriptor = _held.get(token)
    if descriptor is None:
        return
    path = lock_path(home, token)
    is_open = descriptor >= 0 and _is_of(descriptor, path)
    # The file goes before the lock does: no process can see the token dead and its file there.
    _unlink(path)
    if is_open:
        os.close(descriptor)
    _held.pop(token, None)


def _is_of(descriptor: int, path: str) -> bool:
    """Whether a descriptor is still a lock file's: the user may have closed it, and opened a file of his own."""
    try:
        return still_names(path, descriptor)
    except OSError:
        return False


def is_alive(home: str, token: str) -> bool:
    """Return whether the token's owner lives: here, on this kernel, or wherever the file system's locks reach."""
    if token in _held:
        return True
    if not is_token(token):
        return False
    with _looking:
        try:
            descriptor = os.open(lock_path(home, token), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # another user's file in a shared directory: not ours to reap
        try:
            return _is_locked(descriptor)
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Ask without taking: a look that took the lock would make a dead owner seem alive to the next look."""
    import struct

    # struct flock of 64-bit Linux: type, whence, start, length (0: all), pid; "0q" adds the padding at its end.
    layout = "hhqqi0q"
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind: int = struct.unpack(layout, answer)[0]
    return kind != fcntl.F_UNLCK


def tokens(home: str) -> list[str]:
    """Return the tokens that have a lock file, those of dead owners too."""
    try:
        names = os.listdir(owners_directory(home))
    except FileNotFoundError:
        return []
    return [name[: -len(".lock")] for name in names if name.endswith(".lock")]


def reap(home: str, token: str, clean: Callable[[], None] | None = None) -> bool:
    """Remove the lock file of a dead owner.

    Parameters
    ----------
    home, token : str
    clean : callable, optional
        Called first, while no process can become the owner.

    Returns
    -------
    bool
        False, and nothing done, if the owner lives after all.
    """
    if token in _held or not is_token(token):
        return False
    path = lock_path(home, token)
    with _looking:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            # Gone: the process that removed it has cleaned first, and an owner may be making it again.
            return isinstance(error, FileNotFoundError)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if clean is not None:
                clean()
            # With the lock: an owner between its open and its lock waits for us, then sees its file gone.
            _unlink(path)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    return True


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

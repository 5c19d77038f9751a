"""Locks, queues, pipes and shared ctypes of `multiprocessing`: what its children inherit, and workers here open.

A worker is no child of the process that made such an object. So the object travels as that process's number and one of its
descriptors, which the worker opens below `/proc`:

semaphores      each lock, condition, event, barrier and queue is made of them; one without a name is moved into a file first
pipes           one end of a pipe of one direction, as queues have them; sockets cannot be opened that way
shared memory   of `Value` and `Array`

As for `multiprocessing`, the process that made an object must keep it for as long as others may want to open it.
"""

from __future__ import annotations

import os
import pickle
import stat
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: What a process has open: its number, a descriptor, and the number of the file, since descriptors are used again.
Origin = tuple[int, int, int]

#: The origins of semaphores and of shared memory that this process has sent or been sent.
_origins: weakref.WeakKeyDictionary[Any, Origin] = weakref.WeakKeyDictionary()
#: The same by origin: what is sent twice is one object.
_opened: weakref.WeakValueDictionary[Origin, Any] = weakref.WeakValueDictionary()
_guard = threading.RLock()

PAGE = os.sysconf("SC_PAGESIZE")


def _hold_guard() -> None:
    _guard.acquire()


def _renew_guard() -> None:
    global _guard
    _guard = threading.RLock()


os.register_at_fork(before=_hold_guard, after_in_parent=lambda: _guard.release(), after_in_child=_renew_guard)


def _open(origin: Origin, flags: int) -> int:
    pid, fd, number = origin
    try:
        opened = os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _gone(pid) from None
    if os.fstat(opened).st_ino != number:
        os.close(opened)
        raise _gone(pid)
    return opened


def _gone(pid: int) -> FileNotFoundError:
    return FileNotFoundError(
        f"a lock, queue or pipe of multiprocessing is gone: process {pid}, which made it, has ended or does not keep it"
    )


def _once(origin: Origin, make: Callable[[int], Any]) -> Any:
    """Return what this process has of an origin, else make it of the opened descriptor."""
    with _guard:
        found = _opened.get(origin)
        if found is None:
            fd = _open(origin, os.O_RDWR)
            try:
                found = make(fd)
            except BaseException:
                os.close(fd)
                raise
            _remember(found, origin)
        return found


def _remember(found: Any, origin: Origin) -> Origin:
    _origins[found] = origin
    _opened[origin] = found
    return origin


# ---- semaphores --------------------------------------------------------------------------------------------------------


def reduce_semaphore(lock: Any) -> Any:
    """Reduce a lock or semaphore to its name, or else to a file that it is moved into."""
    semaphore = lock._semlock
    kind = (type(lock), semaphore.kind, semaphore.maxvalue)
    if semaphore.name is not None:
        return (_rebuild_semaphore, (*kind, 0, semaphore.name))
    with _guard:
        origin = _origins.get(lock) or _remember(lock, _move(lock))
    return (_open_semaphore, (*kind, origin))


def _move(lock: Any) -> Origin:
    from flame_fast.kernels.runtime import move_semaphore

    address = lock._semlock.handle
    holder = _other_holder(address)
    if holder:
        raise pickle.PicklingError(
            f"{lock!r}: process {holder} has it by a fork, and a worker cannot have the same one; pass it to a worker "
            "before such a process starts, or make it by multiprocessing.get_context('spawn')"
        )
    fd = os.memfd_create("semaphore", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, PAGE)
        move_semaphore(address, fd)
    except BaseException:
        os.close(fd)
        raise
    weakref.finalize(lock, os.close, fd).atexit = False
    return os.getpid(), fd, os.fstat(fd).st_ino


def _other_holder(address: int) -> int:
    """Return the parent or a descendant if it maps the same page, or 0."""
    me = os.getpid()
    page = _mappings(me)[address]
    return next((pid for pid in (os.getppid(), *_descendants(me)) if page in _mappings(pid).values()), 0)


def _mappings(pid: int) -> dict[int, tuple[str, str]]:
    """Return the device and the number of each file that a process has mapped, by its first address."""
    try:
        with open(f"/proc/{pid}/maps") as lines:
            found = [line.split(maxsplit=5) for line in lines]
    except OSError:  # it has ended
        return {}
    return {int(words[0].partition("-")[0], 16): (words[3], words[4]) for words in found if words[4] != "0"}


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for ancestor in found:
        try:
            for thread in os.listdir(f"/proc/{ancestor}/task"):
                with open(f"/proc/{ancestor}/task/{thread}/children") as children:
                    found += map(int, children.read().split())
        except OSError:  # it has ended
            continue
    return found[1:]


def _open_semaphore(kind: Any, flavour: int, maximum: int, origin: Origin) -> Any:
    from flame_fast.kernels.runtime import map_semaphore

    def make(fd: int) -> Any:
        found = _rebuild_semaphore(kind, flavour, maximum, map_semaphore(fd), None)
        os.close(fd)
        return found

    return _once(origin, make)


def _rebuild_semaphore(kind: Any, flavour: int, maximum: int, address: int, name: str | None) -> Any:
    lock = kind.__new__(kind)
    lock.__setstate__((address, flavour, maximum, name))
    return lock


# ---- pipes -------------------------------------------------------------------------------------------------------------


def reduce_connection(connection: Any) -> Any:
    """Reduce an end of a pipe."""
    status = os.fstat(connection.fileno())
    if not stat.S_ISFIFO(status.st_mode):
        raise pickle.PicklingError(
            f"{connection!r}: a connection of two directions is a socket, which only children of its process can have; "
            "use two of multiprocessing.Pipe(duplex=False), or a Queue"
        )
    origin = (os.getpid(), connection.fileno(), status.st_ino)
    return (_open_connection, (type(connection), origin, connection.readable, connection.writable))


def _open_connection(kind: Any, origin: Origin, readable: bool, writable: bool) -> Any:
    return kind(_open(origin, os.O_RDONLY if readable else os.O_WRONLY), readable, writable)


# ---- shared memory -----------------------------------------------------------------------------------------------------


def is_shared_ctype(obj: Any) -> bool:
    """Tell whether an object is a ctypes one in memory of `multiprocessing.heap`."""
    from multiprocessing import heap

    return isinstance(getattr(obj, "_wrapper", None), heap.BufferWrapper)


def reduce_shared_ctype(obj: Any) -> Any:
    import ctypes

    wrapper = obj._wrapper
    if isinstance(obj, ctypes.Array):
        return (_rebuild_shared_ctype, (obj._type_, wrapper, obj._length_))
    return (_rebuild_shared_ctype, (type(obj), wrapper, None))


def _rebuild_shared_ctype(kind: Any, wrapper: Any, length: int | None) -> Any:
    from multiprocessing import sharedctypes

    return sharedctypes.rebuild_ctype(kind, wrapper, length)  # type: ignore[attr-defined]


def reduce_arena(arena: Any) -> Any:
    with _guard:
        origin = _origins.get(arena)
        if origin is None:
            origin = _remember(arena, (os.getpid(), arena.fd, os.fstat(arena.fd).st_ino))
    return (_open_arena, (type(arena), arena.size, origin))


def _open_arena(kind: Any, size: int, origin: Origin) -> Any:
    def make(fd: int) -> Any:
        arena = kind(size, fd)
        weakref.finalize(arena, os.close, fd).atexit = False
        return arena

    return _once(origin, make)


# ---- what is made of them ----------------------------------------------------------------------------------------------


def reduce_by_state(obj: Any) -> Any:
    """Reduce a queue or a condition to the parts that `multiprocessing` gives to a child that it starts."""
    import copyreg

    return (copyreg.__newobj__, (type(obj),), _as_for_a_child(obj.__getstate__))  # type: ignore[attr-defined]


def reduce_synchronized(obj: Any) -> Any:
    return _as_for_a_child(obj.__reduce__)


def _as_for_a_child(read: Callable[[], Any]) -> Any:
    """Read a state that is told only while this thread starts a child."""
    from multiprocessing import context

    before: Any = context.get_spawning_popen()
    anything: Any = object()
    context.set_spawning_popen(before or anything)
    try:
        return read()
    finally:
        context.set_spawning_popen(before)


#: By the module and the name of a type.
REDUCERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    **{
        ("multiprocessing.synchronize", name): reduce_semaphore
        for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore")
    },
    ("multiprocessing.synchronize", "Condition"): reduce_by_state,
    **{("multiprocessing.queues", name): reduce_by_state for name in ("Queue", "JoinableQueue", "SimpleQueue")},
    ("multiprocessing.connection", "Connection"): reduce_connection,
    ("multiprocessing.heap", "Arena"): reduce_arena,
    **{
        ("multiprocessing.sharedctypes", name): reduce_synchronized
        for name in ("Synchronized", "SynchronizedArray", "SynchronizedString")
    },
}

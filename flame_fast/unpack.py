"""Unpacked packages: the trees that workers import a project from.

    <home>/unpacked/<digest>/            the tree
                    <digest>.manifest    what is in it; written last, so a tree without it is not finished
                    <digest>.lock        shared flock: a process that uses the tree; exclusive: its eviction
                    .lock                exclusive flock: whoever builds, one at a time
                    .<anything else>     being built or thrown away; a leftover if nobody holds .lock

A tree is built beside its place and renamed into it, so it is there whole or not at all, to however many
processes at once. It belongs to no runner: the most recently used `KEPT` stay, and one that some process
still uses stays in any case.

Guarantees
    A tree that `ensure_unpacked` returned stays until the calling process, and all it has forked since,
    have ended.
Assumes
    That nobody changes a tree. What does happen (a cleaner of old files, a full disk) shows in sizes and
    times and has the tree built anew; files that were added, Python's own caches, do no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

KEPT = 16
"""How many trees stay when nobody uses them."""

_held: dict[str, int] = {}
"""The trees this process uses, and the descriptors whose shared locks say so: open until the process ends."""


def ensure_unpacked(archive_path: str, digest: str, home: str | os.PathLike[str]) -> str:
    """Return the tree of a package, unpacked if it is not there already.

    Parameters
    ----------
    archive_path : str
        The package, as `flame_fast.package.pack` wrote it.
    digest : str
        Its digest, which is checked when it is unpacked.
    home : str or path-like
        The data directory.

    Returns
    -------
    str
        The tree's directory. It stays until this process ends.

    Raises
    ------
    FlameError
        ``NOT_FOUND`` for an archive that is not there; ``INTERNAL`` for one that is damaged, not what the
        digest says, or that holds what leads out of its tree.

    Notes
    -----
    Safe from many processes at once. Checking an existing tree costs about 1 µs a file.
    """
    if not (digest and digest.isascii() and digest.isalnum()):
        raise FlameError(FlameErrorCode.INVALID_ARGUMENT, f"digest: expected hexadecimal digits, got {digest!r}")
    cache = os.path.join(os.path.abspath(home), "unpacked")
    os.makedirs(cache, mode=0o700, exist_ok=True)
    tree = os.path.join(cache, digest)
    _hold(tree)
    if not _is_whole(tree):
        with _building(cache):
            if not _is_whole(tree):
                _remove_leftovers(cache)
                _build(archive_path, digest, tree)
                _evict(cache)
    return tree


def split_sys_path(sys_path: Iterable[str], directory: str, packaged: Callable[[str], bool]) -> list[tuple[bool, str]]:
    """The driver's half of where a worker imports from: per entry of `sys.path` whether it moves, and its path.

    Parameters
    ----------
    sys_path : iterable of str
        The driver's.
    directory : str
        The directory that was packaged. Entries inside it move, the empty one to the tree's top; entries that the package
        leaves out, and those outside, stay as they are.
    packaged : callable
        Whether a path relative to the directory is in the package: `PackageInfo.holds`.
    """
    real_directory = os.path.realpath(directory)
    parts: list[tuple[bool, str]] = []
    for entry in sys_path:
        if not isinstance(entry, str):
            continue  # the import system ignores them too
        full = os.path.normpath(os.path.join(directory, entry))
        # As it is written, then as it resolves: the directory may have been entered by a link.
        candidates = (
            _relative(full, os.path.normpath(directory)),
            _relative(os.path.realpath(full), real_directory),
        )
        for relative in candidates:
            if relative is not None and packaged(relative):
                parts.append((True, relative))
                break
        else:
            parts.append((False, entry))
    return parts


def place_sys_path(parts: Iterable[Any], unpacked: str) -> list[str]:
    """The worker's half: `split_sys_path`'s entries, those that move leading into the tree."""
    return [os.path.join(unpacked, path) if moves and path else unpacked if moves else path for moves, path in parts]


def _relative(path: str, directory: str) -> str | None:
    if path == directory:
        return ""
    base = directory.rstrip("/") + "/"
    return path[len(base) :] if path.startswith(base) else None


def prepare(plan: dict[str, Any]) -> str:
    """Make this process import as a `Tenancy.unpack_plan` says; return the tree it imports from."""
    import sys

    tree = ensure_unpacked(plan["archive"], plan["digest"], plan["home"])
    sys.path[:] = place_sys_path(plan["sys_path"], tree)
    return tree


# Locks


def _hold(tree: str) -> None:
    """Keep the tree from eviction until this process ends, and note that it is in use."""
    path = tree + ".lock"
    while tree not in _held:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for no more than an eviction of this very tree
        if _is_file(path, descriptor):
            _held[tree] = descriptor
        else:
            os.close(descriptor)
    with contextlib.suppress(OSError):
        os.utime(path)


def _is_file(path: str, descriptor: int) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


@contextlib.contextmanager
def _building(cache: str) -> Iterator[None]:
    descriptor = os.open(os.path.join(cache, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(cache: str) -> None:
    for name in os.listdir(cache):
        if name.startswith(".") and name != ".lock":
            _remove_tree(os.path.join(cache, name))


def _evict(cache: str) -> None:
    """Remove the trees that were used least recently and that nobody uses."""
    locks = []
    for name in os.listdir(cache):
        if name.endswith(".lock") and not name.startswith("."):
            with contextlib.suppress(OSError):
                path = os.path.join(cache, name)
                locks.append((os.stat(path).st_mtime_ns, path))
    locks.sort(reverse=True)
    for _, path in locks[KEPT:]:
        tree = path.removesuffix(".lock")
        if tree in _held:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink(tree + ".manifest")
                _discard(tree)
                _unlink(path)
            finally:
                os.close(descriptor)


def _discard(tree: str) -> None:
    """Take a tree out of its place in one step, then remove it."""
    away = os.path.join(os.path.dirname(tree), f".{os.path.basename(tree)}-{os.urandom(4).hex()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(tree, away)
        _remove_tree(away)


def _remove_tree(path: str) -> None:
    import shutil

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# The manifest: one line per member, kind, size, modification time and path, each ended by a zero byte


def _line(path: bytes, found: os.stat_result) -> bytes:
    if stat.S_ISREG(found.st_mode):
        return b"f %d %d %b" % (found.st_size, found.st_mtime_ns, path)
    return (b"l 0 0 " if stat.S_ISLNK(found.st_mode) else b"d 0 0 ") + path


def _is_whole(tree: str) -> bool:
    try:
        with open(tree + ".manifest", "rb") as file:
            lines = file.read().split(b"\0")
    except OSError:
        return False
    if lines.pop() != b"end":
        return False
    base = os.fsencode(tree) + b"/"
    try:
        for line in lines:
            path = line.split(b" ", 3)[3]
            if _line(path, os.lstat(base + path)) != line:
                return False
    except (OSError, IndexError):
        return False
    return os.path.isdir(tree)


def _write_manifest(tree: str, root: str, paths: Iterable[str]) -> None:
    lines = []
    for path in paths:
        raw = os.fsencode(path)
        lines.append(_line(raw, os.lstat(os.path.join(os.fsencode(root), raw))))
    temporary = os.path.join(os.path.dirname(tree), f".{os.path.basename(tree)}.manifest")
    with open(temporary, "wb") as file:
        file.write(b"\0".join([*lines, b"end"]))
    os.rename(temporary, tree + ".manifest")


# Unpacking


def _build(archive_path: str, digest: str, tree: str) -> None:
    building = os.path.join(os.path.dirname(tree), f".{digest}-{os.urandom(4).hex()}")
    os.mkdir(building, 0o700)
    try:
        paths = _extract(archive_path, digest, building)
        _unlink(tree + ".manifest")
        _discard(tree)
        os.rename(building, tree)
        _write_manifest(tree, tree, paths)
    except BaseException:
        _remove_tree(building)
        raise


class _HashingReader:
    """Decompresses an archive and computes its digest on the way."""

    __slots__ = ("_file", "_digest")

    def __init__(self, file: BinaryIO) -> None:
        import gzip
        import hashlib

        self._file = gzip.GzipFile(fileobj=file, mode="rb")
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def finish(self) -> str:
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()


def _extract(archive_path: str, digest: str, target: str) -> list[str]:
    """Unpack into an empty directory; return the members' paths."""
    import tarfile
    import zlib

    try:
        with open(archive_path, "rb") as file:
            reader = _HashingReader(file)
            with tarfile.open(
                fileobj=reader,
                mode="r|",
                encoding="utf-8",
                errors="surrogateescape",  # type: ignore[call-overload]
            ) as archive:
                paths = _extract_members(archive, target)
            found = reader.finish()
    except FileNotFoundError as error:
        if error.filename != archive_path:
            raise
        raise FlameError(
            FlameErrorCode.NOT_FOUND, f"the package {archive_path!r} is not there; was its Runner closed?"
        ) from error
    except (tarfile.TarError, zlib.error, EOFError, _BadArchive) as error:
        raise _damaged(archive_path, str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(archive_path, str(error)) from error  # gzip.BadGzipFile
    if not found.startswith(digest):
        raise _damaged(archive_path, f"its content has the digest {found[:32]}, not {digest}")
    return paths


class _BadArchive(Exception):
    """A member that must not be unpacked."""


def _extract_members(archive: Any, target: str) -> list[str]:
    paths: list[str] = []
    links: list[tuple[str, str]] = []
    made = {""}
    for member in archive:
        path = _checked_path(member.name)
        _make_parents(target, os.path.dirname(path), made)
        if member.isdir():
            _make_parents(target, path, made)
        elif member.isreg():
            _extract_file(archive.extractfile(member), member, os.path.join(target, path))
        elif member.issym():
            links.append((path, member.linkname))
        else:
            raise _BadArchive(f"member {path!r} is neither file, directory nor symbolic link")
        paths.append(path)
    # Links last: nothing is ever written through one.
    for path, goal in links:
        if os.path.isabs(goal):
            raise _BadArchive(f"link {path!r} leads out of the package, to {goal!r}")
        try:
            os.symlink(goal, os.path.join(target, path))
        except FileExistsError as error:
            raise _BadArchive(f"member {path!r} is there twice") from error
    root = os.path.realpath(target)
    for path, goal in links:
        resolved = os.path.realpath(os.path.join(target, path))
        if resolved != root and not resolved.startswith(root + "/"):
            raise _BadArchive(f"link {path!r} leads out of the package, to {goal!r}")
    return paths


def _checked_path(name: str) -> str:
    path = name.rstrip("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise _BadArchive(f"member {name!r} leads out of the package")
    return path


def _make_parents(target: str, path: str, made: set[str]) -> None:
    if path in made:
        return
    _make_parents(target, os.path.dirname(path), made)
    try:
        os.mkdir(os.path.join(target, path), 0o755)
    except FileExistsError as error:
        raise _BadArchive(f"member {path!r} is there twice") from error
    made.add(path)


def _extract_file(source: Any, member: Any, path: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise _BadArchive(f"member {member.name!r} is there twice") from error
    with open(descriptor, "wb") as file:
        left = member.size
        while left:
            block = source.read(min(left, 1 << 20))
            if not block:
                raise EOFError(f"member {member.name!r} ends early")
            file.write(block)
            left -= len(block)
        os.fchmod(descriptor, 0o755 if member.mode & stat.S_IXUSR else 0o644)


def _damaged(path: str, problem: str) -> FlameError:
    return FlameError(
        FlameErrorCode.INTERNAL,
        f"the package {path!r} is damaged: {problem}; remove it and start the Runner again",
    )

"""The snapshot of a directory: walk, choose, and write one archive.

    directory --_Walk--> members, in order of their names --_Archive--> GNU tar -> gzip -> file
                 |                                             |
              ignore.py                                  SHA-256 of the tar

The same tree gives the same bytes, whoever packs it, where and when: members are sorted by their bytes, and
of what the file system knows about a file only its name, content, kind and owner's execute bit go in. The
digest is the tar's, before compression, so another zlib changes the file but not the digest.

The tree may change while it is read. A file's size in the archive is what was read of it, or, for a large
one, what was promised when it was opened; either way the archive is whole, and a warning names the file.

The tar is written here rather than by tarfile: that module's import alone takes as long as a whole start may.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib

from flame_fast.config import DEFAULT_LIMIT, DEFAULT_MAX_FILES
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.ignore import IGNORE_FILE, OMIT, SECRET, SECRET_IF_KEY, IgnoreRules, split_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO

_CHUNK = 1 << 20
_PROJECT_FILES = (b"pyproject.toml", b"setup.py", b"setup.cfg")
_NAMED_IN_WARNING = 10


class PackageInfo:
    """A finished archive.

    Attributes
    ----------
    path : str
        Where the archive lies.
    digest : str
        32 hexadecimal digits of the content's SHA-256.
    files : int
        Members that are no directories.
    size : int
        Their bytes, before compression.
    """

    __slots__ = ("path", "digest", "files", "size", "_members")

    def __init__(self, path: str, digest: str, files: int, size: int, members: frozenset[bytes]) -> None:
        self.path = path
        self.digest = digest
        self.files = files
        self.size = size
        self._members = members

    def __repr__(self) -> str:
        return f"PackageInfo(path={self.path!r}, digest={self.digest!r}, files={self.files}, size={self.size})"

    @property
    def name(self) -> str:
        """The archive's file name."""
        return os.path.basename(self.path)

    def holds(self, relative: str) -> bool:
        """Whether this path, relative to the packaged directory, is in the package; ``""`` is itself."""
        return relative in ("", ".") or os.fsencode(relative) in self._members


class _Member:
    """One thing that goes into the archive."""

    __slots__ = ("path", "kind", "executable", "size", "target")

    def __init__(self, path: bytes, kind: bytes, *, executable: bool = False, size: int = 0, target: bytes = b"") -> None:
        self.path = path
        self.kind = kind
        self.executable = executable
        self.size = size
        self.target = target


_FILE, _LINK, _DIRECTORY = b"0", b"2", b"5"


def pack(
    directory: str,
    out_dir: str,
    name: str,
    *,
    excludes: Iterable[str] = (),
    limit: int = DEFAULT_LIMIT,
    dependencies: Iterable[str] | None = None,
    never: Iterable[str] = (),
) -> PackageInfo:
    """Write the archive of a directory.

    Parameters
    ----------
    directory : str
        What to pack; nothing is written into it.
    out_dir : str
        Where the archive goes, as ``<name made safe, at most 80 bytes>-<digest>.tar.gz``.
    name : str
        The application's name.
    excludes : iterable of str
        Rules in gitignore's syntax, applied after the built-in ones and before those of ``.flameignore``.
    limit : int
        Most bytes of content; above the default, it raises the number of files allowed in proportion.
    dependencies : iterable of str, optional
        What the generated ``pyproject.toml`` lists, when the directory has no project file of its own.
    never : iterable of str
        Directories that are left out wherever they are met, by whatever path.

    Returns
    -------
    PackageInfo

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` above a limit; ``INVALID_CONFIG`` for an ignore file that cannot be read.
    OSError
        When the archive cannot be written, or the directory itself not be read.

    Warns
    -----
    UserWarning
        Once for each reason, after the archive is finished: secrets left out, files skipped, files that
        changed.
    """
    root = os.fsencode(os.path.abspath(directory))
    rules = IgnoreRules([*_rule_lines(excludes), *_ignore_file(root)])
    walk = _Walk(root, rules, limit, never)
    walk.run()
    members = walk.members
    warnings = walk.warnings
    generated = None
    if not any(member.path in _PROJECT_FILES for member in members):
        generated = _project_file(name, dependencies or ()).encode("utf-8", "surrogateescape")
        members.append(_Member(b"pyproject.toml", _FILE, size=len(generated)))
    elif dependencies:
        warnings.plain.append(
            "dependencies are not written into the package: the directory has a project file of its own; list them there"
        )
    members.sort(key=lambda member: member.path)
    temporary = os.path.join(out_dir, f".packing-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb", opener=_open_private) as file:
            archive = _Archive(file)
            for member in members:
                if generated is not None and member.path == b"pyproject.toml":
                    archive.add(member, generated)
                else:
                    _add(archive, root, member, warnings)
            digest = archive.finish()
        path = os.path.join(out_dir, f"{safe_name(name)}-{digest}.tar.gz")
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    warnings.emit()
    return PackageInfo(path, digest, archive.files, archive.size, frozenset(archive.members))


def safe_name(name: str) -> str:
    """Turn an application's name into a file name: ASCII letters, digits, ``. _ -``, at most 80 of them."""
    kept = [char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name]
    return "".join(kept)[:80]


def warn_user(message: str) -> None:
    """Give a `UserWarning` that points at the line outside this package that led here."""
    import sys
    import warnings

    here = os.path.dirname(__file__)
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == here:
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)


# Choosing


def _rule_lines(excludes: Iterable[str]) -> list[bytes]:
    return [line for rule in excludes for line in split_lines(os.fsencode(rule))]


def _ignore_file(root: bytes) -> list[bytes]:
    path = os.path.join(root, IGNORE_FILE)
    try:
        with open(path, "rb", opener=_open_ignore_file) as file:
            return split_lines(file.read())
    except FileNotFoundError:
        return []
    except OSError as error:
        # Going on without its rules could package what the user wanted kept out.
        raise FlameError(
            FlameErrorCode.INVALID_CONFIG,
            f"cannot read the ignore file {os.fsdecode(path)!r}: {error.strerror}",
        ) from error


def _open_ignore_file(path: Any, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo of this name must not block


class _Warnings:
    """What the walk and the packing have to say, by reason."""

    __slots__ = ("secrets", "special", "unreadable", "outside", "changed", "plain")

    def __init__(self) -> None:
        self.secrets: list[bytes] = []
        self.special: list[bytes] = []
        self.unreadable: list[bytes] = []
        self.outside: list[bytes] = []
        self.changed: list[bytes] = []
        self.plain: list[str] = []

    def emit(self) -> None:
        if self.secrets:
            example = "!" + os.fsdecode(os.path.basename(sorted(self.secrets)[0]))
            self._say(
                "left out of the package for they look like secrets",
                self.secrets,
                f"; to include one, write a rule such as {example!r} in .flameignore or package.excludes",
            )
        self._say("left out of the package for they are sockets, fifos or devices", self.special)
        self._say("left out of the package for they cannot be read", self.unreadable)
        self._say("left out of the package for they are links that point out of the directory", self.outside)
        self._say("changed while they were packed, so the package may hold half of a change", self.changed)
        for message in self.plain:
            warn_user(message)

    def _say(self, what: str, paths: list[bytes], hint: str = "") -> None:
        if not paths:
            return
        names = sorted({_printable(path) for path in paths})
        more = f" and {len(names) - _NAMED_IN_WARNING} more" if len(names) > _NAMED_IN_WARNING else ""
        warn_user(f"{what}: {', '.join(names[:_NAMED_IN_WARNING])}{more}{hint}")


def _printable(path: bytes) -> str:
    """A path for a message: quoted when it would break the line or the encoding."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


class _Walk:
    """Goes through the tree once and lists what is to be packed."""

    __slots__ = ("root", "members", "warnings", "_rules", "_limit", "_max_files", "_never", "_real_root")

    def __init__(self, root: bytes, rules: IgnoreRules, limit: int, never: Iterable[str]) -> None:
        self.root = root
        self.members: list[_Member] = []
        self.warnings = _Warnings()
        self._rules = rules
        self._limit = limit
        self._max_files = max(DEFAULT_MAX_FILES, DEFAULT_MAX_FILES * limit // DEFAULT_LIMIT)
        # By identity, for a path says little: links and mounts lead to the same directory.
        self._never = set()
        for path in never:
            with contextlib.suppress(OSError):
                found = os.stat(path)
                self._never.add((found.st_dev, found.st_ino))
        self._real_root = os.path.realpath(root)

    def run(self) -> None:
        files = size = 0
        pending = [b""]
        while pending:
            parent = pending.pop()
            entries = self._entries(parent)
            if entries is None:
                continue
            if parent:
                self.members.append(_Member(parent, _DIRECTORY))
            for entry in entries:
                path = parent + b"/" + entry.name if parent else entry.name
                member = self._choose(path, entry)
                if member is None:
                    continue
                if member.kind == _DIRECTORY:
                    pending.append(path)
                    continue
                self.members.append(member)
                files += 1
                size += member.size
                if files > self._max_files:
                    raise self._too_much(f"more than {self._max_files:,} files")
        if size > self._limit:
            raise self._too_much(f"{size:,} bytes in {files:,} files")

    def _entries(self, parent: bytes) -> list[os.DirEntry[bytes]] | None:
        """What a directory holds, None when it is left out after all."""
        try:
            with os.scandir(os.path.join(self.root, parent)) as entries:
                found = list(entries)
        except OSError:
            if not parent:
                raise
            if os.path.lexists(os.path.join(self.root, parent)):
                self.warnings.unreadable.append(parent)
            return None
        if parent and any(entry.name == b"pyvenv.cfg" for entry in found):
            return None  # a virtual environment: it works nowhere else, and the workers use it where it is
        return found

    def _choose(self, path: bytes, entry: os.DirEntry[bytes]) -> _Member | None:
        is_directory = entry.is_dir(follow_symlinks=False)
        verdict = self._rules.judge(path, entry.name, is_directory)
        if verdict == OMIT:
            return None
        if verdict == SECRET:
            self.warnings.secrets.append(path)
            return None
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # it vanished: then it is no part of the snapshot
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            return None if (found.st_dev, found.st_ino) in self._never else _Member(path, _DIRECTORY)
        if stat.S_ISLNK(mode):
            return self._link(path)
        if not stat.S_ISREG(mode):
            self.warnings.special.append(path)
            return None
        if verdict == SECRET_IF_KEY and _has_private_key(os.path.join(self.root, path)):
            self.warnings.secrets.append(path)
            return None
        return _Member(path, _FILE, executable=bool(mode & stat.S_IXUSR), size=found.st_size)

    def _link(self, path: bytes) -> _Member | None:
        """A link goes in as a link; one that reaches into the tree by way of outside is made relative."""
        full = os.path.join(self.root, path)
        try:
            target = os.readlink(full)
        except OSError:
            return None
        resolved = os.path.realpath(full)
        if resolved != self._real_root and not resolved.startswith(self._real_root.rstrip(b"/") + b"/"):
            self.warnings.outside.append(path)
            return None
        if os.path.isabs(target) or _climbs_out(os.path.dirname(path), target):
            start = os.path.realpath(os.path.dirname(full))
            target = os.path.relpath(resolved, start)
        return _Member(path, _LINK, target=target)

    def _too_much(self, what: str) -> FlameError:
        largest = sorted(self.members, key=lambda member: -member.size)[:5]
        named = ", ".join(f"{_printable(member.path)} ({member.size:,} bytes)" for member in largest)
        return FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"the package of {os.fsdecode(self.root)!r} would hold {what}, above the limit of "
            f"{self._limit:,} bytes and {self._max_files:,} files; the largest: {named}; leave some out with "
            "rules in .flameignore or package.excludes, or raise package.limit in the configuration",
        )


def _climbs_out(base: bytes, target: bytes) -> bool:
    """Whether a relative link, read letter by letter, leaves the tree on its way."""
    depth = len(base.split(b"/")) if base else 0
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


def _has_private_key(path: bytes) -> bool:
    mark = b"PRIVATE KEY-----"
    tail = b""
    try:
        with open(path, "rb", opener=_open_to_read) as file:
            while block := file.read(_CHUNK):
                if mark in tail + block:
                    return True
                tail = block[-len(mark) :]
    except OSError:
        return False  # the packing meets the same error and reports it
    return False


# Writing


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _open_to_read(path: Any, flags: int) -> int:
    # Neither a link nor a fifo that has taken the file's place since the walk may lead away or block.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _add(archive: _Archive, root: bytes, member: _Member, warnings: _Warnings) -> None:
    if member.kind != _FILE:
        archive.add(member)
        return
    try:
        with open(os.path.join(root, member.path), "rb", buffering=0, opener=_open_to_read) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                warnings.special.append(member.path)
                return
            promised = found.st_size
            changed = promised != member.size  # since the walk
            if promised <= _CHUNK:
                content = _read_all(file)
                changed |= len(content) != promised
                member.size = len(content)
                archive.add(member, content)
            else:
                member.size = promised
                changed |= archive.add_from(member, file) or _differs(found, os.fstat(file.fileno()))
            if changed:
                warnings.changed.append(member.path)
    except FileNotFoundError:
        warnings.changed.append(member.path)
    except OSError as error:
        if error.filename is None:
            raise  # the archive's own trouble, not this file's
        warnings.unreadable.append(member.path)


def _read_all(file: Any) -> bytes:
    """A small file's content, though never more than a chunk beyond what makes a file small."""
    parts = []
    size = 0
    while size <= 2 * _CHUNK:
        try:
            block = file.read(_CHUNK)
        except OSError:
            break  # an error of the device in the middle: what was read stands
        if not block:
            break
        parts.append(block)
        size += len(block)
    return b"".join(parts)


def _differs(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


class _Archive:
    """Writes GNU tar members through SHA-256 and gzip into a file."""

    __slots__ = ("files", "size", "members", "_file", "_digest", "_gzip", "_pending", "_pending_size")

    def __init__(self, file: BinaryIO) -> None:
        import hashlib

        self.files = 0
        self.size = 0
        self.members: list[bytes] = []
        self._file = file
        self._digest = hashlib.sha256()
        # 31: a gzip wrapper, whose header zlib leaves without time and name.
        self._gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        self._pending: list[bytes] = []
        self._pending_size = 0

    def add(self, member: _Member, content: bytes = b"") -> None:
        self._begin(member)
        self._write(content)
        self._pad(member.size)

    def add_from(self, member: _Member, file: Any) -> bool:
        """Add exactly ``member.size`` bytes from a file, zeros where it ends early; whether it did."""
        self._begin(member)
        left = member.size
        short = False
        while left:
            block = b""
            if not short:
                try:
                    block = file.read(min(left, _CHUNK))
                except OSError:
                    block = b""
            if not block:
                short = True
                block = bytes(min(left, _CHUNK))
            self._write(block)
            left -= len(block)
        self._pad(member.size)
        return short

    def finish(self) -> str:
        self._write(bytes(1024))  # two empty blocks end a tar
        self._flush()
        self._file.write(self._gzip.flush())
        return self._digest.hexdigest()[:32]

    def _begin(self, member: _Member) -> None:
        name = member.path + b"/" if member.kind == _DIRECTORY else member.path
        self._write(_header(name, member))
        self.members.append(member.path)
        if member.kind != _DIRECTORY:
            self.files += 1
            self.size += member.size

    def _pad(self, size: int) -> None:
        self._write(bytes(-size % 512))

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        self._digest.update(data)
        self._file.write(self._gzip.compress(data))


def _header(name: bytes, member: _Member) -> bytes:
    """A member's header block, after those that hold a name or a link's target of more than 100 bytes."""
    mode = 0o755 if member.executable or member.kind == _DIRECTORY else 0o644
    if member.kind == _LINK:
        mode = 0o777
    long = b""
    if len(name) > 100:
        long += _long(b"L", name)
    if len(member.target) > 100:
        long += _long(b"K", member.target)
    return long + _block(name, mode, member.size, member.kind, member.target)


def _long(kind: bytes, text: bytes) -> bytes:
    text += b"\0"
    return _block(b"././@LongLink", 0o644, len(text), kind, b"") + text + bytes(-len(text) % 512)


def _block(name: bytes, mode: int, size: int, kind: bytes, target: bytes) -> bytes:
    octal = b"%011o\0" % size
    if len(octal) > 12:  # 8 GiB and more do not fit: GNU's binary form
        octal = b"\x80" + size.to_bytes(11, "big")
    parts = (name[:100].ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0" * 2, octal, b"00000000000\0")
    before = b"".join(parts)
    # After the checksum: kind, target, magic and version of GNU, no user and group, device numbers, padding.
    after = b"".join((kind, target[:100].ljust(100, b"\0"), b"ustar  \0", bytes(247)))
    checksum = sum(before) + sum(after) + 8 * 0x20
    return before + b"%06o\0 " % checksum + after


def _project_file(name: str, dependencies: Iterable[str]) -> str:
    listed = "".join(f"    {_toml_string(text)},\n" for text in sorted(set(dependencies)))
    # A distribution's name may hold no more than this, and must begin and end with a letter or digit.
    project = safe_name(name).strip("._-") or "application"
    return (
        "# Generated by flame_fast: the packaged directory has no project file.\n"
        "[project]\n"
        f"name = {_toml_string(project)}\n"
        'version = "0"\n'
        f"dependencies = [{chr(10) if listed else ''}{listed}]\n"
    )


def _toml_string(text: str) -> str:
    """A TOML basic string."""
    out = []
    for char in text:
        if char in '\\"':
            out.append("\\" + char)
        elif ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


# What the environment must offer


def check_dependencies(dependencies: Iterable[str] | None, python_version: str | None) -> list[str]:
    """Check that what a Runner asks for is there.

    Parameters
    ----------
    dependencies : iterable of str or None
        Requirements by PEP 508; one whose marker does not hold here is not asked for.
    python_version : str or None
        The version that must be running, as far as it is given: ``3.11`` and ``3.11.7`` both match 3.11.7.

    Returns
    -------
    list of str
        The dependencies.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` for what is no requirement and for another Python; ``NOT_FOUND`` for what is
        not installed, with the command that installs it.
    """
    if python_version is not None:
        _check_python(python_version)
    if dependencies is None:
        return []
    if isinstance(dependencies, str) or not isinstance(dependencies, (list, tuple, set, frozenset)):
        raise _bad_argument(f"dependencies: expected a list of requirements, got {dependencies!r}")
    listed = list(dependencies)
    for text in listed:
        if not isinstance(text, str):
            raise _bad_argument(f"dependencies: expected text like 'numpy>=1.26', got {text!r}")
    missing: list[tuple[str, str]] = []
    for text in listed:
        problem = _missing(text)
        if problem:
            missing.append((text, problem))
    if missing:
        import shlex
        import sys

        wanted = [text for text, _ in missing]
        command = shlex.join([sys.executable or "python", "-m", "pip", "install", *wanted])
        named = ", ".join(f"{text!r} ({problem})" for text, problem in missing)
        raise FlameError(FlameErrorCode.NOT_FOUND, f"dependencies not installed: {named}; install them with: {command}")
    return listed


def _check_python(wanted: object) -> None:
    import sys

    running = sys.version_info[:3]
    full = ".".join(map(str, running))
    parts = wanted.split(".") if isinstance(wanted, str) else []
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise _bad_argument(f"python_version: expected text like '3.11' or '{full}', got {wanted!r}")
    if tuple(map(int, parts)) != running[: len(parts)]:
        raise _bad_argument(
            f"python_version {wanted!r} is not the running Python {full} ({sys.executable}); start the "
            "driver with that Python, or leave python_version out"
        )


def _missing(text: str) -> str:
    """Why a requirement is not met, nothing when it is."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise _bad_argument(f"dependencies: {text!r} is not a requirement by PEP 508: {reason}") from error
    return _unmet(requirement, "", set())


def _unmet(requirement: Any, extra: str, seen: set[str]) -> str:
    from importlib import metadata

    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return ""
    if str(requirement) in seen:
        return ""
    seen.add(str(requirement))
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return "not found" if not extra else f"its extra needs {requirement.name}"
    version = distribution.version
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{version} is installed" if not extra else f"its extra needs {requirement}"
    return _unmet_extras(requirement, distribution, seen)


def _unmet_extras(requirement: Any, distribution: Any, seen: set[str]) -> str:
    from packaging.requirements import Requirement

    for extra in sorted(requirement.extras):
        for text in distribution.requires or ():
            needed = Requirement(text)
            # Only what the extra adds: what the distribution always needs is its installer's business.
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                continue
            problem = _unmet(needed, extra, seen)
            if problem:
                return problem
    return ""


def _bad_argument(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_ARGUMENT, message)

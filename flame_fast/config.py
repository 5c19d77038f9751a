"""Configuration: the user's settings, and the directory that flame_fast keeps its data in.

The settings stand in Flame's own file: the path given to `FlameContext`, else ``$FLAME_CONF``, else ``~/.flame/flame.yaml``.
Only the last may be missing. A key this package uses must have its type; every other key belongs to the cluster and is
ignored.

This module is on the path of every start, so it imports late what a start may not need: PyYAML only when there is a file to
read, pathlib only when a caller asks for a `Path`.
"""

from __future__ import annotations

import contextlib
import os
import stat

from flame_fast._records import record
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.resources import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

#: Bits of a mode by which the group, or everybody, may write.
OTHERS_WRITE = 0o022

#: Most bytes of a configuration file, and most aliases in it: one that names a list of aliases to lists of aliases grows
#: without bound in few lines.
MOST_BYTES = 1 << 20
MOST_ALIASES = 100

#: Most characters of what a file says, in a message.
_SHOWN = 60

#: Most contexts that a message lists.
_NAMED = 10

#: Most bytes a package may hold before compression, unless ``package.limit`` says otherwise.
DEFAULT_LIMIT = 500 * 1024**2

#: Above so many bytes a file of data is not packaged for workers on this machine, unless ``package.largest_file`` differs:
#: GitHub warns of larger files than 50 MB, and sources, models of a test and pictures of a manual are below a fifth of that.
DEFAULT_LARGEST_FILE = 10 * 1024**2

#: Most files a package may hold; a ``package.limit`` above its default raises this in proportion.
DEFAULT_MAX_FILES = 100_000

#: What a `FlamePackage` made without `excludes` leaves out, as Flame has it; all but `.gitignore` is left out anyway.
DEFAULT_EXCLUDES = (".venv", "__pycache__", ".gitignore", "*.pyc")

#: The application whose attributes a Runner starts from, unless ``runner.template`` says otherwise.
DEFAULT_TEMPLATE = "flmrun"


@record
class FlamePackage:
    """How the package of an application is made and where it is kept.

    Parameters
    ----------
    storage : str, optional
        Where packages are uploaded to, ``file://DIR``; by default a directory inside the data directory.
    excludes : iterable of str
        Further rules in gitignore's syntax, applied after the built-in ones; by default Flame's. That of a `FlameContext`
        has those of the file alone.
    limit : int
        Most bytes a package may hold before compression. Above the default it also raises the number of files allowed, in
        proportion (100,000 at the default of 500 MB).
    largest_file : int
        Data is not packaged for workers on this machine, which find it in the directory itself: files of more bytes, and
        folders without code that hold more, or more than a file for every 10 KiB of it.
    enabled : bool
        Whether a `Runner` packages anything.
    """

    storage: str | None
    excludes: tuple[str, ...]
    limit: int
    largest_file: int
    enabled: bool

    def __init__(
        self,
        storage: str | None = None,
        excludes: Iterable[str] = DEFAULT_EXCLUDES,
        limit: int = DEFAULT_LIMIT,
        largest_file: int = DEFAULT_LARGEST_FILE,
        enabled: bool = True,
    ) -> None:
        self.storage = storage
        self.excludes = tuple(excludes)
        self.limit = limit
        self.largest_file = largest_file
        self.enabled = enabled


@record
class FlameRunnerConfig:
    """How a Runner registers its application.

    Parameters
    ----------
    template : str
        The registered application whose attributes a Runner starts from.
    """

    template: str = DEFAULT_TEMPLATE


class FlameContext:
    """The settings in force: one context of a Flame configuration file.

    Parameters
    ----------
    path : str or path-like, optional
        The file to read. By default ``$FLAME_CONF`` if it is set, else ``~/.flame/flame.yaml`` if it exists, else the
        defaults.

    Attributes
    ----------
    name : str or None
        The context's name, None when there is no file.
    package : FlamePackage
    runner : FlameRunnerConfig
    path : str or None
        The file that was read.
    cache : None
        Where Flame has its object cache's endpoint; here values live in shared memory.

    Raises
    ------
    FlameError
        ``INVALID_CONFIG``, naming file, line or key: a named file that is missing, what is no YAML, an empty file, a null or
        wrongly typed key, an unknown context.
    """

    __slots__ = ("name", "package", "runner", "path")

    cache: None = None

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.name: str | None = None
        self.package: FlamePackage = FlamePackage(excludes=())
        self.runner: FlameRunnerConfig = FlameRunnerConfig()
        self.path: str | None = None
        named_by = "given to FlameContext"
        if path is None:
            path = os.environ.get("FLAME_CONF") or None
            named_by = "named by $FLAME_CONF"
        if path is None:
            path = os.path.expanduser(os.path.join("~", ".flame", "flame.yaml"))
            if not os.path.lexists(path):
                return
            named_by = "the default"
        self.path = os.path.expanduser(os.fspath(path))
        self._read(self.path, named_by)

    def __repr__(self) -> str:
        return f"FlameContext(name={self.name!r}, path={self.path!r})"

    def _read(self, path: str, named_by: str) -> None:
        try:
            text = _text_of(path)
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise _invalid(f"cannot read the configuration file {path!r} ({named_by}): {problem}") from error
        document = _Section(path, "", _parse(path, text))
        self.name = document.text("current-context", required=True)
        self._take(_Section(path, *_select(document, self.name)))

    def _take(self, context: _Section) -> None:
        package = context.section("package")
        if package is not None:
            self.package = FlamePackage(
                package.text("storage"),
                package.texts("excludes"),
                package.size("limit", DEFAULT_LIMIT),
                package.size("largest_file", DEFAULT_LARGEST_FILE),
                package.flag("enabled", True),
            )
        runner = context.section("runner")
        if runner is not None:
            self.runner = FlameRunnerConfig(runner.text("template") or DEFAULT_TEMPLATE)


def data_home() -> Path:
    """Return the directory that holds everything flame_fast keeps, made if it is missing.

    Returns
    -------
    pathlib.Path
        ``$FLAME_FAST_HOME``, else ``flame_fast`` in the platform's user data directory; readable by the user alone when
        made here.
    """
    from pathlib import Path

    return Path(home_directory())


def home_directory() -> str:
    """Return `data_home` as a string: the form that the rest of the package uses, since it costs no import."""
    home = os.environ.get("FLAME_FAST_HOME") or ""
    named_by = "named by $FLAME_FAST_HOME"
    if not home:
        home = _platform_home()
        named_by = "in the user data directory; set $FLAME_FAST_HOME to move it"
    home = os.path.abspath(os.path.expanduser(home))
    try:
        _make_home(home)
    except OSError as error:
        raise _invalid(f"cannot make the data directory {home!r} ({named_by}): {error.strerror}") from error
    check_trusted(home, f"the data directory ({named_by})")
    _keep_private(home)
    return home


def _make_home(home: str) -> None:
    """Make the data directory, and what is missing above it, for the user alone."""
    missing = []
    path = home
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        make_private(path)
    if missing and not os.path.isdir(home):
        raise NotADirectoryError(20, "it is no directory")


def make_private(directory: str) -> None:
    """Make a directory that only this user may look into, whatever the umask; one that is there stays."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return
    os.chmod(directory, 0o700)  # a umask may have taken the user's own rights, too


def _keep_private(home: str) -> None:
    """Keep others out of the directories in the data directory: made for the user alone, they may have been opened since.

    What lies in them is trusted as it is: packages that are unpacked again, and run.
    """
    with os.scandir(home) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            found = entry.stat(follow_symlinks=False)
            if found.st_uid not in (os.geteuid(), 0) or found.st_mode & OTHERS_WRITE:
                check_trusted(entry.path, "the data directory")
            if found.st_mode & 0o077 and found.st_uid == os.geteuid():
                with contextlib.suppress(OSError):  # a file system that may only be read
                    os.chmod(entry.path, found.st_mode & 0o700)


def check_trusted(path: str, what: str) -> os.stat_result:
    """Check that nobody but this user, or root, can put anything into a directory or file: code is run from there.

    Parameters
    ----------
    path : str
        A link is followed. Of the directories above, one that everybody may write to is refused, unless it is sticky: others
        could put another directory in this one's place. Their groups and owners are not looked at, since the group is often
        the user's own (umask 002), and containers show foreign owners.
    what : str
        What it is, for the message.

    Returns
    -------
    os.stat_result

    Raises
    ------
    FlameError
        `INVALID_CONFIG`, with the command that ends it.
    """
    found = os.stat(path)
    if found.st_uid not in (os.geteuid(), 0):
        raise _invalid(
            f"{what}: {path!r} belongs to user {found.st_uid}, who could put code there; name a place of your own, "
            f"or run as root: chown {os.geteuid()} {_quoted(path)}"
        )
    _refuse_writers(path, found.st_mode & OTHERS_WRITE, found, what)
    above = os.path.realpath(path)
    while above != "/":
        above = os.path.dirname(above)
        status = os.stat(above)
        if not status.st_mode & stat.S_ISVTX:
            _refuse_writers(above, status.st_mode & stat.S_IWOTH, status, f"{what}, which lies in {above!r}")
    return found


def _refuse_writers(path: str, writers: int, status: os.stat_result, what: str) -> None:
    if writers:
        raise _invalid(
            f"{what}: others may write to {path!r} (mode {status.st_mode & 0o7777:o}), and could put code there; "
            f"run: chmod {'go-w' if writers & stat.S_IWGRP else 'o-w'} {_quoted(path)}"
        )


def _quoted(text: str) -> str:
    """Quote a text for a shell; `shlex` is loaded only for a message."""
    import shlex

    return shlex.quote(text)


def unpacked_tree(home: str | os.PathLike[str], digest: str) -> str:
    """Return the directory of a data directory that a package's tree is unpacked into."""
    return os.path.join(os.path.abspath(home), "unpacked", digest)


def _platform_home() -> str:
    """Return the directory for user data of the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is ignored
        base = os.path.expanduser("~/.local/share")
    return os.path.join(base, "flame_fast")


def _invalid(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_CONFIG, message)


def _text_of(path: str) -> bytes:
    """Read a regular file of at most `MOST_BYTES`; a fifo or a device must neither block nor go on for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return text


def _parse(path: str, text: bytes) -> object:
    import yaml

    try:
        if text.count(b"*") > MOST_ALIASES:  # else there cannot be too many
            _count_aliases(text)
        document: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark is not None else "the text"
        problem = _cut(error.problem or error.context or "syntax error", 200)
        raise _invalid(f"the configuration file {path!r} is not valid YAML, {where}: {problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a tag's own constructor (a date of month 13).
        detail = _cut(" ".join(str(error).split()), 200)
        raise _invalid(f"the configuration file {path!r} is not valid YAML: {detail}") from error
    if document is None:
        raise _invalid(f"the configuration file {path!r} is empty; write current-context and contexts, or remove it")
    return document


def _count_aliases(text: bytes) -> None:
    """Refuse a file with too many aliases before anything is built of it."""
    import yaml

    count = 0
    for token in yaml.scan(text, yaml.SafeLoader):
        count += isinstance(token, yaml.AliasToken)
        if count > MOST_ALIASES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MOST_ALIASES} aliases; write out what they stand for", problem_mark=token.start_mark
            )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _shown(value: object) -> str:
    """Return a value for a message: cut before it is put together, since that of an alias may be endless."""
    import reprlib

    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, _SHOWN, _SHOWN
    short.maxlong = _SHOWN
    return _cut(short.repr(value), _SHOWN)


def _select(document: _Section, wanted: str | None) -> tuple[str, object]:
    """Return the key and the value of the context in force."""
    known = []
    for index, value in enumerate(document.items("contexts")):
        key = f"contexts[{index}]"
        name = _Section(document.path, key, value).text("name", required=True)
        if name == wanted:
            return key, value
        known.append(name)
    listed = ", ".join(map(_shown, known[:_NAMED])) or "none, since contexts is empty"
    more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    raise _invalid(
        f"current-context in {document.path!r}: expected a name that contexts lists ({listed}{more}), got {_shown(wanted)}"
    )


class _Section:
    """A mapping of the file, with its path and key for error messages."""

    __slots__ = ("path", "key", "values")

    def __init__(self, path: str, key: str, values: object) -> None:
        self.path = path
        self.key = key
        if not isinstance(values, dict):
            raise self._wrong(key, "a mapping", values)
        self.values: dict[Any, Any] = values

    def section(self, name: str) -> _Section | None:
        if name not in self.values:
            return None
        return _Section(self.path, self._full(name), self.values[name])

    def text(self, name: str, *, required: bool = False) -> str | None:
        if name not in self.values and not required:
            return None
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            raise self._wrong(self._full(name), "text", value, missing=name not in self.values)
        return value

    def items(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list):
            raise self._wrong(self._full(name), "a list", value, missing=name not in self.values)
        return value

    def texts(self, name: str) -> list[str]:
        if name not in self.values:
            return []
        values = self.items(name)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self._wrong(f"{self._full(name)}[{index}]", "text", value)
        return values

    def size(self, name: str, default: int) -> int:
        if name not in self.values:
            return default
        value = self.values[name]
        size = parse_size(value)
        if not size:
            raise self._wrong(self._full(name), "a number of bytes of at least 1, or text like '2g'", value)
        return size

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(self._full(name), "true or false", value)
        return value

    def _full(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def _wrong(self, key: str, expected: str, value: object, *, missing: bool = False) -> FlameError:
        if missing:
            got = "no such key"
        elif value is None:
            got = "null"
        elif value == "":
            got = "empty text"
        else:
            got = f"{type(value).__name__} {_shown(value)}"
        what = f"{key} in {self.path!r}" if key else f"the configuration file {self.path!r}"
        return _invalid(f"{what}: expected {expected}, got {got}")

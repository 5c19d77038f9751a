"""Configuration: the user's settings, and the directory that flame_fast keeps its data in.

The settings stand in Flame's own file: the path given to `FlameContext`, else ``$FLAME_CONF``, else ``~/.flame/flame.yaml``.
Only the last may be missing. A key this package uses must have its type; every other key belongs to the cluster and is
ignored.

This module is on the path of every start, so it imports late what a start may not need: PyYAML only when there is a file to
read, pathlib only when a caller asks for a `Path`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import warnings

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

#: Where the data directory lies for now if there is no better place, beside ``$TMPDIR``.
SPARE = ("/tmp", "/var/tmp")

#: Temporary directories that this process has warned of.
_told: set[str] = set()

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
        Where packages are uploaded to: ``file://DIR``, or the directory's absolute path, where ``~`` is the user's home; by
        default a directory inside the data directory.
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
        wrongly typed key, a key given twice, one that is nearly one of those used, an unknown context.
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
            if not os.path.isabs(path) or not os.path.lexists(path):
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
        document = _Section(path, "", *_parse(path, text))
        self.name = document.text("current-context", required=True)
        context = _select(document, self.name)
        document.refuse_near("current-context", "contexts")
        self._take(context)

    def _take(self, context: _Section) -> None:
        context.refuse_near("name", "package", "runner")
        package = context.section("package")
        if package is not None:
            package.refuse_near("storage", "excludes", "limit", "largest_file", "enabled")
            self.package = FlamePackage(
                package.text("storage"),
                package.texts("excludes"),
                package.size("limit", DEFAULT_LIMIT),
                package.size("largest_file", DEFAULT_LARGEST_FILE),
                package.flag("enabled", True),
            )
        runner = context.section("runner")
        if runner is not None:
            runner.refuse_near("template")
            self.runner = FlameRunnerConfig(runner.text("template") or DEFAULT_TEMPLATE)


def data_home() -> Path:
    """Return the directory that holds everything flame_fast keeps, made if it is missing.

    Returns
    -------
    pathlib.Path
        ``$FLAME_FAST_HOME``, else ``flame_fast`` in the platform's user data directory; readable by the user alone when
        made here. Where the latter is of no use, a private directory below ``$TMPDIR`` or ``/tmp``, with one warning.

    Raises
    ------
    FlameError
        ``INVALID_CONFIG``: the directory that ``$FLAME_FAST_HOME`` names cannot be made, written to, or trusted.
    """
    from pathlib import Path

    return Path(home_directory())


def home_directory(*, writes: bool = True) -> str:
    """Return `data_home` as a string: the form that the rest of the package uses, since it costs no import.

    `writes`: whether a directory that may only be read is of no use.
    """
    named = os.environ.get("FLAME_FAST_HOME")
    if named:
        home = _written_out(named)
        named_by = "named by $FLAME_FAST_HOME"
        problem = _problem_with(home, writes)
        if problem:
            raise _invalid(f"cannot {problem.what} the data directory {home!r} ({named_by}): {problem}")
    else:
        named_by = "in the user data directory; set $FLAME_FAST_HOME to move it"
        home, problem = _platform_home()
        problem = problem or _problem_with(home, writes)
        if problem:
            home, named_by = _temporary_home(home, problem), "for temporary files; set $FLAME_FAST_HOME to move it"
    check_trusted(home, f"the data directory ({named_by})")
    _keep_private(home)
    return home


class _Problem:
    """What keeps a directory from being the data directory, and what to do; a message ends with it."""

    __slots__ = ("what", "cause", "command")

    def __init__(self, what: str, cause: str, command: str = "") -> None:
        self.what = what
        self.cause = cause
        self.command = command

    def __str__(self) -> str:
        return f"{self.cause}; set $FLAME_FAST_HOME to another directory{', or ' * bool(self.command)}{self.command}"


def _written_out(named: str) -> str:
    """Return the directory that ``$FLAME_FAST_HOME`` names, absolute. A mistake of a shell must not make one by its name."""
    home = os.path.expanduser(named)
    first = home.partition("/")[0]
    if first.startswith("~"):
        raise _invalid(
            f"$FLAME_FAST_HOME: expected a directory, got {named!r}, and {first!r} is nobody's home directory here; "
            "write the path out"
        )
    if re.search(r"\$(\w|\{)", home) and not os.path.isdir(home):
        raise _invalid(
            f"$FLAME_FAST_HOME: expected a directory, got {named!r}, whose variable no shell has replaced; write the path "
            "out, or leave out the single quotes around it"
        )
    try:
        return os.path.abspath(home)
    except OSError as error:  # of the current directory
        raise _invalid(
            f"$FLAME_FAST_HOME: {named!r} is relative to the current directory, which cannot be read: {error.strerror}; "
            "write an absolute path"
        ) from error


def _problem_with(home: str, writes: bool = True) -> _Problem | None:
    """Make the data directory if it is missing; return what keeps this process from writing there, or from having one."""
    try:
        _make_home(home)
        if not writes:
            return None
        problem = _refusal(home) or _foreign_entry(home)
        system = os.statvfs(home)
    except OSError as error:
        where = f": {error.filename!r}" if error.filename not in (None, home) else ""
        return _Problem("make", f"{error.strerror}{where}")
    if problem is None and system.f_blocks:  # a virtual file system tells nothing
        if not (system.f_bavail if os.geteuid() else system.f_bfree):
            return _Problem("use", "its file system is full", "make room there")
        if system.f_files and not system.f_ffree:
            return _Problem("use", "its file system has no room for another file", "remove some there")
    return problem


def _refusal(path: str) -> _Problem | None:
    """Return what keeps this process from reading and writing a file or directory."""
    status = os.stat(path)
    needed = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
    if os.access(path, needed >> 6):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return _Problem("use", "it lies on a file system that may only be read")
    if status.st_uid != os.geteuid():
        owner = "root" if status.st_uid == 0 else f"user {status.st_uid}"
        command = f"run as root: chown -R {os.geteuid()} {_quoted(path)}"
        return _Problem("use", f"{path!r} belongs to {owner}, and this is user {os.geteuid()}", command)
    mode = f"{stat.S_IMODE(status.st_mode):o}"
    letters = "rwx" if stat.S_ISDIR(status.st_mode) else "rw"
    return _Problem("use", f"you may not write to {path!r} (mode {mode})", f"run: chmod u+{letters} {_quoted(path)}")


def _foreign_entry(home: str) -> _Problem | None:
    """Return what is wrong with something in the data directory that root has made, as a Runner under sudo does."""
    user = os.geteuid()
    if user == 0:
        return None
    with os.scandir(home) as entries:
        for entry in entries:
            try:
                refused = entry.stat(follow_symlinks=False).st_uid == 0 and _refusal(entry.path) is not None
            except FileNotFoundError:  # gone since, as the registry's log is, or a link that leads nowhere
                continue
            if refused:
                return _Problem(
                    "use",
                    f"{entry.name!r} in it belongs to root, and this is user {user}",
                    f"run as root: chown -R {user} {_quoted(home)}",
                )
    return None


def _temporary_home(home: str, problem: _Problem) -> str:
    """Return a private directory for temporary files: the same one in each process of the user; warn of that once."""
    name = f"flame_fast-{os.geteuid()}"
    for base in (os.environ.get("TMPDIR", ""), *SPARE):
        path = os.path.join(base, name)
        if os.path.isabs(base) and _problem_with(path) is None and _is_own_directory(path):
            break
    else:
        raise _invalid(f"cannot {problem.what} the data directory {home!r}: {problem}")
    if path not in _told:
        _told.add(path)
        warnings.warn(
            f"flame_fast keeps its data in {path!r} for now, since it cannot {problem.what} the data directory {home!r}: "
            f"{problem}",
            stacklevel=_users_level(),
        )
    return path


def _is_own_directory(path: str) -> bool:
    """Whether a path is a directory of this user's, rather than somebody else's, or a link that somebody else has made."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _users_level() -> int:
    """Return the `stacklevel`, in the caller's call of `warn`, of the innermost line outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(os.path.dirname(__file__) + os.sep):
        level, frame = level + 1, frame.f_back
    return level


def _make_home(home: str) -> None:
    """Make the data directory, and what is missing above it, for the user alone."""
    missing = []
    path = home
    while True:
        try:
            found = os.stat(path)
            break
        except FileNotFoundError:
            missing.append(path)
            path = os.path.dirname(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path)
    for path in reversed(missing):
        make_private(path)
    if missing and not os.path.isdir(home):  # a link that leads nowhere
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory", home)


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


def refuses_programs(directory: str) -> bool:
    """Whether a directory lies on a file system mounted noexec, from which compiled modules cannot be loaded."""
    return bool(os.statvfs(directory).f_flag & os.ST_NOEXEC)


def _quoted(text: str) -> str:
    """Quote a text for a shell; `shlex` is loaded only for a message."""
    import shlex

    return shlex.quote(text)


def unpacked_tree(home: str | os.PathLike[str], digest: str) -> str:
    """Return the directory of a data directory that a package's tree is unpacked into."""
    return os.path.join(os.path.abspath(home), "unpacked", digest)


def _platform_home() -> tuple[str, _Problem | None]:
    """Return the directory for user data of the XDG base directory specification, and what is wrong with it."""
    problem = None
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is ignored
        base = os.path.expanduser("~/.local/share")
        home = os.environ.get("HOME")
        if home is None and base.startswith("~"):
            problem = _Problem("find", f"HOME is not set, and user {os.getuid()} has no entry in the password database")
        elif home is not None and not os.path.isabs(home):
            problem = _Problem("find", f"HOME is {home!r}, which is no absolute path")
    return os.path.join(base, "flame_fast"), problem


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


def _parse(path: str, text: bytes) -> tuple[object, Any]:
    """Return what a file says, and its nodes, which know their lines."""
    import yaml

    document: object = None
    try:
        if text.count(b"*") > MOST_ALIASES:  # else there cannot be too many
            _count_aliases(text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _refuse_twins(node)
                document = loader.construct_document(node)
        finally:
            loader.dispose()
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
    return document, node


def _refuse_twins(root: Any) -> None:
    """Refuse a mapping that has a key twice: YAML forbids it, and only the last one would count."""
    import yaml

    twins = []
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        marks: dict[tuple[str, str], Any] = {}
        for key, value in node.value:
            todo += key, value
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                mark: Any = key.start_mark
                first = marks.setdefault((key.tag, key.value), mark)
                if first is not mark:
                    twins.append((mark.line, first.line, key.value, mark))
    if twins:
        _, line, name, mark = min(twins, key=lambda twin: twin[:2])
        raise yaml.MarkedYAMLError(
            problem=f"the key {_shown(name)} is there already, in line {line + 1}; leave one of the two", problem_mark=mark
        )


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


def _select(document: _Section, wanted: str | None) -> _Section:
    """Return the context in force."""
    known = []
    values = document.items("contexts")
    nodes = document.node_of("contexts").value
    for index, (value, node) in enumerate(zip(values, nodes, strict=True)):
        context = _Section(document.path, f"contexts[{index}]", value, node)
        name = context.text("name", required=True)
        if name == wanted:
            return context
        known.append(name)
    listed = ", ".join(map(_shown, known[:_NAMED])) or "none, since contexts is empty"
    more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    raise _invalid(
        f"current-context in {document.path!r}: expected a name that contexts lists ({listed}{more}), got {_shown(wanted)}"
    )


def _near(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known key that a key is nearly, or in another spelling; None if it is far from all."""
    import difflib

    if len(name) > _SHOWN:
        return None
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower().replace("_", "-").strip()
    spellings = {one.replace("_", "-"): one for one in known}
    return next((spellings[one] for one in difflib.get_close_matches(spelt, spellings, 1, 0.8)), None)


class _Section:
    """A mapping of the file, with its path, key and node for error messages."""

    __slots__ = ("path", "key", "values", "node")

    def __init__(self, path: str, key: str, values: object, node: Any) -> None:
        self.path = path
        self.key = key
        self.node = node
        if not isinstance(values, dict):
            raise self._wrong(key, "a mapping", values)
        self.values: dict[Any, Any] = values

    def section(self, name: str) -> _Section | None:
        if name not in self.values:
            return None
        return _Section(self.path, self._full(name), self.values[name], self.node_of(name))

    def node_of(self, name: str) -> Any:
        """Return the node of a key's value; of a merged mapping's, too."""
        return self._pair(name)[1]

    def _pair(self, name: str) -> tuple[Any, Any]:
        return next((key, value) for key, value in reversed(self.node.value) if key.value == name)

    def refuse_near(self, *known: str) -> None:
        """Refuse a key that is nearly one of those used here: a slip of the pen. Others are the cluster's."""
        for name in self.values:
            near = _near(name, known) if isinstance(name, str) and name not in known else None
            if near is not None:
                raise _invalid(
                    f"{_cut(self._full(name), _SHOWN)} in {self.path!r}, line {self._line(name)}: there is no such key; did "
                    f"you mean {near!r}?"
                )

    def _line(self, name: str) -> int:
        line: int = self._pair(name)[0].start_mark.line
        return line + 1

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
            wanted = key.rpartition(".")[2]
            near = next((name for name in self.values if isinstance(name, str) and _near(name, (wanted,))), None)
            if near is not None:
                got += f", but {_shown(near)} in line {self._line(near)}"
        elif value is None:
            got = "null"
        elif value == "":
            got = "empty text"
        else:
            got = f"{type(value).__name__} {_shown(value)}"
        what = f"{key} in {self.path!r}" if key else f"the configuration file {self.path!r}"
        return _invalid(f"{what}: expected {expected}, got {got}")

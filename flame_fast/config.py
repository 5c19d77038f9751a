"""Configuration: the user's settings, and the directory that flame_fast keeps its data in.

The settings stand in Flame's own file: the path given to `FlameContext`, else ``$FLAME_CONF``, else ``~/.flame/flame.yaml``.
Only the last may be missing. A key this package uses must have its type; every other key belongs to the cluster and is
ignored.

This module is on the path of every start, so it imports late what a start may not need: PyYAML only when there is a file to
read, pathlib only when a caller asks for a `Path`.
"""

from __future__ import annotations

import os

from flame_fast._records import record
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.resources import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

#: Most bytes a package may hold before compression, unless ``package.limit`` says otherwise.
DEFAULT_LIMIT = 500 * 1024**2

#: Most files a package may hold; a ``package.limit`` above its default raises this in proportion.
DEFAULT_MAX_FILES = 100_000

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
        Further rules in gitignore's syntax, applied after the built-in ones.
    limit : int
        Most bytes a package may hold before compression. Above the default it also raises the number of files allowed, in
        proportion (100,000 at the default of 500 MB).
    """

    storage: str | None
    excludes: tuple[str, ...]
    limit: int

    def __init__(self, storage: str | None = None, excludes: Iterable[str] = (), limit: int = DEFAULT_LIMIT) -> None:
        self.storage = storage
        self.excludes = tuple(excludes)
        self.limit = limit


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

    Raises
    ------
    FlameError
        ``INVALID_CONFIG``, naming file, line or key: a named file that is missing, what is no YAML, an empty file, a null or
        wrongly typed key, an unknown context.
    """

    __slots__ = ("name", "package", "runner", "path")

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.name: str | None = None
        self.package = FlamePackage()
        self.runner = FlameRunnerConfig()
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
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise _invalid(f"cannot read the configuration file {path!r} ({named_by}): {error.strerror}") from error
        document = _Section(path, "", _parse(path, text))
        self.name = document.text("current-context", required=True)
        self._take(_Section(path, *_select(document, self.name)))

    def _take(self, context: _Section) -> None:
        package = context.section("package")
        if package is not None:
            self.package = FlamePackage(
                package.text("storage"), package.texts("excludes"), package.size("limit", DEFAULT_LIMIT)
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
        os.makedirs(home, mode=0o700, exist_ok=True)
    except OSError as error:
        raise _invalid(f"cannot make the data directory {home!r} ({named_by}): {error.strerror}") from error
    return home


def _platform_home() -> str:
    """Return the directory for user data of the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is ignored
        base = os.path.expanduser("~/.local/share")
    return os.path.join(base, "flame_fast")


def _invalid(message: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_CONFIG, message)


def _parse(path: str, text: bytes) -> object:
    import yaml

    try:
        document: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark is not None else "the text"
        problem = error.problem or error.context or "syntax error"
        raise _invalid(f"the configuration file {path!r} is not valid YAML, {where}: {problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a tag's own constructor (a date of month 13).
        detail = " ".join(str(error).split())
        raise _invalid(f"the configuration file {path!r} is not valid YAML: {detail}") from error
    if document is None:
        raise _invalid(f"the configuration file {path!r} is empty; write current-context and contexts, or remove it")
    return document


def _select(document: _Section, wanted: str | None) -> tuple[str, object]:
    """Return the key and the value of the context in force."""
    known = []
    for index, value in enumerate(document.items("contexts")):
        key = f"contexts[{index}]"
        name = _Section(document.path, key, value).text("name", required=True)
        if name == wanted:
            return key, value
        known.append(name)
    listed = ", ".join(map(repr, known)) or "none, since contexts is empty"
    raise _invalid(f"current-context in {document.path!r}: expected a name that contexts lists ({listed}), got {wanted!r}")


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
            got = f"{type(value).__name__} {repr(value)[:60]}"
        what = f"{key} in {self.path!r}" if key else f"the configuration file {self.path!r}"
        return _invalid(f"{what}: expected {expected}, got {got}")

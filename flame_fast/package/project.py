"""Which directory a Runner packages: the current one, another, or none."""

from __future__ import annotations

import os

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.package.notices import warn_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.config import FlamePackage

#: What `$FLAME_FAST_PACKAGE` may say beside a path.
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

#: Folders of a home directory that hold whatever its owner keeps there.
FOLDERS = ("Desktop", "Documents", "Downloads", "Music", "Pictures", "Videos")

#: Files and folders that say of a directory that it is a project's.
MARKS = ("pyproject.toml", "setup.py", "setup.cfg", ".flameignore", ".git")


def directory_to_package(
    package: bool | str | os.PathLike[str] | None, current: str, configured: FlamePackage
) -> str | None:
    """Return the directory that a Runner packages; None: its workers import from where this process does.

    Parameters
    ----------
    package : bool, str, path-like or None
        That of the `Runner`, else of ``$FLAME_FAST_PACKAGE``. None: the configuration says whether.
    current : str
        The current directory.
    configured : FlamePackage

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT``: it is no directory, or of another type.

    Warns
    -----
    UserWarning
        The current directory is nobody's project, so that nothing is packaged.
    """
    if isinstance(package, str) and package.lower() in WORDS:
        package = WORDS[package.lower()]
    if package is None:
        if not configured.enabled:
            return None
        what = _what_else(current)
        if what:
            warn_user(
                f"nothing is packaged, for {current!r} is {what}, not a project's directory: workers import from it as it "
                "is; start in the project's own directory, or pass Runner(package=True)"
            )
            return None
        return current
    if isinstance(package, bool):
        return current if package else None
    if not isinstance(package, (str, os.PathLike)):
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT, f"package: expected True, False or a directory's path, got {package!r}"
        )
    directory = os.path.normpath(os.path.join(current, os.path.expanduser(os.fspath(package))))
    if not os.path.isdir(directory):
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT, f"package: expected True, False or a directory's path; {directory!r} is none"
        )
    return directory


def _what_else(directory: str) -> str:
    """Return what a directory is that programs are started in although it is no project; "" for any other."""
    home = os.path.realpath(os.path.expanduser("~"))
    known = {"/": "the root directory", "/tmp": "the directory for temporary files", home: "your home directory"}
    known.update((os.path.join(home, name), f"your folder {name}") for name in FOLDERS)
    what = known.get(os.path.realpath(directory), "")
    return "" if any(os.path.lexists(os.path.join(directory, mark)) for mark in MARKS) else what

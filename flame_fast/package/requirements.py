"""Requirements of an application on its environment: a Python version, installed distributions."""

from __future__ import annotations

from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def check_dependencies(dependencies: Iterable[str] | None, python_version: str | None) -> list[str]:
    """Check that the environment has what a Runner asks for.

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
        ``INVALID_ARGUMENT`` for text that is no requirement and for another Python; ``NOT_FOUND`` for missing
        distributions, with the command that installs them.
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
    """Return why a requirement is not met; an empty string when it is."""
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

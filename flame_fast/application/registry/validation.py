"""Checks of what users register: an application's name and attributes."""

from __future__ import annotations

from flame_fast._records import fields
from flame_fast.application.registry.records import ApplicationAttributes, ApplicationSchema, Shim
from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Most characters of an application's name.
LONGEST_NAME = 253


def check_name(name: object) -> str:
    """Return a name that an application may have.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` that says what is wrong with it.
    """
    if not isinstance(name, str):
        raise _refused("name", "text", f"{type(name).__name__} {repr(name)[:60]}")
    shown = repr(name)[:80]
    if not 1 <= len(name) <= LONGEST_NAME:
        raise _refused("name", f"1 to {LONGEST_NAME} characters", f"{len(name)}: {shown}")
    if name[0] in ".-":
        raise _refused("name", "a start other than '.' and '-'", shown)
    if "/" in name or "\\" in name or ".." in name:
        raise _refused("name", "text without '/', '\\' and '..'", shown)
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in name):
        raise _refused("name", "text without control characters", shown)
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise _refused("name", "text without halves of surrogate pairs", shown)
    return name


def check_attributes(attributes: ApplicationAttributes | Mapping[str, Any]) -> ApplicationAttributes:
    """Return a copy whose every attribute has its type.

    Raises
    ------
    FlameError
        ``INVALID_ARGUMENT`` that names the attribute.
    """
    known = fields(ApplicationAttributes)
    if isinstance(attributes, ApplicationAttributes):
        values = {field: getattr(attributes, field) for field in known}
    elif hasattr(attributes, "keys"):
        values = dict(attributes)
    else:
        raise _refused("attributes", "ApplicationAttributes or a mapping", type(attributes).__name__)
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise _refused("application attribute", f"one of {', '.join(known)}", repr(unknown[0]))
    for field, value in values.items():
        expected = _expected(field, value)
        if value is not None and expected:
            raise _refused(f"application attribute {field}", expected, repr(value)[:60])
    if values.get("shim") is not None:
        values["shim"] = Shim(values["shim"])
    return ApplicationAttributes(**values)


def _expected(field: str, value: Any) -> str:
    """Return what an attribute should have been, nothing if it is."""
    if field == "shim":
        return "" if isinstance(value, int) and value in list(Shim) else f"one of {[*Shim.__members__]}"
    if field in ("max_instances", "delay_release"):
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        return "" if whole else "an integer of at least 0"
    if field in ("labels", "arguments"):
        return "" if isinstance(value, list) and all(map(_is_text, value)) else "a list of text"
    if field == "environments":
        fits = isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_text, value.values()))
        return "" if fits else "a dict of text to text"
    if field == "schema":
        return "" if isinstance(value, ApplicationSchema) else "an ApplicationSchema"
    return "" if _is_text(value) else "text"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _refused(what: str, expected: str, got: str) -> FlameError:
    return FlameError(FlameErrorCode.INVALID_ARGUMENT, f"{what}: expected {expected}, got {got}")

"""Options of calls: what `RunnerService.options` takes, checked."""

from __future__ import annotations

import operator

from flame_fast.engine.spec import NORMAL, URGENT, CallOptions
from flame_fast.kernels.runtime import check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: The policy's field has 32 bits.
MOST_RETRIES = (1 << 31) - 1


def changed(before: CallOptions, changes: dict[str, Any]) -> CallOptions:
    """Return options with changes; one that is None stays as it was.

    Raises
    ------
    TypeError, ValueError
        A value that does not fit its option.
    """
    given = {name: CHECKS[name](name, value) for name, value in changes.items() if value is not None}
    return CallOptions(**{name: getattr(before, name) for name in CHECKS} | given)


def _seconds(name: str, value: Any) -> float:
    if _duration(name, value) == 0:
        raise ValueError(f"{name}: expected a positive number of seconds, got {value!r}")
    return check_timeout(value)


def _duration(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name}: expected a number of seconds, got {value!r}")
    if not float(value) >= 0:
        raise ValueError(f"{name}: expected a number of seconds, not negative, got {value!r}")
    return check_timeout(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not 0 <= value <= MOST_RETRIES:
        raise ValueError(f"{name}: expected an integer from 0 to {MOST_RETRIES:,}, got {value!r}")
    return operator.index(value)


def _exceptions(name: str, value: Any) -> tuple[type[BaseException], ...]:
    kinds = tuple(value) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name}: expected exception types, got {kind!r}")
    return kinds


def _priority(name: str, value: Any) -> str:
    if value not in (URGENT, NORMAL):
        raise ValueError(f"{name}: expected {URGENT!r} or {NORMAL!r}, got {value!r}")
    return str(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


#: How each option is checked.
CHECKS: dict[str, Any] = {
    "timeout": _seconds,
    "deadline": _seconds,
    "retries": _count,
    "retry_on": _exceptions,
    "backoff": _duration,
    "priority": _priority,
    "capture": _flag,
    "detached": _flag,
}

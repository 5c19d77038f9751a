"""Whether a stream is a terminal, where somebody reads what goes on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal. Programs replace it by None, closed ones, and objects of all kinds."""
    try:
        return bool(stream.isatty())
    except Exception:
        return False

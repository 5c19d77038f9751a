"""The package's own log: the logger `flame_fast`, if the program has loaded `logging`. The package does not load it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def debug(message: str, *args: Any) -> None:
    """Log what goes on in good order."""
    _log("debug", message, args)


def warning(message: str, *args: Any) -> None:
    """Log what the program goes on after, but was not meant to happen."""
    _log("warning", message, args)


def _log(level: str, message: str, args: tuple[Any, ...]) -> None:
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "captureWarnings"):  # not whole yet
        return
    logger = logging.getLogger("flame_fast")
    if not logger.handlers:  # a program that configures no logging hears nothing of it
        logger.addHandler(logging.NullHandler())
    getattr(logger, level)(message, *args, stacklevel=3)

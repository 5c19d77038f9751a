"""A progress bar on a terminal, for packings that take long."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

QUIET_S = 1.0
"""Nothing is shown before."""


class Progress:
    """How far a packing is; to be told from one thread at a time.

    Parameters
    ----------
    total : int
        Bytes that are to be packed.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._bar: Any = None
        self._shown = _is_terminal(sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """So many bytes more are packed."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._began > QUIET_S:
            from tqdm import tqdm

            units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            self._bar = tqdm(desc="packing", total=self._total, initial=self._done, leave=False, **units)


def _is_terminal(stream: Any) -> bool:
    """Whether a stream, which programs replace by all sorts of things, shows to somebody."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False

"""Progress bar on a terminal, for packings that take long."""

from __future__ import annotations

import sys
import time

from flame_fast.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The bar appears after so many seconds.
QUIET_S = 1.0


class Progress:
    """The progress of a packing. One thread at a time may call `add`.

    Parameters
    ----------
    total : int
        Bytes to pack.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._bar: Any = None
        self._shown = is_terminal(sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """Count bytes that have been packed."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._began > QUIET_S:
            from tqdm import tqdm

            units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            self._bar = tqdm(desc="packing", total=self._total, initial=self._done, leave=False, **units)

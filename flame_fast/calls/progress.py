"""Progress of many calls, shown as they end."""

from __future__ import annotations

import os
import sys

from flame_fast.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from flame_fast.engine.protocol import Results

    #: What `progress=` takes.
    Progress: TypeAlias = bool | str | Callable[[int, int, int | None], object] | None

#: Shows bars also where the stream is no terminal, if it is set.
ASKED = "FLAME_FAST_PROGRESS"


class Bar:
    """A count of items that are done and that have failed, shown by tqdm or told to a function.

    Parameters
    ----------
    progress : bool, str or callable
        As for `Runner.get`.
    total : int, optional
        Items there are.
    """

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._done = self._failed = 0
        self._total = total
        self._told: Callable[[int, int, int | None], object] | None = None
        self._bar: Any = None
        if callable(progress):
            self._told = progress
        elif isinstance(progress, str) or progress is True:
            from tqdm.auto import tqdm

            # In a notebook, too, where a bar is an object of its own.
            quiet = not os.environ.get(ASKED) and not _is_seen()
            self._bar = tqdm(total=total, desc=progress if isinstance(progress, str) else None, disable=quiet)
        else:
            raise TypeError(f"progress: expected True, a label or a callable(done, failed, total), got {progress!r}")

    def add(self, failed: bool) -> None:
        """Count one more item."""
        self._done += 1
        self._failed += failed
        if self._told is not None:
            self._told(self._done, self._failed, self._total)
        elif self._bar is not None:
            if failed:
                self._bar.set_postfix(failed=self._failed, refresh=False)
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _is_seen() -> bool:
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        return True
    return is_terminal(sys.stderr)


class followed:
    """The iterator over another one's results that shows how many there were. Closes its bar with the last, or an error."""

    def __init__(self, results: Results[Any], progress: Progress, total: int | None) -> None:
        self._results = results
        self._bar = Bar(progress, total)

    def __iter__(self) -> followed:
        return self

    def __next__(self) -> Any:
        try:
            value = next(self._results)
        except BaseException as error:
            if not isinstance(error, StopIteration):
                self._bar.add(failed=True)
            self._bar.close()
            raise
        self._bar.add(failed=isinstance(value, BaseException))
        return value

    def __aiter__(self) -> followed:
        return self

    async def __anext__(self) -> Any:
        from flame_fast.kernels.runtime.awaiting import wait_for_any

        await wait_for_any(self._results.awaited())
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def __length_hint__(self) -> int:
        return self._results.__length_hint__()

    def awaited(self) -> list[Any]:
        """Return what the followed iterator waits for."""
        return self._results.awaited()

    def __del__(self) -> None:
        bar = self.__dict__.get("_bar")
        if bar is not None:
            bar.close()

"""Notebooks and IPython's prompt: when a cell begins, and how its lines are called."""

from __future__ import annotations

import re
import sys

from flame_fast.kernels.runtime import begin_cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _shell() -> Any:
    """Return IPython's shell, None in other programs."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get_shell is None else get_shell()


def follow_cells() -> None:
    """Have each cell that begins noted, from now on: in it everything may be other that a function uses."""
    shell = _shell()
    if shell is not None and _begin not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _begin)


def _begin(_: Any) -> None:
    begin_cell()


def with_cells(text: str) -> str:
    """Return a traceback's text with cells named as IPython names them: a kernel's are files that nobody wrote."""
    shell = _shell()
    if shell is None:
        return text

    def named(found: re.Match[str]) -> str:
        name = shell.compile.format_code_name(found[2])
        return found[0] if name is None else f"{found[1]}{' '.join(name)}, line"

    return re.sub(r'^(\s*)File "(.+?)", line(?= \d)', named, text, flags=re.MULTILINE)


__all__ = ["follow_cells", "with_cells"]

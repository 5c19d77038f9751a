"""Packages: a directory as one archive, packed incrementally.

    flame_fast.package.pack(directory, out)  # what a Runner does on entry
    flame_fast.package.explain(directory)  # what would be in it, how large, and which rule leaves out what

On the command line, ``python -m flame_fast package``.
"""

from __future__ import annotations

from flame_fast._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from flame_fast.package.explanation import Explanation as Explanation
    from flame_fast.package.explanation import explain as explain
    from flame_fast.package.packing import PackageInfo as PackageInfo
    from flame_fast.package.packing import pack as pack

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    globals(), {"Explanation": "explanation", "explain": "explanation", "PackageInfo": "packing", "pack": "packing"}
)

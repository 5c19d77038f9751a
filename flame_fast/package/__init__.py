"""Packages: a directory as one archive, and what of it is new.

    flame_fast.package.pack(directory, out)  # what a Runner does on entry
    flame_fast.package.explain(directory)  # what would be in it, how large, and which rule leaves out what

On the command line, ``python -m flame_fast package``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.package.explanation import Explanation as Explanation
    from flame_fast.package.explanation import explain as explain
    from flame_fast.package.packing import PackageInfo as PackageInfo
    from flame_fast.package.packing import pack as pack

_PLACES = {"Explanation": "explanation", "explain": "explanation", "PackageInfo": "packing", "pack": "packing"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

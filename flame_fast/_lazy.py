"""Packages whose names are loaded when they are first used (PEP 562)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def lazy_names(
    namespace: dict[str, object], homes: dict[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make a package's `__getattr__` and `__dir__`.

    Parameters
    ----------
    namespace : dict
        The package's `globals()`; a name that was loaded is kept there.
    homes : dict of str to str
        Each public name, and the module below the package that has it; a name that is its own home is that module.
    """
    package = namespace["__name__"]

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        home = import_module(f"{package}.{homes[name]}")
        value: object = home if homes[name] == name else getattr(home, name)
        namespace[name] = value
        return value

    def names() -> list[str]:
        return sorted({*namespace, *homes})

    return load, names

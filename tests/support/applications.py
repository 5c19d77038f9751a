"""Applications of a registry: the built-in ones, and what else is registered."""

from __future__ import annotations

#: Flame's own, in the order of the alphabet.
BUILT_IN = ("flmexec", "flmping", "flmrun")


def registered() -> list[str]:
    """Return the names of all applications but the built-in ones."""
    from flame_fast import list_applications  # processes that only import this module need nothing of the package

    return [application.name for application in list_applications() if application.name not in BUILT_IN]

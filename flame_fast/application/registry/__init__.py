r"""Registry of applications and of their owners: one SQLite database per data directory.

public functions (here)
|           \
    validation     database        names, attributes | transactions, rows, owners
\    /
records               Application, ApplicationAttributes, Owner
"""

from __future__ import annotations

from flame_fast.application.registry.database import BUILT_IN, BY_HAND, BY_RUNNER, Registry, already_exists
from flame_fast.application.registry.records import (
    Application,
    ApplicationAttributes,
    ApplicationSchema,
    ApplicationState,
    Shim,
)
from flame_fast.application.registry.validation import check_attributes, check_name
from flame_fast.config import home_directory
from flame_fast.errors import FlameError, FlameErrorCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "Application",
    "ApplicationAttributes",
    "ApplicationSchema",
    "ApplicationState",
    "Shim",
    "get_application",
    "list_applications",
    "register_application",
    "unregister_application",
]


def list_applications() -> list[Application]:
    """Return every registered application, ordered by name."""
    with Registry(home_directory()) as registry:
        return registry.applications()


def get_application(name: str) -> Application | None:
    """Return the application registered under a name, None if there is none."""
    if not isinstance(name, str):
        return None
    with Registry(home_directory()) as registry:
        return registry.application(name)


def register_application(name: str, attributes: ApplicationAttributes | Mapping[str, Any]) -> None:
    """Register an application; it stays until `unregister_application`.

    Parameters
    ----------
    name : str
        By the rules of a Runner's name.
    attributes : ApplicationAttributes or mapping
        A mapping is taken as the keywords of `ApplicationAttributes`.

    Raises
    ------
    FlameError
        ``ALREADY_EXISTS``; ``INVALID_ARGUMENT`` for a bad name or an attribute of another type.
    """
    check_name(name)
    checked = check_attributes(attributes)
    with Registry(home_directory()) as registry, registry.transaction():
        if registry.origin(name) == BY_RUNNER and not registry.live_owners(name):
            registry.delete(name)
        if registry.origin(name) is not None:
            raise already_exists(name, registry, "unregister it first, or choose another name")
        registry.insert(name, checked, BY_HAND)


def unregister_application(name: str) -> None:
    """Remove a registered application.

    Raises
    ------
    FlameError
        ``NOT_FOUND``; ``INVALID_STATE`` while a living Runner uses it, and for the built-in ones.
    """
    with Registry(home_directory()) as registry, registry.transaction():
        origin = registry.origin(name) if isinstance(name, str) else None
        if origin is None:
            raise FlameError(
                FlameErrorCode.NOT_FOUND,
                f"application {name!r} is not registered; list_applications() shows those that are",
            )
        if origin == BUILT_IN:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"application {name!r} is built in and cannot be unregistered; leave it in place",
            )
        owners = registry.live_owners(name)
        if owners:
            raise FlameError(
                FlameErrorCode.INVALID_STATE,
                f"application {name!r} is in use by {owners[0].describe()}; close that Runner first",
            )
        registry.delete(name)

"""The Flame Runner on one workstation: plain functions, classes and objects on all cores, over shared memory.

    from flame_fast import Runner

    with Runner("sums") as rr:
        add = rr.service(lambda a, b: a + b)
        print(rr.get([add(i, i) for i in range(4)]))

Names are loaded when first used: importing the package loads neither NumPy nor Numba.
"""

from __future__ import annotations

from flame_fast._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.config import FlameContext as FlameContext
    from flame_fast.config import FlamePackage as FlamePackage
    from flame_fast.errors import FlameError as FlameError
    from flame_fast.errors import FlameErrorCode as FlameErrorCode
    from flame_fast.errors import RemoteTraceback as RemoteTraceback
    from flame_fast.errors import StoreFullError as StoreFullError
    from flame_fast.errors import TaskError as TaskError
    from flame_fast.errors import WorkerDiedError as WorkerDiedError
    from flame_fast.kernels.runtime import ObjectFuture as ObjectFuture
    from flame_fast.kernels.runtime import ObjectRef as ObjectRef
    from flame_fast.registry import Application as Application
    from flame_fast.registry import ApplicationAttributes as ApplicationAttributes
    from flame_fast.registry import get_application as get_application
    from flame_fast.registry import list_applications as list_applications
    from flame_fast.registry import register_application as register_application
    from flame_fast.registry import unregister_application as unregister_application
    from flame_fast.resources import ResourceRequirement as ResourceRequirement
    from flame_fast.runner import Runner as Runner
    from flame_fast.service import RunnerService as RunnerService
    from flame_fast.session import SessionContext as SessionContext

_HOME_OF = {
    "Application": "registry",
    "ApplicationAttributes": "registry",
    "FlameContext": "config",
    "FlameError": "errors",
    "FlameErrorCode": "errors",
    "FlamePackage": "config",
    "ObjectFuture": "kernels.runtime",
    "ObjectRef": "kernels.runtime",
    "RemoteTraceback": "errors",
    "ResourceRequirement": "resources",
    "Runner": "runner",
    "RunnerService": "service",
    "SessionContext": "session",
    "StoreFullError": "errors",
    "TaskError": "errors",
    "WorkerDiedError": "errors",
    "get_application": "registry",
    "list_applications": "registry",
    "register_application": "registry",
    "unregister_application": "registry",
}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'flame_fast' has no attribute {name!r}")
    from importlib import import_module

    try:
        value: object = getattr(import_module(f"flame_fast.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "flame_fast.kernels":
            raise
        raise ImportError(
            f"flame_fast at {__path__[0]} has no native part: a clone's source tree shadows the installed package here; "
            "run from another directory, or install the clone with `pip install -e .`"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

"""The Flame Runner on one workstation: plain functions, classes and objects on all cores, over shared memory.

    from flame_fast import Runner

    with Runner("sums") as rr:
        add = rr.service(lambda a, b: a + b)
        print(rr.get([add(i, i) for i in range(4)]))

Names are loaded when first used: importing the package loads neither NumPy nor Numba.
"""

from __future__ import annotations

from flame_fast._lazy import lazy_names
from flame_fast._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from flame_fast import app as app
    from flame_fast.application.registry import Application as Application
    from flame_fast.application.registry import ApplicationAttributes as ApplicationAttributes
    from flame_fast.application.registry import ApplicationSchema as ApplicationSchema
    from flame_fast.application.registry import ApplicationState as ApplicationState
    from flame_fast.application.registry import Shim as Shim
    from flame_fast.application.registry import get_application as get_application
    from flame_fast.application.registry import list_applications as list_applications
    from flame_fast.application.registry import register_application as register_application
    from flame_fast.application.registry import unregister_application as unregister_application
    from flame_fast.calls.service import RunnerService as RunnerService
    from flame_fast.calls.session import SessionContext as SessionContext
    from flame_fast.config import FlameContext as FlameContext
    from flame_fast.config import FlamePackage as FlamePackage
    from flame_fast.errors import FlameError as FlameError
    from flame_fast.errors import FlameErrorCode as FlameErrorCode
    from flame_fast.errors import RemoteTraceback as RemoteTraceback
    from flame_fast.errors import StoreFullError as StoreFullError
    from flame_fast.errors import TaskError as TaskError
    from flame_fast.errors import TaskTimeoutError as TaskTimeoutError
    from flame_fast.errors import WorkerDiedError as WorkerDiedError
    from flame_fast.executor import Executor as Executor
    from flame_fast.freezing import freeze_support as freeze_support
    from flame_fast.kernels.runtime import ObjectFuture as ObjectFuture
    from flame_fast.kernels.runtime import ObjectRef as ObjectRef
    from flame_fast.pool import Pool as Pool
    from flame_fast.resources import ResourceRequirement as ResourceRequirement
    from flame_fast.runner import Runner as Runner

_HOME_OF = {
    "Application": "application.registry",
    "ApplicationAttributes": "application.registry",
    "ApplicationSchema": "application.registry",
    "ApplicationState": "application.registry",
    "Executor": "executor",
    "FlameContext": "config",
    "FlameError": "errors",
    "FlameErrorCode": "errors",
    "FlamePackage": "config",
    "ObjectFuture": "kernels.runtime",
    "ObjectRef": "kernels.runtime",
    "Pool": "pool",
    "RemoteTraceback": "errors",
    "ResourceRequirement": "resources",
    "Runner": "runner",
    "RunnerService": "calls.service",
    "SessionContext": "calls.session",
    "Shim": "application.registry",
    "StoreFullError": "errors",
    "TaskError": "errors",
    "TaskTimeoutError": "errors",
    "WorkerDiedError": "errors",
    "app": "app",
    "freeze_support": "freezing",
    "get_application": "application.registry",
    "list_applications": "application.registry",
    "register_application": "application.registry",
    "unregister_application": "application.registry",
}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604


_load: Callable[[str], object]
__dir__: Callable[[], list[str]]
_load, __dir__ = lazy_names(globals(), _HOME_OF)


def __getattr__(name: str) -> object:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name != "flame_fast.kernels":
            raise
        raise ImportError(
            f"flame_fast at {__path__[0]} has no native part: a clone's source tree shadows the installed package here; "
            "run from another directory, or install the clone with `pip install -e .`"
        ) from error

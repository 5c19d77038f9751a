"""What a worker does when it leaves in good order: what an interpreter does at its end, as far as programs rely on it.

    objects of class services closed -> coroutines cancelled -> threads joined -> exit functions -> globals dropped

The worker is a fork, so it ends without the interpreter's own finalization, which takes every library apart. Exit functions
that the supervisor's process had when it forked are none of this worker's, but for those that serve any process.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import weakref
from types import BuiltinFunctionType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from flame_fast.engine.task_host import Host

#: Exit functions that a library registers once, when it is first imported or used, for whatever process it is in.
ANY_PROCESS = (("logging", "shutdown"), ("multiprocessing.util", "_exit_function"))

#: Where the standard library's modules are: below the user's directory, if that is the root, or his home.
STANDARD = os.path.dirname(os.__file__) + os.sep

#: What stays in a module while it is dropped: destructors may use it.
DEFINITIONS = (type, FunctionType, BuiltinFunctionType, ModuleType)


def forget_exit_functions() -> None:
    """Forget, in a fork, the exit functions and finalizers of the process that was forked."""
    finalize: Any = weakref.finalize
    for one in list(finalize._registry):
        one.atexit = False
    atexit._clear()
    if finalize._registered_with_atexit:
        atexit.register(finalize._exitfunc)
    for module, name in ANY_PROCESS:
        if module in sys.modules:
            atexit.register(getattr(sys.modules[module], name))


def leave(host: Host, directories: Iterable[str], kept: Iterable[ModuleType] = ()) -> None:
    """Let what tasks have left behind in this process end as at an interpreter's end. What one step raises is printed.

    Parameters
    ----------
    host : Host
        Has the services.
    directories : iterable of str
        Those of the user's modules.
    kept : iterable of ModuleType
        Modules of the user's that are not in `sys.modules`.
    """
    modules = host.modules()
    for step in (host.drop_services, host.end_coroutines, threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        attempt(step)
    users = tuple(directory.rstrip(os.sep) + os.sep for directory in directories if directory)
    for module in [*modules, *kept, *(one for one in list(sys.modules.values()) if _is_of(one, users))]:
        _drop_objects(vars(module))
    if _writes_files():
        gc.collect()  # files of objects that refer to each other


def attempt(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException:
        sys.excepthook(*sys.exc_info())


def close_object(made: Any) -> None:
    """Close an object that was made for a service: by its `close()`, or as the end of a `with` block does."""
    kind = type(made)
    if callable(getattr(kind, "close", None)):
        attempt(made.close)
    elif hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
        attempt(lambda: made.__exit__(None, None, None))


def _is_of(module: Any, directories: tuple[str, ...]) -> bool:
    """Tell whether a module is the user's own: neither installed, in an environment of his, nor this package's."""
    path = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or not isinstance(path, str) or not path.startswith(directories):
        return False
    installed = path.startswith(STANDARD) or "-packages" + os.sep in path
    return not installed and module.__name__.partition(".")[0] != "flame_fast"


def _drop_objects(names: dict[str, Any]) -> None:
    """Drop the objects that a module's globals refer to: open files are flushed, destructors run."""
    dropped = [name for name, value in names.items() if name[:2] != "__" and not isinstance(value, DEFINITIONS)]
    for name in dropped:
        names[name] = None


def _writes_files() -> bool:
    """Tell whether this process has a regular file open for writing."""
    import fcntl

    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
            writes = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if writes and path[0] == "/" and not path.startswith(("/memfd:", "/dev/")):
                return True
        except OSError:  # the listing's own
            continue
    return False

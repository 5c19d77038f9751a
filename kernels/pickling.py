"""How values that the native codec does not take are pickled, and what a worker's error becomes.

Pickle protocol 5 with buffers out of band, by the C pickler as long as it can; cloudpickle only where plain pickle
cannot: functions and classes of `__main__`, of other modules without a file, local ones, lambdas. Plain pickle would
write a reference to `__main__` without complaint, so the reducer below looks at every function and class it meets.

Futures are found by the pickler wherever they are, not by walking the arguments. In a call they become inputs of the
task; in a value (a result, `put_object`) they are waited for and replaced by their value. NumPy arrays are written
beside the pickle: natively where the codec can, else by `array_pickling`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
import threading
import traceback
from types import CodeType, FunctionType, ModuleType

from flame_fast.kernels import array_pickling
from flame_fast.kernels.runtime import ObjectFuture, ObjectRef

from flame_fast.errors import FlameError, RemoteTraceback, TaskError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flame_fast.kernels.runtime import Runtime

PROTOCOL = 5

#: Exceptions that would end or confuse the driver if they were raised there as themselves.
NOT_RAISED_AS_THEMSELVES = (SystemExit, KeyboardInterrupt, GeneratorExit)


class _NeedsCloudpickle(Exception):
    """Something that plain pickle would write wrongly or not at all."""


#: What `functools.lru_cache` makes; pickle writes it by name, wherever it is from.
CACHED = type(functools.lru_cache(lambda: None))


class Unpicklable(TypeError):
    """A value that cannot leave its process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A task's result was it: the driver gets a `TaskError`."""
        return (TaskError, (f"the task's result cannot be sent to the driver: {self}",))


class _Loading(threading.local):
    """What the pickle being read by this thread refers to: the call's inputs, and arrays written beside it."""

    values: list[Any] | None = None
    arrays: list[Any] | None = None


_loading = _Loading()


def _input_value(number: int) -> Any:
    assert _loading.values is not None
    return _loading.values[number]


def _array_beside(number: int) -> Any:
    assert _loading.arrays is not None
    return _loading.arrays[number]


def is_importable(obj: Any) -> bool:
    """Whether another process finds the very same object by importing its module and following its qualified name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or getattr(module, "__spec__", None) is None:
        return False
    found: Any = module
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _is_made_up(module: ModuleType | None) -> bool:
    """A module that somebody built in memory: no other process can import it."""
    return module is not None and module.__name__ != "__main__" and getattr(module, "__spec__", None) is None


class _Reducer:
    """What both picklers do with the objects that are special here."""

    runtime: Runtime | None  # None: a description; arrays in it stay as they are
    inputs: dict[int, Any] | None  # None: no future may stay a future
    arrays: list[Any]  # written beside the pickle, natively

    def special(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is ObjectFuture or kind is ObjectRef:
            return self.reduce_future(obj)
        if isinstance(obj, CACHED) and not is_importable(obj):
            return (_rebuild_cached, (obj.__wrapped__, obj.cache_parameters()))
        if kind.__module__.startswith("numba.") and hasattr(obj, "py_func"):
            return _reduce_compiled(obj)
        numpy = sys.modules.get("numpy") if self.runtime is not None else None
        if numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ())):
            return self.reduce_array(obj, numpy)
        return NotImplemented

    def reduce_array(self, array: Any, numpy: Any) -> Any:
        assert self.runtime is not None
        if type(array) is numpy.ndarray and self.runtime.takes_array(array):
            self.arrays.append(array)
            return (_array_beside, (len(self.arrays) - 1,))
        return array_pickling.reduce_array(array, self.runtime.arrays_read_only)

    def reduce_future(self, future: Any) -> Any:
        if self.inputs is None:
            return (_identity, (future.get(),))
        assert self.runtime is not None
        if not self.runtime.owns(future):
            future = adopt(self.runtime, future)
        return (_input_value, (self.runtime.number_input(self.inputs, future),))


def _reduce_compiled(compiled: Any) -> Any:
    """What Numba compiled goes by name where it can: Numba would send a copy, which its module's cache does not know."""
    if is_importable(compiled):
        return compiled.__qualname__
    if type(getattr(compiled, "_cache", None)).__name__ in ("NoneType", "NullCache"):
        return NotImplemented
    return (_rebuild_compiled, compiled.__reduce__()[:2])


def _rebuild_compiled(rebuild: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A function of the driver's script that Numba keeps on disk there: so it does here."""
    compiled = rebuild(*args)
    with contextlib.suppress(RuntimeError):  # no place for it
        compiled.enable_caching()
    return compiled


def _rebuild_code(reduced: tuple[Callable[..., CodeType], tuple[Any, ...]], filename: str) -> CodeType:
    """Newer releases of cloudpickle leave the file's name out, which a traceback would miss."""
    make, parts = reduced
    return make(*parts).replace(co_filename=filename)


def _rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _identity(value: Any) -> Any:
    return value


class _PlainPickler(pickle.Pickler, _Reducer):
    def __init__(
        self, file: Any, runtime: Runtime | None, inputs: dict[int, Any] | None, buffers: list[Any], arrays: list[Any]
    ) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=_buffer_keeper(runtime, buffers))
        self.runtime = runtime
        self.inputs = inputs
        self.arrays = arrays

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (FunctionType, type)):
            if not is_importable(obj):
                raise _NeedsCloudpickle
            return NotImplemented
        if isinstance(obj, ModuleType):
            raise _NeedsCloudpickle
        return self.special(obj)


def _buffer_keeper(runtime: Runtime | None, buffers: list[Any]) -> Callable[[pickle.PickleBuffer], bool] | None:
    """Buffers out of band, as flat bytes; in band where there is no arena to put them in."""
    if runtime is None:
        return None

    def keep(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(buffer.raw())
        return False  # out of band

    return keep


def _cloud_pickler(
    file: Any, runtime: Runtime | None, inputs: dict[int, Any] | None, buffers: list[Any], arrays: list[Any]
) -> pickle.Pickler:
    """The slow pickler: a class made late, since importing cloudpickle costs as much as importing this package."""
    import cloudpickle

    class CloudPickler(cloudpickle.Pickler, _Reducer):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            module = sys.modules.get(getattr(obj, "__module__", None) or "")
            if isinstance(obj, (FunctionType, type)) and _is_made_up(module):
                cloudpickle.register_pickle_by_value(module)
            if isinstance(obj, CodeType):
                return (_rebuild_code, (self.dispatch_table[CodeType](obj), obj.co_filename))
            reduced = self.special(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    pickler = CloudPickler(file, protocol=PROTOCOL, buffer_callback=_buffer_keeper(runtime, buffers))
    pickler.runtime = runtime
    pickler.inputs = inputs
    pickler.arrays = arrays
    return pickler


def _dump(runtime: Runtime | None, value: Any, inputs: dict[int, Any] | None) -> tuple[bytes, list[Any], list[Any]]:
    """(pickle, buffers out of band, arrays beside it)."""
    buffers: list[Any] = []
    arrays: list[Any] = []
    file = io.BytesIO()
    try:
        _PlainPickler(file, runtime, inputs, buffers, arrays).dump(value)
        return file.getvalue(), buffers, arrays
    except (_NeedsCloudpickle, pickle.PicklingError, TypeError, AttributeError):
        pass
    if inputs is not None:
        inputs.clear()
    buffers.clear()
    arrays.clear()
    file = io.BytesIO()
    _cloud_pickler(file, runtime, inputs, buffers, arrays).dump(value)
    return file.getvalue(), buffers, arrays


def load(data: Any, buffers: list[Any], arrays: list[Any], values: list[Any] | None) -> Any:
    """What was dumped, with its inputs' values in place of the futures."""
    outer = _loading.values, _loading.arrays
    _loading.values, _loading.arrays = values, arrays
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _loading.values, _loading.arrays = outer


# ---- calls -----------------------------------------------------------------------------------------------------------


def dump_call(
    runtime: Runtime, state: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: dict[int, Any]
) -> tuple[bytes, list[Any], list[Any]]:
    """Pickles a call, with the function's state if it has one; futures met are added to `inputs`.

    Raises
    ------
    TypeError
        Something in it cannot be pickled: names the argument.
    """
    try:
        return _dump(runtime, (args, kwargs) if state is None else (state, args, kwargs), inputs)
    except Exception as error:
        if _is_own(error):
            raise
        culprit = _culprit(runtime, args, kwargs)
        raise TypeError(f"{culprit} cannot be pickled and sent to a worker: {error}") from error


def _is_own(error: BaseException) -> bool:
    """An error that tells its own story: of a future met on the way, of the store, of a foreign service."""
    return isinstance(error, (FlameError, KeyboardInterrupt))


def _culprit(runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in named:
        try:
            _dump(runtime, value, {})
        except Exception:
            return f"{label} (of type {type(value).__qualname__})"
    return "something that the function has bound or closes over"


def adopt(runtime: Runtime, future: Any) -> ObjectFuture:
    """A future of `runtime` with the value, or the error, of one of another runner.

    One that is not finished yet is waited for in a thread of its own, since submitting never blocks.
    """
    if future.done():
        local = runtime.promise()
        _pass_on(runtime, local, future)
        return local
    if future.is_lost():
        future.get()  # raises INVALID_STATE
    local = runtime.promise()
    threading.Thread(target=_pass_on, args=(runtime, local, future), name="flame-adopt", daemon=True).start()
    return local


def _pass_on(runtime: Runtime, local: ObjectFuture, future: Any) -> None:
    try:
        value = future.get()
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))
        return
    try:
        runtime.fulfil(local, value)
    except BaseException as error:
        runtime.fulfil(local, None, dump_error(error))


# ---- values ----------------------------------------------------------------------------------------------------------


def dump_value(runtime: Runtime, value: Any) -> tuple[bytes, list[Any], list[Any]]:
    """Pickles a value; futures in it are replaced by their values.

    Raises
    ------
    Unpicklable
        It cannot be pickled: names its type.
    """
    try:
        return _dump(runtime, value, None)
    except Exception as error:
        if _is_own(error):
            raise
        raise Unpicklable(f"a value of type {type(value).__qualname__} cannot be pickled: {error}") from error


def unreadable(error: Exception) -> TaskError:
    """The error for a value whose own code failed to rebuild it here."""
    return TaskError(f"the value cannot be rebuilt here: {type(error).__qualname__}: {error}")


def dump_plain(value: Any) -> bytes:
    """One byte string, everything in band and arrays writable: for what describes services, and for exceptions."""
    return _dump(None, value, None)[0]


def load_plain(data: bytes) -> Any:
    return load(data, [], [], None)


# ---- errors ----------------------------------------------------------------------------------------------------------


def dump_error(error: BaseException, shown: Callable[[str], str] = str) -> bytes:
    """An exception with its traceback's text, as `load_error` rebuilds it.

    Parameters
    ----------
    error : BaseException
        What the task raised. One that cannot be pickled or rebuilt, and one of `NOT_RAISED_AS_THEMSELVES`, becomes a
        `TaskError` with its text.
    shown : callable
        Turns paths in the traceback's text into the user's own.
    """
    text = shown("".join(traceback.format_exception(type(error), error, _users_frames(error.__traceback__))))
    data = None
    if not isinstance(error, NOT_RAISED_AS_THEMSELVES):
        data = _pickled_exception(error)
    if data is None:
        summary = "".join(traceback.format_exception_only(type(error), error)).strip()
        data = pickle.dumps(TaskError(f"the task raised {summary}; its traceback is the cause of this error"), PROTOCOL)
    return _pair(data, text)


def _users_frames(frames: Any) -> Any:
    """The traceback without the runtime's frames in front of the user's; all of it when there is nothing else."""
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith("flame_fast."):
        inner = inner.tb_next
    return inner or frames


def _pickled_exception(error: BaseException) -> bytes | None:
    """Bytes that give an equal exception back, None if there are none."""
    try:
        data = dump_plain(error)
        copy = pickle.loads(data)
        same = type(copy).__qualname__ == type(error).__qualname__ or isinstance(error, Unpicklable)
        return data if same and isinstance(copy, BaseException) else None
    except Exception:
        return None


def _pair(data: bytes, text: str) -> bytes:
    """The tuple (bytes, str) in the native codec."""
    encoded = text.encode("utf-8", "backslashreplace")
    size = (2).to_bytes(8, "little")
    return b"(" + size + b"b" + len(data).to_bytes(8, "little") + data + b"s" + len(encoded).to_bytes(8, "little") + encoded


def load_error(data: bytes, text: str) -> BaseException:
    """A fresh copy of a task's exception, the worker's traceback as its cause."""
    try:
        error = pickle.loads(data)
    except Exception as problem:
        error = TaskError(f"the task's exception cannot be rebuilt here: {type(problem).__qualname__}: {problem}")
    error.__cause__ = RemoteTraceback(text) if text else None
    return error  # type: ignore[no-any-return]


__all__ = [
    "adopt",
    "dump_call",
    "dump_error",
    "dump_plain",
    "dump_value",
    "load",
    "load_error",
    "load_plain",
    "unreadable",
]

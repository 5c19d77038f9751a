"""An engine without a segment: calls run at once, in the driver, and values are bytes in its own memory.

It shows that `flame_fast.engine.protocol` asks for no shared memory, and the conformance suite (`tests/engines`) holds it to
the contract as it does the others. Every level of nested tasks is one worker, a `Host` of its own, and so is every instance.
A call that cannot run yet, since its instance is at work in an outer task or an input is not there, waits in a list.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import types
import weakref
from functools import partial

from flame_fast.kernels.runtime import ObjectFuture, ObjectRef, check_timeout, serialization
from flame_fast.kernels.runtime.awaiting import outcome_of
from flame_fast.kernels.runtime.concurrent_future import CallFuture
from flame_fast.kernels.runtime.serialization.definitions import definitions, use_in_thread

from flame_fast import FlameError, FlameErrorCode
from flame_fast.calls.separate_calls import SeparateCalls
from flame_fast.engine.current import set_serving_engine
from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host
from flame_fast.inspection.html import table

#: Items of a map that are taken ahead of what it has given out.
AHEAD = 4

#: In the place of a cancelled call's error.
CANCELLED = b"N"


def invalid_state(message):
    return FlameError(FlameErrorCode.INVALID_STATE, message)


class Dumped:
    """A pickled value with the buffers and arrays beside it, copied: nothing that the sender does later changes it."""

    def __init__(self, data, buffers, arrays, holds):
        self.data = data
        self.buffers = [bytes(buffer) for buffer in buffers]
        self.arrays = [array.copy(order="K") for array in arrays]
        self.holds = holds

    @property
    def nbytes(self):
        return len(self.data) + sum(map(len, self.buffers)) + sum(array.nbytes for array in self.arrays)

    def load(self, engine, values=None):
        arrays = [array.copy(order="K") for array in self.arrays]
        return serialization.load(engine, self.data, list(map(bytearray, self.buffers)), arrays, values)


class Outcome:
    """What a call or `put` gives: a value or an error, written once."""

    def __init__(self):
        self.value = None
        self.error = None
        self.callbacks = []  # (future, function)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name != "callbacks" and value is not None:
            self.call_back()

    def call_back(self):
        while self.callbacks:
            future, function = self.callbacks.pop(0)
            try:
                function(future)
            except Exception:
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)

    @property
    def is_there(self):
        return self.value is not None or self.error is not None

    def read(self, engine):
        """Return a new object, or raise a new error."""
        self.raise_error()
        try:
            return self.value.load(engine)
        except BaseException as error:
            raise serialization.unreadable(error) from error

    def raise_error(self):
        if self.error is not None:
            raise self.load_error()

    def load_error(self):
        """Load what `dump_error` wrote: a checksum, then a pair with a tag and 8 bytes of length in front of each part."""
        if self.error == CANCELLED:
            return serialization.cancelled_error()
        size = int.from_bytes(self.error[18:26], "little")
        text = self.error[26 + size + 9 :].decode("utf-8", "backslashreplace")
        return serialization.load_error(self.error[26 : 26 + size], text)


class Handle:
    """What futures and refs share; overrides everything that the native ones have but their refusal to be pickled."""

    def __init__(self, engine, outcome):
        self.engine = engine
        self.outcome = outcome

    def __repr__(self):
        return f"<{type(self).__name__} of {self.engine.name!r}>"

    def _repr_html_(self):
        return table(type(self).__name__, {"runner": self.engine.name})

    def get(self, timeout=None):
        self.engine.wait_for(self.outcome, timeout)
        return self.outcome.read(self.engine)

    def done(self):
        self.engine.check_own()
        return self.outcome.is_there

    def is_lost(self):
        return not self.outcome.is_there and (self.engine.is_closed or self.engine.is_foreign)

    def has_failed(self):
        return self.outcome.error is not None

    def __await__(self):
        return outcome_of(self)

    @property
    def client(self):
        return self.engine


class PlainRef(Handle, ObjectRef):
    pass


class PlainFuture(Handle, ObjectFuture):
    def wait(self, timeout=None):
        self.engine.wait_for(self.outcome, timeout)
        self.outcome.raise_error()

    def exception(self, timeout=None):
        self.engine.wait_for(self.outcome, timeout)
        return None if self.outcome.error is None else self.outcome.load_error()

    def cancel(self, force=False):
        return bool(self.engine.cancel_many([self]))

    def cancelled(self):
        return self.outcome.error == CANCELLED

    def running(self):
        return any(call.outcome is self.outcome for call in self.engine.running)

    def result(self, timeout=None):
        return self.get(timeout)

    def as_concurrent(self):
        return CallFuture(self)

    def add_done_callback(self, fn):
        if not callable(fn):
            raise TypeError(f"fn: expected a callable, got {fn!r}")
        self.outcome.callbacks.append((self, fn))
        if self.outcome.is_there or self.is_lost():
            self.outcome.call_back()

    def discard_callback(self, fn):
        self.outcome.callbacks[:] = [entry for entry in self.outcome.callbacks if entry[1] is not fn]

    def output(self, timeout=None):
        self.engine.wait_for(self.outcome, timeout)
        raise invalid_state("this engine captures nothing")

    def ref(self):
        self.wait()
        return PlainRef(self.engine, self.outcome)


class Service:
    def __init__(self, spec, host):
        self.name = spec.name
        self.blob = spec.to_blob()
        self.host = host  # an instance's; None: a worker's
        self.is_open = True
        self.is_busy = False
        self.calls = 0  # not finished yet


class Call:
    def __init__(self, service, method, has_state, dumped, inputs):
        self.service = service
        self.method = method
        self.has_state = has_state
        self.dumped = dumped
        self.inputs = inputs
        self.outcome = Outcome()

    @property
    def failed_input(self):
        return next((outcome for outcome in self.inputs if outcome.error is not None), None)


class Selector:
    def __init__(self, engine, handles):
        self.engine = engine
        self.left = dict(enumerate(handles))

    def select(self, timeout=None):
        found = [position for position, handle in self.left.items() if handle.outcome.is_there]
        if not found:  # what the engine has not run by now, it never will
            self.engine.wait_for(next(iter(self.left.values())).outcome, timeout)
        for position in found:
            del self.left[position]
        return found


class PlainEngine:
    """See `flame_fast.engine.protocol.Engine`. Its hosts' `ServiceSource`, and the picklers' store of bodies."""

    is_parallel = False
    arrays_read_only = False

    def __init__(self, options):
        self.name = options.name
        self.session = int.from_bytes(os.urandom(7), "little")
        self.workers = options.workers
        self.cpus = options.cpus
        self.is_closed = False
        self.ending = ""
        self.pickling = types.SimpleNamespace(adopt=adopt)
        self._pid = os.getpid()
        self._turn = threading.RLock()
        self._services = []
        self._hosts = []  # the workers, by the depth of nesting
        self._depth = 0
        self._waiting = []  # calls that cannot run yet, in the order made
        self._bodies = []
        self._outcomes = weakref.WeakSet()
        self.running = []

    @property
    def is_foreign(self):
        return os.getpid() != self._pid

    def check_own(self):
        if self.is_foreign:
            raise invalid_state(f"runner {self.name!r} belongs to the parent of this forked process; make a new Runner here")

    def check(self):
        self.check_own()
        if self.is_closed:
            raise invalid_state(f"runner {self.name!r} is closed; make a new Runner")

    def set_project(self, project):
        pass  # tasks import the project as the driver does

    # ---- services --------------------------------------------------------------------------------------------------------

    def add_service(self, spec, *, limit, sticky, warmup, preload, restart):
        with self._turn:
            self.check()
            service = Service(spec, self._new_host() if spec.kind == INSTANCE else None)
            self._services.append(service)
            key = len(self._services) - 1
            if warmup:
                with self._in_task():
                    self._host_of(service).load_ahead(key, 0)
            return key

    def policy(self, options):
        return options

    def bind(self, target, key, method, state, policy=None, label=None):
        target.bind_submit(partial(self._submit, self._services[key]), method, state)

    def map(self, target, iterable, options):
        return SeparateCalls(target, iterable, options, AHEAD)

    def close_service(self, key, cancel):
        service = self._services[key]
        service.is_open = False
        if cancel:
            self._cancel(call for call in list(self._waiting) if call.service is service)

    def service_blob(self, service):
        return self._services[service].blob

    def is_service(self, service, generation):
        return self._services[service].is_open or self._services[service].calls > 0

    def mark_stateful(self):
        pass

    def _new_host(self):
        return Host(self, enter=use_in_thread)

    def _host_of(self, service):
        if service.host is not None:
            return service.host
        while len(self._hosts) <= self._depth:
            self._hosts.append(self._new_host())
        return self._hosts[self._depth]

    # ---- calls -----------------------------------------------------------------------------------------------------------

    def _submit(self, service, method, state, args, kwargs):
        with self._turn:
            self.check()
            if not service.is_open:
                raise invalid_state(f"service {service.name!r} is closed; make a new one")
            inputs = {}
            dumped = Dumped(*serialization.dump_call(self, state, args, kwargs, inputs))
            outcomes = [handle.outcome for _, handle in sorted(inputs.values(), key=lambda entry: entry[0])]
            call = Call(service, method, state is not None, dumped, outcomes)
            self._outcomes.add(call.outcome)
            service.calls += 1
            self._waiting.append(call)
            self._advance()
            return PlainFuture(self, call.outcome)

    def cancel_many(self, handles, force=False):
        with self._turn:
            self.check_own()
            outcomes = [handle.outcome for handle in handles]
            self._cancel(call for call in list(self._waiting) if call.outcome in outcomes)
            return sum(outcome.error == CANCELLED for outcome in outcomes)

    def _cancel(self, calls):
        for call in calls:
            self._waiting.remove(call)
            call.outcome.error = CANCELLED
            call.service.calls -= 1
        self._advance()

    def _advance(self):
        """Run waiting calls until none of them can run."""
        while (call := next(filter(self._may_run, self._waiting), None)) is not None:
            self._waiting.remove(call)
            failed = call.failed_input
            if failed is not None:
                call.outcome.error = failed.error
            else:
                self._run(call)
            call.service.calls -= 1

    def _may_run(self, call):
        if call.failed_input is not None:
            return True
        if not all(outcome.is_there for outcome in call.inputs):
            return False
        service = call.service
        is_next = next(other for other in self._waiting if other.service is service) is call
        return service.host is None or (is_next and not service.is_busy)

    def _run(self, call):
        host = self._host_of(call.service)
        call.service.is_busy = True
        self.running.append(call)
        self._depth += 1
        try:
            with self._in_task():
                call.outcome.value = self._value_of(call, host)
        except BaseException as error:
            error.__traceback__ = error.__traceback__.tb_next.tb_next or error.__traceback__  # without this file's frames
            call.outcome.error = host.dump_error(error)
        finally:
            self._depth -= 1
            self.running.remove(call)
            call.service.is_busy = False

    def _value_of(self, call, host):
        function = host.function_of(self._services.index(call.service), 0, call.method)
        state, args, kwargs = self._arguments_of(call)
        if state is not None:
            function = host.with_state(function, state)
        return Dumped(*serialization.dump_value(self, host.resolve_awaitable(function(*args, **kwargs))))

    def _arguments_of(self, call):
        loaded = call.dumped.load(self, [outcome.read(self) for outcome in call.inputs])
        return loaded if call.has_state else (None, *loaded)

    @contextlib.contextmanager
    def _in_task(self):
        before = set_serving_engine(self)
        outer = use_in_thread(None)
        try:
            yield
        finally:
            use_in_thread(outer)
            set_serving_engine(before)

    # ---- values ----------------------------------------------------------------------------------------------------------

    def put(self, value):
        self.check()
        outcome = Outcome()
        outcome.value = Dumped(*serialization.dump_value(self, value))
        self._outcomes.add(outcome)
        return PlainRef(self, outcome)

    def wait_for(self, outcome, timeout):
        """Return once an outcome is there. After the running task, which another thread has, no outcome is on its way."""
        self.check_own()
        seconds = None if timeout is None else check_timeout(timeout)
        if outcome.is_there:
            return
        if self.is_closed:
            raise invalid_state(f"this call had not finished when its runner {self.name!r} {self.ending}; it was dropped")
        if not self._turn.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeoutError("the call has not finished in time; it goes on")
        self._turn.release()
        if not outcome.is_there:
            raise invalid_state("deadlock: the call waited for depends on the task that waits")

    def owns(self, obj):
        return isinstance(obj, Handle) and obj.engine is self

    def owns_all(self, objects):
        return all(map(self.owns, objects))

    def get_many(self, handles, timeout=None):
        return [handle.get(timeout) for handle in list(handles)]

    def wait_many(self, handles, timeout=None):
        for handle in list(handles):
            self.wait_for(handle.outcome, timeout)
            handle.outcome.raise_error()

    def selector(self, handles):
        return Selector(self, handles)

    def statistics(self):
        there = [outcome for outcome in self._outcomes if outcome.is_there]
        nbytes = sum(outcome.value.nbytes for outcome in there if outcome.value is not None)
        return {
            "done": sum(outcome.error is None for outcome in there),
            "failed": sum(outcome.error is not None for outcome in there),
            "waiting": len(self._waiting),
            "queued": 0,
            "running": self._depth,
            "bytes": nbytes,
            "peak_bytes": nbytes,
            "cached_bytes": 0,
            "limit_bytes": 0,
            "copied_bytes": 0,
            "shared_bytes": 0,
            "definitions": len(self._bodies),
            "definition_bytes": sum(len(body) for _, body in self._bodies),
        }

    def close(self, ending):
        if not self.is_closed:
            self.is_closed = True
            self.ending = ending
            definitions.leave(self.session)
            for outcome in list(self._outcomes):
                outcome.call_back()
            for host in [*self._hosts, *(service.host for service in self._services if service.host is not None)]:
                host.drop_services()
        return len(self._waiting)

    def finish(self):
        pass

    # ---- what the picklers ask -------------------------------------------------------------------------------------------

    def takes_array(self, array):
        return array.dtype.kind in "biufc" and array.dtype.isnative

    def number_dependency(self, inputs, handle):
        return inputs.setdefault(id(handle.outcome), (len(inputs), handle))[0]

    def put_definition(self, identity, data):
        self._bodies.append((identity, data))
        return types.SimpleNamespace(offset=len(self._bodies) - 1, nbytes=len(data))

    def hold_definition(self, identity, offset, nbytes):
        return types.SimpleNamespace(offset=offset, nbytes=nbytes)

    def is_definition(self, identity, offset):
        return offset < len(self._bodies) and self._bodies[offset][0] == identity

    def definition_body(self, offset, nbytes):
        return self._bodies[offset][1]


def adopt(engine, future):
    """Return a ref of `engine` with the outcome of another runner's future."""
    outcome = Outcome()
    try:
        outcome.value = Dumped(*serialization.dump_value(engine, future.get()))
    except FlameError:
        if future.is_lost():
            raise
        outcome.error = serialization.dump_error(future.exception())
    except BaseException as error:
        outcome.error = serialization.dump_error(error)
    return PlainRef(engine, outcome)

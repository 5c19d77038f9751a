"""What a task raises, how it arrives, and what becomes of values and errors that cannot travel."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import pickle
import signal
import socket
import threading
import traceback
from functools import partial
from pathlib import Path

import pytest
from engines import case, in_a_segment
from gates import PATIENCE_S, add, fail, new_module, same

from flame_fast import (
    FlameError,
    FlameErrorCode,
    Runner,
    StoreFullError,
    TaskError,
    WorkerDiedError,
)


def error_of(future, kind=BaseException):
    with pytest.raises(kind) as caught:
        future.get(timeout=PATIENCE_S)
    return caught.value


class Refused(Exception):
    def __init__(self, reason, *, code=7):
        super().__init__(reason)
        self.reason = reason
        self.code = code

    def __reduce__(self):
        return _refused, (self.reason, self.code)


def _refused(reason, code):
    return Refused(reason, code=code)


class Noted(Exception):
    """Attributes beyond its arguments."""


class Stop(BaseException):
    """No Exception."""


# ---- the task's own exception --------------------------------------------------------------------------------------------


def test_a_tasks_exception_arrives_with_its_type_and_attributes(rr):
    def refuse():
        raise Refused("no", code=3)

    def note():
        error = Noted("a", 2)
        error.detail = {"x": [1]}
        error.add_note("a note")
        raise error

    error = error_of(rr.service(refuse)(), Refused)
    assert (type(error), error.reason, error.code, str(error)) == (Refused, "no", 3, "no")
    error = error_of(rr.service(note)(), Noted)
    assert (error.args, error.detail, error.__notes__) == (("a", 2), {"x": [1]}, ["a note"])
    assert type(error_of(rr.service(fail)(Stop("s")))) is Stop


def test_exceptions_of_python_arrive_as_they_are(rr):
    cases = [lambda: 1 / 0, lambda: {}["k"], lambda: int("x"), lambda: os.stat("/no/such/file"), lambda: b"\xff".decode(),
             lambda: [][1], lambda: None.x, lambda: next(iter(()))]  # fmt: skip
    for function in cases:
        try:
            function()
        except Exception as own:
            error = error_of(rr.service(function)(), type(own))
            assert type(error) is type(own)
            assert str(error) == str(own)
            assert error.args == own.args
        else:
            raise AssertionError
    assert error_of(rr.service(fail)(OSError(2, "gone", "file"))).filename == "file"
    group = error_of(rr.service(fail)(ExceptionGroup("several", [ValueError(1), KeyError(2)])))
    assert [type(error) for error in group.exceptions] == [ValueError, KeyError]


def test_each_get_raises_a_fresh_copy(rr):
    future = rr.service(fail)(Noted([1]))
    chained = rr.service(add)(future)
    copies = [error_of(future), error_of(future), future.exception(), future.exception(), error_of(chained)]
    with pytest.raises(Noted) as caught:
        rr.get([future])
    copies.append(caught.value)
    with pytest.raises(Noted) as caught:
        rr.wait(future)
    copies.append(caught.value)
    assert len(set(map(id, copies))) == len(copies)
    copies[0].args[0].append(2)
    assert all(copy.args == ([1],) for copy in copies[1:])
    assert all(str(copy.__cause__) == str(copies[0].__cause__) for copy in copies)
    depth = len(traceback.extract_tb(error_of(future).__traceback__))
    assert len(traceback.extract_tb(error_of(future).__traceback__)) == depth  # tracebacks do not pile up


# ---- the traceback -------------------------------------------------------------------------------------------------------

STEPS = """
    class Own(Exception):
        pass

    def outer(depth):
        return inner(depth)

    def inner(depth):
        if depth:
            return inner(depth - 1)
        raise Own("deep")

    def chained():
        try:
            outer(1)
        except Own as error:
            raise LookupError("on top") from error

    class Class:
        def method(self):
            return outer(0)
"""


def test_the_cause_is_the_workers_traceback_in_the_users_file_names(project, monkeypatch, engine):
    (project / "package").mkdir()
    module = new_module(monkeypatch, project, STEPS)
    file = module.__file__
    assert Path(file).parent == project
    with Runner("tracebacks", workers=2, engine=engine) as rr:
        error = error_of(rr.service(module.outer)(2), module.Own)
        text = str(error.__cause__)
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.count(f'File "{file}", line ') == 4
        for line in ("in outer", "in inner", "return inner(depth)", 'raise Own("deep")', f"{module.__name__}.Own: deep"):
            assert line in text
        assert "flame_fast" not in text.replace(str(project), "")  # the runtime's own frames are nobody's business
        assert ".pxi" not in text and ".pxd" not in text
        shown = "".join(traceback.format_exception(error))  # what the user sees when he does not catch it
        assert text.strip() in shown
        assert "The above exception was the direct cause" in shown

        text = str(error_of(rr.service(module.chained)(), LookupError).__cause__)
        assert "Own: deep" in text
        assert "LookupError: on top" in text
        assert text.count(f'File "{file}", line ') >= 4

        for target in (module.Class, module.Class()):
            text = str(error_of(rr.service(target).method(), module.Own).__cause__)
            assert f'File "{file}", line ' in text
            assert "in method" in text


def test_a_failed_inputs_traceback_travels_on(rr):
    failed = rr.service(fail)(Noted("x"))
    text = str(error_of(failed).__cause__)
    assert "in fail" in text
    assert "gates.py" in text
    assert str(error_of(rr.service(same)([failed])).__cause__) == text


# ---- exceptions that cannot travel ---------------------------------------------------------------------------------------


class Odd(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Holding(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.rows = (row for row in ())


class Unreadable(Exception):
    """Pickles, but cannot be rebuilt."""

    def __reduce__(self):
        return int, ("no number",)


class Changed(Exception):
    """Comes back as something that is no exception."""

    def __reduce__(self):
        return str, ("only text",)


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("has no text")

    def __reduce__(self):
        raise RuntimeError("does not pickle")


CANNOT_TRAVEL = [
    (lambda: Holding("holds a generator"), "Holding", "holds a generator"),
    (lambda: Unreadable("unreadable"), "Unreadable", "unreadable"),
    (lambda: Changed("changed"), "Changed", "changed"),
    (lambda: ValueError("with a lock", threading.Lock()), "ValueError", "with a lock"),
    (lambda: SystemExit(3), "SystemExit", "3"),
    (lambda: SystemExit("bye"), "SystemExit", "bye"),
    (lambda: KeyboardInterrupt("stop"), "KeyboardInterrupt", "stop"),
    (lambda: Speechless(), "Speechless", ""),
]


def test_an_exception_that_makes_its_own_text_arrives_as_it_is(rr):
    def raise_it():
        raise Odd(1, 2)

    error = error_of(rr.service(raise_it)())
    assert (type(error), str(error), error.args) == (Odd, "1 and 2", ("1 and 2",))


def test_an_exception_that_cannot_travel_is_a_task_error(rr):
    def raise_it(make):
        raise make()

    service = rr.service(raise_it)
    for make, name, text in CANNOT_TRAVEL:
        future = service(make)
        for _ in range(2):
            error = error_of(future)
            assert type(error) is TaskError, name
            assert isinstance(error, FlameError)
            assert error.code is FlameErrorCode.INTERNAL
            assert name in str(error)
            assert text in str(error)
            cause = str(error.__cause__)
            assert "in raise_it" in cause
            assert name in cause
            assert text in cause
        assert rr.service(add)(1, 2).get() == 3
        assert type(error_of(rr.service(add)(future))) is TaskError


# ---- values that cannot travel -------------------------------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_is_a_type_error_at_the_call(rr):
    service = rr.service(same)
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"\b2\b.*lock"):
        rr.service(add)(1, lock)
    with pytest.raises(TypeError, match="'value'.*lock"):
        service(value=lock)
    with pytest.raises(TypeError, match=r"\b1\b.*dict"):
        service({"deep": [lock]})
    with socket.socket() as own, pytest.raises(TypeError, match="socket"):
        service(own)
    with pytest.raises(TypeError):
        service(number for number in range(3))

    class Stubborn:
        def __reduce__(self):
            raise RuntimeError("will not")

    with pytest.raises(TypeError, match="Stubborn.*will not"):
        service(Stubborn())
    assert service(5).get() == 5


def test_a_result_that_cannot_be_pickled_is_a_task_error_that_names_its_type(rr):
    def lock():
        return threading.Lock()

    def deep():
        return {"a": [threading.Lock()]}

    class Stubborn:
        def __reduce__(self):
            raise RuntimeError("will not")

    for function, name in ((lock, "lock"), (deep, "lock"), (lambda: Stubborn(), "Stubborn")):
        future = rr.service(function)()
        error = error_of(future)
        assert type(error) is TaskError
        assert name in str(error)
        assert type(future.exception()) is TaskError
    assert rr.service(add)(1, 2).get() == 3


def test_a_result_that_cannot_be_rebuilt_is_a_task_error(rr):
    class Trap:
        def __reduce__(self):
            return int, ("no number",)

    error = error_of(rr.service(lambda: Trap())())
    assert type(error) is TaskError
    assert "no number" in str(error)


LEAVING = [SystemExit(3), KeyboardInterrupt("stop"), GeneratorExit("enough"), Stop("no exception")]


def _rebuilt(maker, error):
    """Fail in every process but the maker's, where an exception is tried out before it travels."""
    if os.getpid() != maker:
        raise error
    return Tried(maker, error)


class Tried(Exception):
    def __reduce__(self):
        return _rebuilt, self.args


class Rebuilt:
    """Raises while it is rebuilt, by the function of its pickle or by `__setstate__`."""

    def __init__(self, error, by_function):
        self.error, self.by_function = error, by_function

    def __reduce__(self):
        if self.by_function:
            return fail, (self.error,)
        return object.__new__, (Rebuilt,), self.error

    def __setstate__(self, error):
        raise error


def rebuilt(error, by_function, _=None):
    return Rebuilt(error, by_function)


def test_what_a_results_rebuilding_raises_does_not_end_the_driver(rr):
    for error, by_function in itertools.product(LEAVING, [True, False]):
        with case(error, by_function):
            service = rr.service(partial(rebuilt, error, by_function))
            found = error_of(service())
            assert type(found) is TaskError
            assert type(error).__name__ in str(found)
            assert str(error) in str(found)
            with pytest.raises(TaskError, match=type(error).__name__):
                rr.get([service(), service()])
            with pytest.raises(TaskError, match=type(error).__name__):
                list(rr.service(partial(rebuilt, error, by_function)).map(range(3)))
            assert rr.service(add)(1, 2).get() == 3


def test_what_an_errors_rebuilding_raises_does_not_end_the_driver(project):
    with Runner("rebuilding", workers=1) as rr:
        service = rr.service(lambda error: fail(Tried(os.getpid(), error)))
        for error in LEAVING:
            with case(error):
                found = error_of(service(error))
                assert type(found) is TaskError
                assert type(error).__name__ in str(found)
                assert "Tried" in str(found.__cause__)


def test_a_result_whose_pickling_ends_the_process_is_a_task_error(rr):
    class Leaving:
        def __reduce__(self):
            raise SystemExit(3)

    assert type(error_of(rr.service(lambda: Leaving())())) is TaskError
    found = rr.service(lambda item: Leaving() if item else item).map([0, 1, 0], chunksize=3, return_exceptions=True)
    assert [type(value) for value in found] == [int, TaskError, int]


def test_a_signal_while_a_result_is_rebuilt_is_no_fault_of_the_result(project):
    """A Ctrl-C, and what a handler of the user's raises, end the wait as they would anywhere."""

    class Handler:
        def handle(self, number, frame):
            raise LookupError(number)

    def handle(number, frame):
        raise LookupError(number)

    handlers = [signal.default_int_handler, handle, Handler().handle, lambda *args: handle(*args)]
    before = signal.getsignal(signal.SIGINT)
    with Runner("interrupted", workers=1) as rr:
        for handler in handlers:
            with case(handler):
                future = rr.service(lambda: Struck())()
                signal.signal(signal.SIGINT, handler)
                try:
                    with pytest.raises(KeyboardInterrupt if handler is handlers[0] else LookupError):
                        future.get(timeout=PATIENCE_S)
                finally:
                    signal.signal(signal.SIGINT, before)


def _struck():
    signal.raise_signal(signal.SIGINT)
    return sum(range(1000))


class Struck:
    """Meets a Ctrl-C while it is rebuilt."""

    def __reduce__(self):
        return _struck, ()


def test_an_argument_that_cannot_be_rebuilt_fails_the_call_only(rr):
    class Trap:
        def __reduce__(self):
            return int, ("no number",)

    error_of(rr.service(same)(Trap()), ValueError)
    assert rr.service(add)(1, 2).get() == 3


def test_a_call_whose_arguments_are_wrong_is_a_type_error(rr):
    """At the call where it can be told from their number, else from `get`."""
    service = rr.service(add)
    with pytest.raises(TypeError, match="add.*missing a required argument: 'a'"):
        service()
    error = error_of(service(1, unknown=2), TypeError)
    assert "add" in str(error)


# ---- coroutines and generators -------------------------------------------------------------------------------------------


def test_an_async_function_is_run_to_completion(rr):
    async def compute(number):
        await asyncio.sleep(0)
        return sum(await asyncio.gather(*(half(number) for _ in range(4))))

    async def half(number):
        await asyncio.sleep(0)
        return number / 2

    async def broken():
        await asyncio.sleep(0)
        raise Noted("async")

    class Service:
        async def method(self, number):
            return await half(number)

        async def __call__(self):
            return "called"

    assert rr.get([rr.service(compute)(5), rr.service(compute)(6)]) == [10.0, 12.0]
    assert rr.service(Service).method(3).get() == 1.5
    service = rr.service(Service())
    assert (service.method(5).get(), service().get()) == (2.5, "called")
    assert rr.service(add)(rr.service(half)(4), 1).get() == 3.0
    error = error_of(rr.service(broken)(), Noted)
    assert "in broken" in str(error.__cause__)


def test_a_generators_type_error_says_to_return_a_list(rr):
    def generate():
        yield 1

    async def generate_async():
        yield 1

    class Service:
        def method(self):
            yield 1

    for future in (
        rr.service(generate)(),
        rr.service(generate_async)(),
        rr.service(Service).method(),
        rr.service(lambda: (number for number in range(3)))(),
    ):
        error = error_of(future, TypeError)
        assert "generator" in str(error)
        assert "return a list" in str(error)


# ---- the errors themselves -----------------------------------------------------------------------------------------------


def copies_of(error):
    return [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, 6)] + [copy.copy(error)]


def test_a_flame_error_can_be_pickled():
    for code in FlameErrorCode:
        for error in copies_of(FlameError(code, "what happened")):
            assert type(error) is FlameError
            assert (error.code, error.message) == (code, "what happened")
            assert "what happened" in str(error)


def test_the_codes_have_their_numbers():
    assert {code.name: code.value for code in FlameErrorCode} == {
        "INVALID_CONFIG": 0, "INVALID_STATE": 1, "INVALID_ARGUMENT": 2, "INTERNAL": 3, "ALREADY_EXISTS": 4, "NOT_FOUND": 5,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [WorkerDiedError, TaskError])
def test_their_subclasses_can_be_pickled(kind):
    for error in copies_of(kind("what happened")):
        assert type(error) is kind
        assert isinstance(error, FlameError)
        assert (error.code, error.message) == (FlameErrorCode.INTERNAL, "what happened")


def test_a_store_full_error_can_be_pickled():
    for error in copies_of(StoreFullError(300, 20, 1000)):
        assert type(error) is StoreFullError
        assert isinstance(error, FlameError)
        assert isinstance(error, MemoryError)
        assert (error.code, error.asked, error.free, error.limit) == (FlameErrorCode.INTERNAL, 300, 20, 1000)
        assert "300" in error.message


def test_they_travel_out_of_a_task(rr):
    for sent in (
        FlameError(FlameErrorCode.NOT_FOUND, "lost"),
        StoreFullError(3, 2, 1),
        WorkerDiedError("died"),
        TaskError("failed"),
    ):
        error = error_of(rr.service(fail)(sent))
        assert type(error) is type(sent)
        assert (error.code, error.message) == (sent.code, sent.message)


@in_a_segment
def test_more_than_there_is_room_for_is_a_store_full_error(project, engine):
    limit = 64 << 20
    with Runner("full", workers=1, memory=limit, engine=engine) as rr:
        service = rr.service(same)
        make = rr.service(lambda size: bytes(size))
        too_much = bytes(limit + 1)
        for use in (lambda: rr.put_object(too_much), lambda: service(too_much), lambda: make(limit + 1).get()):
            with pytest.raises(StoreFullError) as caught:
                use()
            assert caught.value.limit == limit
            assert caught.value.asked > limit
            assert 0 <= caught.value.free <= limit
            assert f"{limit:,}" in str(caught.value)
        assert len(service(bytes(limit // 8)).get()) == limit // 8


def in_a_function(value):
    assert value < 3, "too large"
    return value


def test_an_assertion_that_pytest_has_rewritten_fails_as_one(rr):
    """In functions that travel by value pytest's code names modules by globals that no import of the test module has."""

    def local(value):
        assert value < 3
        return value

    def calls_another(value):
        return local(value) + in_a_function(value)

    class Local:
        def method(self, value):
            assert [value] == [1], f"{value} is not 1"
            return value

    assert rr.get([rr.service(one)(1) for one in (in_a_function, local, lambda value: local(value))]) == [1, 1, 1]
    assert rr.get([rr.service(Local).method(1), rr.service(Local()).method(1), rr.service(calls_another)(2)]) == [1, 1, 4]
    for service, text in (
        (rr.service(in_a_function), "too large"),
        (rr.service(local), "assert 5 < 3"),
        (rr.service(calls_another), "assert 5 < 3"),
        (rr.service(Local).method, "5 is not 1"),
        (rr.service(Local()).method, "5 is not 1"),
    ):
        assert text in str(error_of(service(5), AssertionError))

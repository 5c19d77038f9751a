"""RunnerService: what becomes which kind of service, what state its calls see, its options, sessions, and its end."""

from __future__ import annotations

import functools
import math
import operator
import os
import re
import sys
import threading
import types
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from engines import case, concurrent
from gates import (
    PATIENCE_S,
    Gate,
    add,
    cached_square,
    hold,
    meet,
    same,
)

from flame_fast import FlameError, FlameErrorCode, ResourceRequirement, Runner, RunnerService, SessionContext, resources
from flame_fast._records import fields
from flame_fast.calls.statistics import Statistics
from flame_fast.resources import available_cpus


class Offset:
    """Its methods are execution objects."""

    def __init__(self, offset):
        self.offset = offset

    def add(self, number):
        return self.offset + number

    @classmethod
    def name_of(cls, number):
        return f"{cls.__name__}{number}"

    @staticmethod
    def double(number):
        return 2 * number


# ---- kinds ---------------------------------------------------------------------------------------------------------------


def local_function(a, b):
    def inner(a, b):
        return a - b

    return inner(a, b)


FUNCTIONS = {
    "function": (add, (1, 2), 3),
    "lambda": (lambda a, b: a * b, (6, 7), 42),
    "nested calls": (local_function, (5, 3), 2),
    "partial": (functools.partial(add, 10), (5,), 15),
    "partial of a lambda": (functools.partial(lambda a, b: [a, b], b=1), (5,), [5, 1]),
    "partial of a builtin": (functools.partial(pow, 2), (10,), 1024),
    "builtin": (len, ("abc",), 3),
    "builtin of a module": (math.hypot, (3.0, 4.0), 5.0),
    "method of a type": (str.upper, ("abc",), "ABC"),
    "bound method of a builtin": ("-".join, (["a", "b"],), "a-b"),
    "slot wrapper": (int.__add__, (1, 2), 3),
    "method wrapper": ((5).__add__, (2,), 7),
    "ufunc": (np.add, (1, 2), 3),
    "NumPy function": (np.linalg.norm, ([3.0, 4.0],), 5.0),
    "array function": (np.concatenate, (([1], [2]),), [1, 2]),
    "cached function": (cached_square, (9,), 81),
    "bound method": (Offset(100).add, (1,), 101),
    "class method": (Offset.name_of, (1,), "Offset1"),
    "static method": (Offset.double, (4,), 8),
}


def test_everything_of_the_functions_kind_runs_without_state_in_any_worker(rr):
    from compiled_functions import product  # here, so that no other test's worker imports Numba with this module

    functions = {**FUNCTIONS, "Numba dispatcher": (product, (6, 7), 42)}
    futures = {}
    for name, (function, args, _) in functions.items():
        # autoscale=True is for functions and classes only: an object taken for an instance would be refused.
        futures[name] = rr.service(function, autoscale=True)(*args)
    values = rr.get(futures, timeout=60)
    for name, (_, _, expected) in functions.items():
        assert np.array_equal(values[name], expected), name


def test_calls_take_positional_and_keyword_arguments(rr):
    collect = rr.service(lambda *args, **kwargs: (args, kwargs))
    assert collect().get() == ((), {})
    assert collect(1, [2], key="x", other=None).get() == ((1, [2]), {"key": "x", "other": None})
    assert collect(self=1, method=2, service=3).get() == ((), {"self": 1, "method": 2, "service": 3})


def test_service_returns_a_runner_service_with_its_name(rr):
    service = rr.service(add)
    assert isinstance(service, RunnerService)
    assert service.name == "add"
    assert rr.service(Offset(1)).name == "Offset"


# ---- classes -------------------------------------------------------------------------------------------------------------


class Tally:
    """Counts its own calls."""

    def __init__(self):
        self.count = 0

    def up(self):
        self.count += 1
        return self.count


def test_two_services_of_one_class_have_instances_of_their_own(project, engine):
    with Runner("one", workers=1, engine=engine) as rr:
        first, second = rr.service(Tally), rr.service(Tally)
        assert [first.up().get(), first.up().get(), second.up().get()] == [1, 2, 1]


def test_a_class_that_runs_on_one_worker_has_one_state(rr):
    service = rr.service(Tally, autoscale=False)
    assert [future.get() for future in [service.up() for _ in range(20)]] == list(range(1, 21))


def test_calling_a_class_service_is_a_type_error(rr):
    service = rr.service(Tally)
    with pytest.raises(TypeError, match="is not callable"):
        service()
    with pytest.raises(TypeError, match="is not callable"):
        rr.service(Offset(1))(2)


def test_a_class_with_a_call_method_is_not_callable_either(rr):
    class Callable:
        def __call__(self):
            return 1

    with pytest.raises(TypeError, match="is not callable"):
        rr.service(Callable)()


def test_an_init_that_raises_fails_every_call_with_its_error(rr):
    class Broken:
        def __init__(self):
            raise LookupError("no such thing")

        def run(self):
            return 1

    service = rr.service(Broken, warmup=1)
    for future in [service.run() for _ in range(6)]:
        with pytest.raises(LookupError, match="no such thing") as caught:
            future.get(timeout=PATIENCE_S)
        text = str(caught.value.__cause__)
        assert "LookupError: no such thing" in text
        assert "in __init__" in text
        assert __file__ in text
    assert rr.service(add)(1, 2).get() == 3


# ---- arguments of classes ------------------------------------------------------------------------------------------------


class Model:
    """Made with arguments; tells which, and how often it was made in its process."""

    made = 0

    def __init__(self, path, *, threads=1, weights=()):
        type(self).made += 1
        self.path, self.threads, self.weights = path, threads, weights

    def look(self):
        return self.path, self.threads, list(self.weights)

    def place(self, directory, number):
        return meet(directory, 2, number), self.made

    def spoil(self):
        self.weights.append("spoilt")
        return self.weights


def test_a_class_is_made_with_its_arguments(rr):
    service = rr.service(Model, args=("m.bin",), kwargs={"threads": 2}, warmup=1)
    assert service.look().get() == ("m.bin", 2, [])
    assert rr.service(Model, args=["other.bin"]).look().get() == ("other.bin", 1, [])
    assert service.name == "Model"


@concurrent
def test_each_worker_makes_one_instance_with_the_arguments(rr):
    service = rr.service(Model, args=("m.bin",))
    first = rr.get([service.place("first", number) for number in range(2)], timeout=PATIENCE_S)
    places = rr.get([service.place("second", number) for number in range(2)], timeout=PATIENCE_S)
    assert {pid for pid, _ in first} == {pid for pid, _ in places}
    assert {made for _, made in places} == {1}


def test_arguments_are_taken_as_they_are_at_service(rr):
    weights = [1]
    service = rr.service(Model, args=("m.bin",), kwargs={"weights": weights}, autoscale=False)
    weights.append(2)
    assert service.spoil().get() == [1, "spoilt"]
    assert weights == [1, 2]


def test_definitions_services_and_futures_are_arguments_too(rr):
    class Composed:
        def __init__(self, function, service, number, ref):
            self.parts = function, service, number, ref

        def run(self):
            function, service, number, ref = self.parts
            return function(number), service(number, 1).get(), float(ref.sum())

    ref = rr.put_object(np.ones(100_000))
    service = rr.service(
        Composed, args=(lambda x: -x, rr.service(add)), kwargs={"number": rr.service(add)(2, 3), "ref": ref}
    )
    assert service.run().get(timeout=PATIENCE_S) == (-5, 6, 1e5)


def test_a_failed_future_among_the_arguments_raises_its_error(rr):
    failed = rr.service(operator.truediv)(1, 0)
    with pytest.raises(ZeroDivisionError):
        rr.service(Model, args=(failed,))


WRONG_CALLS = [
    ((), None, "missing a required argument: 'path'"),
    (("a", "b"), None, "too many positional arguments"),
    (("a",), {"thread": 2}, "got an unexpected keyword argument 'thread'"),
    (("a",), {"path": "b"}, "multiple values for argument 'path'"),
]


def test_a_wrong_call_of_a_class_is_refused_at_service(rr):
    for args, kwargs, wrong in WRONG_CALLS:
        with case(args, kwargs):
            with pytest.raises(TypeError) as caught:
                rr.service(Model, args=args, kwargs=kwargs)
            assert str(caught.value).startswith(f"class Model(path, *, threads=1, weights=()): {wrong}")
            with pytest.raises(TypeError, match=re.escape("class Offset(offset): missing a required argument: 'offset'")):
                rr.service(Offset)


def test_what_a_signature_does_not_tell_fails_every_call(rr):
    def injected(init):
        @functools.wraps(init)
        def wrapper(self, *args):
            init(self, "injected", *args)

        return wrapper

    class Injected:
        @injected
        def __init__(self, value):
            self.value = value

        def look(self):
            return self.value

    assert rr.service(Injected).look().get() == "injected"
    with pytest.raises(TypeError, match="positional argument"):
        rr.service(Injected, args=(1,)).look().get(timeout=PATIENCE_S)
    assert rr.service(bytearray, args=(b"abc",)).upper().get() == b"ABC"


def test_only_classes_take_arguments(rr):
    for target in (add, Offset(1)):
        with case(target):
            for arguments in ({"args": (1,)}, {"kwargs": {"b": 1}}):
                with pytest.raises(ValueError, match=r"^args, kwargs: only classes take them"):
                    rr.service(target, **arguments)
            assert rr.service(target, args=(), kwargs={}).name == ("add" if target is add else "Offset")


def test_arguments_of_other_types_are_refused(rr):
    for arguments, name in (
        ({"args": "m.bin"}, "args"),
        ({"kwargs": [("path", 1)]}, "kwargs"),
        ({"kwargs": {1: 2}}, "kwargs"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected a "):
            rr.service(Model, **arguments)


def test_arguments_that_cannot_be_pickled_are_named(rr):
    with pytest.raises(TypeError, match="'Model' with its args and kwargs cannot be pickled"):
        rr.service(Model, args=((row for row in ()),))


def test_a_session_that_is_open_takes_no_other_arguments(rr):
    class Named(Model):
        _session_context = SessionContext(session_id="made-once")

    service = rr.service(Named, args=("m.bin",))
    with pytest.raises(FlameError, match="made-once"):
        rr.service(Named, args=("other.bin",))
    assert service.look().get() == ("m.bin", 1, [])


# ---- what cannot be loaded -----------------------------------------------------------------------------------------------


# ---- instances -----------------------------------------------------------------------------------------------------------


class Account:
    def __init__(self):
        self.balance = 0
        self.log = []

    def add(self, amount, fail=False):
        self.balance += amount
        self.log.append(amount)
        if fail:
            raise RuntimeError("after the change")
        return self.balance

    def hold(self, gate):
        gate.wait()
        self.log.append("held")

    def look(self):
        return self.balance, list(self.log)


def test_an_instance_starts_from_the_state_at_service(rr):
    account = Account()
    account.add(3)
    service = rr.service(account)
    account.add(100)
    assert service.add(1).get() == 4


def test_the_state_stays_as_an_exception_left_it(rr):
    service = rr.service(Account())
    with pytest.raises(RuntimeError, match="after the change"):
        service.add(5, fail=True).get()
    assert service.look().get() == (5, [5])


def test_calls_of_an_instance_run_in_the_order_made(rr):
    service = rr.service(Account())
    for number in range(500):
        service.add(number)
    assert service.look().get()[1] == list(range(500))


@concurrent
def test_calls_of_an_instance_keep_their_order_when_an_input_is_late(rr):
    service = rr.service(Account())
    with Gate() as gate:
        late = rr.service(hold)(gate, 1)
        service.add(late)
        second = service.add(2)
        gate.entered()
        assert not second.done()
        gate.open()
        assert service.look().get()[1] == [1, 2]


@concurrent
def test_a_running_call_of_an_instance_holds_back_the_next_one(rr):
    service = rr.service(Account())
    with Gate() as gate:
        service.hold(gate)
        after = service.add(1)
        gate.entered()
        assert not after.done()
        gate.open()
    assert service.look().get()[1] == ["held", 1]


def test_an_instance_can_write_to_its_own_arrays(rr):
    class Weights:
        def __init__(self):
            self.small = np.zeros(4)
            self.large = np.zeros(1_000_000)

        def step(self, gradient):
            self.small += gradient[:4]
            self.large += gradient
            return self.small, float(self.large.sum())

    weights = Weights()
    service = rr.service(weights)
    gradient = np.ones(1_000_000)
    service.step(gradient)
    small, total = service.step(rr.put_object(gradient)).get()
    assert small.tolist() == [2.0] * 4
    assert total == 2e6
    assert not weights.small.any()


def test_a_callable_instance_is_stateful_and_can_be_called(rr):
    class Accumulate:
        def __init__(self):
            self.total = 0

        def __call__(self, number, *, times=1):
            self.total += number * times
            return self.total

        def reset(self):
            self.total = 0

    service = rr.service(Accumulate())
    assert [service(1).get(), service(2, times=3).get()] == [1, 7]
    service.reset()
    assert service(5).get() == 5
    with pytest.raises(ValueError, match="always fixed"):
        rr.service(Accumulate(), autoscale=True)


def test_a_callable_object_of_a_library_is_an_instance(rr):
    assert rr.service(operator.itemgetter(1))([4, 5]).get() == 5


# ---- methods -------------------------------------------------------------------------------------------------------------


class Base:
    limit = 3

    class Inner:
        pass

    def inherited(self):
        return "inherited"

    def removed(self):
        return "never"


class Exposing(Base):
    removed = None

    def __init__(self):
        self.attached = self._private
        self.data = [1]

    def plain(self):
        return "plain"

    @classmethod
    def of_class(cls):
        return cls.__name__

    @staticmethod
    def static():
        return "static"

    def _private(self):
        return "private"

    @functools.singledispatchmethod
    def dispatched(self, value):
        return "any"

    @dispatched.register
    def _(self, value: int):
        return "int"

    partial = functools.partialmethod(plain)
    handed = lambda self: "handed"  # noqa: E731

    @property
    def measured(self):
        Path(f"evaluated-by-{os.getpid()}").touch()
        raise RuntimeError("a property was evaluated")

    @functools.cached_property
    def remembered(self):
        Path(f"evaluated-by-{os.getpid()}").touch()
        return 1


def test_every_public_method_is_there_and_nothing_else(rr, project):
    for of_class in (True, False):
        with case(of_class):
            service = rr.service(Exposing if of_class else Exposing())
            values = {
                "inherited": service.inherited(),
                "plain": service.plain(),
                "of_class": service.of_class(),
                "static": service.static(),
                "dispatched": service.dispatched(1),
                "dispatched otherwise": service.dispatched("x"),
                "partial": service.partial(),
                "handed": service.handed(),
            }
            assert rr.get(values) == {
                "inherited": "inherited",
                "plain": "plain",
                "of_class": "Exposing",
                "static": "static",
                "dispatched": "int",
                "dispatched otherwise": "any",
                "partial": "plain",
                "handed": "handed",
            }
            for name in ("_private", "limit", "Inner", "removed", "data", "missing", "measured", "remembered"):
                with pytest.raises(AttributeError, match=name):
                    getattr(service, name)
            assert not list(project.glob("evaluated-by-*"))


class Basket:
    __slots__ = ("slot", "__dict__")

    limit = 3

    class Inner:
        pass

    def __init__(self):
        self.fruit = []

    @property
    def size(self):
        raise AssertionError("evaluated")

    @functools.cached_property
    def weight(self):
        raise AssertionError("evaluated")

    def _sort(self):
        raise AssertionError("called")

    def add(self, item):
        self.fruit.append(item)

    def total(self):
        return len(self.fruit)


NO_METHODS = [
    ("size", "it is a property, and the object is in a worker; give its class a method", True),
    ("weight", "it is a property", True),
    ("limit", "it is an attribute, and the object is in a worker; give its class a method", True),
    ("slot", "it is an attribute", True),
    ("Inner", "it is an attribute", True),
    ("fruit", "it is an attribute", False),
    ("_sort", "a name with an underscore in front is private", True),
    ("totel", "did you mean 'total'?", True),
    ("empty", "; its methods: add, total", True),
]


def test_a_name_that_is_no_method_is_explained(rr):
    for name, told, of_class in NO_METHODS:
        with case(name):
            services = [rr.service(Basket()), rr.service(Basket())]
            services += [services[0].options(retries=1), *([rr.service(Basket)] if of_class else [])]
            for service in services:
                for ask in (getattr, lambda asked, missing: asked.call(missing)):
                    with pytest.raises(AttributeError, match=rf"service 'Basket' has no public method '{name}'") as caught:
                        ask(service, name)
                    assert told in str(caught.value)
                    assert str(caught.value).endswith("; its methods: add, total")


def test_names_that_libraries_ask_for_are_answered_briefly(rr):
    service = rr.service(Basket())
    with pytest.raises(AttributeError, match=r"has no public method '__array__'$"):
        service.__array__  # noqa: B018
    many = rr.service(type("Many", (), {f"m{number:02}": lambda self: None for number in range(30)}))
    with pytest.raises(AttributeError, match=r"m18, m19 and 10 more$"):
        many.xyz  # noqa: B018


def test_a_function_service_has_no_methods_but_its_own(rr):
    service = rr.service(add)
    for name in ("remote", "submit", "delay"):
        with pytest.raises(AttributeError, match=f"no public method '{name}': it stands for the function itself; call it"):
            getattr(service, name)


def test_reserved_names_are_the_services_own(rr):
    class Reserved:
        def map(self, *args, **kwargs):
            return "map", args, kwargs

        def close(self):
            return "own close"

        def call(self, method):
            return "own call", method

        def name(self):
            return "own name"

        def session_id(self):
            return "own id"

        def options(self):
            return "own options"

        def usual(self):
            return "usual"

    for target in (Reserved, Reserved()):
        with pytest.warns(UserWarning) as caught:
            service = rr.service(target)
        texts = " ".join(str(warning.message) for warning in caught)
        for name in ("map", "call", "name", "session_id", "options"):
            assert f"'{name}'" in texts
        assert ("'close'" in texts) is not isinstance(target, type)  # that of a class is called at its object's end
        assert all(warning.filename == __file__ for warning in caught)
        assert "Reserved" in service.name
        assert isinstance(service.session_id, str)
        assert service.call("map", 1, key=2).get() == ("map", (1,), {"key": 2})
        assert service.call("close").get() == "own close"
        assert service.call("call", "x").get() == ("own call", "x")
        assert service.call("name").get() == "own name"
        assert service.call("session_id").get() == "own id"
        assert service.call("options").get() == "own options"
        assert service.call("usual").get() == service.usual().get() == "usual"
        with pytest.raises(AttributeError, match="missing"):
            service.call("missing")
        service.close()
        with pytest.raises(FlameError):
            service.usual()


def test_no_warning_without_reserved_names(rr):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rr.service(Exposing)
        rr.service(Account(), warmup=1)
        rr.service(add, warmup=2, autoscale=False)


# ---- warmup and autoscale ------------------------------------------------------------------------------------------------


def test_a_bad_warmup_is_refused(rr):
    for warmup in (-1, 1.5, "1", None, True):
        for target in (add, Tally, Offset(1)):
            with pytest.raises(ValueError) as caught:
                rr.service(target, warmup=warmup)
            assert str(caught.value) == "warmup must be a non-negative integer."


def test_instances_are_always_fixed(rr):
    with pytest.raises(ValueError) as caught:
        rr.service(Account(), autoscale=True)
    assert str(caught.value) == "Object instance services are always fixed. Omit autoscale or pass autoscale=False."
    with pytest.raises(ValueError) as caught:
        rr.service(Account(), warmup=2)
    assert str(caught.value) == "Object instance services only support warmup=0 or warmup=1."
    assert rr.service(Account(), autoscale=False, warmup=1).add(1).get() == 1
    assert rr.service(Account(), warmup=0).add(1).get() == 1


def test_stateful_is_no_argument(rr):
    with pytest.raises(TypeError, match="stateful"):
        rr.service(add, stateful=False)


# ---- resources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu=2,mem=1g", ResourceRequirement(2, 1 << 30)),
        ("cpu=2", ResourceRequirement(2)),
        ("mem=512m,gpu=1,cpu=3", ResourceRequirement(3, 512 << 20, 1)),
        ("memory=7k", ResourceRequirement(1, 7 << 10)),
        ("mem=12", ResourceRequirement(1, 12)),
        ("mem=2t", ResourceRequirement(1, 2 << 40)),
        (" cpu = 1 , mem = 1G ", ResourceRequirement(1, 1 << 30)),
    ],
)
def test_resources_are_read_from_text(text, expected):
    got = ResourceRequirement.from_string(text)
    assert got == expected
    assert (got.cpu, got.memory, got.gpu) == (expected.cpu, expected.memory, expected.gpu)


@pytest.mark.parametrize(
    "text",
    ["", "cpu", "cpu=", "cpu=x", "cpu=-1", "cpu=0", "cpu=1.5", "mem=1.5", "mem=-1", "mem=1x", "gpu=-1", "gpu=1g", "cpu=1k",
     "disk=1", "cpu=1,cpu=2", "cpu=1;mem=1g", "cpu=1,,mem=1g", 3, None],
)  # fmt: skip
def test_bad_resource_text_is_a_value_error(text):
    with pytest.raises(ValueError):
        ResourceRequirement.from_string(text)


@pytest.mark.parametrize("values", [{"cpu": 0}, {"cpu": -1}, {"cpu": 1.0}, {"cpu": True}, {"memory": -1}, {"gpu": "1"}])
def test_bad_resource_values_are_a_value_error(values):
    with pytest.raises(ValueError):
        ResourceRequirement(**values)


def test_more_cpus_than_there_are_is_refused(rr):
    with pytest.raises(FlameError) as caught:
        rr.service(add, resreq=ResourceRequirement(cpu=available_cpus() + 1))
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert str(available_cpus()) in caught.value.message


def test_memory_is_only_recorded(rr):
    assert rr.service(add, resreq=ResourceRequirement(cpu=1, memory=1 << 50))(1, 2).get() == 3


def test_a_resource_requirement_may_be_text(rr):
    assert rr.service(add, resreq="cpu=1,mem=1g")(1, 2).get() == 3
    with pytest.raises(ValueError, match="expected cpu=, mem= or gpu=, got 'disk=1'"):
        rr.service(add, resreq="disk=1")
    with pytest.raises(FlameError, match=f"at most {available_cpus()} CPUs"):
        rr.service(add, resreq=f"cpu={available_cpus() + 1}")
    with pytest.raises(TypeError, match="or text like 'cpu=2,mem=1g', got 2"):
        rr.service(add, resreq=2)


def test_more_gpus_than_there_are_are_refused(rr, monkeypatch):
    for there, told in ((0, "has none"), (2, "has 2")):
        monkeypatch.setattr(resources, "count_gpus", lambda there=there: there)
        with pytest.raises(FlameError, match=rf"resreq: .*{told}.*got gpu={there + 1}; leave gpu out") as caught:
            rr.service(add, resreq=ResourceRequirement(gpu=there + 1))
        assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
        assert rr.service(add, resreq=f"gpu={there}")(1, 2).get() == 3
    monkeypatch.setattr(resources, "count_gpus", lambda: None)  # nobody can tell
    assert rr.service(add, resreq="gpu=9")(1, 2).get() == 3


# ---- sessions ------------------------------------------------------------------------------------------------------------


def test_a_session_context_names_the_session(rr):
    class Named:
        _session_context = SessionContext(session_id="the-session", application_name="other")

        def run(self):
            return 1

    service = rr.service(Named)
    assert service.session_id == "the-session"
    assert service.run().get() == 1
    account = Account()
    account._session_context = SessionContext(session_id="x" * 128)
    assert rr.service(account).session_id == "x" * 128


def test_the_default_session_id_is_made_of_the_application(rr):
    first, second = rr.service(add), rr.service(add)
    assert re.fullmatch(r"conformance-[a-zA-Z0-9]{6}", first.session_id)
    assert re.fullmatch(r"conformance-[a-zA-Z0-9]{6}", second.session_id)
    assert first.session_id != second.session_id


def test_an_application_name_is_for_the_log_alone(rr):
    account = Account()
    account._session_context = SessionContext(application_name="other")
    assert re.fullmatch(r"conformance-\w{6}", rr.service(account).session_id)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "got an empty string"),
        (3, "expected a string, got 3"),
        (b"x", "expected a string"),
        ("x" * 129, r"too long \(129 characters, max 128\)"),
        (["a"], "expected a string"),
    ],
)
def test_a_session_context_refuses_bad_names(name, problem):
    with pytest.raises(ValueError, match=f"session_id: .*{problem}"):
        SessionContext(session_id=name)
    with pytest.raises(ValueError, match=f"application_name: .*{problem}"):
        SessionContext(application_name=name)


def test_a_session_context_keeps_its_names():
    context = SessionContext(session_id="a", application_name="b")
    assert (context.session_id, context.application_name) == ("a", "b")
    assert (SessionContext().session_id, SessionContext().application_name) == (None, None)


def test_a_session_context_of_another_type_is_ignored_with_a_warning(rr):
    account = Account()
    account._session_context = "the-session"
    with pytest.warns(UserWarning, match="_session_context"):
        service = rr.service(account)
    assert re.fullmatch(r"conformance-\w{6}", service.session_id)
    assert service.add(1).get() == 1


def test_two_objects_cannot_share_a_session_id(rr):
    first, second = Account(), Account()
    first._session_context = second._session_context = SessionContext(session_id="shared")
    service = rr.service(first)
    assert service.add(1).get() == 1
    with pytest.raises(FlameError) as caught:
        rr.service(second)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert "shared" in caught.value.message
    assert service.add(1).get() == 2
    assert rr.service(first).session_id == "shared"


def test_a_session_id_is_free_again_once_its_service_is_closed(rr):
    first, second = Account(), Account()
    first._session_context = second._session_context = SessionContext(session_id="shared")
    rr.service(first).close()
    again = rr.service(first)
    assert again.add(1).get() == 1
    again.close()
    assert rr.service(second).add(2).get() == 2


# ---- what a call sees ----------------------------------------------------------------------------------------------------


def test_closures_are_taken_as_they_are_at_the_call(rr):
    factor, items = 1, []

    def look():
        return factor, list(items)

    service = rr.service(look)
    futures = [service()]
    factor = 2
    items.append("x")
    futures.append(service())
    factor = 3
    assert rr.get(futures) == [(1, []), (2, ["x"])]


@concurrent
def test_arguments_are_taken_as_they_are_at_the_call(rr):
    service = rr.service(same)
    items, array = [1], np.arange(5)
    with Gate() as gate:
        blockers = [rr.service(hold)(gate)]
        futures = [service(items), service({"k": items}), service(array)]
        items.append(2)
        array[:] = -1
        gate.open()
        first, second, third = rr.get(futures)
        rr.wait(blockers)
    assert first == [1]
    assert second == {"k": [1]}
    assert third.tolist() == [0, 1, 2, 3, 4]


def test_what_a_task_does_to_its_arguments_stays_in_the_task(rr):
    def spoil(items, mapping):
        items.append(1)
        mapping.clear()
        return items, mapping

    items, mapping = [0], {"a": 1}
    ref = rr.put_object(items)
    service = rr.service(spoil)
    assert service(items, mapping).get() == ([0, 1], {})
    assert service(ref, mapping).get() == service(ref, mapping).get() == ([0, 1], {})
    assert (items, mapping, ref.get()) == ([0], {"a": 1}, [0])


def test_an_execution_object_that_cannot_be_pickled_is_named(rr):
    account = Account()
    account.rows = (row for row in ())
    with pytest.raises(TypeError, match="Account"):
        rr.service(account)
    rows = (row for row in ())

    def reading():
        return list(rows)

    with pytest.raises(TypeError, match="reading"):
        rr.service(reading)()


def test_a_lock_that_a_function_closes_over_is_the_workers_own(rr):
    lock = threading.Lock()

    def locked():
        with lock:
            return lock.locked(), id(lock)

    lock.acquire()
    service = rr.service(locked, autoscale=False)
    (held, first), (_, second) = service().get(), service().get()
    assert held
    assert first == second
    assert not rr.service(lambda: lock.locked())().get()


# ---- the end -------------------------------------------------------------------------------------------------------------


@concurrent
def test_a_closed_service_takes_no_calls_but_finishes_those_made(rr):
    for kind in ("function", "class", "instance"):
        with case(kind):
            target = {"function": hold, "class": Account, "instance": Account()}[kind]
            service = rr.service(target)
            call = service if kind == "function" else service.hold
            with Gate() as gate:
                future = call(gate)
                gate.entered()
                service.close()
                service.close()
                with pytest.raises(FlameError) as caught:
                    call(gate)
                assert caught.value.code is FlameErrorCode.INVALID_STATE
                assert not future.done()
                gate.open()
                assert future.get(timeout=PATIENCE_S) is None
            with pytest.raises(FlameError):
                call(gate)
            assert rr.service(add)(1, 2).get() == 3


def test_queued_calls_of_a_closed_service_are_finished(rr):
    account = rr.service(Account())
    futures = [account.add(1) for _ in range(50)]
    account.close()
    assert rr.get(futures) == list(range(1, 51))


def test_a_new_service_after_a_closed_one_is_not_mistaken_for_it(rr):
    old = rr.service(lambda: "old")
    assert old().get() == "old"
    old.close()
    new = rr.service(lambda: "new")
    assert new().get() == "new"
    with pytest.raises(FlameError):
        old()


def test_many_services_one_after_the_other(rr):
    for number in range(300):
        service = rr.service(lambda number=number: number)
        assert service().get() == number
        service.close()
    for number in range(8):
        service = rr.service(Account())
        assert service.add(number).get() == number
        service.close()


def test_services_of_a_closed_runner_take_no_calls(project, engine):
    with Runner("closing", workers=2, engine=engine) as rr:
        calls = [partial(rr.service(add), 1), partial(rr.service(Account()).add, 1), rr.service(Tally).up]
    for call in calls:
        with pytest.raises(FlameError) as caught:
            call()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    with pytest.raises(FlameError) as caught:
        rr.service(add)
    assert caught.value.code is FlameErrorCode.INVALID_STATE


def test_functions_and_classes_of_a_module_made_in_memory_travel_by_value(rr, monkeypatch):
    module = types.ModuleType("made_in_memory")
    exec(
        "FACTOR = 3\ndef triple(x):\n    return FACTOR * x\nclass Twice:\n    def of(self, x):\n        return 2 * x\n",
        vars(module),
    )
    monkeypatch.setitem(sys.modules, "made_in_memory", module)
    assert rr.get([rr.service(module.triple)(14), rr.service(module.Twice).of(4)]) == [42, 8]


def test_an_autoscale_that_is_no_truth_value_is_a_value_error(rr):
    for autoscale in ("no", 0, [], 1):
        with case(autoscale), pytest.raises(ValueError, match="autoscale: expected True, False or None"):
            rr.service(math.sqrt, autoscale=autoscale)


def test_a_session_context_of_another_type_takes_no_session(rr):
    class Named:
        _session_context = SessionContext(session_id="taken")

        def one(self):
            return 1

    class Impostor:
        _session_context = types.SimpleNamespace(session_id="taken")

        def two(self):
            return 2

    first = rr.service(Named())
    with pytest.warns(UserWarning, match="ignored"):
        second = rr.service(Impostor())
    assert second.session_id != first.session_id == "taken"
    assert rr.get([first.one(), second.two()]) == [1, 2]


def test_a_service_asked_for_again_by_its_session_checks_its_options_again(rr):
    class Named:
        _session_context = SessionContext(session_id="same")

    named = Named()
    service = rr.service(named)
    assert rr.service(named) is service
    with pytest.raises(ValueError, match="warmup must be a non-negative integer"):
        rr.service(named, warmup=-1)


def test_the_function_of_a_call_is_the_one_called(project, engine):
    """A worker remembers the function of the call before."""
    with Runner("functions", workers=1, engine=engine) as rr:
        outer_done = rr.service(lambda: "inner")

        def waits():
            return outer_done().get(), "outer"

        one, other = rr.service(waits), rr.service(lambda: "other")
        calls = [service() for _ in range(20) for service in (one, other, one, outer_done)]
        assert rr.get(calls) == [("inner", "outer"), "other", ("inner", "outer"), "inner"] * 20
        for number in range(10):  # closed ones give their places to others
            service = rr.service(lambda number=number: number)
            assert service().get() == number
            service.close()


def test_statistics_count_calls_by_their_ends(rr):
    calls = [rr.service(add)(1), rr.service(divmod)(1, 0)]
    rr.wait(calls[:1])
    assert isinstance(calls[1].exception(), ZeroDivisionError)
    found = rr.statistics()
    assert (found.done, found.failed, found.objects) == (1, 1, 2)
    assert (found.waiting, found.queued, found.running) == (0, 0, 0)
    assert all(type(getattr(found, name)) is int and getattr(found, name) >= 0 for name in fields(Statistics))


def test_the_end(project, engine):
    with Runner("ending", workers=1, engine=engine) as rr:
        service, closed = rr.service(add), rr.service(Account())
        future, ref = service(1), rr.put_object([2])
        large = rr.service(same)(np.arange(100_000))
        rr.wait([future, large])
        closed.close()
        with pytest.raises(FlameError) as caught:
            closed.add(1)
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    assert (future.get(), ref.get(), large.get()[-1]) == (1, [2], 99_999)
    for use in (lambda: service(1), lambda: rr.put_object(1), lambda: rr.get(future), lambda: rr.service(add)):
        with pytest.raises(FlameError) as caught:
            use()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    rr.close()

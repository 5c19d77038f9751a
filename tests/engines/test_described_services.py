"""What a service says of the object behind it: name, docstring, signature; calls with arguments that cannot fit."""

from __future__ import annotations

import functools
import inspect

import pytest

from flame_fast import ObjectFuture, ObjectRef, RunnerService


def scale(value: int, factor: int = 2, *, plus: int = 0) -> int:
    """Return a value, scaled."""
    return value * factor + plus


def named_only(*, name):
    return name


def first_of(first, *others):
    return first


class Scaler:
    """Scales."""

    def __init__(self, factor=3):
        self.factor = factor

    def scale(self, value, plus=0):
        """Return a value, scaled."""
        return value * self.factor + plus

    @staticmethod
    def double(value):
        return 2 * value

    @classmethod
    def named(cls, suffix):
        return cls.__name__ + suffix

    def __call__(self, value):
        return self.scale(value)


def test_a_service_has_its_function_s_name_docstring_and_signature(rr):
    service = rr.service(scale)
    assert (service.__name__, service.__doc__, service.__wrapped__) == ("scale", "Return a value, scaled.", scale)
    assert inspect.signature(service) == inspect.signature(scale)
    view = service.options(detached=True)
    assert inspect.signature(view) == inspect.signature(scale)
    assert functools.wraps(service)(lambda: None).__name__ == "scale"


def test_a_method_has_its_function_s_name_docstring_and_signature(rr):
    for service in (rr.service(Scaler), rr.service(Scaler(4))):
        assert service.__doc__ == "Scales."
        assert (service.scale.__name__, service.scale.__doc__) == ("scale", "Return a value, scaled.")
        assert str(inspect.signature(service.scale)) == "(value, plus=0)"
        assert str(inspect.signature(service.double)) == "(value)"
        assert str(inspect.signature(service.named)) == "(suffix)"


def test_a_callable_instance_has_its_call_s_signature(rr):
    service = rr.service(Scaler(4))
    assert str(inspect.signature(service)) == "(value)"
    assert not hasattr(service, "__wrapped__")  # it is no function


def test_the_classes_keep_their_own_docstrings_and_signatures():
    assert "Made by `Runner.service`" in RunnerService.__doc__
    assert "engine" in inspect.signature(RunnerService).parameters


def test_types_take_those_of_their_values():
    assert str(ObjectFuture[int]).endswith("ObjectFuture[int]")
    assert ObjectRef[str].__args__ == (str,)
    assert RunnerService[[int], str].__origin__ is RunnerService


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'value'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1, 2, 3), {"plus": 1}, "too many positional arguments"),
    ],
)
def test_a_call_that_cannot_fit_is_refused_at_once(rr, args, kwargs, said):
    with pytest.raises(TypeError, match=r"scale\(value: 'int', factor: 'int' = 2.*" + said):
        rr.service(scale)(*args, **kwargs)


def test_what_is_needed_by_name_must_come_by_name(rr):
    service = rr.service(named_only)
    with pytest.raises(TypeError, match="missing a required.*'name'"):
        service()
    with pytest.raises(TypeError, match="too many positional arguments"):
        service(1)
    assert service(name="a").get() == "a"


def test_any_number_of_arguments_may_come_where_the_function_takes_them(rr):
    service = rr.service(first_of)
    assert service(1, 2, 3, 4).get() == 1
    with pytest.raises(TypeError, match="missing a required argument: 'first'"):
        service()


class Strategy:
    """Its methods are others than those that stand in the class."""

    def __init__(self, chosen=None):
        self.chosen = chosen
        if chosen == "short":
            self.solve = self._solve_short
        elif chosen is not None:
            self.solve = chosen

    def solve(self, first, second):
        return first + second

    def _solve_short(self, first):
        return -first


def test_an_object_s_methods_take_what_the_object_s_own_take(rr):
    """An instance may have callables in place of its class's methods, which only its worker knows."""
    for service in (rr.service(Strategy("short")), rr.service(Strategy, args=("short",))):
        assert service.solve(1).get() == -1
    assert rr.service(Strategy(scale)).solve(1, 2, plus=3).get() == 5
    strategy = Strategy()
    strategy.extra = scale  # that the class has not at all
    service = rr.service(strategy)
    assert service.extra(4).get() == 8 and service.extra.__doc__ == type(service.extra).__doc__
    assert rr.service(Strategy).solve(1, 2).get() == 3
    with pytest.raises(TypeError, match="solve"):
        rr.service(Strategy()).solve(1).get()


def test_what_a_wrapper_does_with_its_arguments_is_its_own_affair(rr):
    @functools.wraps(scale)
    def with_default(value=21):
        return scale(value)

    service = rr.service(with_default)
    assert service().get() == 42
    with pytest.raises(TypeError):  # the wrapper's own, from the worker: the signature that it shows would take them
        service(1, 2).get()

"""A chain's array goes from task to task of one process as the object that it is; no task can tell it from one read anew."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from gates import Gate, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flame_fast import Runner

SOME = 6_000
KEPT: list = []


def start(gate, array):
    gate.wait()
    return array


def require_fresh(array):
    """Check what every task of a chain finds, whatever the one before did to the object."""
    assert type(array) is np.ndarray
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert array.dtype.metadata is None
    return array


def pass_on(array):
    return require_fresh(array)


def write(array):
    require_fresh(array)[3] += 1
    return array


def keep(array):
    KEPT.append(require_fresh(array))
    return array


def write_what_was_kept(array):
    for kept in KEPT:
        kept[5] += 10
    return require_fresh(array)


def keep_weakly(array):
    KEPT_WEAKLY.append(weakref.ref(require_fresh(array)))
    return array


def write_what_was_kept_weakly(array):
    for kept in KEPT_WEAKLY:
        assert kept() is None or kept() is not array
        if kept() is not None:
            kept()[7] += 100
    return require_fresh(array)


def lock(array):
    require_fresh(array).setflags(write=False)
    return array


def mark(array):
    require_fresh(array).dtype = np.dtype(array.dtype, metadata={"unit": "m"})
    return array


def cut(array):
    return require_fresh(array)[1:]


def turn(array):
    return require_fresh(array)[::-1].copy()


KEPT_WEAKLY: list = []
DEEDS = [pass_on, write, keep, write_what_was_kept, keep_weakly, write_what_was_kept_weakly, lock, mark, cut, turn]


def expected(deeds):
    """Return what a chain gives if each task is given a copy."""
    array = np.arange(SOME, dtype=float)
    for deed in deeds:
        array = array.copy()
        if deed is write:
            array[3] += 1
        elif deed is cut:
            array = array[1:]
        elif deed is turn:
            array = array[::-1]
    return array


@pytest.fixture
def chains(project):
    """Yield a Runner of one worker, which so has every task of a chain, and its services."""
    with Runner("chains", workers=1) as rr:
        yield rr, {deed: rr.service(deed) for deed in DEEDS}, rr.service(start)


@given(deeds=st.lists(st.sampled_from(DEEDS), max_size=12), looked_at=st.sets(st.integers(0, 11)))
@settings(deadline=None, database=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_chain_gives_what_one_of_copies_gives(chains, deeds, looked_at):
    rr, services, first = chains
    with Gate() as gate:
        futures = [first(gate, np.arange(SOME, dtype=float))]
        for deed in deeds:
            futures.append(services[deed](futures[-1]))
        seen = {i: futures[i] for i in looked_at if i < len(futures)}
        last = futures[-1]
        del futures
        gate.open()
        assert np.array_equal(last.get(), expected(deeds))
    for i, future in seen.items():
        assert np.array_equal(future.get(), expected(deeds[:i]))


def test_a_future_twice_in_a_call_is_one_array(chains):
    rr, _, first = chains

    def write_one(one, other):
        one[0] = -1
        return one is other

    with Gate() as gate:
        future = first(gate, np.arange(SOME, dtype=float))
        both = rr.service(write_one)(future, future)
        gate.open()
        assert both.get()
    assert future.get()[0] == 0


def test_a_task_of_two_inputs_that_finish_at_different_times(chains):
    rr, services, first = chains
    with Gate() as gate:
        array = first(gate, np.arange(SOME, dtype=float))
        earlier, later = services[pass_on](array), services[write](array)
        total = rr.service(np.add)(earlier, later)
        gate.open()
        assert np.array_equal(total.get(), expected([]) + expected([write]))


def test_what_was_passed_on_is_given_back(project):
    """A chain that has ended leaves nothing in its worker, though nothing more is called."""
    with Runner("ends", workers=1) as rr:
        first, on = rr.service(start), rr.service(pass_on)
        on(np.zeros(1)).wait()
        before = rr.statistics().bytes
        with Gate() as gate:
            future = on(on(first(gate, np.zeros(1 << 20))))
            gate.open()
            future.wait()
        assert rr.statistics().bytes > before + (1 << 22)
        del future
        wait_until(lambda: rr.statistics().bytes <= before + (1 << 20), "giving the array back")

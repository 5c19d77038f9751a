"""Globals that a program changes between two calls of a function: `Executor`, `Pool` and named services see them."""

from __future__ import annotations

import pytest
from flame_fast.kernels.runtime import GlobalsLook, begin_cell
from gates import PATIENCE_S
from modules_in_memory import run_cell

from flame_fast import Executor, Pool, Runner, SessionContext

PROGRAM = """
import types
import numpy as np
FACTOR, NAMES, DEEP, NOTHING = 1, ["a"], {"deep": {"er": [1]}}, None
SETTINGS = types.SimpleNamespace(scale=1)
TABLE = {number: 0 for number in range(1000)}
SMALL, LARGE = np.zeros(3), np.zeros(100_000)
class Model:
    level = 1
    def version(self):
        return 1
MODEL = Model()
def far():
    return FACTOR
def helper():
    return far()
def later():
    try:
        return LATER
    except NameError:
        return None
def work(number=0):
    return (
        number, helper(), NAMES[-1], DEEP["deep"]["er"][0], SETTINGS.scale, TABLE[5], float(SMALL[1]), float(LARGE[7]),
        Model().version(), vars(MODEL).get("level"), NOTHING, later(),
    )
"""

#: Changes that every call sees: what is run in the module.
SEEN_AT_ONCE = {
    "name bound again": "FACTOR = 2",
    "to a value of another type": "FACTOR = 1.0",
    "to a container": "NOTHING = [1]",
    "list": "NAMES.append('b')",
    "deep": "DEEP['deep']['er'][0] = 2",
    "attribute of an object without weak references": "SETTINGS.scale = 2",
    "attribute of an instance": "MODEL.level = 7",
    "small array": "SMALL[1] = 5",
    "large table that grew": "TABLE[5] = 3\nTABLE['more'] = 1",
    "class defined again": "class Model:\n    def version(self):\n        return 2",
    "helper's helper defined again": "def far():\n    return 10 * FACTOR",
    "name that there was not": "LATER = 1",
}

#: Changes that a notebook's next cell sees.
SEEN_BY_THE_NEXT_CELL = {
    "large table": "TABLE[5] = 4",
    "large array": "LARGE[7] = 5",
    "patched method": "Model.version = lambda self: 3",
}


@pytest.fixture
def module(define):
    return define(PROGRAM)


@pytest.fixture
def executor(project):
    with Executor(1) as made:
        yield made


def results(executor, work):
    """Return what calls return, one of each way."""
    return [executor.submit(work).result(PATIENCE_S) for _ in range(3)] + list(executor.map(work, [0], timeout=PATIENCE_S))


def differs(left, right):
    return repr(left) != repr(right)  # 1 and 1.0 are equal


@pytest.mark.parametrize("change", SEEN_AT_ONCE)
def test_a_call_finds_what_has_changed_since_the_last_one(executor, module, change):
    before = module.work()
    assert not differs(results(executor, module.work), [before] * 4)
    run_cell(module, SEEN_AT_ONCE[change])
    assert differs(module.work(), before)
    assert not differs(results(executor, module.work), [module.work()] * 4)


@pytest.mark.parametrize("change", SEEN_BY_THE_NEXT_CELL)
def test_a_call_in_the_next_cell_finds_what_has_changed_in_large_values(executor, module, change):
    before = module.work()
    results(executor, module.work)
    begin_cell()
    run_cell(module, SEEN_BY_THE_NEXT_CELL[change])
    assert module.work() != before
    assert results(executor, module.work) == [module.work()] * 4


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_pool_finds_it_too(project, module, chunksize):
    with Pool(1) as pool:
        for change in ("other = 1", SEEN_AT_ONCE["deep"], SEEN_BY_THE_NEXT_CELL["large array"]):
            begin_cell()
            run_cell(module, change)
            assert pool.map(module.work, [1, 2], chunksize=chunksize) == [module.work(1), module.work(2)]
            assert pool.apply(module.work) == module.work()


def test_while_nothing_changes_a_function_keeps_its_service(executor, module):
    results(executor, module.work)
    kept = executor._functions._services[module.work][0]
    for change in ("other = 1", "FACTOR = int('1')", "other = 2"):
        run_cell(module, change)
        results(executor, module.work)
        begin_cell()
        results(executor, module.work)
        assert executor._functions._services[module.work][0] is kept


def test_a_name_bound_again_for_each_call_is_right_each_time(executor, module):
    """However often: then the function travels with each call, and no service is made any more."""
    for number in range(200):
        module.FACTOR = number
        assert executor.submit(module.far).result(PATIENCE_S) == number
    assert module.far not in executor._functions._services


def test_a_named_session_is_of_the_globals_of_the_last_service(project, module):
    module.work._session_context = SessionContext("named")
    with Runner("named", workers=1) as rr:
        first = rr.service(module.work)
        assert rr.service(module.work) is first
        before = module.work()
        module.LARGE[7] = 5
        second = rr.service(module.work)
        assert second is not first and second.session_id == first.session_id
        assert first().get(PATIENCE_S) == before and second().get(PATIENCE_S) == module.work()
        first.close()
        assert rr.service(module.work) is second


def test_a_look_keeps_nothing_alive_but_small_constants(module):
    import weakref

    look = GlobalsLook([(module.work, name) for name in ("LARGE", "SMALL", "MODEL", "FACTOR", "MISSING")])
    assert look and look.is_current()
    gone = [weakref.ref(module.LARGE), weakref.ref(module.SMALL), weakref.ref(module.MODEL)]
    del module.LARGE, module.SMALL, module.MODEL
    assert [reference() for reference in gone] == [None] * 3
    assert not look.is_current()
    user, module.work = weakref.ref(module.work), None
    assert user() is None and not look.is_current()
    assert not GlobalsLook([])

"""`flame_fast.app`: decorated functions and classes of one application, in the place of a Runner and its services."""

from __future__ import annotations

import functools
import math
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from app_services import Broken, Counter, cube, fibonacci, nested, scaling, shifting, square, where
from applications import registered
from definition_matrix import run_program
from gates import PATIENCE_S, add, fail, passes_in_child, run_script, wait_until

import flame_fast
from flame_fast import FlameError, FlameErrorCode, ObjectFuture, ObjectRef, Runner, TaskTimeoutError, WorkerDiedError, app


@pytest.fixture
def application(project):
    runner = app.init("face", workers=2)
    yield runner
    app.destroy()


def refused(code, *parts):
    """Expect an error of a code that names some parts."""
    return pytest.raises(FlameError, check=lambda error: error.code is code and all(part in str(error) for part in parts))


# ---- functions -------------------------------------------------------------------------------------------------------


def test_a_function_stays_what_it_is(application):
    assert square(3) == 9
    assert where() == os.getpid()
    assert (square.__name__, square.__doc__, square.__module__) == ("square", "Square a number.", "app_services")
    assert pickle.loads(pickle.dumps(square)) is square
    future = square.remote(number=4)
    assert isinstance(future, ObjectFuture)
    assert future.get(PATIENCE_S) == 16
    assert where.remote().get(PATIENCE_S) != os.getpid()
    assert repr(square.remote) == "square.remote"


def test_futures_are_collected_as_a_runner_collects_them(application):
    futures = [square.remote(number) for number in range(5)]
    assert app.get(futures, PATIENCE_S) == [0, 1, 4, 9, 16]
    assert app.get({"a": futures[2], "b": [7]}) == {"a": 4, "b": [7]}
    assert app.wait(futures) is None
    assert app.wait(futures, num_returns=5) == (futures, [])
    assert sorted(future.get() for future in app.select(futures)) == [0, 1, 4, 9, 16]
    ref = app.ref(futures[4])
    assert isinstance(ref, ObjectRef)
    assert square.remote(square.remote(ref)).get(PATIENCE_S) == 16**4
    stored = app.put_object(np.arange(10_000))
    assert square.remote(stored).get(PATIENCE_S)[-1] == 9_999**2
    assert app.put is app.put_object
    failed = app.get([app.service(fail).remote(KeyError("text"))], return_exceptions=True)
    assert [type(error) for error in failed] == [KeyError]
    assert app.cancel(futures) == 0  # they are done


def test_local_functions_partials_and_compiled_ones_are_services(application):
    shifted, shift = shifting(10)
    assert shifted(1) == shifted.remote(1).get(PATIENCE_S) == 11
    shift(20)
    assert shifted.remote(1).get(PATIENCE_S) == 21
    assert app.service(functools.partial(add, 5)).remote(2).get(PATIENCE_S) == 7
    for function, remote in ((math.hypot, app.service()(math.hypot)), (add, app.service()(add))):
        assert remote(3, 4) == remote.remote(3, 4).get(PATIENCE_S) == function(3, 4)
        assert remote.__name__ == function.__name__
        assert not hasattr(function, "remote")  # it is another module's


def test_a_cached_function_is_a_service(application):
    assert (cube(2), cube.remote(3).get()) == (8, 27)
    assert cube.cache_info().currsize == 1


def test_a_service_of_its_own_has_what_remote_has_not(application):
    service = app.remote(square)
    assert list(service.map(range(4))) == [0, 1, 4, 9]
    assert service.session_id != app.remote(square).session_id
    with pytest.raises(TaskTimeoutError):
        app.remote(app.service(signal.pause)).options(timeout=0.01)().get(PATIENCE_S)
    counter = app.remote(Counter, 3, step=2)
    assert counter.add().get(PATIENCE_S) == 5


def test_options_reach_the_service(application):
    for cpu in ("cpu=1000000", flame_fast.ResourceRequirement(cpu=1_000_000)):
        with refused(FlameErrorCode.INVALID_ARGUMENT, "at most"):
            app.service(resreq=cpu)(add).remote(1, 2)
    one = app.service(autoscale=False)(os.getpid)
    assert len({*app.get([one.remote() for _ in range(50)], PATIENCE_S)}) == 1


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_an_instance_is_made_in_a_process_of_its_own(application):
    local = Counter(1)
    assert isinstance(local, Counter) and isinstance(Counter, type)
    assert (local.add(), local.made_in) == (2, os.getpid())
    first, second = Counter.remote(10), Counter.remote(step=app.put_object(3))
    assert app.get([first.add(square.remote(number)) for number in range(4)], PATIENCE_S) == [10, 11, 15, 24]
    assert app.get([second.add(), first.add(0)], PATIENCE_S) == [3, 24]
    pids = app.get([first.pids(), second.pids()], PATIENCE_S)
    assert all(made_in == at_work for made_in, at_work in pids)
    assert len({os.getpid(), pids[0][0], pids[1][0]}) == 3
    first.close()
    with refused(FlameErrorCode.INVALID_STATE, "closed"):
        first.add()
    assert second.add().get(PATIENCE_S) == 6


def test_what_a_constructor_raises_every_call_raises(application):
    broken = Broken.remote("no such thing")
    for future in (broken.work(), broken.work()):
        with pytest.raises(LookupError) as caught:
            future.get(PATIENCE_S)
        assert caught.value.args == ("no such thing", 7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        Counter.remote(wrong=1).add().get(PATIENCE_S)
    assert Counter.remote().add().get(PATIENCE_S) == 1
    with pytest.raises(TypeError, match="'Counter' cannot be pickled"):
        Counter.remote(threading.current_thread())


def test_local_callable_and_derived_classes_are_services(application):
    scale, derived = scaling()
    assert scale.remote(3)(square.remote(2)).get(PATIENCE_S) == 12
    derived = derived.remote(np.arange(3))
    assert app.get([derived(2), derived.shift(1)], PATIENCE_S)[1].tolist() == [1, 2, 3]


def test_a_class_that_scales_has_an_instance_in_each_worker(application):
    counter = app.service(warmup=2)(type("Several", (Counter,), {"__module__": "app_services"})).remote(100)
    assert min(app.get([counter.add() for _ in range(60)], PATIENCE_S)) == 101
    pids = app.get([counter.pids() for _ in range(60)], PATIENCE_S)
    assert all(made_in == at_work for made_in, at_work in pids)
    others = app.get([where.remote() for _ in range(60)], PATIENCE_S)
    assert len({made_in for made_in, _ in pids} | {*others}) <= 2  # the workers there are, no process of its own


def test_an_instance_that_died_is_made_anew_if_it_may_be(application):
    again = app.service(restart=True)(type("Again", (Counter,), {"__module__": "app_services"})).remote(5)
    assert again.add().get(PATIENCE_S) == 6
    with pytest.raises(WorkerDiedError):
        again.end().get(PATIENCE_S)
    assert again.add().get(PATIENCE_S) == 6
    once = Counter.remote(5)
    with pytest.raises(WorkerDiedError):
        once.end().get(PATIENCE_S)
    with pytest.raises(WorkerDiedError):
        once.add().get(PATIENCE_S)


# ---- in tasks --------------------------------------------------------------------------------------------------------


def test_tasks_call_functions_and_make_instances(project):
    """With one worker. However often a task decorates a function of its own, no service of that stays."""
    app.init("face", workers=1)
    try:
        counter = Counter.remote()
        assert fibonacci.remote(7).get(PATIENCE_S) == 13
        for total in (4, 8, 12):
            assert nested.remote(4, counter).get(PATIENCE_S) == ([5, 16, 5, total], 1)
    finally:
        app.destroy()


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_tasks_of_any_runner_are_an_application(engine, project):
    with Runner("any", workers=1, engine=engine) as rr:
        assert rr.service(fibonacci)(6).get(PATIENCE_S) == 8
    app.destroy()


def test_the_inline_engine_runs_all_of_it_here(project):
    app.init("inline", engine="inline")
    assert app.get([fibonacci.remote(6), where.remote(), Counter.remote(3).add()]) == [8, os.getpid(), 4]
    app.destroy()


# ---- init and destroy ------------------------------------------------------------------------------------------------


def test_an_application_has_one_name_at_a_time(application):
    assert isinstance(application, Runner)
    assert app.init("face", workers=1) is application
    with refused(FlameErrorCode.INVALID_STATE, "'other'", "'face'", "app.destroy()"):
        app.init("other")
    assert registered() == ["face"]
    assert application.statistics().failed == 0


def test_without_an_application_remote_says_what_to_do(project):
    for call in (square.remote, Counter.remote, app.get, app.put_object, functools.partial(app.remote, square)):
        with refused(FlameErrorCode.INVALID_STATE, "app.init(name)"):
            call(*[1] * (call is not Counter.remote and not isinstance(call, functools.partial)))
    assert square(2) == 4
    app.destroy()


def test_an_application_that_ended_can_be_followed_by_another(project):
    app.init("first", workers=1)
    first, counter = where.remote().get(PATIENCE_S), Counter.remote()
    app.destroy()
    app.destroy()
    with refused(FlameErrorCode.INVALID_STATE, "app.init(name)"):
        where.remote()
    with app.init("second", workers=1) as runner:
        assert where.remote().get(PATIENCE_S) != first
        with refused(FlameErrorCode.INVALID_STATE):
            counter.add()
    with refused(FlameErrorCode.INVALID_STATE, "closed"):
        where.remote()
    with refused(FlameErrorCode.INVALID_STATE, "app.init(name)"):
        app.get([])
    assert app.init("third", workers=1) is not runner
    assert where.remote().get(PATIENCE_S) != first
    app.destroy()


def test_threads_that_call_first_share_a_service(application):
    barrier = threading.Barrier(8)

    def call(number):
        barrier.wait(PATIENCE_S)
        return square.remote(number).get(PATIENCE_S)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [number**2 for number in range(8)]
    assert len(application._sessions) == 1


def test_a_forked_child_starts_an_application_of_its_own(application):
    assert square.remote(2).get(PATIENCE_S) == 4

    def child():
        with refused(FlameErrorCode.INVALID_STATE, "forked"):
            square.remote(2)
        app.init("child", workers=1)
        assert square.remote(3).get(PATIENCE_S) == 9
        app.destroy()

    assert passes_in_child(child)
    assert square.remote(4).get(PATIENCE_S) == 16


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_a_service_is_refused():
    with pytest.raises(TypeError, match=r"expected a function or a class, got 3"):
        app.service(3)
    with pytest.raises(TypeError, match=r"Counter.remote\(\.\.\.\)"):
        app.service(Counter())
    with pytest.raises(TypeError, match="expected a class of your own"):
        app.service(dict)
    with pytest.raises(TypeError, match="'Has' has a 'remote' of its own"):
        app.service(type("Has", (), {"remote": 1}))
    with pytest.raises(ValueError, match="warmup must be a non-negative integer"):
        app.service(warmup=-1)
    with pytest.raises(ValueError, match="cpu"):
        app.service(resreq="cpu=many")
    with pytest.raises(TypeError, match="decorated by app.service"):
        app.remote(add)
    with pytest.raises(TypeError, match="when it is called"):
        app.remote(square, 1)


# ---- programs --------------------------------------------------------------------------------------------------------

SERVICES = """
import os
from flame_fast import app
app.init("in-a-module", workers=2)
LOADED = []

@app.service
def double(number):
    LOADED.append(number)
    return 2 * number, len(LOADED)

@app.service(autoscale=False, warmup=1)
def quadruple(number):
    return double.remote(double.remote(number).get()[0]).get()[0]

@app.service
class Sum:
    def __init__(self, start):
        self.total = start
    def add(self, number):
        self.total += double.remote(number).get()[0]
        return self.total
"""


def test_a_module_may_start_the_application_that_it_belongs_to(project):
    """Workers import it, and start nothing. A program that ends without destroy leaves nothing."""
    (project / "services.py").write_text(SERVICES)
    out = run_script(
        project,
        """
        from services import app, Sum, double, quadruple
        total = Sum.remote(100)
        print(quadruple.remote(3).get(), app.get([total.add(n) for n in range(3)]))
        print(double(1), double.remote(1).get()[0])
        """,
    )
    assert out.splitlines() == ["12 [100, 102, 106]", "(2, 1) 2"]


def test_a_module_that_calls_as_it_is_imported_is_told(project):
    (project / "services.py").write_text(SERVICES + "print(double.remote(1).get())\n")
    done = run_script(project, "import services\n", check=False)
    assert done.returncode == 1
    assert "double.remote is called by a module while a worker imports that module" in done.stderr
    wait_until(lambda: registered() == [], "the application's end")


CELLS = [
    """
from flame_fast import app

@app.service
def square(number):
    return number * number

@app.service
class Model:
    def __init__(self, factor):
        self.factor = factor
    def fit(self, number):
        return Result(self.factor * square.remote(number).get())

class Result:
    def __init__(self, value):
        self.value = value
""",
    """
app.init("cells", workers=1)
model = Model.remote(10)
first = model.fit(3).get()
assert type(first) is Result and first.value == 90
assert type(app.put_object(Model(2)).get()) is Model
""",
    """
@app.service
def square(number):
    return number
assert app.get([square.remote(3), Model.remote(10).fit(3)])[0] == 3
assert Model.remote(10).fit(3).get().value == 30
print("done")
""",
]


@pytest.mark.parametrize("mode", ["-c", "notebook"])
def test_programs_without_modules_define_services(mode, project):
    assert run_program(mode, project, CELLS, "app.destroy()").splitlines() == ["done"]

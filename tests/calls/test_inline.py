"""One behaviour, two engines: what holds for worker processes holds in the driver itself as well."""

from __future__ import annotations

import collections
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from gates import add, fail, new_module, same

from flame_fast import FlameError, FlameErrorCode, ObjectRef, Runner, RunnerService, TaskError, list_applications

ENGINES = ["local", "inline"]


@pytest.fixture(params=ENGINES)
def rr(project, request):
    with Runner("engines", workers=2, engine=request.param) as runner:
        yield runner


@pytest.fixture
def inline(project):
    with Runner("inline", engine="inline") as runner:
        yield runner


class Counter:
    def __init__(self, start=0):
        self.count = start
        self.array = np.zeros(3)

    def up(self, by=1, fail=False):
        self.count += by
        self.array += by
        if fail:
            raise ValueError("after the change")
        return self.count

    def look(self):
        return self.count, float(self.array.sum())


class Callable(Counter):
    def __call__(self, number):
        return self.count + number


# ---- what both do --------------------------------------------------------------------------------------------------------


def test_functions(rr):
    assert rr.get([rr.service(add)(number, b=1) for number in range(100)]) == list(range(1, 101))
    factor = 2
    scaled = rr.service(lambda value: factor * value)
    first = scaled(3)
    factor = 5
    assert rr.get([first, scaled(3)]) == [6, 15]
    assert rr.service(len)("abc").get() == 3
    assert rr.get(rr.service(lambda: 1)) == [1]


def test_classes(rr):
    service = rr.service(Counter, autoscale=False)
    assert [future.get() for future in [service.up() for _ in range(20)]] == list(range(1, 21))
    with pytest.raises(TypeError, match="is not callable"):
        service()


def test_instances_keep_their_state_and_the_callers_object_its_own(rr):
    counter = Counter(5)
    service = rr.service(counter)
    with pytest.raises(ValueError, match="after the change"):
        service.up(fail=True).get()
    assert service.up(10).get() == 16
    assert service.look().get() == (16, 33.0)
    assert (counter.count, counter.array.tolist()) == (5, [0, 0, 0])
    service = rr.service(Callable(1))
    assert (service(5).get(), service.up().get(), service(5).get()) == (6, 2, 7)


def test_instances_cannot_be_autoscaled(rr):
    with pytest.raises(ValueError, match="always fixed"):
        rr.service(Counter(), autoscale=True)
    with pytest.raises(ValueError, match="non-negative integer"):
        rr.service(add, warmup=-1)


def test_futures_as_arguments(rr):
    plus = rr.service(add)
    future = plus(1, 2)
    assert plus(future, rr.put_object(4)).get() == 7
    assert rr.service(same)([{"a": (future, {"b": future})}]).get() == [{"a": (3, {"b": 3})}]
    for _ in range(200):
        future = plus(future, 1)
    assert future.get() == 203
    assert rr.service(sum)([plus(number) for number in range(70)]).get() == sum(range(70))
    assert rr.service(Counter()).up(plus(1, 1)).get() == 2


def test_shapes(rr):
    plus = rr.service(add)
    pair = collections.namedtuple("pair", "a b")
    assert rr.get(plus(1)) == 1
    assert rr.get([plus(1), (plus(2), {"x": plus(3)}), "text"]) == [1, (2, {"x": 3}), "text"]
    assert rr.get(pair(plus(1), 2)) == (1, 2)
    assert rr.get(plus(number) for number in range(3)) == [0, 1, 2]
    assert rr.wait([plus(1)]) is None
    assert isinstance(rr.ref([plus(1)])[0], ObjectRef)
    assert sorted(future.get() for future in rr.select([plus(number) for number in range(10)])) == list(range(10))
    assert list(rr.select([])) == []
    with pytest.raises(StopIteration):
        next(rr.select([]))


def test_futures(rr):
    future = rr.service(add)(1, 2)
    assert future.wait() is None
    assert (future.done(), future.exception(), future.get(timeout=0), future.ref().get()) == (True, None, 3, 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_errors(project, monkeypatch, engine):
    module = new_module(
        monkeypatch,
        project,
        """
        class Own(Exception):
            pass

        def broken(number):
            raise Own(number)
        """,
    )
    with Runner("errors", workers=1, engine=engine) as rr:
        future = rr.service(module.broken)(5)
        errors = [future.exception(), future.exception()]
        with pytest.raises(module.Own) as caught:
            future.get()
    errors.append(caught.value)
    assert len(set(map(id, errors))) == 3
    for error in errors:
        assert error.args == (5,)
        text = str(error.__cause__)
        assert f'File "{module.__file__}", line ' in text
        assert "in broken" in text
        assert "flame_fast" not in text.replace(str(project), "")


def test_failed_inputs(rr):
    failed = rr.service(fail)(KeyError("k"))
    ran = []
    chained = rr.service(lambda value: ran.append(value))(failed)
    for future in (failed, chained, rr.service(add)(chained)):
        with pytest.raises(KeyError, match="k"):
            future.get()
    assert ran == []
    other = rr.service(fail)(ValueError())
    with pytest.raises(KeyError):
        rr.get([rr.service(add)(1), failed, other])
    assert isinstance(other.exception(), ValueError)


def test_what_cannot_travel(rr):
    with pytest.raises(TypeError, match="lock"):
        rr.service(same)(threading.Lock())
    with pytest.raises(TaskError, match="lock"):
        rr.service(lambda: threading.Lock())().get()
    for error in (SystemExit(3), KeyboardInterrupt("stop")):
        with pytest.raises(TaskError, match=type(error).__name__):
            rr.service(fail)(error).get()


def test_async_functions_and_generators(rr):
    async def compute(number):
        return number + 1

    def generate():
        yield 1

    assert rr.service(compute)(1).get() == 2
    with pytest.raises(TypeError, match="return a list"):
        rr.service(generate)().get()


def test_values_are_copies_and_arrays_the_receivers_own(rr):
    items, array = [1], np.arange(5)

    def look(items, array):
        items.append(2)
        array[1] = 7
        return items, array

    future = rr.service(look)(items, array)
    items.append("later")
    array[0] = 9
    first, second = future.get(), future.get()
    assert first[0] == second[0] == [1, 2]
    assert first[0] is not second[0]
    first[1][2] = 8
    assert first[1].tolist() == [0, 7, 8, 3, 4]
    assert second[1].tolist() == [0, 7, 2, 3, 4]
    assert array.tolist() == [9, 1, 2, 3, 4]
    assert items == [1, "later"]
    ref = rr.put_object(array)
    array[0] = 0
    assert ref.get()[0] == 9


def test_a_service_or_runner_given_to_a_task_works_there(rr):
    plus = rr.service(add)
    counter = rr.service(Counter())

    def use(service, counter):
        return sum(service(number, 1).get() for number in range(5)), counter.up(3).get()

    def use_runner(runner):
        with runner as inner:
            return inner.get([inner.service(lambda value=value: value * value)() for value in range(4)])

    assert rr.service(use)(plus, counter).get() == (15, 3)
    assert rr.service(lambda: plus(1, 1).get())().get() == 2
    assert counter.up().get() == 4
    assert rr.service(use_runner)(rr).get() == [0, 1, 4, 9]
    assert rr.service(add)(1, 2).get() == 3


def test_a_runner_made_in_a_task(rr):
    def nested(depth):
        with Runner("nested") as inner:
            if depth == 0:
                return inner.service(lambda: "bottom")().get()
            return inner.service(nested)(depth - 1).get()

    assert rr.service(nested)(3).get() == "bottom"


def test_a_future_returned_from_a_task_arrives_as_its_value(rr):
    plus = rr.service(add)
    assert rr.service(lambda: [plus(1, 2)])().get() == [3]


def test_an_instance_that_waits_for_itself_is_told(rr):
    class Self:
        def own(self, service):
            return service.other().get()

        def other(self):
            return 1

    service = rr.service(Self())
    with pytest.raises(FlameError) as caught:
        service.own(service).get(timeout=20)
    assert caught.value.code is FlameErrorCode.INVALID_STATE
    assert service.other().get(timeout=20) == 1


@pytest.mark.filterwarnings("ignore:.*unfinished call")  # nobody waits for what `own` makes
def test_calls_made_by_an_instance_to_itself_run_after_it(rr):
    class Self:
        def __init__(self):
            self.log = []

        def own(self, service, look):
            later = service.note("later")
            look(later)
            self.log.append("own")

        def note(self, item):
            self.log.append(item)
            return list(self.log)

    service = rr.service(Self())
    looking = rr.service(same)
    service.own(service, looking).get(timeout=20)
    assert service.note("last").get(timeout=20) == ["own", "later", "last"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_end(project, engine):
    with Runner("ending", workers=1, engine=engine) as rr:
        service, closed = rr.service(add), rr.service(Counter())
        future, ref = service(1), rr.put_object([2])
        large = rr.service(same)(np.arange(100_000))
        rr.wait([future, large])
        closed.close()
        with pytest.raises(FlameError) as caught:
            closed.up()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    assert (future.get(), ref.get(), large.get()[-1]) == (1, [2], 99_999)
    for use in (lambda: service(1), lambda: rr.put_object(1), lambda: rr.get(future), lambda: rr.service(add)):
        with pytest.raises(FlameError) as caught:
            use()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    rr.close()


def test_reserved_names(rr):
    class Reserved:
        def map(self, value):
            return "map", value

    with pytest.warns(UserWarning, match="'map'"):
        service = rr.service(Reserved())
    assert service.call("map", 1).get() == ("map", 1)


# ---- what is the inline engine's own --------------------------------------------------------------------------------------


def test_calls_run_in_the_driver_before_the_call_returns(inline):
    assert isinstance(inline.service(add), RunnerService)
    future = inline.service(lambda: (os.getpid(), threading.get_ident()))()
    assert future.done()
    assert future.get() == (os.getpid(), threading.get_ident())
    assert inline.service(Counter).up().done()
    assert inline.service(fail)(ValueError()).done()


SEEN = []


def note(item):
    SEEN.append(item)


def test_calls_run_in_the_order_made(inline):
    SEEN.clear()
    service = inline.service(note)
    for number in range(50):
        service(number)
    assert [*SEEN] == list(range(50))


def test_a_debugger_sees_the_tasks_frames(inline):
    """What coverage and debuggers stand on: the tracing function of the driver."""
    lines = []

    def trace(frame, event, argument):
        if frame.f_code is add.__code__:
            lines.append(event)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        inline.service(add)(1, 2)
    finally:
        sys.settrace(before)
    assert lines[:2] == ["call", "line"]


def test_no_process_is_started(inline):
    before = children()
    inline.service(Counter(), warmup=1).up().get()
    inline.service(add, warmup=1)(1).get()
    assert children() == before
    assert [application.name for application in list_applications() if application.name != "flmrun"] == ["inline"]


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_output_goes_straight_to_the_drivers_streams(inline, capsys):
    inline.service(print)("from the task")
    assert capsys.readouterr().out == "from the task\n"


def test_calls_from_several_threads(inline):
    counter, plus, errors = inline.service(Counter()), inline.service(add), []

    def use():
        try:
            for number in range(100):
                counter.up()
                assert plus(plus(number), 1).get() == number + 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert counter.look().get() == (400, 1200.0)


def test_the_drivers_thread_limits_stay_as_they_were(inline):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    from flame_fast import ResourceRequirement

    inline.service(add, resreq=ResourceRequirement(cpu=1))(1)
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


@pytest.mark.parametrize("engine", ["", "Local", "threads", None, 3])
def test_an_unknown_engine_is_refused(project, nothing_left, engine):
    with pytest.raises(FlameError) as caught:
        Runner("unknown", engine=engine)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert "'local'" in caught.value.message
    assert "'inline'" in caught.value.message
    assert not list(nothing_left.rglob("*.db"))

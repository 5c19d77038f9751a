"""Options of calls: time-outs, deadlines, retries, priorities."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, hold, same, wait_until
from option_tasks import (
    Dies,
    Letters,
    Lines,
    Refused,
    Spinner,
    attempt,
    attempt_inside,
    attempt_nothing,
    attempt_to_add,
    attempts_at,
    double,
    hold_inside,
    inverse,
    note,
    print_and_attempt,
    print_and_count,
    prints,
    prints_and_ends,
    prints_around,
    spin,
    survive,
)

from flame_fast import FlameError, FlameErrorCode, Runner, TaskTimeoutError, WorkerDiedError


@pytest.fixture
def rr(project):
    with Runner("options", workers=1) as made:
        yield made


# ---- time-outs and deadlines ---------------------------------------------------------------------------------------------


def test_a_call_over_its_time_is_ended_alone(project):
    with Runner("timeouts", workers=2) as rr, Gate() as gate:
        beside = rr.service(hold)(gate, 7)
        gate.entered()
        future = rr.service(spin).options(timeout=0.1)()
        behind = rr.service(add)(1, 2)
        with pytest.raises(TaskTimeoutError, match=r"call \d+ of service 'spin' .*timeout of 0.1 s") as caught:
            future.get(PATIENCE_S)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.code is FlameErrorCode.INTERNAL
        assert behind.get(PATIENCE_S) == 3
        gate.open()
        assert beside.get(PATIENCE_S) == 7


def test_a_method_over_its_time(rr):
    with pytest.raises(TaskTimeoutError, match=r"call \d+ of 'spin' of service '.*Spinner'"):
        rr.service(Spinner).options(timeout=0.1).spin().get(PATIENCE_S)


def test_waiting_in_a_queue_is_no_run_time(rr):
    with Gate() as gate:
        rr_hold = rr.service(hold)(gate)
        gate.entered()
        future = rr.service(same).options(timeout=0.05)(1)
        time.sleep(0.2)
        assert not future.done()
        gate.open()
        assert future.get(PATIENCE_S) == 1
        rr_hold.get(PATIENCE_S)


def test_a_deadline_counts_from_the_submission(rr, project):
    with Gate() as gate:
        blocked = rr.service(hold)(gate)
        gate.entered()
        queued = rr.service(attempt).options(deadline=0.1)(project / "ran", 1)
        waiting = rr.service(same).options(deadline=0.1)(blocked)
        for future in (queued, waiting):
            with pytest.raises(TaskTimeoutError, match="had not begun by its deadline, 0.1 s"):
                future.get(PATIENCE_S)
        gate.open()
        blocked.get(PATIENCE_S)
    with pytest.raises(TaskTimeoutError, match="had not ended by its deadline, 0.2 s"):
        rr.service(spin).options(deadline=0.2)().get(PATIENCE_S)
    assert attempts_at(project / "ran") == 0


def test_in_time_nothing_happens(rr):
    limited = rr.service(same).options(timeout=60, deadline=120)
    assert rr.get([limited(number) for number in range(2000)]) == list(range(2000))


def test_limits_do_not_reach_what_a_call_waits_for(rr, project):
    """With one worker, a call without limits would run inside the wait of the one that is ended."""
    with Gate() as gate:
        outer = rr.service(hold_inside).options(timeout=3)(rr.service(hold).options(detached=True), gate)
        gate.entered()
        with pytest.raises(TaskTimeoutError):
            outer.get(PATIENCE_S)
        gate.open()
    assert rr.service(same)(1).get(PATIENCE_S) == 1


def test_a_limited_call_inside_a_wait_ends_alone(rr):
    assert rr.service(survive)(rr.service(spin).options(timeout=0.1)).get(PATIENCE_S) == "went on"


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_a_late_call_does_not_begin(project, engine):
    with Runner("late", workers=1, engine=engine) as rr:
        calls = rr.service(same).options(deadline=1e-9)
        with pytest.raises(TaskTimeoutError, match="had not (begun|ended) by its deadline"):
            calls(1).get(PATIENCE_S)


# ---- retries -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_what_a_call_raises_is_retried(project, engine):
    with Runner("retries", workers=1, engine=engine) as rr:
        careful = rr.service(attempt).options(retries=3, retry_on=(Refused, KeyError))
        assert careful(project / "third", 3).get(PATIENCE_S) == 3
        with pytest.raises(Refused, match="try 4") as caught:
            careful(project / "never", 9).get(PATIENCE_S)
        assert caught.value.__notes__ == [f"attempt {n}: {Refused.__module__}.Refused: try {n}" for n in (1, 2, 3)]
        assert attempts_at(project / "never") == 4


def test_deaths_are_retried(rr, project):
    careful = rr.service(attempt).options(retries=2)
    assert careful(project / "third", 3, "die").get(PATIENCE_S) == 3
    with pytest.raises(WorkerDiedError) as caught:
        careful(project / "never", 9, "die").get(PATIENCE_S)
    assert [note.partition(":")[0] for note in caught.value.__notes__] == ["attempt 1", "attempt 2"]
    assert attempts_at(project / "never") == 3


def test_time_outs_are_retried(rr, project):
    limited = rr.service(attempt).options(retries=2, timeout=0.1)
    with pytest.raises(TaskTimeoutError) as caught:
        limited(project / "once", 2, "spin").get(PATIENCE_S)
    assert not hasattr(caught.value, "__notes__")
    assert limited.options(retry_on=TaskTimeoutError)(project / "twice", 2, "spin").get(PATIENCE_S) == 2


@pytest.fixture
def slow_import(project, monkeypatch):
    """Return a module that takes its time to be imported, by a worker only, and the Runner that packs it."""
    (project / "slow_import.py").write_text(
        "import os, time\n"
        f"if os.getpid() != {os.getpid()}: time.sleep(float(os.environ['SLOW']))\n"
        "def seconds(): return os.environ['SLOW']\n"
    )
    monkeypatch.syspath_prepend(project)
    monkeypatch.setenv("SLOW", "0.6")
    yield lambda: importlib.import_module("slow_import").seconds
    sys.modules.pop("slow_import", None)


def test_the_clock_of_a_time_out_starts_when_the_service_is_loaded(slow_import):
    """Else a call with less time than its imports take would end worker after worker, and never run."""
    with Runner("imports", workers=1) as rr:
        assert rr.service(slow_import()).options(timeout=0.3)().get(PATIENCE_S) == "0.6"


def test_a_deadline_holds_while_the_service_is_loaded(slow_import, monkeypatch):
    monkeypatch.setenv("SLOW", str(PATIENCE_S))
    with Runner("imports", workers=1) as rr, pytest.raises(TaskTimeoutError):
        rr.service(slow_import()).options(deadline=0.3)().get(PATIENCE_S)


def test_no_retry_after_the_deadline(rr, project):
    limited = rr.service(attempt).options(retries=50, retry_on=Exception, deadline=0.3, backoff=0.05)
    with pytest.raises((Refused, TaskTimeoutError)):
        limited(project / "tries", 99).get(PATIENCE_S)
    assert attempts_at(project / "tries") < 10


@pytest.mark.parametrize("backoff", [60, 0.4])
def test_a_deadline_in_a_pause_between_attempts_tells_of_those(rr, project, backoff):
    rr.service(attempt)(project / "begun", 1).wait(PATIENCE_S)
    limited = rr.service(attempt).options(retries=50, retry_on=Exception, deadline=1, backoff=backoff)
    with pytest.raises(
        TaskTimeoutError, match="had failed (once|2 times) and was to be tried again at its deadline, 1 s"
    ) as caught:
        limited(project / "tries", 99).get(PATIENCE_S)
    assert [line.partition(":")[0] for line in caught.value.__notes__] == ["attempt 1", "attempt 2"][
        : attempts_at(project / "tries")
    ]
    assert all("Refused: try" in line for line in caught.value.__notes__)


@pytest.mark.parametrize(("retry_on", "how"), [(Refused, "die"), (WorkerDiedError, "raise"), (TimeoutError, "raise")])
def test_other_failures_are_not_retried(rr, project, retry_on, how):
    with pytest.raises((Refused, WorkerDiedError)):
        rr.service(attempt).options(retries=5, retry_on=retry_on)(project / "once", 9, how).get(PATIENCE_S)
    assert attempts_at(project / "once") == 1


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_base_class_stands_for_all(rr, project, how):
    careful = rr.service(attempt).options(retries=2, retry_on=Exception)
    assert careful(project / "third", 3, how).get(PATIENCE_S) == 3


def test_arguments_stay_for_the_next_attempt(rr, project):
    numpy = pytest.importorskip("numpy")
    careful = rr.service(attempt_to_add).options(retries=2, retry_on=Refused)
    assert careful(project / "tries", numpy.ones(50_000), "x" * 100_000).get(PATIENCE_S) == (50_001, "x" * 100_000)
    assert careful(project / "more", rr.put_object(numpy.ones(10)), rr.service(same)("y")).get(PATIENCE_S) == (11, "y")


def test_others_do_not_wait_for_a_backoff(rr, project):
    started = time.monotonic()
    slow = rr.service(attempt).options(retries=2, retry_on=Refused, backoff=0.2)(project / "tries", 3)
    assert rr.service(add)(1, 2).get(PATIENCE_S) == 3
    assert not slow.done()
    assert slow.get(PATIENCE_S) == 3
    assert time.monotonic() - started >= 0.6  # 0.2 and 0.4


def test_a_call_in_its_backoff_is_cancelled(rr, project):
    slow = rr.service(attempt).options(retries=1, retry_on=Refused, backoff=1000)(project / "tries", 3)
    wait_until(lambda: rr.statistics().waiting == 1, "its first failure")
    assert slow.cancel()
    assert attempts_at(project / "tries") == 1


def test_a_retried_call_of_an_instance_runs_behind_the_others(rr, project):
    log = rr.service(Lines())
    with Gate() as gate:
        log.options(detached=True).hold(gate)
        gate.entered()
        calls = [log.options(retries=1, retry_on=Refused).add("retried", project / "tries"), log.add("next")]
        gate.open()
        assert rr.get(calls, PATIENCE_S) == [["next", "retried"], ["next"]]


def test_a_restarted_instance_is_retried(rr, project):
    service = rr.service(Dies(), restart=True).options(retries=1)
    assert service.work(project / "tries").get(PATIENCE_S) == (2, 1)


def test_a_view_in_a_task_keeps_its_options(rr, project):
    careful = rr.service(attempt).options(retries=2, retry_on=Refused)
    assert rr.service(attempt_inside)(careful, str(project / "tries")).get(PATIENCE_S) == 3


# ---- priorities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, False])
def test_urgent_calls_run_first(rr, project, limit):
    service = rr.service(note, autoscale=limit)
    urgent = service.options(priority="urgent")
    with Gate() as gate:
        held = rr.service(hold)(gate)
        gate.entered()
        calls = [service(project / "log", "n"), urgent(project / "log", "u"), service(project / "log", "n")]
        calls += [urgent(project / "log", "u"), urgent.options(priority="normal")(project / "log", "n")]
        gate.open()
        rr.get([held, calls], PATIENCE_S)
    assert (project / "log").read_text() == "uunnn"


def test_urgent_calls_of_an_instance_run_first(rr):
    log = rr.service(Letters())
    urgent = log.options(priority="urgent")
    with Gate() as gate:
        held = log.hold(gate)
        gate.entered()
        calls = [log.add("a"), urgent.add("b", held), log.add("c"), urgent.add("d")]
        gate.open()
        assert max(rr.get(calls, PATIENCE_S), key=len) == "bdac"


def test_an_urgent_call_waits_for_its_inputs(rr):
    with Gate() as gate:
        late = rr.service(hold)(gate, 1)
        urgent = rr.service(add).options(priority="urgent")(late, 1)
        gate.open()
        assert urgent.get(PATIENCE_S) == 2


# ---- captured output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_what_a_call_prints_is_kept_with_it(project, engine, capsys):
    with Runner("captures", workers=1, engine=engine) as rr:
        quiet = rr.service(prints).options(capture=True)
        done, failed = quiet("a"), quiet("b", KeyError("mine"))
        assert (done.get(PATIENCE_S), done.output()) == ("aa", "awarned\n")
        with pytest.raises(KeyError, match="mine"):
            failed.get(PATIENCE_S)
        assert failed.output(PATIENCE_S) == "bwarned\n"
        assert rr.service(add)(done, "c").get(PATIENCE_S) == "aac"
        plain = rr.service(prints)("shown")
        assert plain.get(PATIENCE_S) == "shownshown"
        with pytest.raises(FlameError, match="options\\(capture=True\\)") as caught:
            plain.output()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
    shown = capsys.readouterr()
    assert (shown.out.strip(), shown.err.strip()) == ("shown", "warned")


@pytest.mark.parametrize(
    ("how", "error"), [("dies", WorkerDiedError), ("takes too long", TaskTimeoutError), ("is cancelled", CancelledError)]
)
def test_what_a_call_has_printed_survives_its_process(rr, how, error):
    limits = {"timeout": 0.5} if how == "takes too long" else {}
    future = rr.service(prints_and_ends).options(capture=True, **limits)(how)
    if how == "is cancelled":
        wait_until(lambda: rr.statistics().running, "its begin")
        assert future.cancel(force=True)
    with pytest.raises(error) as caught:
        future.get(PATIENCE_S)
    if how == "is cancelled":
        with pytest.raises(FlameError, match="never ran, or was cancelled"):
            future.output()
        return
    assert future.output() == "line 0\nline 1\nline 2\né \\udc80"
    if how == "dies":
        assert caught.value.output == ["line 0", "line 1", "line 2", "é \\udc80"]
        assert rr.service(prints_and_ends)(how).exception(PATIENCE_S).output[:3] == ["line 0", "line 1", "line 2"]


def test_the_end_of_much_that_a_dead_call_has_printed_is_kept(rr):
    future = rr.service(prints_and_ends).options(capture=True)("dies", 110_000)
    assert isinstance(future.exception(PATIENCE_S), WorkerDiedError)
    lines = future.output().splitlines()
    assert (1 << 19) - 20 < len(future.output()) <= 1 << 20
    assert lines[1:-1] == [f"line {number}" for number in range(110_000)][-len(lines) + 2 :]


def test_a_call_that_printed_nothing_has_no_other_call_s_output(rr):
    captured = rr.service(prints_and_ends).options(capture=True)
    prints = rr.service(print).options(capture=True)
    dies = rr.service(attempt).options(capture=True)
    assert prints("one").get(PATIENCE_S) is None
    assert isinstance((quiet := dies("/dev/null", 1, "die")).exception(PATIENCE_S), WorkerDiedError)
    assert quiet.output() == ""
    assert isinstance(captured("dies").exception(PATIENCE_S), WorkerDiedError)


def test_a_large_result_is_captured_as_it_is(rr):
    numpy = pytest.importorskip("numpy")

    future = rr.service(print_and_count).options(capture=True)()
    assert future.get(PATIENCE_S).sum() == numpy.arange(100_000.0).sum()
    assert future.output() == "made\n"


def test_a_call_inside_a_captured_ones_wait_prints_for_itself(rr, capsys):
    future = rr.service(prints_around).options(capture=True)(rr.service(prints))
    assert future.get(PATIENCE_S) == "innerinner"
    assert future.output() == "outer begins\nouter ends\n"
    rr.close()
    assert "inner" in capsys.readouterr().out


def test_each_attempt_prints_anew(rr, project):
    future = rr.service(print_and_attempt).options(capture=True, retries=3, retry_on=Refused)(project / "tries")
    assert future.get(PATIENCE_S) == 3
    assert future.output() == "attempt\n"


# ---- views ---------------------------------------------------------------------------------------------------------------


def test_a_view_changes_what_is_given(rr):
    service = rr.service(same)
    view = service.options(timeout=5).options(retries=1)
    assert (view._options.timeout, view._options.retries, service._options) == (5, 1, None)
    assert view.session_id == service.session_id
    assert rr.get([view(1), service(2)]) == [1, 2]
    assert rr.get(rr.service(attempt_nothing).options(timeout=5)) == ["done"]
    view.close()
    with pytest.raises(Exception, match="closed"):
        service(1)


def test_map_of_a_view_makes_one_call_an_item(rr):
    results = rr.service(double).options(timeout=60).map(iter(range(100)))
    assert list(results) == [2 * number for number in range(100)]
    failing = rr.service(inverse).options(timeout=60).map([1, 0, 2])
    assert next(failing) == 1
    with pytest.raises(ZeroDivisionError):
        next(failing)
    assert list(failing) == []


UNFIT = [
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": "1"},
    {"timeout": math.nan},
    {"timeout": True},
    {"deadline": 0},
    {"retries": -1},
    {"retries": 10**30},
    {"retries": 1.5},
    {"retries": True},
    {"retry_on": "KeyError"},
    {"retry_on": [KeyError, int]},
    {"backoff": -0.1},
    {"priority": "high"},
    {"detached": 1},
    {"capture": "yes"},
]


def refusal(service, options):
    try:
        service.options(**options)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def test_a_value_that_does_not_fit(rr):
    """The refusal names the option."""
    service = rr.service(same)
    wrong = [options for options in UNFIT if next(iter(options)) not in refusal(service, options)]
    assert wrong == []


def test_an_integer_of_numpy_is_one(rr, project):
    careful = rr.service(attempt).options(retries=np.int64(2), retry_on=Refused, timeout=np.float32(60))
    assert careful(project / "third", 3).get(PATIENCE_S) == 3


def test_an_unknown_option(rr):
    with pytest.raises(TypeError):
        rr.service(same).options(time=1)

"""Worker processes of services: where calls run, warmup and autoscale, what a worker imports, scripts without a guard."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest
from gates import PATIENCE_S, Gate, add, hold, meet, new_module, run_script, start_workers, wait_until

from flame_fast import ResourceRequirement, Runner, TaskError
from flame_fast.resources import available_cpus


@pytest.fixture
def rr(project):
    with Runner("services", workers=2) as runner:
        yield runner


def test_functions_classes_and_instances_of_main_work_without_a_guard(project):
    text = run_script(
        project,
        """
        import dataclasses, functools, json
        from flame_fast import Runner

        class Oops(Exception):
            def __init__(self, number):
                super().__init__(number)
                self.number = number

        @dataclasses.dataclass
        class Point:
            x: int
            y: int = 0

        def move(point, by=1):
            return Point(point.x + by, point.y)

        class Counter:
            def __init__(self):
                self.count = 10
            def up(self):
                self.count += 1
                return self.count

        class Adder:
            def __init__(self, base):
                self.base = base
            def __call__(self, number):
                return self.base + number

        def oops(number):
            raise Oops(number)

        @functools.lru_cache
        def cached(number):
            return helper(number)

        def helper(number):
            return number + FACTOR

        FACTOR = 7

        with Runner("main", workers=2) as rr:
            moved = rr.service(move)(Point(1), by=4).get()
            adder = rr.service(Adder(5))
            up = rr.service(Counter)
            errors = []
            try:
                rr.service(oops)(3).get()
            except Oops as error:
                errors.append(error.number)
            service = rr.service(helper)
            before = service(1).get()
            FACTOR = 100
            after = service(1).get()
            print(json.dumps({
                "moved": [type(moved) is Point, moved.x, moved.y],
                "adder": adder(1).get(),
                "up": up.up().get(),
                "errors": errors,
                "cached": rr.service(cached)(1).get(),
                "lambda": rr.service(lambda: Point(3)).__call__().get() == Point(3),
                "globals": [before, after],
            }))
        """,
    )
    assert json.loads(text) == {
        "moved": [True, 5, 0],
        "adder": 6,
        "up": 11,
        "errors": [3],
        "cached": 101,
        "lambda": True,
        "globals": [8, 8],
    }


def test_globals_of_main_are_taken_at_service_and_closures_at_the_call(project):
    text = run_script(
        project,
        """
        from flame_fast import Runner

        SETTING = "before"

        def make():
            inner = ["before"]
            def look():
                return SETTING, inner[0]
            return look, inner

        with Runner("main", workers=2) as rr:
            look, inner = make()
            service = rr.service(look)
            first = service()
            SETTING = "after"
            inner[0] = "after"
            print(*first.get(), *service().get())
        """,
    )
    assert text.split() == ["before", "before", "before", "after"]


# ---- classes -------------------------------------------------------------------------------------------------------------


class Tally:
    """Counts its own calls."""

    def __init__(self):
        self.count = 0

    def up(self):
        self.count += 1
        return os.getpid(), self.count

    def meet(self, *args):
        return meet(*args)


def test_a_class_has_one_instance_per_worker_with_state_of_its_own(rr, project):
    service = rr.service(Tally)
    pids = rr.get([service.meet(str(project / "meeting"), 2, number) for number in range(2)], timeout=PATIENCE_S)
    assert len(set(pids)) == 2
    counts = rr.get([service.up() for _ in range(100)])
    for pid in set(pids):
        own = sorted(count for who, count in counts if who == pid)
        assert own == list(range(1, len(own) + 1))
    assert {who for who, _ in counts} <= set(pids)


def test_a_module_that_fails_in_the_worker_fails_the_calls_with_its_error(project, monkeypatch):
    text = """
        import os
        if "FRAGILE" not in os.environ:
            raise ZeroDivisionError("not here")
        def function():
            return 1
        class Class:
            def method(self):
                return 1
    """
    Path("fragile_one.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(project))
    with Runner("fragile", workers=2) as rr:
        monkeypatch.setenv("FRAGILE", "1")  # too late for the workers: theirs is the environment at creation
        module = new_module(monkeypatch, project, text, "fragile_one")
        calls = [rr.service(module.function), rr.service(module.Class).method, rr.service(module.Class()).method]
        for future in [call() for call in calls for _ in range(2)]:
            with pytest.raises(ZeroDivisionError, match="not here") as caught:
                future.get(timeout=PATIENCE_S)
            assert str(project / "fragile_one.py") in str(caught.value.__cause__)
        assert rr.service(add)(1, 2).get() == 3


def test_a_module_left_out_of_the_package_is_missing_in_the_worker(project, monkeypatch):
    Path(".flameignore").write_text("left_out_module.py\n")
    module = new_module(monkeypatch, project, "def function(): return 1", "left_out_module")
    with Runner("left-out", workers=2) as rr, pytest.raises(ModuleNotFoundError, match="left_out_module"):
        rr.service(module.function)().get(timeout=PATIENCE_S)


# ---- instances -----------------------------------------------------------------------------------------------------------


class Account:
    def __init__(self):
        self.balance = 0

    def add(self, amount):
        self.balance += amount
        return self.balance

    def pid(self):
        return os.getpid()


def test_an_instance_keeps_its_state_in_a_process_of_its_own(rr, project):
    pool = start_workers(rr, project / "meeting")
    account, other = Account(), Account()
    service, service_of_other = rr.service(account), rr.service(other)
    assert rr.get([service.add(5), service.add(6), service_of_other.add(1)]) == [5, 11, 1]
    pid, pid_of_other = service.pid().get(), service_of_other.pid().get()
    assert len({pid, pid_of_other, os.getpid(), *pool}) == 5
    assert account.balance == 0


def busy_pid(rounds=2000):
    for _ in range(rounds):
        pass
    return os.getpid()


def test_autoscale_uses_all_workers_by_default(rr, project):
    for number, service in enumerate((rr.service(meet), rr.service(meet, autoscale=True), rr.service(Tally).meet)):
        pids = rr.get([service(str(project / f"meeting{number}"), 2, i) for i in range(2)], timeout=PATIENCE_S)
        assert len(set(pids)) == 2


def test_without_autoscale_a_function_stays_on_one_worker(rr, project):
    start_workers(rr, project / "meeting")
    service = rr.service(busy_pid, autoscale=False)
    assert len(set(rr.get([service() for _ in range(300)]))) == 1


def test_without_autoscale_a_class_has_one_instance(rr, project):
    start_workers(rr, project / "meeting")
    service = rr.service(Tally, autoscale=False)
    counts = rr.get([service.up() for _ in range(300)])
    assert sorted(count for _, count in counts) == list(range(1, 301))


def test_without_autoscale_warmup_is_the_number_of_workers(project):
    with Runner("three", workers=3) as rr:
        start_workers(rr, project / "meeting", 3)
        service = rr.service(busy_pid, autoscale=False, warmup=2)
        assert len(set(rr.get([service() for _ in range(300)]))) <= 2
        meeting = rr.service(meet, autoscale=False, warmup=2)
        assert len(set(rr.get([meeting(str(project / "two"), 2, i) for i in range(2)], timeout=PATIENCE_S))) == 2


def test_a_warmup_above_the_workers_is_cut_with_a_warning(rr, project):
    with pytest.warns(UserWarning, match="warmup=5.* 2 workers") as caught:
        service = rr.service(meet, warmup=5)
    assert [warning.filename for warning in caught] == [__file__]
    assert len(set(rr.get([service(str(project / "m"), 2, i) for i in range(2)], timeout=PATIENCE_S))) == 2


class Announcing:
    def __init__(self):
        Path(f"loaded-{os.getpid()}").touch()

    def __getstate__(self):
        return {"x": 1}

    def __setstate__(self, state):
        Path(f"rebuilt-{os.getpid()}").touch()

    def run(self):
        return 1


def test_warmup_loads_before_the_first_call(rr, project):
    rr.service(Announcing, warmup=2)
    wait_until(lambda: len(list(project.glob("loaded-*"))) == 2, "warming up two workers")


def test_warmup_of_an_instance_starts_its_process(rr, project):
    rr.service(Announcing(), warmup=1)
    wait_until(lambda: list(project.glob("rebuilt-*")), "warming up an instance")


def test_without_warmup_nothing_is_loaded_before_the_first_call(rr, project):
    service = rr.service(Announcing)
    start_workers(rr, project / "meeting")
    assert not list(project.glob("loaded-*"))
    assert service.run().get() == 1
    assert list(project.glob("loaded-*"))


def test_warmup_works_with_workers_that_are_idle_already(rr, project):
    start_workers(rr, project / "meeting")
    rr.service(Announcing, warmup=1)
    wait_until(lambda: list(project.glob("loaded-*")), "warming up an idle worker")


def test_cpu_bounds_how_many_calls_run_at_once(rr, project):
    start_workers(rr, project / "meeting")
    service = rr.service(hold, resreq=ResourceRequirement(cpu=available_cpus()))
    with Gate() as first, Gate() as second:
        futures = [service(first, 1)]
        first.entered()
        futures.append(service(second, 2))
        for number in range(50):  # the other worker is free, and looks for work each time
            assert rr.service(add)(number).get(timeout=PATIENCE_S) == number
        assert not second._try_enter()
        first.open()
        second.open()
        assert rr.get(futures) == [1, 2]


def test_a_closed_instance_service_ends_its_process(rr):
    service = rr.service(Account())
    pid = service.pid().get()
    service.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the instance's process")


def test_the_traceback_of_a_function_of_main(project):
    done = run_script(
        project,
        """
        from flame_fast import Runner

        def broken(number):
            return 1 / number

        with Runner("main", workers=1) as rr:
            rr.service(broken)(0).get()
        """,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("ZeroDivisionError: division by zero") == 2
    assert "in broken" in done.stderr
    assert done.stderr.count(", line 5, in broken") == 1
    assert "script_" in done.stderr.split("in broken")[0].splitlines()[-1]


def test_sys_exit_in_a_task_ends_neither_worker_nor_driver(project):
    with Runner("exits", workers=1) as rr:

        def leave():
            import sys

            sys.exit("leaving")

        pid = rr.service(os.getpid)().get()
        with pytest.raises(TaskError, match="leaving"):
            rr.service(leave)().get(timeout=PATIENCE_S)
        assert rr.service(os.getpid)().get() == pid

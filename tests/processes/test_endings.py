"""However a driver ends, nothing of its runners stays; and what becomes of calls and futures when a runner is closed."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import warnings

import pytest
from process_events import (
    PATIENCE_S,
    Driver,
    Fifo,
    Victim,
    children,
    double,
    fifos,
    hold,
    leavings,
    open_pidfds,
    run_driver,
    still_alive,
    wait_asleep,
    workers,
    zygotes,
)

from flame_fast import FlameError, FlameErrorCode, Runner, StoreFullError

#: Workers end with the driver within a second; ten times that turns a hang into a failure.
ENDED_S = 10.0
#: The clean-up takes at most 2 seconds.
CLOSED_S = 20.0


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


# ---- how a driver ends -----------------------------------------------------------------------------------------------

#: A driver with a busy function worker, an idle one and an instance; says their pids, then ends in some way.
BUSY = """
said, gate = sys.argv[1:]
rr = Runner("ending", workers=2)
running = rr.service(hold)(said, gate)
instance = rr.service(Victim())
instance.add(1).get()
tell(said, "ready")
"""


def start_busy(ending: str, tmp_path, said: Fifo, gate: Fifo) -> tuple[Driver, dict[int, int]]:
    """Start the driver; return it, and descriptors of all processes that it has then."""
    driver = Driver(BUSY + ending, tmp_path, said, gate)
    lines = {said.read_line(), said.read_line()}
    assert "ready" in lines
    pids = workers(driver.pid)
    assert len(pids) >= 2 and {int(line) for line in lines - {"ready"}} <= set(pids)
    return driver, open_pidfds([*pids, *zygotes(driver.pid)])


#: name: (what the script does, which signal it gets, exit status, what its standard error says)
ENDINGS = {
    "end of the script": ("open(gate).read(1)", None, 0, "1 unfinished call"),
    "end of a function": ("def main():\n    open(gate).read(1)\nmain()", None, 0, "1 unfinished call"),
    "exception": ("open(gate).read(1)\nraise LookupError('mine')", None, 1, "LookupError: mine"),
    "sys.exit": ("open(gate).read(1)\nsys.exit(7)", None, 7, "1 unfinished call"),
    "sys.exit in a with": ("open(gate).read(1)\nwith rr: sys.exit(7)", None, 7, "UserWarning"),
    "Ctrl-C in a wait": ("running.get()", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "Ctrl-C in select": ("list(rr.select([running]))", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "Ctrl-C in a with": ("with rr: running.get()", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM": ("running.get()", signal.SIGTERM, -signal.SIGTERM, ""),
    # Under nohup all that this process starts would ignore it.
    "SIGHUP": ("signal.signal(signal.SIGHUP, signal.SIG_DFL)\nrunning.get()", signal.SIGHUP, -signal.SIGHUP, ""),
    "os._exit": ("open(gate).read(1)\nos._exit(5)", None, 5, ""),
    "a daemon thread waits": (
        "def wait():\n"
        "    try: running.get()\n"
        "    except FlameError: pass\n"
        "thread = threading.Thread(target=wait, daemon=True)\n"
        "thread.start()\n"
        "wait_asleep(thread)\n"
        "open(gate).read(1)",
        None,
        0,
        "1 unfinished call",
    ),
    "the driver's crash": ("open(gate).read(1)\nimport ctypes\nctypes.string_at(0)", None, -signal.SIGSEGV, ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_nothing_stays_of_a_driver_that_ends_without_close(name, nothing_left, tmp_path, fifo):
    ending, sent, status, error = ENDINGS[name]
    said, gate, end = fifo("said"), fifo("gate"), fifo("end")
    driver, ends = start_busy(f"gate = {end.path!r}\n{ending}", tmp_path, said, gate)
    if sent is None:
        end.open_gate()
    else:
        os.killpg(driver.pid, sent)
    out, err = driver.finish(CLOSED_S)
    assert still_alive(ends, ENDED_S) == []
    assert leavings(nothing_left) == []
    assert driver.returncode == status, err
    assert out == ""
    assert error in err if error else err == "", err
    assert err.count("Traceback") <= 1, err


@pytest.mark.parametrize("whom", ["the driver", "all of them", "the zygote, then the driver"])
def test_nothing_stays_after_sigkill_and_one_more_runner(whom, nothing_left, tmp_path, fifo):
    said, gate = fifo("said"), fifo("gate")
    driver, ends = start_busy("running.get()", tmp_path, said, gate)
    victims = {
        "the driver": [driver.pid],
        "all of them": [driver.pid, *zygotes(driver.pid), *workers(driver.pid)],
        "the zygote, then the driver": [*zygotes(driver.pid), driver.pid],
    }[whom]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # it may have noticed the first one's death and be gone
            os.kill(pid, signal.SIGKILL)
    driver.finish()
    left = open_pidfds(children(driver.pid))  # none: they have another parent now
    assert still_alive(ends | left, ENDED_S) == []
    with Runner("one-more", workers=1):
        rows = [row for row in leavings(nothing_left) if row.startswith("application")]
        assert rows == ["application one-more"]
    assert leavings(nothing_left) == []


def test_sigkill_while_the_runner_starts(nothing_left, tmp_path):
    """Wherever in the constructor the driver dies, the next runner removes what it made."""
    for stage in ("registry.database:Registry.enroll", "storage:Storage.upload", "liveness:acquire"):
        module, _, name = stage.partition(":")
        driver = Driver(
            f"""
            import flame_fast.application.{module} as module, flame_fast.application.lifecycle
            owner = module{"." + name.rpartition(".")[0] if "." in name else ""}
            inner = owner.{name.rpartition(".")[2]}
            def killing(*args, **kwargs):
                inner(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            owner.{name.rpartition(".")[2]} = killing
            Runner("unborn", workers=1)
            """,
            tmp_path,
        )
        driver.finish()
        assert driver.returncode == -signal.SIGKILL, stage
        with Runner("one-more", workers=1):
            rows = [row for row in leavings(nothing_left) if row.startswith("application")]
            assert rows == ["application one-more"], stage
        assert leavings(nothing_left) == [], stage


def test_a_script_that_ends_shows_what_its_tasks_printed(tmp_path):
    out = run_driver(
        """
        rr = Runner("printing", workers=2)
        rr.get([rr.service(print)(f"line {number}") for number in range(20)])
        """,
        tmp_path,
    )
    assert sorted(out.splitlines()) == sorted(f"line {number}" for number in range(20))


def test_a_worker_deaf_to_signals_ends_with_a_killed_driver(tmp_path, fifo):
    said = fifo("said")
    driver = Driver(
        """
        def deaf(said):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            tell(said, os.getpid())
            while True:
                pass

        rr = Runner("deaf", workers=1)
        rr.service(deaf)(sys.argv[1]).get()
        """,
        tmp_path,
        said,
    )
    ends = open_pidfds(said.read_pids(1))
    driver.kill()
    driver.finish()
    assert still_alive(ends, ENDED_S) == []


def test_user_handlers_stay_the_users(tmp_path):
    out = run_driver(
        """
        import faulthandler
        numbers = sorted(signal.valid_signals())
        def handlers():
            return [signal.getsignal(number) for number in numbers], signal.getsignal(signal.SIGCHLD)
        before = handlers()
        with Runner("handlers", workers=2) as rr:
            rr.service(double)(2).get()
            print(handlers() == before)
        print(handlers() == before)
        """,
        tmp_path,
    )
    assert out == "True\nTrue\n"


def test_ctrl_c_in_a_wait_may_be_caught_and_the_runner_used_on(tmp_path, fifo):
    said, gate = fifo("said"), fifo("gate")
    driver = Driver(
        """
        said, gate = sys.argv[1:]
        with Runner("interrupted", workers=1) as rr:
            running = rr.service(hold)(said, gate, 5)
            try:
                tell(said, "waiting")
                running.get()
            except KeyboardInterrupt:
                tell(said, "caught")
            print(running.get(), rr.service(double)(4).get())
        """,
        tmp_path,
        said,
        gate,
    )
    assert "waiting" in {said.read_line(), said.read_line()}
    os.killpg(driver.pid, signal.SIGINT)
    assert said.read_line() == "caught"
    gate.open_gate()
    assert driver.finish() == ("5 8\n", "")


# ---- garbage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_runner_without_a_reference_closes(cyclic, nothing_left):
    rr = Runner("garbage", workers=2)
    service = rr.service(double)
    future = service(21)
    assert future.get(PATIENCE_S) == 42
    ends = open_pidfds([*workers(), *zygotes()])
    if cyclic:
        rr.myself = rr
    del rr
    gc.collect()
    assert still_alive(ends, ENDED_S) == []
    assert leavings(nothing_left) == []
    assert future.get() == 42
    with pytest.raises(FlameError) as caught:
        service(1)
    assert caught.value.code is FlameErrorCode.INVALID_STATE


@pytest.mark.parametrize("instance", [False, True])
def test_many_runners_one_after_the_other_take_no_addresses_from_each_other(instance):
    """Though the collector does not run meanwhile: each reserves more than a hundredth of what a process has."""
    gc.collect()
    gc.disable()
    try:
        for number in range(60):
            with Runner("garbage", workers=1, engine="inline") as rr:
                future = rr.service(Victim()).add(number) if instance else rr.service(double)(number)
                assert future.get(PATIENCE_S) == (number if instance else 2 * number)
    finally:
        gc.enable()


def taken_by_this_process():
    """Return its mapped addresses and its resident memory, in KiB, and its descriptors."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return *(int(lines[name].split()[0]) for name in ("VmSize", "VmRSS")), len(os.listdir("/proc/self/fd"))


def use_services(number):
    """Return what a closed runner may be held by: services, a method, a ref, futures, a failure."""
    with Runner("used", workers=1) as rr:
        kept = [rr.service(double), rr.put_object(bytes(1 << 17))]
        futures = [kept[0](number), kept[0](None)]
        assert futures[0].get(PATIENCE_S) == 2 * number
        assert isinstance(futures[1].exception(PATIENCE_S), TypeError)
        assert rr.get(kept[0](bytes(1 << 16)), PATIENCE_S) == bytes(1 << 17)
        assert list(kept[0].map(range(5))) == [0, 2, 4, 6, 8]
        for target in (Victim, Victim()):
            service = rr.service(target)
            kept += [service, service.add]
            assert service.add(number).get(PATIENCE_S) == number
            assert list(service.options(retries=1).add.map([0])) == [number]
    return kept, futures


def test_a_closed_runner_gives_addresses_memory_and_descriptors_back_without_the_collector():
    """A runner reserves 56 GiB of addresses: a single one that stayed would show."""
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            use_services(number)
        before = taken_by_this_process()
        for number in range(15):
            use_services(number)
        size, resident, descriptors = map(int.__sub__, taken_by_this_process(), before)
    finally:
        gc.enable()
    assert size < 64 << 10 and resident < 16 << 10 and descriptors == 0, (size, resident, descriptors)


def test_futures_of_a_runner_that_was_garbage_raise(fifo):
    said, gate = fifo("said"), fifo("gate")
    rr = Runner("garbage", workers=1)
    future = rr.service(hold)(said, gate)
    said.read_line()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del rr
        gc.collect()
    with pytest.raises(FlameError) as caught:
        future.get(PATIENCE_S)
    assert caught.value.code is FlameErrorCode.INVALID_STATE


# ---- close -----------------------------------------------------------------------------------------------------------


def run_for_ever() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def test_close_drops_running_calls_and_says_how_many(nothing_left, fifo):
    said, gate = fifo("said"), fifo("gate")
    rr = Runner("dropping", workers=2)
    done = rr.service(double)(4)
    assert done.get(PATIENCE_S) == 8
    running = [rr.service(hold)(said, gate) for _ in range(2)]
    said.read_pids(2)
    queued = [rr.service(double)(number) for number in range(5)]
    waiting = rr.service(double)(running[0])
    ends = open_pidfds([*workers(), *zygotes()])
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"'dropping'.*\b8 unfinished") as record:
        rr.close()
    assert time.monotonic() - start < CLOSED_S
    assert len(record) == 1 and record[0].filename == __file__
    assert still_alive(ends, ENDED_S) == []
    assert leavings(nothing_left) == []
    for future in (*running, *queued, waiting):
        with pytest.raises(FlameError) as caught:
            future.get()
        assert caught.value.code is FlameErrorCode.INVALID_STATE
        assert "'dropping'" in caught.value.message
    assert done.get() == 8


def test_close_ends_workers_that_do_not_listen():
    rr = Runner("deaf", workers=2)
    calls = [rr.service(run_for_ever)() for _ in range(2)]
    instance = rr.service(Victim())
    instance.add(1).get(PATIENCE_S)
    ends = open_pidfds([*workers(), *zygotes()])
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"\b2 unfinished"):
        rr.close()
    assert time.monotonic() - start < CLOSED_S
    assert still_alive(ends, ENDED_S) == []
    assert not any(call.done() for call in calls)


def test_a_silent_close_drops_nothing():
    rr = Runner("silent", workers=2)
    rr.get([rr.service(double)(number) for number in range(10)], PATIENCE_S)
    rr.service(Victim(), warmup=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rr.close()
        rr.close()


@pytest.mark.parametrize("method", ["get", "wait", "exception"])
def test_close_wakes_the_threads_that_wait(method, fifo):
    said, gate = fifo("said"), fifo("gate")
    rr = Runner("threads", workers=1)
    running = rr.service(hold)(said, gate)
    queued = rr.service(double)(1)
    said.read_line()
    outcomes = []

    def wait(future) -> None:
        try:
            outcomes.append(getattr(future, method)())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=wait, args=(future,), daemon=True) for future in (running, queued)]
    for thread in threads:
        thread.start()
    for thread in threads:
        wait_asleep(thread)
    with pytest.warns(UserWarning, match=r"\b2 unfinished"):
        rr.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [type(outcome) for outcome in outcomes] == [FlameError, FlameError]
    assert {outcome.code for outcome in outcomes} == {FlameErrorCode.INVALID_STATE}


@pytest.mark.parametrize("how", ["get", "select"])
def test_close_wakes_the_runners_own_waits(how, fifo):
    said, gate = fifo("said"), fifo("gate")
    rr = Runner("threads", workers=1)
    running = rr.service(hold)(said, gate)
    said.read_line()
    outcomes = []

    def wait() -> None:
        try:
            outcomes.append(rr.get([running]) if how == "get" else list(rr.select([running])))
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_asleep(thread)
    with pytest.warns(UserWarning, match=r"\b1 unfinished"):
        rr.close()
    thread.join(PATIENCE_S)
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [FlameErrorCode.INVALID_STATE]


def test_what_was_ready_stays_readable_after_close():
    import numpy

    with Runner("ready", workers=2) as rr:
        small, text, large = rr.service(double)(4), rr.service(str.upper)("x" * 100_000), rr.put_object(numpy.arange(1e6))
        array = rr.service(numpy.arange)(1_000_000)
        failed = rr.service(divmod)(1, 0)
        rr.wait([small, text, array], PATIENCE_S)
        failed.exception(PATIENCE_S)
        held = array.get()
    assert small.get() == 8 and rr_value(text) == "X" * 100_000
    assert numpy.array_equal(array.get(), numpy.arange(1_000_000))
    assert numpy.array_equal(large.get(), numpy.arange(1e6))
    assert numpy.array_equal(held, numpy.arange(1_000_000))
    assert small.done() and failed.done()
    with pytest.raises(ZeroDivisionError):
        failed.get()
    assert isinstance(failed.exception(), ZeroDivisionError)


def rr_value(future):
    return future.ref().get()


def test_everything_else_raises_after_close():
    rr = Runner("closed", workers=1)
    service, instance = rr.service(double), rr.service(Victim())
    future = service(1)
    future.get(PATIENCE_S)
    instance.add(1).get(PATIENCE_S)
    rr.close()
    uses = {
        "service": lambda: rr.service(double),
        "get": lambda: rr.get([future]),
        "wait": lambda: rr.wait([future]),
        "ref": lambda: rr.ref([future]),
        "select": lambda: list(rr.select([future])),
        "put_object": lambda: rr.put_object(1),
        "call": lambda: service(1),
        "method": lambda: instance.add(1),
        "with": lambda: rr.__enter__(),
    }
    for name, use in uses.items():
        with pytest.raises(FlameError) as caught:
            use()
        assert caught.value.code is FlameErrorCode.INVALID_STATE, name
        assert "closed" in caught.value.message, name
    service.close()
    rr.close()


def test_an_exception_in_the_body_propagates_and_everything_is_cleaned_up(nothing_left):
    with pytest.raises(LookupError, match="mine"), Runner("body", workers=2) as rr:
        rr.service(double)(1).get(PATIENCE_S)
        ends = open_pidfds([*workers(), *zygotes()])
        raise LookupError("mine")
    assert still_alive(ends, ENDED_S) == []
    assert leavings(nothing_left) == []


def test_an_exception_in_the_body_propagates_while_calls_run(nothing_left, fifo):
    said, gate = fifo("said"), fifo("gate")
    start = time.monotonic()
    with (
        pytest.warns(UserWarning, match=r"\b1 unfinished"),
        pytest.raises(KeyboardInterrupt),
        Runner("body", workers=2) as rr,
    ):
        _running = rr.service(hold)(said, gate)
        said.read_line()
        raise KeyboardInterrupt
    assert time.monotonic() - start < CLOSED_S + 10
    assert leavings(nothing_left) == []


def test_close_from_several_threads_at_once(fifo):
    said, gate = fifo("said"), fifo("gate")
    rr = Runner("closing", workers=2)
    _running = rr.service(hold)(said, gate)
    said.read_line()
    barrier = threading.Barrier(4)
    problems = []

    def close() -> None:
        barrier.wait()
        try:
            rr.close()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=close, daemon=True) for _ in range(4)]
    with pytest.warns(UserWarning, match=r"\b1 unfinished"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CLOSED_S)
    assert not any(thread.is_alive() for thread in threads)
    assert problems == []


def test_close_while_other_threads_submit():
    rr = Runner("submitting", workers=2)
    service = rr.service(double)
    codes, running = [], threading.Barrier(4)

    def submit() -> None:
        running.wait()
        try:
            while True:
                with contextlib.suppress(StoreFullError):  # they may be faster than the workers
                    service(1)
        except FlameError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=submit, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    running.wait()
    service(1).get(PATIENCE_S)
    with contextlib.suppress(UserWarning), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rr.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert codes == [FlameErrorCode.INVALID_STATE] * 3


# ---- threads of the driver -------------------------------------------------------------------------------------------


def in_thread(function):
    """Run it in a thread of its own, which has ended when this returns."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert outcome, "the thread raised or hangs"
    return outcome[0]


def test_a_runner_lives_in_a_thread():
    def whole_life() -> int:
        with Runner("thread", workers=2) as rr:
            return sum(rr.get([rr.service(double)(number) for number in range(10)], PATIENCE_S))

    assert in_thread(whole_life) == 90


def test_a_runner_outlives_the_thread_that_made_it():
    rr = in_thread(lambda: Runner("thread", workers=2))
    pids = set(workers())
    service = in_thread(lambda: rr.service(double))
    instance = in_thread(lambda: rr.service(Victim()))
    assert rr.get([service(number) for number in range(10)], PATIENCE_S) == list(range(0, 20, 2))
    assert instance.add(1).get(PATIENCE_S) == 1
    assert pids <= set(workers())
    in_thread(lambda: rr.close() or True)


def test_runners_in_many_threads_at_once():
    results = {}

    def whole_life(number: int) -> None:
        with Runner(f"thread-{number % 2}", workers=1) as rr:
            results[number] = rr.get([rr.service(double)(number + item) for item in range(5)], PATIENCE_S)

    threads = [threading.Thread(target=whole_life, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == {number: [2 * (number + item) for item in range(5)] for number in range(4)}


# ---- children that the user forks ------------------------------------------------------------------------------------

#: The child tries every use of its parent's runner, then ends in some way; the parent goes on.
FORKING = """
def code_of(use):
    try:
        use()
    except FlameError as error:
        return error.code.name
    return "nothing"

def child(rr, service, instance, running, done):
    uses = dict(
        call=lambda: service(1), method=lambda: instance.add(1), service=lambda: rr.service(double),
        get=lambda: rr.get([done]), wait=lambda: rr.wait([done]), select=lambda: list(rr.select([running])),
        put=lambda: rr.put_object(1), future=lambda: running.get(), enter=lambda: rr.__enter__(),
    )
    for name, use in uses.items():
        code = code_of(use)
        if code != "INVALID_STATE":
            print(f"{name} in the child: {code}", flush=True)
    try:
        rr.close()
    except FlameError as error:
        if error.code.name != "INVALID_STATE":
            print("close in the child:", error, flush=True)

def parent_goes_on(rr, service, instance, running, done, gate):
    assert done.get() == 8
    assert instance.add(1).get(20) == 2
    with open(gate, "w") as stream:
        stream.write(".")
    assert running.get(20) == "held"
    assert rr.get([service(number) for number in range(20)], 20) == list(range(0, 40, 2))

def parts(rr, said, gate):
    service, instance = rr.service(double), rr.service(Victim())
    done, running = service(4), rr.service(hold)(said, gate, "held")
    assert done.get() == 8 and instance.add(1).get() == 1
    open(said).readline()
    return rr, service, instance, running, done
"""


@pytest.mark.parametrize("ending", ["sys.exit()", "os._exit(0)", "pass", "del rr, all_of_it"])
def test_a_forked_child_neither_uses_nor_destroys(ending, tmp_path, fifo):
    out = run_driver(
        FORKING
        + f"""
with Runner("forking", workers=2) as rr:
    all_of_it = parts(rr, *sys.argv[1:])
    pid = os.fork()
    if pid == 0:
        child(*all_of_it)
        {ending}
    else:
        assert os.waitpid(pid, 0)[1] == 0
        parent_goes_on(*all_of_it, sys.argv[2])
if pid:
    print("well")
""",
        tmp_path,
        fifo("said"),
        fifo("gate"),
    )
    assert out == "well\n"


def test_a_child_of_multiprocessing_neither_uses_nor_destroys(tmp_path, fifo):
    out = run_driver(
        FORKING
        + """
import multiprocessing
with Runner("forking", workers=2) as rr:
    all_of_it = parts(rr, *sys.argv[1:])
    process = multiprocessing.get_context("fork").Process(target=child, args=all_of_it)
    process.start()
    process.join()
    assert process.exitcode == 0
    parent_goes_on(*all_of_it, sys.argv[2])
print("well")
""",
        tmp_path,
        fifo("said"),
        fifo("gate"),
    )
    assert out == "well\n"


def test_a_forked_child_may_have_a_runner_of_its_own(tmp_path, nothing_left):
    out = run_driver(
        """
        with Runner("mine", workers=2) as rr:
            service = rr.service(double)
            service(1).get()
            pid = os.fork()
            if pid == 0:
                with Runner("mine", workers=1) as own:
                    assert own.get([own.service(double)(number) for number in range(5)]) == [0, 2, 4, 6, 8]
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            print(service(21).get())
        """,
        tmp_path,
    )
    assert out == "42\n"
    assert leavings(nothing_left) == []


def test_a_forked_child_that_outlives_its_parent_keeps_nothing_alive(tmp_path, nothing_left, fifo):
    """The child has copies of the parent's descriptors; neither workers nor the registration may hang on them."""
    said, gate = fifo("said"), fifo("gate")
    driver = Driver(
        """
        said, gate = sys.argv[1:]
        rr = Runner("parent", workers=2)
        rr.service(double)(1).get()
        if os.fork() == 0:
            tell(said, os.getpid())
            pass_gate(gate)
            os._exit(0)
        pass_gate(gate)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
        said,
        gate,
    )
    (child,) = said.read_pids(1)
    ends = open_pidfds([*workers(driver.pid), *zygotes(driver.pid)])
    os.kill(driver.pid, signal.SIGKILL)
    try:
        assert still_alive(ends, ENDED_S) == []
        os.kill(child, 0)
        with Runner("one-more", workers=1):
            rows = [row for row in leavings(nothing_left) if row.startswith("application")]
            assert rows == ["application one-more"]
    finally:
        gate.open_gate()
        driver.finish()


def test_fork_from_a_driver_whose_threads_use_the_runner(tmp_path):
    out = run_driver(
        """
        with Runner("threaded", workers=2) as rr:
            service, stop = rr.service(double), threading.Event()
            def use():
                while not stop.is_set():
                    assert rr.get([service(number) for number in range(20)]) == list(range(0, 40, 2))
            threads = [threading.Thread(target=use) for _ in range(3)]
            for thread in threads:
                thread.start()
            statuses = []
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    try:
                        service(1)
                    except FlameError as error:
                        os._exit(40 + error.code)
                    os._exit(1)
                statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            stop.set()
            for thread in threads:
                thread.join()
            print(set(statuses), service(3).get())
        """,
        tmp_path,
    )
    assert out == "{41} 6\n"


def test_a_runner_without_a_reference_says_so_to_the_calls_it_drops(project):
    def forgotten():
        runner = Runner("forgotten", workers=1)
        return runner.service(time.sleep)(60)

    with pytest.warns(UserWarning, match="dropped without close"):
        future = forgotten()
        gc.collect()
    with pytest.raises(FlameError, match="had not finished when its runner 'forgotten' was dropped without close") as caught:
        future.get()
    assert caught.value.code is FlameErrorCode.INVALID_STATE


def test_a_dropped_call_says_what_became_of_it(project):
    with pytest.warns(UserWarning, match="1 unfinished call"), Runner("short", workers=1) as rr:
        future = rr.service(time.sleep)(60)
    with pytest.raises(FlameError, match="this call had not finished when its runner 'short' was closed"):
        future.get()


def test_the_bodys_exception_comes_first_when_warnings_are_errors(project):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LookupError, match="mine") as caught, Runner("strict", workers=1) as rr:
            _running = rr.service(time.sleep)(60)
            raise LookupError("mine")
    assert any("unfinished" in note for note in caught.value.__notes__)

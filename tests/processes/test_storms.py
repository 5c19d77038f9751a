"""Many runs, in a row, at once and under random deaths: nothing is left. Longer with `--minutes N`."""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from owned_processes import processes_of
from process_events import PATIENCE_S, leavings, wait_until

from flame_fast import Runner

pytestmark = [pytest.mark.storm, pytest.mark.timeout(1200)]

#: Of a round.
IN_A_ROW = 3
AT_ONCE = 4
KILLED = 4
WARM = 5
THREADS = 20

#: As the pi example, and with what else a driver may have: an instance, a large value, output, a nested call.
MAIN = """\
import sys
from work import Total, batch, nested
from flame_fast import Runner

with Runner(sys.argv[1], workers=2) as rr:
    service, total = rr.service(batch), rr.service(Total())
    futures = [service(1000) for _ in range(10)]
    sums = [total.add(future) for future in futures]
    data = rr.put_object(b"x" * 1_000_000)
    assert rr.service(len)(data).get() == 1_000_000
    assert rr.service(nested)(3).get() == 3
    inside = sum(rr.get(futures))
    assert max(rr.get(sums)) == inside
print(f"{4 * inside / 10_000:.3f}")
"""
WORK = """\
import random
from flame_fast import Runner

def batch(count):
    return sum(random.random() ** 2 + random.random() ** 2 <= 1 for _ in range(count))

class Total:
    def __init__(self):
        self.total = 0
    def add(self, value):
        self.total += value
        return self.total

def nested(depth):
    if depth == 0:
        return 0
    with Runner("nested") as rr:
        return 1 + rr.service(nested)(depth - 1).get()
"""


@pytest.fixture
def program(project) -> Path:
    (project / "work.py").write_text(WORK)
    (project / "main.py").write_text(MAIN)
    return project / "main.py"


def start(program: Path, name: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-B", program, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_pi(process: subprocess.Popen) -> None:
    try:
        out, err = process.communicate(timeout=10 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"a run hangs: {process.communicate()}") from None
    assert (process.returncode, err) == (0, ""), err
    assert 2.9 < float(out) < 3.4


def check_nothing_left(home: Path) -> None:
    """No process, and so no segment either: a memfd has no name and goes with the last process that has it open."""
    wait_until(lambda: not processes_of(home), what=f"no process: {processes_of(home)}")
    assert leavings(home) == []
    assert sorted(path.name for path in home.rglob("*.part")) == []


def test_runs_in_a_row_leave_nothing(program, nothing_left, rounds):
    for _ in rounds:
        for _ in range(IN_A_ROW):
            check_pi(start(program, "pi-estimation"))
            assert leavings(nothing_left) == []
            assert processes_of(nothing_left) == []
    check_nothing_left(nothing_left)
    assert sorted(path.name for path in program.parent.iterdir()) == ["main.py", "work.py"]


@pytest.mark.parametrize("names", ["one name", "own names"])
def test_runs_at_once_leave_nothing(names, program, nothing_left, rounds):
    for number in rounds:
        at_once = AT_ONCE + 7 * (number % 3)
        runs = [start(program, "pi" if names == "one name" else f"pi-{number}") for number in range(at_once)]
        for run in runs:
            check_pi(run)
        check_nothing_left(nothing_left)


@pytest.mark.parametrize("whom", ["the driver", "the driver and its zygote", "a worker"])
def test_kills_at_random_moments_and_one_more_run_leave_nothing(whom, program, nothing_left, rounds):
    """The moment is drawn from a run's whole length, so it meets start, work and end alike."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print("seed", seed)
    longest = run_length(program)
    for _ in rounds:
        for _ in range(KILLED if whom == "the driver" else KILLED // 2):
            kill_a_run(whom, program, nothing_left, chance, longest)
        check_pi(start(program, "pi-estimation"))
        check_nothing_left(nothing_left)


def kill_a_run(whom: str, program: Path, home: Path, chance: random.Random, longest: float) -> None:
    run = start(program, "pi-estimation")
    ended = os.pidfd_open(run.pid)
    try:
        select.select([ended], [], [], chance.uniform(0, longest))
        kill(whom, run, home, chance)
    finally:
        os.close(ended)
    if whom == "a worker":
        communicate_after_worker_death(run)
    else:
        run.communicate(timeout=PATIENCE_S)


def run_length(program: Path) -> float:
    import time

    begin = time.monotonic()
    check_pi(start(program, "measured"))
    return 1.1 * (time.monotonic() - begin)


def kill(whom: str, run: subprocess.Popen, home: Path, chance: random.Random) -> None:
    others = [pid for pid in processes_of(home) if pid != run.pid]
    if whom == "the driver":
        victims = [run.pid]
    elif whom == "a worker":
        workers = [pid for pid in others if parent_of(pid) in others]
        victims = [chance.choice(workers)] if workers else []
    else:
        victims = [run.pid, *others]
        chance.shuffle(victims)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def communicate_after_worker_death(run: subprocess.Popen) -> None:
    """Check that the run ends well, or with the death told by name, and never hangs."""
    try:
        out, err = run.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        run.kill()
        raise AssertionError(f"a run hangs after a worker's death: {run.communicate()}") from None
    if run.returncode:
        assert "WorkerDiedError" in err and "SIGKILL" in err, err
    else:
        assert 2.9 < float(out) < 3.4


# ---- in one process --------------------------------------------------------------------------------------------------


def double(number):
    return 2 * number


class Total:
    def add(self, number):
        return number


def taken_by_this_process() -> tuple[int, int, int]:
    """Return its mapped addresses and its resident memory, in KiB, and its descriptors."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return *(int(lines[name].split()[0]) for name in ("VmSize", "VmRSS")), len(os.listdir("/proc/self/fd"))


def use_a_runner(number: int) -> None:
    with Runner("in-a-row", workers=1) as rr:
        assert rr.service(double)(number).get(PATIENCE_S) == 2 * number
        assert rr.service(Total()).add(number).get(PATIENCE_S) == number


def test_runners_in_a_row_in_one_process_take_nothing_for_good_without_the_collector(nothing_left, rounds):
    """A thousand of them with `--minutes 10`. Each reserves more addresses than all others may keep."""
    gc.collect()
    gc.disable()
    try:
        for number in range(WARM):
            use_a_runner(number)
        before = taken_by_this_process()
        for _ in rounds:
            for number in range(WARM):
                use_a_runner(number)
            size, resident, descriptors = map(int.__sub__, taken_by_this_process(), before)
            assert size < 256 << 10 and resident < 32 << 10 and descriptors == 0, (size, resident, descriptors)
    finally:
        gc.enable()


def run_in_a_child() -> int:
    """Have a forked child make a Runner; return its status, 0 for a good one."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use_a_runner(21)
            status = 0
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(child)
    try:
        if not select.select([pidfd], [], [], PATIENCE_S)[0]:
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]
    finally:
        os.close(pidfd)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_runners_of_many_threads_start_and_end_while_children_are_forked_that_make_some_too(nothing_left, rounds):
    """Of 20 threads at once: 100 Runners with `--minutes 1`. A child finds no lock held by a thread that it has not."""
    for _ in rounds:
        with ThreadPoolExecutor(THREADS) as threads:
            made = [threads.submit(use_a_runner, number) for number in range(THREADS)]
            while not all(one.done() for one in made):
                assert run_in_a_child() == 0
            for one in made:
                one.result()

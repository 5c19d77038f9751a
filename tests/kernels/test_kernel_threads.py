"""Threads of kernels: the same results from any number of them, no more of them than allowed, and Ctrl-C.

Programs that start threads run in processes of their own: this one forks, and could not end those threads.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest
from flame_fast.kernels import estimate_batch, rng
from flame_fast.kernels.jit import parallel
from flame_fast.kernels.jit.parallel import FIRST_BLOCKS, PIECE_S, run_blocks
from flame_fast.kernels.jit.quarter_circle import BLOCK
from hypothesis import given, settings
from hypothesis import strategies as st
from quarter_circle_model import count_blocks

from flame_fast import Runner

PATIENCE_S = 60

#: Ctrl-C is promised to take 0.2 seconds; ten times that fails a test.
INTERRUPT_S = 2.0

#: Threads that the processes below may start: more than this machine's CPUs, perhaps.
THREADS = 3

POINTS = 1_000_003
SEED = 7


def told(code, **settings):
    """Return the JSON that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "NUMBA_NUM_THREADS": str(THREADS), "OPENBLAS_NUM_THREADS": "1", **settings},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


# ---- the same result -----------------------------------------------------------------------------------------------------

#: Counts and arrays of 16 and more blocks, by one thread, two and three; and the number of threads each kernel was given.
BY_THREADS = """\
import hashlib, json, os, threading
import numba
from flame_fast.kernels import estimate_batch, quasi, sampling
from flame_fast.kernels.jit import block_kernels, quarter_circle as q

callers = set()

def watched(kernel):
    def watch(*args):
        callers.add(threading.get_ident())
        return kernel(*args)
    return watch

q.count_by_turns = watched(q.count_by_turns)
block_kernels._run_by_turns = watched(block_kernels._run_by_turns)

def running_ns():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/schedstat") as file:
            found[thread] = int(file.read().split()[0])
    return found

def busy_threads(points):
    before = running_ns()
    estimate_batch(points, 1)
    spent = [after - before.get(thread, 0) for thread, after in running_ns().items()]
    return sum(each > max(spent) / 4 for each in spent)

told = {}
for threads in (1, 2, 3):
    numba.set_num_threads(threads)
    callers.clear()
    told[threads] = {
        "counts": [estimate_batch(n, seed) for n in (1_000_003, 40 << 16, (40 << 16) - 1) for seed in (7, 2**127)],
        "arrays": [
            hashlib.sha256(draw((20 << 16) + 3, 7)).hexdigest()
            for draw in (
                sampling.pairs,
                sampling.uniforms,
                sampling.normals,
                sampling.exponentials,
                sampling.permutation,
                lambda size, seed: sampling.gamma(0.5, 1.0, size, seed),
                lambda size, seed: sampling.multivariate_normals(0.0, [[1.0, 0.5], [0.5, 1.0]], size // 2, seed),
                lambda size, seed: quasi.sobol_normals(size // 8, 8, seed),
            )
        ],
        "busy": busy_threads(1_000_000_000),
        "callers": len(callers),
    }
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def by_threads():
    return {int(threads): found for threads, found in told(BY_THREADS).items()}


def test_one_two_and_three_threads_give_the_same(by_threads):
    assert by_threads[1]["counts"] == by_threads[2]["counts"] == by_threads[3]["counts"]
    assert by_threads[1]["arrays"] == by_threads[2]["arrays"] == by_threads[3]["arrays"]
    blocks = -(-POINTS // BLOCK)
    assert by_threads[1]["counts"][0] == count_blocks(rng.key(SEED), POINTS, 0, blocks)
    assert len(set(by_threads[1]["arrays"])) == 8


def test_set_num_threads_is_obeyed(by_threads):
    assert {threads: found["callers"] for threads, found in by_threads.items()} == {1: 1, 2: 2, 3: 3}
    assert all(found["busy"] <= threads for threads, found in by_threads.items())
    assert by_threads[1]["busy"] == 1


def test_one_two_and_three_workers_give_the_same(project):
    expected = count_blocks(rng.key(SEED), POINTS, 0, -(-POINTS // BLOCK))
    for workers in (1, 2, 3):
        with Runner("pi", workers=workers) as rr:
            estimator = rr.service(estimate_batch)
            assert rr.get([estimator(POINTS, SEED) for _ in range(2 * workers)]) == [expected] * 2 * workers


def test_without_a_seed_workers_draw_different_points(project):
    """Two counts of so many points are equal once in 380 times.

    From three workers, at most a few of sixty may be equal.
    """
    with Runner("unseeded", workers=3) as rr:
        estimator = rr.service(estimate_batch)
        counts = rr.get([estimator(BLOCK) for _ in range(60)])
    assert len(set(counts)) > 40


# ---- from several Python threads -----------------------------------------------------------------------------------------

SEVERAL = """\
import json, threading
from flame_fast.kernels import estimate_batch, sampling

points = 30_000_000
expected = estimate_batch(points, 1), estimate_batch(points, 2)
barrier = threading.Barrier(4)
found = []

def count(seed):
    barrier.wait()
    for _ in range(5):
        found.append(estimate_batch(points, seed) == expected[seed - 1])

def draw():
    barrier.wait()
    for _ in range(5):
        found.append(float(sampling.uniforms(20 << 16, 3).sum()))

callers = [threading.Thread(target=count, args=(seed,)) for seed in (1, 1, 2)] + [threading.Thread(target=draw)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(json.dumps([found.count(True), len(found), len(set(found) - {True})]))
"""


def test_threads_may_call_kernels_at_once():
    assert told(SEVERAL) == [15, 20, 1]


# ---- how many threads ----------------------------------------------------------------------------------------------------

LIMITED = """\
import json, os
import numba
import numpy as np
from numba.np.ufunc import parallel as numba_parallel
from flame_fast.kernels import estimate_batch
from flame_fast.kernels.jit import parallel

@numba.njit(parallel=True)
def users(x):
    for i in numba.prange(x.size):
        x[i] = i

def state():
    return parallel.thread_count(), bool(numba_parallel._is_initialized), len(os.listdir("/proc/self/task"))

told = {"at first": state()}
launched = []
parallel.limit_threads(2, lambda: launched.append(numba.get_num_threads()))
told["limited"] = state()
estimate_batch(100, 1)
told["few points"] = state()
estimate_batch(5_000_000, 1)
told["a helper"] = state()
users(np.empty(10))
told["launched by the user"] = state()[:2]
numba.set_num_threads(1)
told["set by the user"] = state()[:2]
parallel.limit_threads(3, lambda: launched.append("again"))
told["limited again"] = state()[:2]
parallel.limit_threads(1000, lambda: None)
told["no limit"] = state()[:2]
users(np.empty(10))
told["calls"] = launched
print(json.dumps(told))
"""


def test_a_limit_starts_no_threads_and_holds_once_they_are_started():
    assert told(LIMITED) == {
        "at first": [3, False, 1],
        "limited": [2, False, 1],
        "few points": [2, False, 1],
        "a helper": [2, False, 2],
        "launched by the user": [2, True],
        "set by the user": [1, True],
        "limited again": [3, True],
        "no limit": [3, True],
        "calls": [2],
    }


ALONE = """\
import json, os
from numba.np.ufunc import parallel as numba_parallel
from flame_fast.kernels import estimate_batch, sampling

found = estimate_batch(5_000_000, 1), float(sampling.normals(5_000_000, 1)[-1])
print(json.dumps([bool(numba_parallel._is_initialized), len(os.listdir("/proc/self/task"))]))
"""


def test_a_process_of_one_thread_starts_no_others():
    assert told(ALONE, NUMBA_NUM_THREADS="1") == [False, 1]


FORKED = """\
import json, os
from flame_fast.kernels import estimate_batch
from flame_fast.kernels.jit import parallel

def in_child(look):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(look()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = json.load(file)
    os.wait()
    return found

def counted():
    return parallel.thread_count(), estimate_batch(5_000_000, 1), len(os.listdir("/proc/self/task"))

print(json.dumps([in_child(counted), counted(), in_child(counted), in_child(lambda: in_child(counted))]))
"""


def test_a_forked_child_starts_threads_of_its_own():
    before, here, child, grandchild = told(FORKED)
    assert before == here == child == grandchild
    assert here[0] == here[2] == THREADS


# ---- runs ----------------------------------------------------------------------------------------------------------------

#: Kernels here are Python functions, which take turns as compiled ones do; `told` is what a test looks at.
RUNS = """\
import ctypes, json, threading
from flame_fast.kernels.jit.parallel import run_blocks

PATIENCE_S = 60
main = threading.get_ident()
told = {}

def turns_of(address, most):
    numbers = (ctypes.c_int64 * 2).from_address(address)
    for _ in range(min(most, numbers[1])):
        with lock:
            number, numbers[0] = numbers[0], numbers[0] + 1
        if number >= numbers[1]:
            break
        yield number

lock = threading.Lock()
"""

#: All three threads are in the run before one of its blocks ends.
SHARED = """
taken = {}
barrier = threading.Barrier(3)

def kernel(turns, most):
    found = 0
    for number in turns_of(turns, most):
        if threading.get_ident() not in taken:
            taken[threading.get_ident()] = []
            barrier.wait(PATIENCE_S)
        taken[threading.get_ident()].append(number)
        found += number
    return found

told["sum"] = run_blocks(1000, kernel)
told["threads"] = len(taken)
told["numbers"] = sorted(number for numbers in taken.values() for number in numbers)
"""


def test_threads_share_the_blocks_of_a_run():
    assert runs_tell(SHARED) == {"sum": sum(range(1000)), "threads": 3, "numbers": list(range(1000))}


#: The helpers are at work for another thread, and so as good as asleep.
BUSY = """
arrived, leave = threading.Semaphore(0), threading.Event()

def stays(turns, most):
    for number in turns_of(turns, most):
        arrived.release()
        leave.wait(PATIENCE_S)
    return 0

other = threading.Thread(target=run_blocks, args=(12, stays))
other.start()
for _ in range(3):
    arrived.acquire(timeout=PATIENCE_S)
callers = []
told["sum"] = run_blocks(100, lambda turns, most: callers.append(threading.get_ident()) or sum(turns_of(turns, most)))
told["callers"] = [caller == main for caller in callers]
told["other ran"] = other.is_alive()
leave.set()
other.join()
"""


def test_a_run_waits_for_no_helper_that_does_not_come():
    found = runs_tell(BUSY)
    assert found["sum"] == sum(range(100))
    assert set(found["callers"]) == {True}
    assert found["other ran"]


#: A helper is in its block when the caller has finished.
LATE = """
inside, ended, finished = threading.Event(), threading.Event(), []

def kernel(turns, most):
    for number in turns_of(turns, most):
        if threading.get_ident() == main:
            inside.wait(PATIENCE_S)
            threading.Timer(0.2, ended.set).start()
        else:
            inside.set()
            ended.wait(PATIENCE_S)
            finished.append(number)
        END
    return 1

try:
    run_blocks(8, kernel)
except ZeroDivisionError as error:
    told["error"] = str(error)
told["finished"] = len(finished)
told["threads again"] = run_blocks(1000, lambda turns, most: sum(turns_of(turns, most)))
"""


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("pass", None),
        ("if threading.get_ident() == main: raise ZeroDivisionError('here')", "here"),
        ("if threading.get_ident() != main: raise ZeroDivisionError('there')", "there"),
    ],
    ids=["no error", "the caller's error", "a helper's error"],
)
def test_a_run_waits_for_the_helpers_that_are_in_a_block(end, error):
    found = runs_tell(LATE.replace("END", end), NUMBA_NUM_THREADS="2")
    assert found.get("error") == error
    assert found["finished"] >= 1
    assert found["threads again"] == sum(range(1000))


#: What a run was given is the caller's again when it returns.
FREED = """
import weakref

class Array:
    pass

array = Array()
gone = weakref.ref(array)

def run(array):
    return run_blocks(64, lambda turns, most: sum(turns_of(turns, most)) + 0 * id(array))

run(array)
del array
deadline = threading.Event()
while gone() is not None and not deadline.wait(0.01):
    pass
told["gone"] = gone() is None
"""


def test_a_run_keeps_nothing_alive():
    assert runs_tell(FREED) == {"gone": True}


def runs_tell(program, **settings):
    return told(f"{RUNS}{program}\nprint(json.dumps(told))", **settings)


# ---- pieces --------------------------------------------------------------------------------------------------------------


def pieces_of(blocks, seconds_of):
    """Run a fake kernel in this thread; return [(first, last)] and the result.

    `seconds_of(first, last)` is how long a piece takes.
    """
    clock = [0.0]
    pieces = []

    def kernel(turns, most):
        numbers = (ctypes.c_int64 * 2).from_address(turns)
        first, last = numbers[0], min(numbers[0] + most, numbers[1])
        numbers[0] += most
        pieces.append((first, last))
        clock[0] += seconds_of(first, last)
        return (last - first) * (first + last - 1) // 2

    with (
        mock.patch.object(parallel, "time", SimpleNamespace(perf_counter=lambda: clock[0])),
        mock.patch.object(parallel, "thread_count", lambda: 1),
    ):
        return pieces, run_blocks(blocks, kernel)


@given(st.integers(0, 20_000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_every_block_is_in_one_piece(blocks, random):
    pieces, result = pieces_of(blocks, lambda first, last: random.choice([0.0, 1e-9, 0.01, 0.05, 1.0]))
    assert result == sum(range(blocks))
    assert [first for first, _ in pieces] == [0, *(last for _, last in pieces)][: len(pieces)]
    assert all(first < last for first, last in pieces)
    assert (pieces[-1][1] if pieces else 0) == blocks


class Interrupted(Exception):
    """Raised by a signal's handler between two pieces."""


@given(st.floats(1e-8, 1e-2))
@settings(deadline=None, max_examples=100)
def test_pieces_after_the_first_take_a_fiftieth_of_a_second(block_s):
    sizes = []

    def seconds_of(first, last):
        if len(sizes) == 40:
            raise Interrupted
        sizes.append(last - first)
        return sizes[-1] * block_s

    with pytest.raises(Interrupted):
        pieces_of(2**46, seconds_of)
    assert sizes[0] == FIRST_BLOCKS
    for before, size in itertools.pairwise(sizes):
        assert size <= 4 * before
        assert size == 1 or size * block_s <= PIECE_S * 1.001
    assert sizes[-1] == pytest.approx(max(1, PIECE_S / block_s), rel=0.1, abs=1.01)


def test_pieces_grow_shorter_as_soon_as_blocks_take_longer():
    pieces, _ = pieces_of(200_000, lambda first, last: (last - first) * (1e-6 if first < 30_000 else 1e-3))
    slow = [last - first for first, last in pieces if first >= 30_000]
    assert len(slow) > 100
    assert max(slow[1:]) * 1e-3 <= PIECE_S * 1.001


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------------

#: Says when its kernel is called for the piece asked for, and goes on.
INTERRUPTED = """\
import signal, sys
import numba
import numpy as np
from flame_fast.kernels import estimate_batch, rng, sampling
from flame_fast.kernels.jit import block_kernels, quarter_circle as q
from flame_fast.kernels.rng import streams
from flame_fast.kernels.sampling import permuting

call, number = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start the tests with it ignored
pieces = 0

def announcing(kernel):
    def announce(*args):
        global pieces
        pieces += 1
        if pieces == number:
            print("now", flush=True)
        return kernel(*args)
    return announce

module, names, run = {
    "count": (q, ("count_by_turns",), estimate_batch),
    "draw": (block_kernels, ("_run_by_turns",), lambda size: sampling.gamma(0.5, size=size)),
    "fill": (streams, ("fill_with_normals",), lambda size: rng.fill_normals(rng.stream(rng.key(1), 0), np.empty(size))),
    "shuffle": (permuting, ("_go_on_by_turns",), sampling.permutation),
}[call]
for name in names:
    setattr(module, name, announcing(getattr(module, name)))
run(100 if call != "shuffle" else 140_000)  # loaded
pieces = 0
run(2**62 if call == "count" else 1 << 27)
"""

#: CPU time after a process's report that proves it to be in the middle of a piece.
BUSY_NS = 5_000_000


def computed_ns(pid):
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def test_ctrl_c_ends_a_long_run():
    """One thread and more: which of the pieces has how many is drawn anew for each run of the tests."""
    calls = [("count", 1), ("count", 8), ("draw", 2), ("fill", 2), ("shuffle", 5)]
    numbers = random.sample([1, 2, 1, 2, random.choice([1, 2])], len(calls))
    for (call, piece), number in zip(calls, numbers, strict=True):
        print(call, piece, number)  # shown if it fails
        check_ctrl_c(call, piece, number)


def check_ctrl_c(call, piece, number):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, call, str(piece)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NUMBA_NUM_THREADS": str(number)},
    )
    try:
        assert select.select([process.stdout], [], [], PATIENCE_S)[0], "it did not come as far"
        assert process.stdout.readline() == "now\n"
        begun = computed_ns(process.pid)
        while computed_ns(process.pid) < begun + BUSY_NS:
            assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        seconds = time.monotonic() - sent
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")
    assert seconds < INTERRUPT_S


#: A signal's handler raises at a moment of chance, in the middle of whatever Python code runs.
AT_ANY_MOMENT = """\
import json, random, signal, time
import numpy as np
from flame_fast.kernels import estimate_batch, sampling

def interrupt(number, frame):
    global raised
    raised = True
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
out = np.empty(1_000_000)
expected = sampling.normals(seed=3, out=out).copy()
sampling.permutation(300_000, 2), sampling.poisson(np.full(300_000, 3.0), seed=1), estimate_batch(3_000_000, 1)
told = {"interrupted": 0, "lost": 0, "written afterwards": 0}
for _ in range(150):
    raised = False
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + 4e-3 * random.random())
        while not raised:
            sampling.normals(seed=3, out=out)
            sampling.permutation(300_000, 2)
            sampling.poisson(np.full(300_000, 3.0), seed=1)
            estimate_batch(3_000_000, 1)
        told["lost"] += 1
    except KeyboardInterrupt:
        told["interrupted"] += 1
    out[:] = -1.0
    time.sleep(1e-3)
    told["written afterwards"] += int((out != -1.0).any())
told["right"] = bool((sampling.normals(seed=3, out=out) == expected).all())
print(json.dumps(told))
"""


def test_ctrl_c_at_any_moment_ends_a_run_and_its_helpers():
    assert told(AT_ANY_MOMENT, NUMBA_NUM_THREADS="2") == {
        "interrupted": 150,
        "lost": 0,
        "written afterwards": 0,
        "right": True,
    }


#: Numba compiles anew, for a second and more; it is interrupted after a fifth.
WHILE_COMPILING = """\
import json, signal
import numpy as np
from flame_fast.kernels.jit import sample_moments
from flame_fast.kernels.moments import Moments

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.2)
told = {}
try:
    Moments.of(np.arange(300_000.0))
except KeyboardInterrupt:
    told["compiled"] = len(sample_moments.moments_by_turns.overloads)
told["mean"] = Moments.of(np.arange(300_000.0)).mean
print(json.dumps(told))
"""


def test_ctrl_c_ends_a_compilation_which_begins_anew(tmp_path):
    """No helper compiles: the caller would wait for it."""
    found = told(WHILE_COMPILING, NUMBA_NUM_THREADS="2", NUMBA_CACHE_DIR=str(tmp_path))
    assert found == {"compiled": 0, "mean": 149_999.5}

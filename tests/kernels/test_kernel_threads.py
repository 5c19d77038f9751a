"""Threads of kernels: the same results from any number of them, no more of them than allowed, and Ctrl-C.

Programs that start Numba's threads run in processes of their own: this one forks, and could not end those threads.
"""

from __future__ import annotations

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
from flame_fast.kernels.jit.parallel import FEW_BLOCKS, FIRST_BLOCKS, PIECE_S, run_blocks
from flame_fast.kernels.jit.quarter_circle import BLOCK, count_alone
from hypothesis import given, settings
from hypothesis import strategies as st

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
import hashlib, json, os
import numba
from flame_fast.kernels import estimate_batch, quasi, sampling
from flame_fast.kernels.jit import block_kernels, quarter_circle as q

given = []

def watched(kernel):
    def watch(*args):
        given.append(args[-1])
        return kernel(*args)
    return watch

q.count_together = watched(q.count_together)
block_kernels._run_together = watched(block_kernels._run_together)

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
    given.clear()
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
        "given": sorted(set(given)),
        "busy": busy_threads(1_000_000_000),
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
    assert by_threads[1]["counts"][0] == count_alone(rng.key(SEED), POINTS, 0, blocks)
    assert len(set(by_threads[1]["arrays"])) == 8


def test_set_num_threads_is_obeyed(by_threads):
    assert {threads: found["given"] for threads, found in by_threads.items()} == {1: [], 2: [2], 3: [3]}
    assert all(found["busy"] <= threads for threads, found in by_threads.items())
    assert by_threads[1]["busy"] == 1


def test_one_two_and_three_workers_give_the_same(project):
    expected = count_alone(rng.key(SEED), POINTS, 0, -(-POINTS // BLOCK))
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
import numba
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
print(json.dumps([numba.threading_layer(), found.count(True), len(found), len(set(found) - {True})]))
"""


def test_threads_may_call_kernels_at_once():
    """Without a lock, Numba's own layer ends a process in which two threads launch kernels at the same time."""
    assert told(SEVERAL, NUMBA_THREADING_LAYER="workqueue") == ["workqueue", 15, 20, 1]


# ---- how many threads ----------------------------------------------------------------------------------------------------

LIMITED = """\
import json, os
import numba
from numba.np.ufunc import parallel as numba_parallel
from flame_fast.kernels import estimate_batch
from flame_fast.kernels.jit import quarter_circle as q, parallel

def state():
    return parallel.thread_count(), bool(numba_parallel._is_initialized), len(os.listdir("/proc/self/task"))

told = {"at first": state()}
launched = []
parallel.limit_threads(2, lambda: launched.append(numba.get_num_threads()))
told["limited"] = state()
estimate_batch(100, 1)
told["few points"] = state()
estimate_batch(5_000_000, 1)
told["launched"] = state()[:2]
numba.set_num_threads(1)
told["set by the user"] = state()[:2]
parallel.limit_threads(3, lambda: launched.append("again"))
told["limited again"] = state()[:2]
parallel.limit_threads(1000, lambda: None)
told["no limit"] = state()[:2]
estimate_batch(5_000_000, 1)
told["calls"] = launched
print(json.dumps(told))
"""


def test_a_limit_starts_no_threads_and_holds_once_they_are_started():
    assert told(LIMITED) == {
        "at first": [3, False, 1],
        "limited": [2, False, 1],
        "few points": [2, False, 1],
        "launched": [2, True],
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

before = in_child(parallel.thread_count)
expected = estimate_batch(5_000_000, 1)
after = in_child(parallel.thread_count)
grandchild = in_child(lambda: in_child(parallel.thread_count))
print(json.dumps([before, after, grandchild, in_child(lambda: estimate_batch(5_000_000, 1)) == expected]))
"""


def test_a_forked_child_has_the_threads_that_it_can_start_itself():
    assert told(FORKED) == [THREADS, 1, 1, True]


# ---- pieces --------------------------------------------------------------------------------------------------------------


def pieces_of(blocks, thread_count, seconds_of):
    """Run fake kernels; return [(first, last, threads)] and the result.

    `seconds_of(first, last)` is how long a piece takes.
    """
    clock = [0.0]
    pieces = []

    def alone(first, last):
        return together(first, last, 1)

    def together(first, last, number):
        pieces.append((first, last, number))
        clock[0] += seconds_of(first, last)
        return (last - first) * (first + last - 1) // 2

    with (
        mock.patch.object(parallel, "time", SimpleNamespace(perf_counter=lambda: clock[0])),
        mock.patch.object(parallel, "thread_count", lambda: thread_count),
    ):
        return pieces, run_blocks(blocks, alone, together)


@given(st.integers(0, 20_000), st.integers(1, 64), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_every_block_is_in_one_piece(blocks, thread_count, random):
    pieces, result = pieces_of(blocks, thread_count, lambda first, last: random.choice([0.0, 1e-9, 0.01, 0.05, 1.0]))
    assert result == sum(range(blocks))
    assert [first for first, _, _ in pieces] == [0, *(last for _, last, _ in pieces)][: len(pieces)]
    assert all(first < last for first, last, _ in pieces)
    assert (pieces[-1][1] if pieces else 0) == blocks
    for first, last, number in pieces:
        assert number == (1 if last - first < FEW_BLOCKS * thread_count else thread_count)


class Interrupted(Exception):
    """Raised by a signal's handler between two pieces."""


@given(st.floats(1e-8, 1e-2), st.integers(1, 64))
@settings(deadline=None, max_examples=100)
def test_pieces_after_the_first_take_a_twentieth_of_a_second(block_s, thread_count):
    """Or as long as one block for each thread, which cannot be cut further."""
    sizes = []

    def seconds_of(first, last):
        if len(sizes) == 40:
            raise Interrupted
        sizes.append(last - first)
        return sizes[-1] * block_s

    with pytest.raises(Interrupted):
        pieces_of(2**46, thread_count, seconds_of)
    assert sizes[0] == FIRST_BLOCKS * thread_count
    for before, size in itertools.pairwise(sizes):
        assert size <= 4 * before
        assert size == thread_count or size * block_s <= PIECE_S * 1.001
    assert sizes[-1] == pytest.approx(max(thread_count, PIECE_S / block_s), rel=0.1, abs=1.01)


def test_pieces_grow_shorter_as_soon_as_blocks_take_longer():
    pieces, _ = pieces_of(200_000, 1, lambda first, last: (last - first) * (1e-6 if first < 30_000 else 1e-3))
    slow = [last - first for first, last, _ in pieces if first >= 30_000]
    assert len(slow) > 100
    assert max(slow[1:]) * 1e-3 <= PIECE_S * 1.001


def test_an_error_of_a_piece_ends_the_run():
    """The error releases the lock."""

    def seconds_of(first, last):
        if first:
            raise Interrupted
        return 1.0

    with pytest.raises(Interrupted):
        pieces_of(10_000, 2, seconds_of)
    assert parallel._threads.launching.acquire(blocking=False)
    parallel._threads.launching.release()


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
    "count": (q, ("count_alone", "count_together"), estimate_batch),
    "draw": (block_kernels, ("_run_alone", "_run_together"), lambda size: sampling.gamma(0.5, size=size)),
    "fill": (streams, ("fill_with_normals",), lambda size: rng.fill_normals(rng.stream(rng.key(1), 0), np.empty(size))),
    "shuffle": (permuting, ("_go_on_alone", "_go_on_together"), sampling.permutation),
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

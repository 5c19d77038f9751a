"""Work on many pieces on several threads (flame_fast/package/ordered_pool.py)."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from flame_fast.package import ordered_pool
from flame_fast.package.ordered_pool import in_order, threads_for

#: A hang is a failure: ten times what the slowest of these takes.
DEADLINE_S = 20.0


class Stop(Exception):
    """Ends a piece of work, or comes out of a signal's handler."""


def run(count, threads, work, take):
    """`in_order` with one function for all threads."""
    in_order(lambda: work, count, threads, take)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_taken_in_order_by_one_at_a_time(threads):
    taken = []
    taking = threading.Lock()

    def take(number, result):
        assert taking.acquire(blocking=False)
        taken.append((number, result))
        taking.release()

    run(200, threads, lambda number: number * number, take)
    assert taken == [(number, number * number) for number in range(200)]


def test_each_thread_has_a_worker_of_its_own():
    made = []

    def new_worker():
        made.append(threading.get_ident())
        return lambda number: threading.get_ident()

    results = []
    in_order(new_worker, 50, 3, lambda number, ident: results.append(ident))
    assert set(results) <= set(made) and len(made) <= 3


def test_what_waits_for_one_before_it_is_bounded():
    """The first piece takes until the others can go no further ahead."""
    begun = []
    stuck = threading.Event()

    def work(number):
        begun.append(number)
        if number == 0:
            assert stuck.wait(DEADLINE_S)
        elif len(begun) == ordered_pool._AHEAD * 2:
            stuck.set()
        return number

    run(30, 2, work, lambda number, result: None)
    first_ahead = begun[: ordered_pool._AHEAD * 2]
    assert max(first_ahead) < ordered_pool._AHEAD * 2


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("where", ["worker", "work", "take"])
def test_what_goes_wrong_comes_out_when_all_have_ended(threads, where):
    working = set()

    def new_worker():
        if where == "worker":
            raise Stop(where)
        return work

    def work(number):
        working.add(number)
        if where == "work" and number == 7:
            working.discard(number)
            raise Stop(where)
        time.sleep(0)
        working.discard(number)
        return number

    def take(number, result):
        if where == "take" and number == 7:
            raise Stop(where)

    with pytest.raises(Stop, match=where):
        in_order(new_worker, 1000, threads, take)
    assert not working


@pytest.mark.parametrize("after_s", [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01])
def test_what_a_signal_s_handler_raises_comes_out_when_all_have_ended(after_s):
    """Wherever in the caller it strikes: before the threads are there, while they start or work, when they end."""
    working = []

    def handler(number, frame):
        raise Stop("signal")

    def work(number):
        working.append(number)
        time.sleep(0.0002)
        working.remove(number)
        return number

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(5):
            with pytest.raises(Stop):
                signal.setitimer(signal.ITIMER_REAL, after_s)
                in_order(lambda: work, 1_000_000, 3, lambda number, result: None)
            assert not working
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("most", [0, 1])
def test_fewer_threads_do_as_well(monkeypatch, most):
    """A system that gives no more cannot be had for the asking."""
    start = ordered_pool._thread.start_new_thread
    started = []

    def start_some(*arguments):
        if len(started) == most:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(ordered_pool._thread, "start_new_thread", start_some)
    taken = []
    in_order(lambda: lambda number: number, 20, 4, lambda number, result: taken.append(result))
    assert taken == list(range(20))


def test_one_piece_needs_no_thread():
    assert (threads_for(0), threads_for(1)) == (1, 1)
    assert 1 <= threads_for(1000) <= ordered_pool.MOST_THREADS

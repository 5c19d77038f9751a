"""Locks, queues, events, pipes and shared ctypes of `multiprocessing` in workers, which are no children of the driver."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading

import pytest
from gates import PATIENCE_S, Gate, run_script, same, wait_until

from flame_fast import Executor, Pool, Runner, WorkerDiedError

FORK = multiprocessing.get_context("fork")

TIMES = 300

#: The heap of `multiprocessing` keeps its files for the values to come: it begins with one large enough.
_ = FORK.RawArray("b", 1 << 20)
del _


@pytest.fixture
def rr(project):
    with Runner("inherited", workers=2) as runner:
        yield runner


def add_under(lock, counter):
    for _ in range(TIMES):
        with lock:
            counter.value += 1


def set_up(*given):
    global inherited
    inherited = given


def add_to_inherited(number):
    lock, counter, queue = inherited
    add_under(lock, counter)
    queue.put(number)
    return os.getpid()


# ---- where such an object may go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["Pool", "Executor", "Runner"])
def test_an_initializer_hands_them_to_workers(project, face):
    """The recipe of many programs: `Pool(initializer=..., initargs=(lock, counter, queue))`."""
    given = FORK.Lock(), FORK.Value("i", 0, lock=False), FORK.Queue()
    lock, counter, queue = given
    if face == "Runner":
        with Runner("inherited", workers=2, initializer=set_up, initargs=given) as rr:
            rr.get(list(rr.service(add_to_inherited).map(range(8))))
    else:
        with {"Pool": Pool, "Executor": Executor}[face](2, initializer=set_up, initargs=given) as pool:
            list(pool.map(add_to_inherited, range(8), chunksize=1))
    assert counter.value == 8 * TIMES
    assert sorted(queue.get(timeout=PATIENCE_S) for _ in range(8)) == list(range(8))
    with lock:
        assert not lock.acquire(block=False)
    queue.close()


def test_they_go_by_argument_closure_method_result_and_to_a_task_of_a_task(rr):
    lock, counter = FORK.Lock(), FORK.Value("i", 0)

    class Adder:
        def add(self):
            add_under(lock, counter)

    def of_a_task(lock, counter):
        rr.service(add_under)(lock, counter).get(PATIENCE_S)

    adding = rr.service(add_under)
    calls = [adding(lock, counter), rr.service(lambda: add_under(lock, counter))(), rr.service(Adder()).add()]
    rr.get([*calls, rr.service(of_a_task)(lock, counter)], timeout=PATIENCE_S)
    assert counter.value == 4 * TIMES
    back_lock, back_counter = rr.service(same)((lock, counter)).get(PATIENCE_S)
    assert back_lock is lock
    add_under(back_lock, back_counter)
    assert counter.value == 5 * TIMES


def test_a_worker_that_replaces_a_dead_one_opens_them_anew(project):
    def end(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return add_to_inherited(number)

    given = FORK.Lock(), FORK.Value("i", 0, lock=False), FORK.SimpleQueue()
    with Executor(2, initializer=set_up, initargs=given) as executor:
        calls = [executor.submit(end, number) for number in range(10)]
        with pytest.raises(WorkerDiedError):
            calls.pop(3).result(PATIENCE_S)
        for call in calls:
            call.result(PATIENCE_S)
    assert given[1].value == 9 * TIMES
    assert sorted(given[2].get() for _ in range(9)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_task_makes_one_and_gives_it_away(project):
    """It is open as long as the worker that made it lives and keeps it."""

    def make():
        global inherited
        inherited = FORK.Semaphore(2)
        return inherited

    with Runner("inherited", workers=1) as rr:
        made = rr.service(make)().get(PATIENCE_S)
        assert made.acquire(block=False) and made.acquire(block=False) and not made.acquire(block=False)
        assert rr.service(lambda made: made.get_value())(made).get(PATIENCE_S) == 0
    made.release()
    assert made.get_value() == 1


def test_every_way_to_start_children_has_them(project):
    """By name where the lock has one: of "spawn" and "forkserver"."""
    out = run_script(
        project,
        """
        import multiprocessing
        from flame_fast import Pool
        def set_up(*given):
            global lock, counter, queue
            lock, counter, queue = given
        def add(number):
            with lock:
                counter.value += number
            queue.put(number)
        if __name__ == "__main__":
            for method in "fork", "spawn", "forkserver":
                context = multiprocessing.get_context(method)
                given = context.RLock(), context.Value("i", 0), context.Queue()
                with Pool(2, set_up, given) as pool:
                    pool.map(add, range(10), chunksize=1)
                print(method, given[1].value, sorted(given[2].get(timeout=20) for _ in range(10)))
        """,
    )
    assert out.splitlines() == [f"{method} 45 {list(range(10))}" for method in ("fork", "spawn", "forkserver")]


# ---- each kind ---------------------------------------------------------------------------------------------------------


def test_semaphores_count_and_locks_know_their_owner(rr):
    semaphore, bounded, lock = FORK.Semaphore(3), FORK.BoundedSemaphore(1), FORK.RLock()

    def use(semaphore, bounded, lock):
        with semaphore, lock, lock:
            left = semaphore.get_value(), lock.acquire(block=False)
        with pytest.raises(ValueError, match="released too many times"):
            bounded.release()
        return left

    with semaphore:
        assert rr.service(use)(semaphore, bounded, lock).get(PATIENCE_S) == (1, True)
    assert semaphore.get_value() == 3


def test_events_conditions_and_barriers_join_tasks_and_the_driver(rr):
    event, condition, barrier = FORK.Event(), FORK.Condition(), FORK.Barrier(3)

    def arrive(event, condition, barrier):
        place = barrier.wait(PATIENCE_S)
        with condition:
            condition.notify()
        return event.wait(PATIENCE_S), place

    with condition:
        calls = [rr.service(arrive)(event, condition, barrier) for _ in range(2)]
        mine = barrier.wait(PATIENCE_S)
        assert condition.wait(PATIENCE_S)
    event.set()
    assert sorted([place for _, place in rr.get(calls, timeout=PATIENCE_S)] + [mine]) == [0, 1, 2]


def test_queues_go_both_ways(rr):
    asked, answered, done = FORK.Queue(), FORK.SimpleQueue(), FORK.JoinableQueue()

    def answer(asked, answered, done):
        for number in iter(asked.get, None):
            answered.put(number * 2)
            done.get()
            done.task_done()

    call = rr.service(answer)(asked, answered, done)
    for number in [*range(20), None]:
        asked.put(number)
        if number is not None:
            done.put(number)
    assert [answered.get() for _ in range(20)] == [number * 2 for number in range(20)]
    done.join()
    call.get(PATIENCE_S)
    for queue in (asked, done):
        queue.close()
        queue.join_thread()


def test_shared_ctypes_are_one_memory(rr):
    import ctypes.wintypes

    flat, points = FORK.Array("d", 5), FORK.RawArray(ctypes.wintypes.POINT, 3)
    text, number = FORK.Array("c", 8), FORK.Value(ctypes.c_longlong, 5)

    def write(flat, points, text, number):
        flat[1], points[2].y, text.value = 1.5, 25, b"written"
        with number.get_lock():
            number.value *= 2
        return type(flat).__name__, type(number).__name__

    assert rr.service(write)(flat, points, text, number).get(PATIENCE_S) == ("SynchronizedArray", "Synchronized")
    assert (flat[1], points[2].y, text.value, number.value) == (1.5, 25, b"written", 10)


def test_pipes_of_one_direction_go_and_sockets_say_what_to_use(rr):
    reader, writer = FORK.Pipe(duplex=False)

    def tell(writer):
        writer.send({"from": os.getpid()})
        writer.close()

    rr.service(tell)(writer).get(PATIENCE_S)
    assert reader.poll(PATIENCE_S) and reader.recv()["from"] != os.getpid()
    writer.close()
    with pytest.raises(EOFError):
        reader.recv()
    reader.close()
    one, other = FORK.Pipe()
    with one, other, pytest.raises(TypeError, match=r"use two of multiprocessing.Pipe\(duplex=False\), or a Queue"):
        rr.service(same)(one).get(PATIENCE_S)


# ---- the move ----------------------------------------------------------------------------------------------------------


def test_threads_that_wait_for_a_lock_do_not_notice_its_move(project):
    """A lock is held, and several threads wait for it, when it goes to a worker first."""
    lock, order = FORK.Lock(), []
    lock.acquire()

    def wait():
        with lock:
            order.append(threading.get_ident())

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiters(lock) == 8, "every thread waits")
    with Executor(1) as executor:
        assert executor.submit(lock_is_free, lock).result(PATIENCE_S) is False
        lock.release()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(order) == 8
        assert executor.submit(lock_is_free, lock).result(PATIENCE_S) is True


def lock_is_free(lock):
    free = lock.acquire(block=False)
    if free:
        lock.release()
    return free


def waiters(lock):
    """Return what glibc counts beside the value."""
    import ctypes

    return ctypes.c_uint32.from_address(lock._semlock.handle + 4).value


def test_locks_move_while_threads_use_them(project):
    """Nothing is lost and nobody is let in twice: 40 locks, each moved in the middle of its use by three threads."""
    with Executor(1) as executor:
        for _ in range(40):
            lock, inside, entered, most = FORK.Lock(), [0], [0], [0]

            def use(lock=lock, inside=inside, entered=entered, most=most):
                for _ in range(200):
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                        entered[0] += 1
                        inside[0] -= 1

            threads = [threading.Thread(target=use, daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
            executor.submit(add_under, lock, FORK.Value("i", 0, lock=False)).result(PATIENCE_S)
            for thread in threads:
                thread.join(PATIENCE_S)
            assert not any(thread.is_alive() for thread in threads)
            assert (most[0], entered[0]) == (1, 600)


def test_children_that_are_forked_later_have_the_moved_lock(rr):
    lock, counter = FORK.Lock(), FORK.Value("i", 0, lock=False)
    rr.service(add_under)(lock, counter).get(PATIENCE_S)
    call = rr.service(add_under)(lock, counter)
    child = FORK.Process(target=add_under, args=(lock, counter))
    child.start()
    child.join(PATIENCE_S)
    call.get(PATIENCE_S)
    assert child.exitcode == 0 and counter.value == 3 * TIMES


def test_a_lock_that_a_child_has_already_is_refused(project):
    with Gate() as gate, Executor(1) as executor:
        lock, other = FORK.Lock(), FORK.Lock()
        child = FORK.Process(target=gate.wait)
        child.start()
        with pytest.raises(pickle.PicklingError, match=rf"process {child.pid} has it by a fork.*get_context\('spawn'\)"):
            executor.submit(same, lock).result(PATIENCE_S)
        del other
        assert executor.submit(lock_is_free, FORK.Lock()).exception(PATIENCE_S) is None  # one that the child does not have
        gate.open()
        child.join(PATIENCE_S)
        assert executor.submit(lock_is_free, lock).result(PATIENCE_S)


def test_what_its_maker_does_not_keep_is_gone(project):
    with Gate() as gate, Runner("inherited", workers=1) as rr:
        holding = rr.service(Gate.wait)(gate)
        call = rr.service(same)(FORK.Lock())
        gc.collect()
        gate.open()
        holding.get(PATIENCE_S)
        with pytest.raises(FileNotFoundError, match=f"process {os.getpid()}, which made it, has ended or does not keep it"):
            call.get(PATIENCE_S)


def test_descriptors_end_with_what_has_them(rr):
    lock, counter, service = FORK.Lock(), FORK.Value("i", 0), rr.service(add_under)
    service(lock, counter).get(PATIENCE_S)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        made = FORK.Lock()
        service(made, counter).get(PATIENCE_S)
        service(made, counter).get(PATIENCE_S)
    del made
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_in_the_driver_they_are_themselves(project):
    lock, queue = FORK.RLock(), FORK.Queue()
    with Runner("inherited", engine="inline") as rr, lock:
        assert rr.service(lock_is_free)(lock).get(PATIENCE_S)  # it knows its owner
        rr.service(queue.put)(1).get(PATIENCE_S)
    assert queue.get(timeout=PATIENCE_S) == 1
    queue.close()
    queue.join_thread()

"""What a thread waits for: one future, all of a list in order, any of some; what wakes it, and what it leaves behind.

One process. A thread plays the part of another process; it goes on once the waiting one sleeps.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from actors import rung
from flame_fast.kernels.runtime import serialization
from flame_fast.kernels.runtime.serialization.definitions import Namespace, definitions, use_in_thread
from gates import PATIENCE_S, in_child, passes_in_child, wait_until
from runtime_harness import POOL, Alone
from tangle import deeds, do
from words import Words, slot_of

from flame_fast import FlameError, StoreFullError, TaskError
from flame_fast.engine.spec import INSTANCE
from flame_fast.engine.task_host import Host

#: Longer than it takes to be woken, shorter than a look around (250 ms).
PROMPT_S = 0.2


@pytest.fixture
def words(alone):
    return Words(alone.runtime)


def error_of(message):
    return serialization.dump_error(LookupError(message))


class Waiting(threading.Thread):
    """A thread that waits, and how its wait ended."""

    def __init__(self, words, wait):
        super().__init__()
        self.words = words
        self.wait = wait
        self.found = None
        self.start()

    def run(self):
        try:
            self.found = self.wait()
        except BaseException as error:
            self.found = error

    def sleeps(self, count=1):
        wait_until(lambda: self.words.get("processes", self.words.tables.DRIVER_INDEX, "waiters") == count, "its sleep")

    def end(self):
        self.join(PATIENCE_S)
        assert not self.is_alive(), "it waits for ever"
        return self.found


def is_watched(words, future):
    return bool(words.get("slots", slot_of(future), "watched"))


def await_watch(words, future):
    wait_until(lambda: is_watched(words, future), "its being watched")


def in_use(words):
    """Return this process's notes of its waits."""
    return [
        words.get("processes", words.tables.DRIVER_INDEX, name) for name in ("waiters", "watching", "spinning", "blocked")
    ]


# ---- one future ------------------------------------------------------------------------------------------------------


def test_a_wait_ends_with_the_value_or_the_error(alone, words):
    for error in (None, error_of("gone")):
        promise = alone.runtime.promise()
        waiting = Waiting(words, promise.get)
        waiting.sleeps()
        assert is_watched(words, promise)
        alone.runtime.fulfil(promise, 7, error)
        assert repr(waiting.end()) == ("7" if error is None else "LookupError('gone')")
    assert in_use(words) == [0] * 4


def test_a_wait_in_any_form_ends_in_the_same_way(alone):
    for error in (None, error_of("gone")):
        promise = alone.runtime.promise()
        alone.runtime.fulfil(promise, 7, error)
        many = [lambda p=promise: alone.runtime.get_many([p]), lambda p=promise: alone.runtime.wait_many([p])]
        for form, value in zip([promise.get, promise.wait, *many], [7, None, [7], None], strict=True):
            if error is None:
                assert form() == value
            else:
                with pytest.raises(LookupError, match="gone"):
                    form()
        assert repr(promise.exception()) == ("None" if error is None else "LookupError('gone')")


@pytest.mark.parametrize("timeout", [0, 0.03])
def test_a_wait_takes_no_less_than_its_time_and_no_look_around_more(alone, words, timeout):
    promise, done = alone.runtime.promise(), alone.runtime.put(1)
    selector = alone.runtime.selector([promise])
    forms = [promise.get, lambda t: alone.runtime.get_many([done, promise], t), selector.select]
    for form in forms:
        took = []
        for _ in range(3):
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                form(timeout)
            took.append(time.monotonic() - begin)
        assert timeout <= min(took) < PROMPT_S
    assert in_use(words) == [0] * 4
    alone.runtime.fulfil(promise, 2)
    assert [form(timeout) for form in forms] == [2, [1, 2], [0]]


def test_a_signal_s_handler_runs_while_a_thread_waits_and_may_end_that(alone, words):
    """Each form of waiting, after which the notes of the wait are taken back."""

    def handler(*_):
        raise LookupError("interrupted")

    def interrupt(thread):
        wait_until(lambda: in_use(words)[0], "its sleep")
        signal.pthread_kill(thread, signal.SIGUSR1)

    promise = alone.runtime.promise()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for wait in (promise.get, lambda t: alone.runtime.get_many([promise], t), alone.runtime.selector([promise]).select):
            helper = threading.Thread(target=interrupt, args=[threading.get_ident()])
            helper.start()
            with pytest.raises(LookupError, match="interrupted"):
                wait(PATIENCE_S)
            helper.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert in_use(words) == [0] * 4
    alone.runtime.fulfil(promise, 1)


@pytest.mark.parametrize("form", ["one", "many", "any"])
def test_a_wait_ends_when_the_runner_is_closed_or_broken(form):
    for end, message in [
        ("mark_closed", "had not finished when its runner 'alone' was closed"),
        ("mark_broken", "it broke"),
    ]:
        alone = Alone()
        words, promise, service = Words(alone.runtime), alone.runtime.promise(), alone.service(shown)
        selector = alone.runtime.selector([promise])
        many = lambda timeout=None, p=promise, a=alone: a.runtime.get_many([p], timeout)  # noqa: E731
        forms = {"one": promise.get, "many": many, "any": selector.select}
        waiting = Waiting(words, forms[form])
        waiting.sleeps()
        if end == "mark_closed":
            alone.runtime.mark_closed()
        else:
            alone.runtime.mark_broken("it broke")
        found = waiting.end()
        assert isinstance(found, FlameError) and message in str(found)
        for timeout in (None, 0):
            with pytest.raises(FlameError, match=message):
                forms[form](timeout)
        last = "is closed; make a new Runner" if end == "mark_closed" else message
        for refused in (alone.runtime.promise, lambda a=alone: a.runtime.put(1), lambda a=alone, s=service: a.call(s, 1)):
            with pytest.raises(FlameError, match=last):
                refused()
        alone.close()


def test_a_wait_in_a_forked_child_is_refused_at_once(alone):
    """Even the wait for a finished future: the future is the parent's."""
    promise, done = alone.runtime.promise(), alone.runtime.put(1)
    selector = alone.runtime.selector([promise])

    def is_refused(form):
        try:
            form()
        except FlameError as error:
            return "belongs to the parent" in str(error)
        return False

    forms = [promise.get, done.get, selector.select, lambda: alone.runtime.get_many([done])]
    forms += [alone.runtime.selector([done]).select]
    forms += [lambda: alone.runtime.wait_many([done]), lambda: alone.runtime.put(1), alone.runtime.promise]
    assert passes_in_child(lambda: all(map(is_refused, forms)))
    alone.runtime.mark_closed()
    assert passes_in_child(lambda: all(map(is_refused, forms)))
    alone.runtime.fulfil(promise, 1)


# ---- many ------------------------------------------------------------------------------------------------------------


def fulfil(alone, *futures):
    for future in futures:
        alone.runtime.fulfil(future, slot_of(future))


def test_a_thread_that_waits_for_many_watches_the_last_that_is_not_finished(alone, words):
    """Each dependency that finishes last passes that on to the one before it, past those that have finished meanwhile."""
    futures = [alone.runtime.promise() for _ in range(7)]
    fulfil(alone, futures[6])
    waiting = Waiting(words, lambda: alone.runtime.get_many(futures))
    waiting.sleeps()
    assert [is_watched(words, future) for future in futures] == [False] * 5 + [True, False]
    fulfil(alone, futures[4], futures[5])
    await_watch(words, futures[3])
    waiting.sleeps()
    fulfil(alone, futures[0], futures[3])
    await_watch(words, futures[2])
    waiting.sleeps()
    assert not is_watched(words, futures[1])
    fulfil(alone, futures[1], futures[2])
    assert waiting.end() == list(map(slot_of, futures))
    assert in_use(words) == [0] * 4


def test_a_thread_that_waits_for_many_is_not_woken_by_those_before_the_last(alone, words):
    futures = [alone.runtime.promise() for _ in range(4)]
    waiting = Waiting(words, lambda: alone.runtime.wait_many(futures))
    waiting.sleeps()
    calls = words.get("processes", words.tables.DRIVER_INDEX, "wake")
    fulfil(alone, *futures[:3])
    assert words.get("processes", words.tables.DRIVER_INDEX, "wake") == calls
    fulfil(alone, futures[3])
    assert waiting.end() is None


def test_a_failure_among_many_is_waited_for_with_all_before_it(alone, words):
    """And the failure is waited for with none behind it."""
    futures = [alone.runtime.promise() for _ in range(8)]
    fulfil(alone, futures[4])
    waiting = Waiting(words, lambda: alone.runtime.get_many(futures))
    waiting.sleeps()
    alone.runtime.fulfil(futures[5], None, error_of("gone"))
    await_watch(words, futures[3])
    waiting.sleeps()
    assert [is_watched(words, future) for future in futures] == [False] * 3 + [True] + [False] * 3 + [True]
    fulfil(alone, futures[0])
    alone.runtime.fulfil(futures[2], None, error_of("sooner"))
    await_watch(words, futures[1])
    waiting.sleeps()
    fulfil(alone, futures[1])
    assert repr(waiting.end()) == repr(LookupError("sooner"))
    fulfil(alone, *(futures[at] for at in (3, 6, 7)))
    assert in_use(words) == [0] * 4


def test_a_failure_that_was_there_before_the_wait_ends_it_as_well(alone, words):
    futures = [alone.runtime.promise() for _ in range(5)]
    alone.runtime.fulfil(futures[2], None, error_of("gone"))
    alone.runtime.fulfil(futures[4], None, error_of("later"))
    waiting = Waiting(words, lambda: alone.runtime.wait_many(futures))
    waiting.sleeps()
    assert [is_watched(words, future) for future in futures[:2]] == [False, True]
    fulfil(alone, futures[1])
    await_watch(words, futures[0])
    fulfil(alone, futures[0])
    assert repr(waiting.end()) == repr(LookupError("gone"))
    fulfil(alone, futures[3])


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_thread_that_waits_for_more_than_a_stretch_waits_for_one_after_the_other(alone, words, beyond):
    stretch = 4096
    futures = [alone.runtime.put(0) for _ in range(stretch + beyond)]
    for at in (0, stretch - 1, stretch + beyond - 1):
        futures[at] = alone.runtime.promise() if not hasattr(futures[at], "wait") else futures[at]
    waiting = Waiting(words, lambda: alone.runtime.get_many(futures))
    waiting.sleeps()
    assert is_watched(words, futures[stretch - 1])
    assert is_watched(words, futures[-1]) is (beyond == 0)
    for at in sorted({0, stretch - 1, stretch + beyond - 1}):
        alone.runtime.fulfil(futures[at], at)
    found = waiting.end()
    assert len(found) == stretch + beyond
    assert (found[0], found[stretch - 1], found[-1]) == (0, stretch - 1, stretch + beyond - 1)


def before_the_list(alone, count):
    """Promises in the slots whose numbers may stand before a list of so many handles: its size in memory, and three bits.

    In between stands a 0, and that slot is of something finished.
    """
    size = (4 * count + 8 + 15) & -16
    kept = [alone.runtime.put(None) for _ in range(size)]
    promises = [alone.runtime.promise() for _ in range(8)]
    assert [slot_of(one) for one in (kept[0], promises[0])] == [0, size]
    return kept, promises


def test_a_list_ends_at_its_beginning_for_a_waiter_that_looks_for_a_failure(alone, words):
    kept, before = before_the_list(alone, 130)
    first, last = alone.runtime.promise(), alone.runtime.promise()
    waiting = Waiting(words, lambda: alone.runtime.wait_many([first, *kept[:128], last]))
    waiting.sleeps()
    alone.runtime.fulfil(first, None, error_of("gone"))
    assert repr(waiting.end()) == repr(LookupError("gone"))
    assert not any(is_watched(words, one) for one in before)
    fulfil(alone, last, *before)


@pytest.mark.parametrize("looks", [["last"], ["last", "first", "last"]])
def test_a_list_ends_at_its_beginning_for_a_waiter_that_finds_all_of_it_finished(looks):
    """All that was left finishes between the waiter's look at the first and this one at the last."""
    stays = []

    def look():
        alone = Alone()
        words = Words(alone.runtime)
        kept, before = before_the_list(alone, 130)
        ends = []
        for _ in range(2):  # each on a page of its own
            kept += [alone.runtime.put(None) for _ in range(40)]
            ends.append(alone.runtime.promise())
        first, last = ends
        stays.extend([alone, kept, before, first, last])
        places = {
            name: words.place("slots", slot_of(future), "state")[0]
            for name, future in [("first", first), ("last", last), ("before", before[0])]
        }

        def end():
            fulfil(alone, *ends)
            ends.clear()

        turns = [(places[name], int) for name in looks[:-1]] + [(places[looks[-1]], end)]
        words.at_touches(*turns, (places["before"], lambda: os._exit(1)))
        alone.runtime.wait_many([first, *kept[:128], last], PATIENCE_S)
        assert not ends

    assert passes_in_child(look)


def test_a_list_that_changes_while_a_thread_waits_for_it_is_waited_for_as_it_was(alone, words):
    futures = [alone.runtime.promise() for _ in range(3)]
    given = list(futures)
    waiting = Waiting(words, lambda: alone.runtime.get_many(given))
    waiting.sleeps()
    del given[1:]
    fulfil(alone, *futures)
    assert waiting.end() == list(map(slot_of, futures))
    assert alone.runtime.get_many([]) == []


def test_a_wait_for_many_gives_its_memory_back(alone):
    """Each wait would leak a megabyte."""
    promise = alone.runtime.promise()
    futures = [promise] * (1 << 18)

    def pages():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0])

    def wait():
        with pytest.raises(TimeoutError):
            alone.runtime.get_many(futures, 0)

    wait()
    before = pages()
    for _ in range(30):
        wait()
    assert pages() < before + (10 << 20) // 4096
    alone.runtime.fulfil(promise, 1)


def test_two_threads_that_wait_for_many_are_both_woken_by_a_failure(alone, words):
    first, second, never = (alone.runtime.promise() for _ in range(3))
    threads = [Waiting(words, lambda f=future: alone.runtime.get_many([f, never])) for future in (first, second)]
    threads[0].sleeps(2)
    alone.runtime.fulfil(first, None, error_of("one"))
    assert repr(threads[0].end()) == repr(LookupError("one"))
    threads[1].sleeps()
    assert words.get("processes", words.tables.DRIVER_INDEX, "watching") == 1
    alone.runtime.fulfil(second, None, error_of("other"))
    assert repr(threads[1].end()) == repr(LookupError("other"))
    fulfil(alone, never)
    assert in_use(words) == [0] * 4


# ---- any -------------------------------------------------------------------------------------------------------------

LOG = 4096


def test_what_has_finished_is_given_out_once_in_the_order_of_its_end(alone):
    futures = [alone.runtime.promise() for _ in range(6)]
    fulfil(alone, futures[5], futures[0])
    selector = alone.runtime.selector([*futures, futures[0], futures[3]])
    assert selector.select(0) == [0, 5, 6]
    with pytest.raises(TimeoutError):
        selector.select(0)
    fulfil(alone, futures[4])
    alone.runtime.fulfil(futures[3], None, error_of("gone"))
    assert selector.select(0) == [4, 3, 7]
    fulfil(alone, futures[2])
    fulfil(alone, futures[1])
    assert selector.select(0) == [2, 1]
    with pytest.raises(TimeoutError):
        selector.select(0)


def test_a_thread_that_waits_for_any_is_woken_by_each(alone, words):
    futures = [alone.runtime.promise() for _ in range(3)]
    selector = alone.runtime.selector(futures)
    for at in (1, 2, 0):
        waiting = Waiting(words, selector.select)
        waiting.sleeps()
        fulfil(alone, futures[at])
        assert waiting.end() == [at]
    assert in_use(words) == [0] * 4


def test_all_that_finish_while_a_thread_sleeps_are_given_out_in_the_order_of_their_end(alone, words):
    """However many the waiter finds when it is woken."""
    futures = [alone.runtime.promise() for _ in range(4)]
    selector, found = alone.runtime.selector(futures), []

    def take_all():
        while len(found) < 4:
            found.extend(selector.select())

    waiting = Waiting(words, take_all)
    waiting.sleeps()
    fulfil(alone, *reversed(futures))
    assert waiting.end() is None
    assert found == [3, 2, 1, 0]


@pytest.mark.parametrize("count", [LOG, LOG + 1, 2 * LOG + 3])
def test_a_waiter_that_reads_the_log_too_late_looks_at_all(alone, count):
    """All positions come, once, whatever entries were overwritten."""
    futures = [alone.runtime.promise() for _ in range(count)]
    selector = alone.runtime.selector(futures)
    for future in reversed(futures):
        alone.runtime.fulfil(future, None)
    expected = list(range(count))
    assert selector.select(0) == (expected if count > LOG else expected[::-1])
    last = [alone.runtime.promise() for _ in range(2)]
    with pytest.raises(TimeoutError):
        selector.select(0)
    selector = alone.runtime.selector(last)
    fulfil(alone, *reversed(last))
    assert selector.select(0) == [1, 0]


class LogOf:
    """The driver's log, its entries as a death, or a quicker writer, leaves them."""

    def __init__(self, words):
        self.words = words

    @property
    def tail(self):
        return self.words.get("processes", self.words.tables.DRIVER_INDEX, "log_tail")

    def move(self, number):
        self.words.add("processes", self.words.tables.DRIVER_INDEX, "log_tail", number)

    def write(self, position, slot, laps=0):
        lap = (position // LOG + 1 + laps) << 20
        at = self.words.tables.logs_at + 8 * (self.words.tables.DRIVER_INDEX * LOG + position % LOG)
        os.pwrite(self.words.fd, (lap | slot + 1).to_bytes(8, "little"), at)


def test_an_entry_that_never_comes_delays_no_reader_for_long(alone, words):
    """The entry's writer has died. A sleep later the waiter looks at all, and reads the log on from behind the entry."""
    log, futures = LogOf(words), [alone.runtime.promise() for _ in range(3)]
    selector = alone.runtime.selector(futures)
    log.move(1)
    fulfil(alone, futures[2], futures[0])
    assert selector.select(0.001) == [0, 2]
    fulfil(alone, futures[1])
    assert selector.select(0) == [1]


def test_an_entry_that_is_not_there_yet_is_read_when_it_is(alone, words):
    """The entry's place has been taken: the entries behind it wait for it."""
    log, futures = LogOf(words), [alone.runtime.promise() for _ in range(3)]
    selector = alone.runtime.selector(futures)
    fulfil(alone, futures[1], futures[0])
    log.write(log.tail - 2, -1, laps=-1)
    with pytest.raises(TimeoutError):
        selector.select(0)
    log.write(log.tail - 2, slot_of(futures[1]))
    assert selector.select(0) == [1, 0]
    fulfil(alone, futures[2])
    assert selector.select(0) == [2]


def test_an_entry_that_was_overwritten_makes_its_reader_look_at_all(alone, words):
    log, futures = LogOf(words), [alone.runtime.promise() for _ in range(3)]
    selector = alone.runtime.selector(futures)
    fulfil(alone, futures[2], futures[0])
    log.write(log.tail - 2, slot_of(futures[1]), laps=1)
    assert selector.select(0) == [0, 2]
    fulfil(alone, futures[1])
    assert selector.select(0) == [1]


def test_an_entry_of_the_log_is_a_hint(alone, words):
    """The slot of a future that is not finished, and a slot that is not waited for."""
    log, futures = LogOf(words), [alone.runtime.promise() for _ in range(2)]
    selector, other = alone.runtime.selector(futures), alone.runtime.promise()
    for future in (futures[1], other):
        log.write(log.tail, slot_of(future))
        log.move(1)
    fulfil(alone, other)
    with pytest.raises(TimeoutError):
        selector.select(0)
    fulfil(alone, *reversed(futures))
    assert selector.select(0) == [1, 0]


def test_only_handles_of_a_runtime_are_its_own_and_selected(alone):
    other = Alone()
    mine, ref, foreign = alone.runtime.promise(), alone.runtime.put(1), other.runtime.put(1)
    assert [alone.runtime.owns(one) for one in (mine, ref, foreign, 5)] == [True, True, False, False]
    lists = [[], [mine, ref], [foreign, mine], [mine, foreign], [5, mine], [mine, 5]]
    assert [alone.runtime.owns_all(one) for one in lists] == [True, True, False, False, False, False]
    with pytest.raises(TypeError):
        alone.runtime.selector([mine, 5])
    assert alone.runtime.takes_array(np.zeros(3))
    assert not alone.runtime.takes_array(np.array([None]))
    assert not alone.runtime.takes_array([1.0])
    alone.runtime.fulfil(mine, None)
    del foreign
    other.close()


# ---- what is submitted and stored ------------------------------------------------------------------------------------


class Box:
    """A class that only pickle can write."""

    def __init__(self, content):
        self.content = content

    def __repr__(self):
        return f"Box({self.content!r})"


def shown(*args, **kwargs):
    return repr((args, kwargs))


ARGUMENTS = [
    (),
    (1, "two", [3.0, None], {"four": b"5"}),
    (list(range(100)), 4),
    (Box(1),),
    (Box([Box("x" * 100)]), 2),
    ("y" * 144, "z" * 40_000),
]


def test_arguments_arrive_as_they_are(alone):
    """Arguments by position and by name; plain ones and pickled ones; in the slot and in a block."""
    service = alone.service(shown)
    for kwargs in ({}, {"one": 1}, {"one": Box(1), "two": 2, "three": "x" * 200}):
        for args in ARGUMENTS:
            future = alone.call(service, *args, **kwargs)
            alone.work()
            assert future.get(0) == repr((args, kwargs))


def test_futures_are_inputs_wherever_they_are_in_an_argument(alone):
    service = alone.service(shown)
    for wrap in (lambda value: value, Box, lambda value: {"in": [value]}):
        first, second = alone.runtime.promise(), alone.runtime.put("second")
        future = alone.call(service, wrap(first), 2, last=wrap(second))
        alone.runtime.fulfil(first, "first")
        alone.work()
        assert future.get(0) == repr(((wrap("first"), 2), {"last": wrap("second")}))


def test_a_future_in_a_value_is_its_value(alone):
    """The future in it stays none: nothing would hold a reference to it."""
    service = alone.service(shown)
    ref, before = alone.runtime.put("inner"), alone.in_use()
    alone.call(service, ref)  # there it would be one
    alone.work()
    for value in (ref, [ref], Box(ref)):
        assert repr(alone.runtime.put(value).get()) == repr(value).replace(repr(ref), "'inner'")
    assert alone.in_use() == before


def test_an_argument_that_cannot_be_written_is_named_and_takes_nothing(alone):
    service, before = alone.service(shown), alone.in_use()
    with pytest.raises(TypeError, match="argument 2"):
        alone.call(service, 1, threading.Lock())
    with pytest.raises(TypeError, match="argument 'lock'"):
        alone.call(service, np.zeros(10_000), lock=threading.Lock())
    assert alone.in_use() == (before[0], before[1])
    alone.check()


def test_what_is_copied_is_counted_and_what_fits_into_its_slot_is_not(alone):
    before = alone.runtime.statistics()["copied_bytes"]
    alone.runtime.put(b"x" * 100)
    assert alone.runtime.statistics()["copied_bytes"] == before
    counted = []
    for size in range(120, 160):
        value, copied = alone.runtime.put(b"x" * size), alone.runtime.statistics()["copied_bytes"]
        counted.append(copied - before)
        before = copied
        assert value.get() == b"x" * size
    head = 9  # of bytes
    assert counted == [size + head if size + head > 144 else 0 for size in range(120, 160)]


#: Classes that are not imported where a value is read, but named in it.
CLASSES = """
import enum
from collections import namedtuple

Point = namedtuple("Point", "x y")
Colour = enum.Enum("Colour", {"RED": 1, "GREEN": 2})
Large = enum.Enum("Large", {f"MEMBER_{number}": number for number in range(200)})
for kind in (Point, Colour, Large):
    kind.__module__ = __name__
"""


@pytest.fixture
def classes(define, alone):
    yield define(CLASSES)
    serialization.release(alone.runtime)


def test_a_class_or_member_that_a_value_names_often_is_the_same_wherever_it_stands(alone, classes):
    """The name is written once in full and then by its place, in values one after the other and inside each other."""
    Point, Colour = classes.Point, classes.Colour
    values = [
        Point(Colour.RED, [Point(Colour.GREEN, Colour.RED) for _ in range(3)]),
        [Colour.RED, Colour.GREEN, Colour.RED] * 5,
        Point(1, 2),
    ]
    for value in [*values, *reversed(values)]:
        got = alone.runtime.put(value).get()
        assert got == value
        assert repr(got) == repr(value)
    points = alone.runtime.put([one for _ in range(50) for one in (Point(1, 2), Colour.RED)]).get()
    assert {type(point) for point in points[::2]} == {Point}
    assert set(points[1::2]) == {Colour.RED}


def test_what_a_value_names_is_told_apart_however_much_it_names(alone, words, classes):
    """The value has more members than are noted; none of them is kept beyond the reading."""
    members = list(classes.Large)
    value = alone.runtime.put([members, members[::-1], list(members)])  # no list twice: that only pickle writes
    assert words.get("slots", slot_of(value), "result_kind") & words.tables.KIND_NATIVE
    before = [sys.getrefcount(member) for member in members]
    for _ in range(3):
        assert value.get() == [members, members[::-1], members]
        assert [sys.getrefcount(member) for member in members] == before


def test_threads_that_read_at_the_same_time_get_what_the_values_name(alone, words, classes):
    Point, Colour = classes.Point, classes.Colour
    values = [
        [(Colour.RED, Point(number, Colour.GREEN)) for number in range(20)],
        [(Colour.GREEN, Point(number, Colour.RED)) for number in range(20)],
    ]
    refs = [alone.runtime.put(value) for value in values]
    threads = [Waiting(words, lambda r=ref: [r.get() for _ in range(200)]) for ref in refs]
    for thread, value in zip(threads, values, strict=True):
        assert all(got == value for got in thread.end())


KEY = """
import threading
from collections import namedtuple

class Key(namedtuple("Key", "number")):
    __slots__ = ()

    def __hash__(self):
        getattr(threading.current_thread(), "hashes", int)()
        return self.number
"""


def test_threads_of_different_services_get_their_own_of_what_a_value_names(alone, words, define, monkeypatch):
    """One thread reads the value while the other is in the middle of it."""
    value = alone.runtime.put(dict.fromkeys(map(define(KEY).Key, range(2))))
    monkeypatch.setattr(definitions, "own", lambda _: None)  # as where it did not come from
    assert words.get("slots", slot_of(value), "result_kind") & words.tables.KIND_NATIVE
    middle, over = threading.Event(), threading.Event()

    def read(hashes):
        use_in_thread(Namespace())
        threading.current_thread().hashes = hashes
        try:
            return {type(key) for key in value.get()}
        finally:
            over.set()

    def let_the_other_read():
        if not middle.is_set():
            threads.append(Waiting(words, lambda: read(wait_for_the_first)))
            assert middle.wait(PATIENCE_S)

    def wait_for_the_first():
        middle.set()
        assert over.wait(PATIENCE_S)

    threads = []
    threads.append(Waiting(words, lambda: read(let_the_other_read)))
    kinds = [thread.end() for thread in threads]
    assert [len(kind) for kind in kinds] == [1, 1]
    assert kinds[0] != kinds[1]
    serialization.release(alone.runtime)


class Unreadable:
    def __reduce__(self):
        return fail_to_read, ()


def fail_to_read():
    raise LookupError("gone")


def test_a_value_that_cannot_be_read_says_so_with_what_went_wrong(alone):
    with pytest.raises(TaskError, match="LookupError") as caught:
        alone.runtime.put(Unreadable()).get()
    assert repr(caught.value.__cause__) == repr(LookupError("gone"))


UNBUILDABLE = """
from collections import namedtuple

class Point(namedtuple("Point", "x y")):
    __slots__ = ()
    origin = None
"""


def test_a_value_of_a_class_that_cannot_be_built_here_says_so_once(alone, words, define, monkeypatch):
    kind = define(UNBUILDABLE).Point
    kind.origin = Unreadable()
    value, before = alone.runtime.put(kind(1, 2)), use_in_thread(Namespace())
    assert words.get("slots", slot_of(value), "result_kind") & words.tables.KIND_NATIVE
    monkeypatch.setattr(definitions, "own", lambda _: None)  # as where it did not come from
    try:
        with pytest.raises(TaskError, match="LookupError") as caught:
            value.get()
        assert repr(caught.value.__cause__) == repr(LookupError("gone"))
    finally:
        use_in_thread(before)
        del value
        serialization.release(alone.runtime)


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_what_a_forked_child_holds_is_to_be_had_once_that_has_ended(size):
    """A process that needs the memory looks for children that have ended: for one large value as for many small ones."""
    alone = Alone(limit=8 << 20)
    leave = os.eventfd(0)
    value = alone.runtime.put(np.zeros(5 << 17))
    view = value.get()
    child = in_child(lambda: os.eventfd_read(leave))
    del view, value

    def fill():
        return [alone.runtime.put(b"x" * size) for _ in range((5 << 20) // size)]

    with pytest.raises(StoreFullError):
        fill()
    os.eventfd_write(leave, 1)
    os.waitpid(child, 0)
    assert len(fill()) == (5 << 20) // size
    os.close(leave)
    alone.check()
    alone.close()


def test_a_failed_task_stays_while_it_stands_on_the_list_of_an_input_that_is_to_come(alone):
    """Nothing holds a reference to the task: the finisher of that dependency finds it there."""
    service, before = alone.service(shown), alone.in_use()
    failing, late = alone.runtime.promise(), alone.runtime.promise()
    future = alone.call(service, [failing, late])
    alone.runtime.fulfil(failing, None, error_of("gone"))
    del failing, future
    assert alone.in_use()[0] == 3
    alone.check()
    alone.runtime.fulfil(late, 1)
    del late
    assert alone.in_use()[0] == 0
    assert before[0] == 0


def test_a_call_whose_arguments_fit_and_whose_list_of_inputs_does_not_takes_nothing():
    alone = Alone(limit=1 << 20)
    service, values = alone.service(shown), [alone.runtime.put(None) for _ in range(8000)]
    room, held, size = alone.runtime.put(b"x" * (1 << 16)), [], 1 << 20
    while size >= 1 << 15:
        try:
            held.append(alone.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    del room
    before = alone.in_use()
    alone.runtime.put(b"x" * (1 << 16))  # more than the arguments
    with pytest.raises(StoreFullError) as caught:
        alone.call(service, values)
    assert caught.value.asked > 8000 * 24
    assert alone.in_use() == before
    alone.check()
    alone.close()


# ---- a service that closes meanwhile ---------------------------------------------------------------------------------


def test_a_call_of_a_closed_service_is_not_even_written(alone):
    """Nor is a call of a service whose entry is another's by now, or of a closed runner."""
    written = []

    class Written:
        def __reduce__(self):
            written.append(True)
            return shown, ()

    service = alone.service(shown)
    alone.runtime.close_service(*service[:2])
    with pytest.raises(FlameError, match="closed"):
        alone.call(service, Written())
    again = alone.service(shown)
    assert again[0] == service[0]
    with pytest.raises(FlameError, match="closed"):
        alone.call(service, Written())
    assert written == []
    alone.runtime.mark_closed()
    with pytest.raises(FlameError, match="closed"):
        alone.call(again, Written())
    assert written == []


def test_an_instance_s_process_is_asked_for_by_its_first_call_and_a_pool_s_is_not(family):
    log, free, limited = family.service([], INSTANCE, ("append",)), family.service(shown), family.service(shown, limit=1)
    futures = [family.call(free, 1), family.call(limited, 2)]
    assert family.supervisor.processes() == []
    futures += [family.call(log, 3), family.call(log, 4)]
    assert len(family.supervisor.processes()) == 1
    family.fork_requested()
    family.fork_worker()
    family.runtime.wait_many(futures, PATIENCE_S)


def test_a_full_store_refuses_a_result_and_the_call_says_so(alone):
    promise = alone.runtime.promise()
    with pytest.raises(StoreFullError):
        alone.runtime.fulfil(promise, b"x" * (1 << 27))
    assert not promise.done()
    alone.runtime.fulfil(promise, 5)
    assert promise.get(0) == 5


# ---- a worker's waits ------------------------------------------------------------------------------------------------


def test_a_process_that_runs_no_task_counts_as_blocked_by_nothing(family):
    """The process is a worker: no other process is told of its wait."""

    def live():
        promise = family.runtime.promise()
        rung(family)
        with pytest.raises(TimeoutError):
            promise.get(0.02)
        assert not rung(family)

    assert family.recover_process(family.fork(live)) == 0


def test_a_sleeper_is_woken_when_a_worker_s_task_waits(family):
    """The sleeper may take over the worker's permit."""
    words = Words(family.runtime)

    def wait():
        words.add("header", 0, "pool_sleepers", 1)
        promise = family.runtime.promise()

        def end():
            wait_until(lambda: not words.get("header", 0, "pool_sleepers"), "its being called")
            family.runtime.fulfil(promise, 7)

        threading.Thread(target=end).start()
        return promise.get(PATIENCE_S)

    assert outcome_in_a_worker(family, wait) == 7


def test_a_worker_is_blocked_until_the_last_of_its_threads_goes_on(family):
    """The task waits beside a thread of its own, and goes on before that."""
    words, me = Words(family.runtime), family.runtime.request_process(POOL, 0)

    def wait():
        promise, found = family.runtime.promise(), []
        thread = threading.Thread(target=lambda: found.append(promise.get()))
        thread.start()
        wait_until(lambda: words.get("processes", me, "blocked"), "its being blocked")
        with pytest.raises(TimeoutError):
            family.runtime.promise().get(0.02)
        found.append(words.get("processes", me, "blocked"))
        family.runtime.fulfil(promise, 7)
        thread.join()
        return [*found, words.get("processes", me, "blocked")]

    assert outcome_in_a_worker(family, wait, me) == [1, 7, 0]


def test_a_task_that_finds_its_wait_over_when_it_looks_around_is_not_blocked(family):
    """The task looks at that first when its patience is at an end."""
    words, me = Words(family.runtime), family.runtime.request_process(POOL, 0)

    def wait():
        promise = family.runtime.promise()
        slot, process = words.place("slots", slot_of(promise), "state")[0], words.place("processes", me, "current")[0]
        rung(family)
        # At the call, in `wait_for`, and in `_sleep_until` twice: before its first sleep, and after it.
        looks = [(slot, int), (process, int)] * 3
        words.at_touches(*looks, (slot, lambda: family.runtime.fulfil(promise, 7)))
        return promise.get(PATIENCE_S), rung(family)

    assert outcome_in_a_worker(family, wait, me) == (7, False)


def outcome_in_a_worker(family, task, index=None):
    """Return what a task returns that a worker runs."""
    future = family.call(family.service(do))

    def live():
        deeds.append(task)
        family.runtime.serve_inline()
        family.runtime.run_queued(Host(family.runtime))

    assert family.recover_process(family.fork(live, index)) == 0
    return future.get(0)

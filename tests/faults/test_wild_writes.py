"""Wild writes: native code of a task writes over the segment; the driver and the supervisor survive it.

Damage costs the runner. It ends in an error that says what happened, and never in a crash, a hang, or foreign code.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flame_fast.kernels.runtime import serialization
from gates import PATIENCE_S, passes_in_child, wait_until
from process_events import workers
from runtime_harness import Alone
from wild_driver import REACH, Counter
from words import Words, slot_of

from flame_fast import FlameError, FlameErrorCode, Runner

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def alone():
    """Make a runtime that a test damages: nothing in it is looked at afterwards."""
    made = Alone()
    yield made
    made.close()


@pytest.fixture
def words(alone):
    return Words(alone.runtime)


def is_damage(caught):
    return caught.value.code is FlameErrorCode.INTERNAL and "was overwritten" in caught.value.message


def overwrite(words, at, data):
    assert os.pwrite(words.fd, data, at) == len(data)


def place_of(words, data):
    """Return where some bytes lie in the segment."""
    at = 0
    while (at := os.lseek(words.fd, at, os.SEEK_DATA)) >= 0:
        end = os.lseek(words.fd, at, os.SEEK_HOLE)
        found = os.pread(words.fd, end - at, at).find(data)
        if found >= 0:
            return at + found
        at = end
    raise AssertionError


# ---- a driver, whole -------------------------------------------------------------------------------------------------


@pytest.mark.storm
@pytest.mark.timeout(3600)
def test_a_driver_survives_whatever_a_task_writes_over_a_table(project, rounds):
    """Over some tables, by chance, at once; each in the end. Each driver has its own seed, which the message names."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT / "death")])}
    tables = random.sample(list(REACH), len(REACH))
    for number in rounds:
        chosen = [tables[(4 * number + step) % len(tables)] for step in range(4)]
        arguments = [(table, str(random.randrange(1 << 30))) for table in chosen]
        program = [sys.executable, str(SUPPORT / "wild_driver.py")]
        runs = [
            subprocess.Popen([*program, *these], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for these in arguments
        ]
        for run, these in zip(runs, arguments, strict=True):
            out, err = run.communicate(timeout=10 * PATIENCE_S)
            assert run.returncode == 0, (these, err)
            assert "UNEXPECTED" not in out, (these, out, err)


def test_damage_that_the_supervisor_finds_ends_the_runner(project):
    """The call that ran in the dead worker has its outcome; the other one waits for a worker that nobody starts."""
    with Runner("damaged", workers=1) as rr:
        rr.service(abs)(-1).get(PATIENCE_S)
        (worker,) = workers(os.getpid())
        words = Words(rr._engine.runtime)
        pause = rr.service(signal.pause)
        running, waiting = pause(), pause()
        overwrite(words, words.place("header", 0, "process_high")[0], b"\xff" * 4)
        os.kill(worker, signal.SIGKILL)
        for use in (lambda: waiting.get(PATIENCE_S), lambda: rr.service(abs), lambda: rr.put_object(1)):
            with pytest.raises(FlameError) as caught:
                use()
            assert is_damage(caught)
        del running


def test_a_wait_ends_when_the_header_is_no_header_any_more(project):
    with Runner("damaged", workers=1) as rr:
        service = rr.service(abs)
        service(-1).get(PATIENCE_S)
        overwrite(Words(rr._engine.runtime), 0, bytes(4096))
        with pytest.raises(FlameError) as caught:
            service(-2).get(PATIENCE_S)
        assert is_damage(caught)


def test_a_sleeper_that_was_forgotten_is_called_all_the_same(project):
    with Runner("damaged", workers=1) as rr:
        service, words = rr.service(abs), Words(rr._engine.runtime)
        service(-1).get(PATIENCE_S)
        wait_until(lambda: words.get("header", 0, "pool_sleepers"))
        words.set("header", 0, "pool_sleepers", 0)
        assert service(-2).get(PATIENCE_S) == 2


# ---- what would be loaded --------------------------------------------------------------------------------------------


class Bomb:
    """What a wild write turns a pickle into."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def forged(original, path):
    """Return a pickle of the same length that makes a file when it is loaded."""
    text = pickle.dumps(Bomb(path), 5)
    assert len(text) <= len(original)
    return text + bytes(len(original) - len(text))


@pytest.mark.parametrize("size", [400, 200_000])
def test_a_pickle_that_was_overwritten_is_not_loaded(alone, words, tmp_path, size):
    mark = "a text that is long enough to be found again" * (size // 44)
    future = alone.runtime.put({mark, 1.5})
    begin = place_of(words, mark.encode()[:200])
    at = begin - os.pread(words.fd, 300, begin - 300)[::-1].find(b"\x05\x80") - 2
    overwrite(words, at, forged(bytes(begin - at + len(mark)), tmp_path / "loaded"))
    with pytest.raises(FlameError) as caught:
        future.get()
    assert is_damage(caught)
    assert not (tmp_path / "loaded").exists()


def fail_at_length():
    raise ValueError("the error has a text that is found again, and that is long enough for what is put in its place" * 2)


def test_an_error_that_was_overwritten_is_not_loaded(alone, words, tmp_path):
    future = alone.call(alone.service(fail_at_length))
    alone.work()
    with pytest.raises(ValueError, match="found again"):
        future.get()
    at = place_of(words, b"ValueError\x94") - 30
    at += os.pread(words.fd, 60, at).find(b"\x80\x05")
    overwrite(words, at, forged(bytes(200), tmp_path / "loaded"))
    with pytest.raises(FlameError) as caught:
        future.get()
    assert is_damage(caught)
    assert not (tmp_path / "loaded").exists()


def test_what_the_supervisor_reads_of_the_project_is_refused_if_it_was_overwritten(alone, words):
    alone.runtime.set_setup(pickle.dumps({"home": "/home/somebody", "token": "t"}))
    overwrite(words, place_of(words, b"/home/somebody"), b"/home/anybody!")
    with pytest.raises(FlameError) as caught:
        alone.supervisor.get_setup()
    assert is_damage(caught)


def test_a_definition_and_a_service_that_were_overwritten_are_refused(alone, words):
    hold = alone.runtime.put_definition(b"identity of 16 b", b"the body of a definition")
    overwrite(words, hold.offset + 30, b"x")
    with pytest.raises(FlameError) as caught:
        alone.runtime.definition_body(hold.offset, hold.nbytes)
    assert is_damage(caught)


def test_a_service_that_was_overwritten_is_refused(alone, words):
    service, *_ = alone.service(abs)
    overwrite(words, words.get("services", service, "blob") + 20, b"\xff\xff")
    with pytest.raises(FlameError) as caught:
        alone.runtime.service_blob(service)
    assert is_damage(caught)


# ---- what becomes an address or a length -----------------------------------------------------------------------------

FAR = (1 << 63) - 8


@pytest.mark.parametrize(
    "value, field, number",
    [
        (b"x" * 1000, "result", FAR),
        (b"x" * 1000, "result", 8),
        (b"x" * 1000, "result_bytes", FAR),
        (np.arange(9000.0), "result", FAR),
        (7, "result_bytes", 0),
        (7, "result_bytes", 4),
        (7, "result", FAR),
    ],
)
def test_a_value_s_place_and_length_are_bounded(alone, words, value, field, number):
    stored = alone.runtime.put(value)
    words.set("slots", slot_of(stored), field, number)
    with pytest.raises(FlameError) as caught:
        stored.get()
    assert is_damage(caught)


def words_of(*numbers):
    return b"".join(number.to_bytes(8, "little") for number in numbers)


@pytest.mark.parametrize(
    "data",
    [
        b"s" + words_of(FAR),
        b"b" + words_of(200),
        b"(" + words_of(1 << 40),
        b"[" + words_of(1 << 20),
        b"{" + words_of(1 << 20),
        b"q" + words_of(1 << 61),
        b"d" + words_of(30),
        b"S" + words_of(FAR, 10),
        b"B" + words_of(64, 10),
        b"V" + words_of(0, FAR),
        b"o" + words_of(FAR),
        b"M" + words_of(1),
        b"R\x07\0\0\0",
        b"\x01",
        b"s" + words_of(2) + b"\xff\xfe",
        b"a\x0c\x41\0\0" + words_of(*[1] * 10),
        b"a\xff\x01\0\0" + words_of(4),
        b"a\x0c\x02\0\0" + words_of(1 << 40, 1 << 40),
        b"a\x0c\x01\0\0" + words_of((1 << 64) - 1),
        b"A\x0c\x01\0\0" + words_of(1 << 20, 8, FAR),
        b"A\x0c\x01\0\0" + words_of(1 << 62, 1 << 62, 1 << 36),
        b"P" + b"b" + words_of(3) + b"abc" + words_of(1) + bytes(8),
    ],
)
def test_no_bytes_of_a_value_lead_out_of_it(alone, words, data):
    np.arange(1.0)
    stored = alone.runtime.put(b"v" * 130)
    overwrite(words, words.place("slots", slot_of(stored), "data")[0], data)
    with pytest.raises(FlameError) as caught:
        stored.get()
    assert is_damage(caught)


@pytest.mark.parametrize(
    "table, field, number",
    [
        ("header", "arena_next", FAR),
        ("header", "arena_next", 0),
        ("header", "extent_high", (1 << 32) - 1),
        ("header", "group_high", (1 << 32) - 1),
        ("header", "free_groups", (1 << 32) - 1),
        ("header", "warm_extents", [(1 << 32) - 1] * 112),
        ("header", "cold_extents", [1 << 25] * 112),
        ("header", "service_high", (1 << 32) - 1),
        ("header", "process_high", (1 << 32) - 1),
        ("header", "instance_queue_high", (1 << 32) - 1),
        ("header", "cgroups", [b"/"] * 4096),
        ("extents", "offset", FAR),
        ("extents", "size", FAR),
        ("extents", "block_size", 0),
        ("queues", "tail", FAR),
        ("queues", "home", (1 << 32) - 1),
    ],
)
def test_no_word_of_the_tables_leads_out_of_the_segment(table, field, number):
    """In a child, which a wrong address would end; what it finds wrong it may find late, so only its end is looked at."""

    def use():
        alone = Alone()
        words, runtime, service = Words(alone.runtime), alone.runtime, alone.service(Counter().add)
        held = [runtime.put(value) for value in (b"x" * 1000, np.arange(9000.0), b"y" * 100_000)]
        freed = [runtime.put(b"z" * 70_000) for _ in range(3)]
        del freed
        for entry in range(4) if table != "header" else [0]:
            words.set(table, entry, field, number)
        for step in (
            *(lambda value=value: runtime.put(value) for value in (b"x" * 1000, np.arange(9000.0), b"y" * 100_000)),
            *(lambda: alone.call(service, 1) for _ in range(100)),
            alone.work,
            runtime.statistics,
            alone.supervisor.processes,
            alone.supervisor.due_calls,
            lambda: alone.supervisor.recover_process(1500, serialization.dump_error(ValueError())),
            alone.supervisor.trim,
            lambda: held.clear(),
            lambda: runtime.close_service(*service[:2]),
            runtime.trim_memory,
            alone.close,
        ):
            try:
                step()
            except (FlameError, OSError):
                continue

    assert passes_in_child(use)


def test_a_waiter_list_that_is_a_ring_ends(alone, words):
    """Each task's edge is on the list of what it waits for: here it leads to itself."""
    service = alone.service(Counter().add)
    promise = alone.runtime.promise()
    after = alone.call(service, promise)
    edge = words.get("slots", slot_of(promise), "waiters")
    overwrite(words, edge, words_of(edge))
    alone.runtime.fulfil(promise, 1)
    with pytest.raises(FlameError) as caught:
        after.get()
    assert is_damage(caught)


@pytest.mark.parametrize("kind", [0, 33, 255])
def test_a_lock_that_was_overwritten_is_found_so(alone, words, kind):
    """The fourth word of a mutex is its kind, which says what the C library does with it."""
    held = alone.runtime.put(np.arange(9000.0))
    at, _ = words.place("header", 0, "lock")
    overwrite(words, at + 16, kind.to_bytes(4, "little"))
    del held
    with pytest.raises(FlameError) as caught:
        alone.runtime.put(np.arange(9000.0))
    assert is_damage(caught)


def test_a_lock_that_no_thread_holds_is_waited_for_no_longer(alone, words):
    at, _ = words.place("header", 0, "lock")
    overwrite(words, at, (0x3FFFFFF0).to_bytes(4, "little"))
    with pytest.raises(FlameError) as caught:
        alone.runtime.put(np.arange(9000.0))
        alone.runtime.put(1)
    assert is_damage(caught)

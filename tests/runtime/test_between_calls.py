"""What another process does, or a death, between two steps of a call, a value or a wait: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal

import audit
import between
import pytest
from between import Scenes, possible
from gates import passes_in_child, same
from runtime_harness import Alone
from tangle import Tangle, deeds, do
from words import Words, slot_of

from flame_fast import FlameError
from flame_fast.engine.task_host import Host

scene, scene_of_a_death = Scenes(), Scenes()


#: The entry of the watched process.
WATCHED = 2


def first_slot(family, words):
    """Return the word that the watched process allocates from first: of the group behind this process's."""
    return slot_of(family.runtime.put(0)) + words.tables.GROUP_BITS


# ---- what is there while it is set -----------------------------------------------------------------------------------


@scene(at_each_look=True)
def sets_the_setup_while_another_looks(family, words):
    yield words.place("header", 0, "setup"), lambda: family.runtime.set_setup(b"setup")
    assert family.runtime.get_setup() in (None, b"setup")
    yield
    assert family.runtime.get_setup() == b"setup"


# ---- a death while something is made ---------------------------------------------------------------------------------


@scene_of_a_death("building", "state")
def stores_a_value(family, words, watched):
    kept = []
    place = ("processes", WATCHED, "building") if watched == "building" else ("slots", first_slot(family, words), "state")
    yield words.place(*place), lambda: kept.append(family.runtime.put(b"x" * 1000))
    assert family.in_use() == (0, 0)


@scene_of_a_death("building", "state")
def makes_a_promise(family, words, watched):
    kept = []
    place = ("processes", WATCHED, "building") if watched == "building" else ("slots", first_slot(family, words), "state")
    yield words.place(*place), lambda: kept.append(family.runtime.promise())
    assert family.in_use() == (0, 0)


class Closing:
    """An argument that closes a service when it is written."""

    def __init__(self, close):
        self.close = close

    def __reduce__(self):
        self.close()
        return bytes, (1000,)


@scene_of_a_death()
def calls_a_service_that_is_closed_meanwhile(family, words):
    service = family.service(same)

    def act():
        with contextlib.suppress(FlameError):
            family.call(service, Closing(lambda: family.runtime.close_service(*service[:2])))

    yield words.place("processes", WATCHED, "building"), act
    assert family.in_use() == (0, 0)


@scene_of_a_death()
def calls_a_service_with_an_input(family, words):
    service, before = family.service(same), family.in_use()
    inputs = [family.runtime.put(1)]
    yield words.place("processes", WATCHED, "taking"), lambda: family.call(service, *inputs) and None
    inputs.clear()
    assert family.in_use() == before


@scene_of_a_death()
def waits_in_a_task_for_any_of_some(family, words):
    service, before = family.service(do), family.in_use()
    futures = [family.call(service)]

    def act():
        deeds.append(lambda: family.runtime.selector(futures).select())
        family.runtime.serve_inline()
        family.runtime.run_queued(Host(family.runtime))

    yield words.place("processes", WATCHED, "taking"), act
    futures.clear()
    assert family.in_use() == before


@possible
@pytest.mark.parametrize("name", scene)
def test_what_another_does_meanwhile_is_neither_lost_nor_done_twice(nothing_left, name):
    between.play(scene[name])


@possible
@pytest.mark.parametrize("name", scene_of_a_death)
def test_what_a_death_right_after_a_change_leaves_is_recovered(nothing_left, name):
    between.play_deaths(scene_of_a_death[name])


def test_a_hold_on_an_input_that_its_caller_died_before_taking_is_not_given_back(family):
    words, service, before = Words(family.runtime), family.service(same), family.in_use()
    inputs = [family.runtime.promise()]
    holds = ("slots", slot_of(inputs[0]), "refs")

    def call():
        words.at_touches((words.place(*holds)[0], lambda: os.kill(os.getpid(), signal.SIGKILL)), protection=mmap.PROT_READ)
        family.call(service, *inputs)

    held = words.get(*holds)
    assert family.recover_process(family.fork(call)) == -signal.SIGKILL
    assert words.get(*holds) == held
    family.runtime.fulfil(inputs[0], 7)
    assert inputs.pop().get(0) == 7
    assert family.in_use() == before
    family.check()


# ---- what changes while a task looks whether its wait can end --------------------------------------------------------


def waits_for_me_once_that_was_read(tangle):
    """Make a cycle that never was at one moment.

    The first task waited for the other only before the other waited for this task.
    """
    first = tangle.promise()
    tangle.kept += [tangle.alone.runtime.put(0) for _ in range(40)]  # the other one is on another page
    other, words = tangle.promise(), tangle.words
    words.set("slots", slot_of(first), "waits_for", slot_of(other) + 1)

    def change():
        words.set("slots", slot_of(first), "waits_for", 0)
        words.set("slots", slot_of(other), "waits_for", slot_of(tangle.me) + 1)

    words.at_touches((words.place("slots", slot_of(other), "state")[0], change))
    return first


def waits_for_any_in_a_block_that_becomes_another_s(tangle):
    """At each look the other waits for any of others anew, and the block of the former ones has something else in it."""
    words, blocks = tangle.words, [tangle.alone.runtime.put(bytes(8000)) for _ in range(2)]
    tangle.kept += blocks
    places = [words.get("slots", slot_of(block), "result") for block in blocks]
    for place in places:
        os.pwrite(words.fd, (1).to_bytes(8, "little") + slot_of(tangle.promise()).to_bytes(8, "little"), place)
    first = tangle.promise()
    words.set("slots", slot_of(first), "waits_for", audit.ANY | places[0])

    def change(place, published):
        os.pwrite(words.fd, slot_of(tangle.me).to_bytes(8, "little"), place + 8)
        words.set("slots", slot_of(first), "waits_for", published)

    words.at_touches(
        (places[0], lambda: change(places[0], audit.ANY | places[1])),
        (places[1], lambda: change(places[1], 0)),
    )
    return first


def waits_for_one_whose_slot_becomes_another_s(tangle):
    """At each look its dependencies are being read, and their place has something else in it."""
    words, promises = tangle.words, [tangle.promise() for _ in range(300)]
    tasks = [slot_of(tangle.needing(*promises)) for _ in range(2)]
    places = [words.get("slots", task, "dependencies") for task in tasks]
    first = tangle.promise()
    words.set("slots", slot_of(first), "waits_for", tasks[0] + 1)
    edge = ctypes.sizeof(words.structs["Dependencies"]) + words.structs["DependencyEdge"].dependency.offset

    def change(place, inputs):
        os.pwrite(words.fd, slot_of(tangle.me).to_bytes(4, "little"), place + edge)
        words.add("slots", tasks[0], "state", 1 << 16)
        words.set("slots", tasks[0], "dependencies", inputs)

    words.at_touches(
        (places[0], lambda: change(places[0], places[1])),
        (places[1], lambda: change(places[1], places[0])),
    )
    return first


@pytest.mark.parametrize(
    "changes",
    [
        waits_for_me_once_that_was_read,
        waits_for_any_in_a_block_that_becomes_another_s,
        waits_for_one_whose_slot_becomes_another_s,
    ],
)
def test_a_wait_that_can_end_is_not_refused_whatever_changes_while_that_is_looked_into(changes):
    def look():
        assert not Tangle(Alone()).is_refused(changes)

    assert passes_in_child(look)

"""What another process does, or a death, between two steps of a call, a value or a wait: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal

import between
import pytest
from gates import same
from test_between import scene
from words import Words, slot_of

from flame_fast import FlameError

SCENES, DEATHS = {}, {}


def scene_of_a_death(*arguments):
    """See `between.play_deaths`."""
    return scene(*arguments, scenes=DEATHS)


#: The entry of the watched process.
WATCHED = 2


def first_slot(family, words):
    """That which the watched process takes first: of the group behind this process's."""
    return slot_of(family.runtime.put(0)) + words.tables.GROUP_BITS


# ---- what is there while it is set -----------------------------------------------------------------------------------


@scene(scenes=SCENES, at_each_look=True)
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
    value = family.runtime.put(1)
    yield words.place("processes", WATCHED, "taking"), lambda: family.call(service, value) and None
    del value
    assert family.in_use() == before


@pytest.mark.skipif(not between.is_possible(), reason="no process may watch a word of another here, or it is not x86-64")
@pytest.mark.parametrize("name", SCENES)
def test_what_another_does_meanwhile_is_neither_lost_nor_done_twice(nothing_left, name):
    between.play(SCENES[name])


@pytest.mark.skipif(not between.is_possible(), reason="no process may watch a word of another here, or it is not x86-64")
@pytest.mark.parametrize("name", DEATHS)
def test_what_a_death_right_after_a_change_leaves_is_settled(nothing_left, name):
    between.play_deaths(DEATHS[name])


def test_a_hold_on_an_input_that_its_caller_died_before_taking_is_not_given_back(family):
    words, service, before = Words(family.runtime), family.service(same), family.in_use()
    promise = family.runtime.promise()
    holds = ("slots", slot_of(promise), "holds")

    def call():
        words.at_touches((words.place(*holds)[0], lambda: os.kill(os.getpid(), signal.SIGKILL)), protection=mmap.PROT_READ)
        family.call(service, promise)

    held = words.get(*holds)
    assert family.bury(family.fork(call)) == -signal.SIGKILL
    assert words.get(*holds) == held
    family.runtime.fulfil(promise, 7)
    assert promise.get(0) == 7
    del promise
    assert family.in_use() == before
    family.check()

"""Closing a service while calls of it are made: each is refused, or the service stays until it has ended."""

import contextlib
import mmap
import os

import pytest
import stepping
from gates import same
from runtime_harness import Family
from words import Words

from flame_fast import FlameError, FlameErrorCode


class Closes:
    """A callable that closes a service while it is being pickled."""

    def __init__(self, runtime, service):
        self.runtime, self.service = runtime, service

    def __reduce__(self):
        self.runtime.close_service(*self.service[:2])
        return int, ()


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_service_stays_while_a_process_makes_a_call(alone, which):
    """The call may be of any service: before it is published no process can tell."""
    words = Words(alone.runtime)
    service = alone.service(same)
    process = 0 if which == "first" else words.get("header", 0, "process_high") - 1
    words.set("processes", process, "building", 5)
    alone.runtime.close_service(*service[:2])
    assert alone.runtime.is_service(*service[:2])
    assert alone.runtime.reap_services() == 1
    words.set("processes", process, "building", 0)
    assert alone.runtime.reap_services() == 0
    assert alone.runtime.reap_services() == 0  # nor is one left for later
    assert not alone.runtime.is_service(*service[:2])


@pytest.mark.parametrize("more", [b"", bytes(10_000)])
def test_a_call_is_refused_whose_service_is_closed_while_it_is_encoded(alone, more):
    in_use = alone.in_use()
    service = alone.service(same)
    with pytest.raises(FlameError, match="is closed") as problem:
        alone.call(service, Closes(alone.runtime, service), more)
    assert problem.value.code is FlameErrorCode.INVALID_STATE
    assert not alone.runtime.is_service(*service[:2])
    assert alone.in_use() == in_use
    alone.check()


def test_a_call_of_a_closed_service_is_not_one_of_the_next_in_its_place(alone):
    old = alone.service(same)
    alone.runtime.close_service(*old[:2])
    new = alone.service(same)
    assert new[0] == old[0]
    with pytest.raises(FlameError, match="is closed"):
        alone.call(old, 1)
    alone.check()


def test_a_closed_service_is_not_loaded_ahead(alone):
    """A worker may be loading the service when it is closed: it may then read anything."""
    service = alone.service(same)
    alone.runtime.close_service(*service[:2])
    alone.host.load_ahead(*service[:2])
    alone.service(same)
    alone.host.load_ahead(*service[:2])
    assert not alone.host._loaded


# ---- by steps ------------------------------------------------------------------------------------------------------------

LONG = os.environ.get("FLAME_FAST_STORM") == "1"
RAN, OTHERS_RAN, REFUSED, CALLED = range(4)
counts = mmap.mmap(-1, 4096)


def run():
    counts[RAN] += 1


def run_for_another():
    counts[OTHERS_RAN] += 1


class Race:
    """A relative that makes a call, and one that closes its service: each stands at its first mark."""

    def __init__(self):
        self.family = Family(inline=True)
        self.service = self.family.service(run, limit=1)
        self.family.call(self.service)  # so that the pages are in use
        self.family.work()
        counts[:4] = bytes(4)
        self.caller = self.traced(self.call)
        self.closer = self.traced(self.close_service)

    def traced(self, life):
        def stepped():
            stepping.be_traced()
            stepping.mark()
            life()
            stepping.mark()

        relative = self.family.fork(stepped)
        stepping.await_mark(relative.pid)
        return relative

    def call(self):
        try:
            future = self.family.detached(self.service)
        except FlameError:
            counts[REFUSED] = 1
        else:
            counts[CALLED] = 1
            del future

    def close_service(self):
        self.family.runtime.close_service(*self.service[:2])

    def close(self):
        self.family.close()

    def stops_of(self, relative):
        """Instructions that change the segment, for the other operation as well: it is as before then."""
        fd = self.family.runtime.fd
        before = stepping.pages_in_use(fd)
        return stepping.find_stops(relative.pid, fd, stepping.pages_that_tell(before, before))[1]

    def end(self):
        """Both have come to their ends: the call has been refused, or runs, and nothing of it is left."""
        for relative in (self.caller, self.closer):
            relative.kill()
            self.family.recover_process(relative)
        self.family.service(run_for_another, limit=1)  # in the place of the other, if that has gone
        self.family.work()
        self.family.runtime.reap_services()
        statistics = self.family.runtime.statistics()
        assert not any(statistics[name] for name in ("waiting", "queued", "running")), statistics
        assert counts[REFUSED] + counts[CALLED] == 1
        assert (counts[RAN], counts[OTHERS_RAN]) == (counts[CALLED], 0)
        assert not self.family.runtime.is_service(*self.service[:2])


@pytest.mark.skipif(not stepping.is_possible(), reason="this machine lets no process trace another, or is not x86-64")
def test_no_call_is_made_of_a_service_that_goes(nothing_left):
    """The closer stands anywhere in its operation while the caller goes on, which stood anywhere in its own."""
    with contextlib.closing(Race()) as race:
        calling = race.stops_of(race.caller)
    with contextlib.closing(Race()) as race:
        closing = race.stops_of(race.closer)
    for at in calling:
        for beside in closing if LONG else closing[1:3]:  # it has closed the service; it has looked who calls
            with contextlib.closing(Race()) as race:
                called = not stepping.run_to(race.caller.pid, *at)
                closed = not stepping.run_to(race.closer.pid, *beside)
                assert called or stepping.run_to_mark(race.caller.pid)
                assert closed or stepping.run_to_mark(race.closer.pid)
                race.end()

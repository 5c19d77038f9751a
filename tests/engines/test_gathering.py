"""Several futures at a time: failures among the values, the first so many, progress."""

from __future__ import annotations

import io
import sys

import pytest
from engines import concurrent
from gates import PATIENCE_S, Gate, add, fail, hold, same


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_failures_may_stand_among_the_values(rr):
    service, failing = rr.service(same), rr.service(fail)
    shape = {"a": service(1), "b": [failing(KeyError("missing")), 2], "c": (rr.put_object(3),)}
    found = rr.get(shape, return_exceptions=True)
    assert found["a"] == 1 and found["c"] == (3,) and found["b"][1] == 2
    assert isinstance(found["b"][0], KeyError)
    assert rr.get([service(1), service(2)], return_exceptions=True) == [1, 2]


@concurrent
def test_the_first_so_many_are_waited_for(rr, project):
    with Gate() as gate:
        held, quick = rr.service(hold)(gate, 1), [rr.service(same)(number) for number in range(3)]
        failed = rr.service(fail)(KeyError())
        done, pending = rr.wait([held, *quick, failed], num_returns=4)
        assert done == [*quick, failed] and pending == [held]
        assert rr.wait([held, *quick], num_returns=1)[1] == [held]
        assert rr.wait([held], timeout=0.02, num_returns=1) == ([], [held])
        gate.open()
        assert rr.wait([held], PATIENCE_S, num_returns=1) == ([held], [])


@pytest.mark.parametrize("wrong", [0, -1, 3, True, 1.5, "1"])
def test_their_number_must_fit(rr, wrong):
    futures = [rr.service(same)(number) for number in range(2)]
    with pytest.raises(ValueError, match="num_returns: expected"):
        rr.wait(futures, num_returns=wrong)


def test_as_completed_is_another_name_of_select(rr):
    futures = [rr.service(same)(number) for number in range(5)]
    assert {id(future) for future in rr.as_completed(futures)} == {id(future) for future in futures}


# ---- progress ------------------------------------------------------------------------------------------------------------


def test_progress_is_told_of_each_call(rr):
    told = []

    def tell(*counts):
        told.append(counts)

    futures = [rr.service(same)(number) for number in range(3)]
    assert rr.get(futures, progress=tell) == [0, 1, 2]
    assert told == [(1, 0, 3), (2, 0, 3), (3, 0, 3)]
    told.clear()
    mixed = [rr.service(fail)(KeyError()), *futures]
    assert len(rr.get(mixed, return_exceptions=True, progress=tell)) == 4
    assert told[-1] == (4, 1, 4)
    told.clear()
    assert len(list(rr.select(futures, progress=tell))) == 3
    assert told[-1] == (3, 0, 3)
    told.clear()
    assert list(rr.service(add).map([1, 2], [3, 4], progress=tell)) == [4, 6]
    assert told == [(1, 0, 2), (2, 0, 2)]
    told.clear()
    found = rr.service(lambda text: int(text)).map(iter("1x3"), progress=tell, return_exceptions=True)
    assert [type(value) for value in found] == [int, ValueError, int]
    assert told[-1] == (3, 1, None)


@pytest.mark.parametrize("asked", [None, "1"])
@pytest.mark.parametrize("label", [True, "squaring"])
def test_a_bar_is_shown_in_a_terminal_or_when_asked_for(rr, monkeypatch, asked, label):
    for stream, shown in ((Terminal(), True), (io.StringIO(), asked is not None)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            if asked is not None:
                patch.setenv("FLAME_FAST_PROGRESS", asked)
            assert rr.get([rr.service(same)(1)] * 2, progress=label) == [1, 1]
            assert list(rr.service(same).map([1, 2], progress=label)) == [1, 2]
        assert ("100%" in stream.getvalue()) == shown
        assert ("squaring" in stream.getvalue()) == (shown and label == "squaring")


def test_a_bar_counts_what_failed(rr, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream := Terminal())
        list(rr.service(lambda text: int(text)).map("1x", progress=True, return_exceptions=True))
    assert "failed=1" in stream.getvalue()


@pytest.mark.parametrize("wrong", [3, 1.5, [True]])
def test_what_is_no_progress_is_refused(rr, wrong):
    for use in (lambda: rr.get([], progress=wrong), lambda: rr.select([], progress=wrong)):
        with pytest.raises(TypeError, match="progress: expected"):
            use()
    with pytest.raises(TypeError, match="progress: expected"):
        rr.service(same).map([1], progress=wrong)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("map", "rr.service(fn).map(items)"),
        ("starmap", "rr.service(fn).starmap(items)"),
        ("imap_unordered", "rr.service(fn).map(items, ordered=False)"),
        ("submit", "rr.service(fn)(x)"),
        ("apply_async", "rr.service(fn)(x)"),
        ("remote", "rr.service(fn)(x)"),
        ("put", "rr.put_object(value)"),
        ("shutdown", "rr.close()"),
    ],
)
def test_what_other_libraries_have_at_a_runner_is_pointed_to(rr, name, told):
    assert not hasattr(rr, name)
    with pytest.raises(AttributeError) as caught:
        getattr(rr, name)
    assert f"'Runner' object has no attribute {name!r}; write {told}" in str(caught.value)


def test_what_the_pointers_say_works(rr):
    assert list(rr.service(same).map([1, 2])) == [1, 2]
    assert list(rr.service(add).starmap([(1, 2)])) == [3]
    assert sorted(rr.service(same).map([1, 2], ordered=False)) == [1, 2]
    assert rr.service(same)(1).get() == rr.get(rr.put_object(1)) == 1


def test_futures_one_by_one_are_no_time_out(rr):
    first, second = rr.service(same)(1), rr.service(same)(2)
    for collect in (rr.get, rr.wait, rr.select):
        for one in (first, [first]):
            with pytest.raises(TypeError, match=r"timeout: .*; several futures go into one list, as in rr.get\(\[a, b\]\)"):
                collect(one if collect != rr.select else [first], second)
    with pytest.raises(TypeError, match=r"timeout: expected a number of seconds or None, got 'x'$"):
        rr.get(first, "x")

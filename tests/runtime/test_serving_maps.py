"""Chunks of a map: values up to the first error, and results that do not fit into the store."""

from __future__ import annotations

import threading

import pytest
from flame_fast.kernels.runtime import MapResults
from serving import MB, fails_at_three, same

from flame_fast import StoreFullError


class Whole(int):
    """An integer that is not written as one."""

    __str__ = int.__repr__


def outcomes(alone, function, items):
    """Return what comes out of a map, an error last."""
    results = MapResults(alone.target(alone.service(function)), items, len(items))
    alone.work()
    found = []
    try:
        for value in results:
            found.append(value)
    except Exception as error:
        found.append(repr(error))
    return found


def halved(item):
    return item if item % 2 else item / 2


def fails_in_words(item):
    return str(fails_at_three(item))


def unwritable_at_three(item):
    return threading.Lock() if item == 3 else [item]


def unwritable_at_first(item):
    return threading.Lock()


def unwritable_at_last(item):
    return threading.Lock() if item == 5 else item


def as_number(item):
    return 7


def large(item):
    return bytes([item]) * MB


def one_large(item):
    return b"x" * (3 * MB if item == 3 else 1)


@pytest.mark.parametrize("kind", [int, Whole], ids=["numbers", "objects"])
def test_a_chunk_s_values_come_up_to_what_goes_wrong(alone, kind):
    """The items are integers, which are written in a row, or something else."""
    for function, expected, error in [
        (halved, [0.0, 1, 1.0, 3, 2.0, 5], None),
        (str, ["0", "1", "2", "3", "4", "5"], None),
        (same, [0, 1, 2, 3, 4, 5], None),
        (fails_at_three, [0, 1, 2], "LookupError('three')"),
        (fails_in_words, ["0", "1", "2"], "LookupError('three')"),
        (unwritable_at_three, [[0], [1], [2]], "type lock cannot be pickled"),
        (unwritable_at_first, [], "type lock cannot be pickled"),
        (unwritable_at_last, [0, 1, 2, 3, 4], "type lock cannot be pickled"),
    ]:
        found = outcomes(alone, function, [kind(number) for number in range(6)])
        if error is not None:
            assert error in found.pop()
        assert found == expected, function


def test_items_and_results_of_all_sorts_are_told_apart(alone):
    assert outcomes(alone, same, [1.5, 2.5]) == [1.5, 2.5]
    assert outcomes(alone, same, ["a", "b"]) == ["a", "b"]
    future = alone.call(alone.service(unwritable_at_first), 1)
    alone.work()
    assert "type lock cannot be pickled" in str(future.exception(0))


def test_of_values_that_do_not_fit_into_the_store_together_those_that_do_come():
    from runtime_harness import Alone

    alone = Alone(limit=8 * MB)
    found = outcomes(alone, large, list(range(12)))
    assert [value[0] for value in found[:-1]] == list(range(len(found) - 1))
    assert 2 <= len(found) - 1 < 8
    assert "StoreFullError" in found[-1]
    alone.check()
    held = alone.runtime.put(b"x" * (5 * MB))
    found = outcomes(alone, one_large, [3, 3, 3])
    assert len(found) == 1 and "StoreFullError" in found[0]
    del held
    alone.check()
    alone.close()


def test_of_numbers_that_do_not_fit_into_the_store_together_those_that_do_come():
    from runtime_harness import Alone

    alone = Alone(limit=1 << 18)
    found = outcomes(alone, as_number, [None] * 40_000)
    assert set(found[:-1]) == {7}
    assert 2000 < len(found) - 1 < 32_000
    assert "StoreFullError" in found[-1]
    alone.check()
    alone.close()


def test_a_chunk_for_whose_error_there_is_no_room_reads_as_a_full_store():
    from runtime_harness import Alone

    alone = Alone(limit=1 << 20)
    target, held, size = alone.target(alone.service(unwritable_at_first)), [], 1 << 20
    while size >= 160:
        try:
            held.append(alone.runtime.put(b"x" * size))
        except StoreFullError:
            size //= 2
    results = MapResults(target, [1])
    alone.work()
    with pytest.raises(StoreFullError):
        next(results)
    del held, results
    alone.check()
    alone.close()

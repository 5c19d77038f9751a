"""Deadlock detection: a wait is refused if it can never end, and no other wait is.

Found by mutation (`mutation.py`): each test holds for the runtime, and fails for one with a small mistake in it.
"""

from __future__ import annotations

import pytest
from runtime_harness import Alone
from tangle import Tangle
from words import slot_of


def any_of_two_one_of_which_needs_the_other(tangle):
    first = tangle.promise()
    second = tangle.needing(tangle.me)
    tangle.words.set("slots", slot_of(first), "waits_for", slot_of(second) + 1)
    return tangle.any_of(slot_of(first), slot_of(second))


def behind_one_that_needs_me(tangle, *before):
    tangle.runs_elsewhere()
    tangle.kept += [tangle.noted(*inputs) for inputs in before]
    return tangle.noted()


def before_one_that_needs_me(tangle):
    tangle.runs_elsewhere()
    first = tangle.noted()
    tangle.noted(tangle.me)
    return first


def behind_one_whose_slot_is_another_s(tangle):
    tangle.runs_elsewhere()
    slot = tangle.failed_before()
    behind = tangle.alone.runtime.promise(), tangle.noted()
    assert slot_of(behind[0]) == slot
    tangle.words.set("slots", slot, "waits_for", slot_of(tangle.me) + 1)
    tangle.promises.append(behind[0])
    return behind[1]


def of_an_instance_without_a_process(tangle):
    noted = tangle.noted()
    tangle.has_no_process()
    return noted


def of_an_instance_that_runs(tangle, running):
    tangle.runs_elsewhere(running)
    return tangle.noted()


ENDLESS = {
    "me": lambda t: t.me,
    "one that needs me": lambda t: t.needing(t.me),
    "one that needs me first": lambda t: t.needing(t.me, t.promise(), t.promise()),
    "one that needs me in the middle": lambda t: t.needing(t.promise(), t.me, t.promise()),
    "one that needs me last": lambda t: t.needing(t.promise(), t.promise(), t.me),
    "one that needs me from afar": lambda t: t.needing(t.promise(), t.needing(t.needing(t.needing(t.me)), t.promise())),
    "one that waits for me": lambda t: t.waiting_for(t.me),
    "one that waits for one that waits": lambda t: t.waiting_for(t.needing(t.waiting_for(t.needing(t.me)))),
    "one that waits for any of me": lambda t: t.any_of(slot_of(t.me)),
    "one that waits for any that need me": lambda t: t.any_of(*[slot_of(t.needing(t.me)) for _ in range(3)], slot_of(t.me)),
    "one that waits for any of me and none": lambda t: t.any_of(slot_of(t.me), 1 << 20),
    "one that waits for any, one of which needs the other": any_of_two_one_of_which_needs_the_other,
    "one of several ways": lambda t: t.needing(t.needing(t.me), t.needing(t.needing(t.me))),
    "one that needs a ring and me": lambda t: t.needing(t.ring(), t.me, t.ring()),
    "one of an instance that I am on": lambda t: t.noted(),
    "one of an instance that runs what waits for me": lambda t: of_an_instance_that_runs(t, t.waiting_for(t.me)),
    "one behind one that needs me": lambda t: behind_one_that_needs_me(t, [t.me]),
    "one behind many of which one needs me": lambda t: behind_one_that_needs_me(t, [1], [2], [t.me], [3]),
}
ENDING = {
    "one that runs": lambda t: t.promise(),
    "one that is queued": lambda t: t.needing(),
    "one that needs one that runs": lambda t: t.needing(t.promise(), t.done),
    "one that waits for one that runs": lambda t: t.waiting_for(t.promise()),
    "one that waits for one that is over": lambda t: t.waiting_for(t.done),
    "one that waits for me or one that runs": lambda t: t.any_of(slot_of(t.me), slot_of(t.promise())),
    "one that waits for me or one that is over": lambda t: t.any_of(slot_of(t.me), slot_of(t.done)),
    "one of a ring": lambda t: t.ring(),
    "one of an instance that runs nothing": lambda t: behind_one_that_needs_me(t),
    "one of an instance without a process": of_an_instance_without_a_process,
    "one of an instance that runs another": lambda t: of_an_instance_that_runs(t, t.promise()),
    "one before one that needs me": before_one_that_needs_me,
    "one behind one whose slot is another's": behind_one_whose_slot_is_another_s,
}


@pytest.mark.parametrize("tangles", [ENDLESS, ENDING], ids=["endless", "ending"])
def test_a_task_s_wait_is_refused_if_it_can_never_end(tangles):
    refused = []
    for name, make in tangles.items():
        alone = Alone()
        if Tangle(alone).is_refused(make):
            refused.append(name)
        alone.close()
    assert refused == (list(tangles) if tangles is ENDLESS else [])

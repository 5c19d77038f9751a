"""scikit-learn, pandas and scipy.sparse do to what arrives all that they do to their own: in tasks and in the driver.

The oracle is plain pickling: whatever is done to a value that arrived comes out as if done to what `pickle.loads` makes of
`pickle.dumps(value)`, errors included, and no other process sees it. Each test is one family; it collects what differs and
says how much of it.

    python -m pytest -m libraries
"""

from __future__ import annotations

import collections
import importlib
import random
import warnings

import pytest
from likeness import SIZES, Raised, attempt, difference, plain_copy

from flame_fast import ResourceRequirement, Runner

pytestmark = [pytest.mark.libraries, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Differences:
    """What went otherwise, by where it was done."""

    def __init__(self):
        self.checked, self.found = 0, collections.defaultdict(list)

    def check(self, where, what, found, expected, tolerance=0.0):
        self.checked += 1
        if text := difference(found, expected, tolerance):
            self.found[where].append(f"{what}: {text}")

    def settle(self):
        """Fails if there are any: all counts, and of each place the first ones."""
        total = sum(map(len, self.found.values()))
        lines = [f"{total} of {self.checked} comparisons differ"]
        for where, texts in self.found.items():
            lines += [f"{where}: {len(texts)}", *(f"    {text[:300]}" for text in texts[:15])]
        assert not total, "\n".join(lines)


def same(value):
    return value


def quietly(function, *args):
    """In a task: what the libraries warn of is not for the driver to print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def got(future):
    """Return a task's value, or how the task failed; return a call that was refused as it is."""
    return future if isinstance(future, Raised) else attempt(future.get)


# ---- frames and matrices -------------------------------------------------------------------------------------------------


def share_of(deeds, size):
    """Return a sixth of what is done to large values, by chance: all of it takes long."""
    deeds = list(deeds)
    return random.sample(deeds, -(-len(deeds) // 6)) if size == "large" else deeds


def do_all_deeds(rr, family, size):
    """Every deed on every subject of a module, at once on one value that all share.

    A task makes the value; the driver holds it as a result, passes it to a task for each deed, and does the deed itself to
    another look at it. What the task makes of it comes back, what the driver makes of it is passed on to a task, and at
    the end no process's own has changed.
    """
    module, differences = importlib.import_module(family), Differences()
    task = rr.service(quietly)
    for name in module.subjects(SIZES[size]):
        original = module.make(name, SIZES[size])
        made = task(module.make, name, SIZES[size])
        held = made.get()
        differences.check("made in a task", f"{size} {name}", held, original)
        for deed in share_of(module.deeds(name, original), size):
            what = f"{size} {name}: {deed}"
            there = task(module.perform, name, deed, held)
            expected = module.perform(name, deed, plain_copy(original))
            here = module.perform(name, deed, made.get())
            passed_on = attempt(task, same, here[1])
            differences.check("in the driver, to a result", what, here, expected)
            for where, found, value in (
                ("in a task, to an argument", got(there), expected),
                ("passed on by the driver", got(passed_on), expected[1]),
            ):
                # What plain pickling refuses after the deed, whatever the words, is refused here as well.
                refused = isinstance(attempt(plain_copy, value), Raised)
                differences.check(where, what, isinstance(found, Raised) if refused else found, refused or value)
        differences.check("what the driver passed is unchanged", f"{size} {name}", held, original)
        differences.check("the task's result is unchanged", f"{size} {name}", made.get(), original)
        differences.check("the next task's argument is unchanged", f"{size} {name}", got(task(same, held)), original)
    return differences


@pytest.mark.parametrize("size", SIZES)
def test_frames(project, size):
    """Data frames, series, indexes."""
    frames = pytest.importorskip("frames")
    assert not frames.forgotten(), "have a parameter `inplace`, and no arguments in `frames`"
    with Runner("frames", workers=1) as rr:
        do_all_deeds(rr, "frames", size).settle()


@pytest.mark.parametrize("size", SIZES)
def test_sparse_matrices(project, size):
    pytest.importorskip("scipy.sparse")
    with Runner("matrices", workers=1) as rr:
        do_all_deeds(rr, "matrices", size).settle()


# ---- estimators ----------------------------------------------------------------------------------------------------------

#: One thread everywhere, yet compiled code may take another path where memory lies otherwise.
TOLERANCE = 1e-6


@pytest.mark.parametrize("size", ["tiny", "large", "wide"])
def test_estimators(project, size):
    """Fitted in the driver and used in a task, and the other way about."""
    pytest.importorskip("sklearn")
    import estimators
    from threadpoolctl import threadpool_limits

    with Runner("estimators", workers=1) as rr, threadpool_limits(1):
        differences = use_all_estimators(rr, estimators, size)
    differences.settle()


def use_all_estimators(rr, estimators, size):
    differences = Differences()
    fit, use = (rr.service(function, resreq=ResourceRequirement(cpu=1)) for function in (estimators.fit, estimators.use))
    for name, estimator in share_of(estimators.instances(size), size):
        what, given = f"{size} {name}", estimators.data(name, estimator, size)
        there = fit(estimator, *given)
        fitted = estimators.fit(plain_copy(estimator), *plain_copy(given))
        used_there = use(*fitted)
        expected = estimators.use(*plain_copy(fitted))
        compare_use(differences, "fitted in the driver, used in a task", what, got(used_there), expected)
        arrived = got(there)
        failed = isinstance(arrived, Raised)
        used_in_the_next = there if failed else use(there.get()[0], *given)
        found = arrived if failed else estimators.use(*arrived)
        compare_use(differences, "fitted in a task, used in the driver", what, found, expected)
        compare_use(differences, "fitted in a task, used in the next", what, got(used_in_the_next), expected)
        differences.check("the sender's data are unchanged", what, given, estimators.data(name, estimator, size))
    return differences


def compare_use(differences, where, what, found, expected):
    """Step by step, so that each is a difference of its own."""
    if isinstance(found, Raised):
        return differences.check(where, what, found, expected)
    said, *data = found
    for step, value in expected[0].items():
        differences.check(where, f"{what}: {step}", said.get(step), value, TOLERANCE)
    return differences.check(where, f"{what}: the data afterwards", tuple(data), expected[1:], TOLERANCE)

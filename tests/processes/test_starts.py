"""Every way in which Python starts a program, times where the functions come from that it gives to a Runner.

A start runs once and tells the outcome for each origin. What it leaves behind is looked for by the fixture of every test.
"""

from __future__ import annotations

import pytest
from starts import DRIVERS, NUMBERS, ORIGINS, STARTS, beside, start


@pytest.fixture(scope="session")
def made():
    """Return the starts made so far, by name."""
    return {}


@pytest.fixture
def started(request, project, made):
    name = request.param
    if name not in made:
        made[name] = start(name, project)
    return name, made[name]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("started", STARTS, indirect=True)
def test_a_function_runs_in_workers_with_its_data_and_its_output(started, origin):
    name, found = started
    assert found.done.returncode == 0, found.told()
    assert len({driver["driver"] for driver in found.drivers}) == DRIVERS.get(name, 1), found.told()
    for driver in found.drivers:
        outcome = driver[origin]
        assert "error" not in outcome, outcome["error"]
        pids, texts, squares = zip(*outcome["results"], strict=True)
        assert driver["driver"] not in pids
        assert set(texts) == {beside(origin)}
        assert list(squares) == [number * number for number in NUMBERS]
    for number in NUMBERS:
        line = f"a task of the {origin} has {number}"
        assert found.done.stdout.splitlines().count(line) == len(found.drivers), found.told()


@pytest.mark.parametrize("started", STARTS, indirect=True)
def test_nothing_is_told_of_the_workers(started):
    _, found = started
    assert found.done.returncode == 0, found.told()
    assert "flame" not in found.done.stderr.lower() and "Traceback" not in found.done.stderr, found.told()

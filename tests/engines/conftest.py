"""The engine as a parameter: each test that takes `rr` or `engine` runs once for each engine."""

from __future__ import annotations

import pytest
from engines import ENGINES
from plain_engine import PlainEngine

from flame_fast import Runner, runner


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setitem(runner.ENGINES, "plain", PlainEngine)


@pytest.fixture(params=ENGINES)
def engine(request):
    """Return the name of an engine, as `Runner(engine=...)` takes it."""
    return request.param


@pytest.fixture
def rr(project, engine):
    with Runner("conformance", workers=2, engine=engine) as made:
        yield made

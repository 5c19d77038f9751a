"""Reprs: what a prompt and a notebook show of runners, services, futures, refs and statistics."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, fail, hold

from flame_fast import Runner
from flame_fast.inspection.html import Bar, nbytes_text, table


class Counter:
    """A class with a method."""

    def __init__(self, number=0):
        self.number = number

    def add(self, number):
        self.number += number
        return self.number


class Cells(HTMLParser):
    """Reads a table: every tag is closed in turn, and rows have a name and a text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells[-1] += data


def rows_of(obj):
    """Return the title and the rows of an object's table."""
    title, *cells = Cells(obj._repr_html_()).cells
    return title, dict(zip(cells[::2], cells[1::2], strict=True))


@pytest.fixture(params=["local", "inline"])
def rr(project, request):
    with Runner("shown", workers=1, engine=request.param) as made:
        yield made


def test_a_future_tells_its_service_and_its_state(project):
    with Runner("states", workers=1) as rr, Gate() as gate:
        service, counter = rr.service(hold), rr.service(Counter)
        running = service(gate, 1)
        gate.entered()
        queued, waiting = service(gate), counter.add(running)
        cancelled = service(gate)
        cancelled.cancel()
        assert [repr(future) for future in (running, queued, waiting, cancelled)] == [
            "<ObjectFuture hold(...) running>",
            "<ObjectFuture hold(...) queued>",
            "<ObjectFuture Counter.add(...) waiting>",
            "<ObjectFuture hold(...) cancelled>",
        ]
        assert rows_of(waiting) == (
            "ObjectFuture",
            {"call": "Counter.add(...)", "number": str(waiting.number), "state": "waiting"},
        )
        assert queued.cancel()
        gate.open()
        waiting.wait(PATIENCE_S)
        assert repr(waiting) == "<ObjectFuture Counter.add(...) done>"


def test_a_finished_future_has_its_name_and_state(rr):
    done, failed = rr.service(Counter(3)).add(1), rr.service(fail)(ValueError("no"))
    assert done.get() == 4
    assert isinstance(failed.exception(), ValueError)
    assert repr(done) == "<ObjectFuture Counter.add(...) done>"
    assert rows_of(failed) == ("ObjectFuture", {"call": "fail(...)", "number": str(failed.number), "state": "failed"})


def test_a_future_keeps_its_name_when_its_services_entry_is_anothers(rr):
    first = rr.service(add)
    future = first(1, 2)
    assert future.get() == 3
    first.close()
    second = rr.service(abs)
    assert second._key[0] == first._key[0]
    assert repr(second(-1)).startswith("<ObjectFuture abs(...)")
    assert repr(future) == "<ObjectFuture add(...) done>"


def test_reprs_in_a_task(rr):
    inner = rr.service(add)

    def look():
        future = inner(1, 2)
        future.wait()
        return repr(future), repr(future.ref()), rows_of(inner)[1]["service"]

    assert rr.service(look)().get() == ("<ObjectFuture add(...) done>", "<ObjectRef 9 bytes>", "add")


def test_a_ref_tells_the_bytes_that_its_value_takes(rr):
    small, large = rr.put_object(1.5), rr.put_object({"a": np.ones(1_000_000), "b": np.zeros(1_000_000)})
    taken = {ref: int(re.fullmatch(r"<ObjectRef ([\d,]+) bytes>", repr(ref))[1].replace(",", "")) for ref in (small, large)}
    assert 0 < taken[small] <= 144
    assert 16_000_000 <= taken[large] < 18_000_000
    assert rows_of(large) == ("ObjectRef", {"bytes": f"{taken[large]:,}"})


def test_a_runner_shows_its_calls_and_its_store(rr):
    futures = [rr.service(add)(1, 2), rr.service(fail)(ValueError())]
    rr.get(futures, return_exceptions=True)
    ref = rr.put_object(np.ones(1_000_000))
    title, rows = rows_of(rr)
    assert title == "Runner shown"
    assert {name: rows[name] for name in ("workers", "open services", "calls running", "calls failed")} == {
        "workers": "1",
        "open services": "2",
        "calls running": "0",
        "calls failed": "1",
    }
    assert rows["calls done"] == "2"  # a call's, and what was put
    assert re.fullmatch(r"8\.0 MiB of [\d,.]+ [KMGT]iB", rows["store"])
    assert rows_of(rr.statistics())[1]["store"] == rows["store"]
    assert "width:0." in rr._repr_html_()
    del ref


def test_a_service_and_a_method_show_what_they_are(rr):
    service = rr.service(Counter)
    title, rows = rows_of(service)
    assert title == "RunnerService"
    assert {name: rows[name] for name in ("service", "kind", "methods", "runner", "session")} == {
        "service": "Counter",
        "kind": "class",
        "methods": "add",
        "runner": "shown",
        "session": service.session_id,
    }
    assert rows_of(service.add) == ("Method", {"name": "add", **rows})


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_what_a_closed_runner_leaves_is_shown_too(project, engine):
    with Runner("closed <b>&", workers=1, engine=engine) as rr:
        service = rr.service(add)
        done, ref = service(1, 2), rr.put_object(3)
        done.wait()
    assert repr(rr) == "<Runner 'closed <b>&', 1 workers, closed>"
    assert rows_of(rr) == ("Runner closed <b>&, closed", {"workers": "1"})
    assert "&lt;b&gt;&amp;" in rr._repr_html_()
    assert rows_of(service)[1]["runner"] == "closed <b>&"
    assert (repr(done), repr(ref)) == ("<ObjectFuture add(...) done>", "<ObjectRef 9 bytes>")


def test_a_call_that_the_end_dropped_says_so(project):
    rr = Runner("dropped", workers=1)
    with Gate() as gate:
        future = rr.service(hold)(gate)
        gate.entered()
        with pytest.warns(UserWarning, match="1 unfinished call"):
            rr.close()
    assert repr(future) == "<ObjectFuture hold(...) dropped>"
    assert rows_of(future)[1]["state"] == "dropped"


def test_every_text_of_a_table_is_escaped():
    text = "<script>alert('x')</script> & \"more\""
    shown = table(text, {text: text, "bar": Bar(1, 4, text)})
    assert "<script>" not in shown
    assert Cells(shown).cells == [text, text, text, "bar", text]
    assert "width:25.0%" in shown


def test_a_bar_of_nothing_is_a_text():
    assert Bar(0, 0, "none").html() == "none"
    assert "width:100.0%" in Bar(9, 3, "over").html()


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1 << 10, "1.0 KiB"), (3 << 29, "1.5 GiB"), (5 << 50, "5,120.0 TiB")],
)
def test_bytes_are_told_in_their_largest_unit(nbytes, text):
    assert nbytes_text(nbytes) == text

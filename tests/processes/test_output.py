"""What tasks write comes out on the driver's streams: all of it, in whole lines, before `close` returns."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from collections import Counter

import pytest
from gates import Gate, new_module, same, wait_until
from output_tasks import (
    Talker,
    by_a_fork,
    by_another_thread,
    by_bytes,
    by_descriptor,
    by_half_a_line,
    by_much,
    by_pieces,
    by_print,
    by_shell,
    by_subprocess,
    by_the_stream_at_the_start,
    by_thread,
    by_writelines,
    call,
    draw_bar,
    last_words,
    leave_behind,
    log_something,
    print_lines,
    raw,
    say,
    say_and_die,
    say_and_fail,
    spoil,
    unicode_text,
    without_newline,
    write_at_gate,
    write_letters,
    write_text,
    write_to,
)
from process_events import PATIENCE_S, Driver, Victim, children, run_driver

from flame_fast import Runner, WorkerDiedError

LONG = 3 << 20  # more than the longest line that is kept together


WRITERS = {
    by_print: "printed\n",
    by_pieces: "one, two, three\n",
    by_descriptor: "from C\n",
    by_subprocess: "from a child\n",
    by_shell: "from a shell\n",
    by_thread: "from a thread\n",
    without_newline: "no end\n",
    unicode_text: "späte Zeile ✓ 火\n",
    by_writelines: "a\nb\n",
}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_what_a_task_writes_comes_out_before_close_returns(writer, name, capsys):
    with Runner("output", workers=2) as rr:
        rr.service(write_to)(name, writer).get(PATIENCE_S)
    captured = capsys.readouterr()
    texts = {"stdout": captured.out, "stderr": captured.err}
    assert texts.pop(name) == WRITERS[writer]
    assert texts.popitem()[1] == ""


def test_a_task_without_result_may_still_be_heard(capsys):
    """The driver does not wait for the calls' end by itself: the output of those that have run is there all the same."""
    with Runner("output", workers=2) as rr:
        rr.wait([rr.service(print)(number) for number in range(50)], PATIENCE_S)
    assert sorted(map(int, capsys.readouterr().out.split())) == list(range(50))


def test_what_a_task_logs_is_not_printed_where_the_driver_s_loggers_have_handlers(capsys, caplog):
    with Runner("output", workers=1) as rr:
        rr.service(log_something)().get(PATIENCE_S)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["logged", "logged too"]


def test_a_class_is_heard_while_it_is_made(capsys):
    with Runner("output", workers=1) as rr:
        rr.service(Talker).talk().get(PATIENCE_S)
    assert capsys.readouterr().out == "made\ntalks\n"


def test_an_instance_is_heard(capsys):
    talker = Talker()
    with Runner("output", workers=1) as rr:
        service = rr.service(talker)
        rr.get([service.talk() for _ in range(5)], PATIENCE_S)
    assert capsys.readouterr().out == "made\n" + "talks\n" * 5


def test_the_output_of_one_worker_keeps_its_order(capsys):
    with Runner("output", workers=1) as rr:
        rr.get([rr.service(print)(number) for number in range(500)], PATIENCE_S)
    assert capsys.readouterr().out == "".join(f"{number}\n" for number in range(500))


@pytest.mark.parametrize("in_pieces", [False, True])
def test_lines_of_two_workers_are_not_mangled(in_pieces, capsys):
    with Runner("output", workers=2) as rr:
        rr.get([rr.service(print_lines)(who, 1000, in_pieces) for who in "ab"], PATIENCE_S)
    lines = capsys.readouterr().out.splitlines()
    numbers = {"a": 0, "b": 0}
    for line in lines:
        match = re.fullmatch(r"<([ab]) (\d+) (x*)>", line)
        assert match, line
        assert int(match[2]) == numbers[match[1]] and len(match[3]) == int(match[2]) % 97
        numbers[match[1]] += 1
    assert numbers == {"a": 1000, "b": 1000}


def test_unfinished_lines_of_two_workers_are_not_mixed(capsys):
    texts = ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"]
    with Runner("output", workers=2) as rr:
        rr.get([rr.service(write_letters)(text) for text in texts], PATIENCE_S)
    out = capsys.readouterr().out
    assert out.endswith("\n")
    pieces = re.findall(r"(.)\1{9}", out)
    assert sorted(pieces) == ["a", "b", "c", "d"]
    assert len(out.replace("\n", "")) == 40


def test_a_long_line_loses_nothing(capsys):
    with Runner("output", workers=1) as rr:
        rr.service(raw)(b"x" * LONG + b"y\nafter\n").get(PATIENCE_S)
    out = capsys.readouterr().out
    assert out.endswith("\nafter\n")
    assert Counter(out.removesuffix("after\n").replace("\n", "")) == {"x": LONG, "y": 1}


def test_a_long_line_below_the_limit_stays_whole(capsys):
    with Runner("output", workers=2) as rr:
        rr.get([rr.service(raw)(letter * 500_000 + b"\n") for letter in (b"a", b"b", b"c", b"d")], PATIENCE_S)
    assert sorted(capsys.readouterr().out.splitlines()) == [letter * 500_000 for letter in "abcd"]


def test_much_output_right_before_close(capsys):
    with Runner("output", workers=2) as rr:
        rr.get([rr.service(raw)(b"0123456789\n" * 200_000) for _ in range(2)], PATIENCE_S)
    assert capsys.readouterr().out == "0123456789\n" * 400_000


def test_bytes_that_are_no_text_do_not_stop_the_output(capsys):
    with Runner("output", workers=1) as rr:
        rr.service(raw)(b"\xff\xfe broken\nwhole\n").get(PATIENCE_S)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" broken") and lines[1:] == ["whole"]


def test_letters_are_not_cut_between_two_reads(capsys):
    """A pipe's read ends anywhere, also within a letter of several bytes."""
    text = "火✓ä" * 60_000
    with Runner("output", workers=1) as rr:
        rr.service(raw)((text + "\n").encode()).get(PATIENCE_S)
    assert capsys.readouterr().out == text + "\n"


def test_last_words_of_a_worker_that_dies(capsys):
    with Runner("output", workers=1) as rr:
        for how in ("SIGKILL", "exit 3"):
            assert isinstance(rr.service(last_words)(how).exception(PATIENCE_S), WorkerDiedError)
        rr.service(print)("survivor").get(PATIENCE_S)
    assert sorted(capsys.readouterr().out.splitlines()) == ["and more"] * 2 + ["last words"] * 2 + ["survivor"]


def test_the_stack_of_a_crash_comes_out_on_stderr(capsys):
    with Runner("output", workers=1) as rr:
        assert isinstance(rr.service(Victim()).die("SIGSEGV").exception(PATIENCE_S), WorkerDiedError)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Segmentation fault" in captured.err and "in die" in captured.err


def test_a_task_that_replaces_or_closes_its_streams_is_no_harm(capsys):
    with Runner("output", workers=1) as rr:
        for how in ("close", "none"):
            rr.service(spoil)(how).get(PATIENCE_S)
        assert rr.service(len)("four").get(PATIENCE_S) == 4
    assert capsys.readouterr().out == ""


def test_a_process_that_detached_does_not_hold_close_up(capsys):
    """It holds the worker's pipe open."""
    import time

    with Runner("output", workers=1) as rr:
        pid = rr.service(leave_behind)().get(PATIENCE_S)
        rr.service(print)("heard").get(PATIENCE_S)
        start = time.monotonic()
    took = time.monotonic() - start
    with contextlib.suppress(ProcessLookupError):  # it ends with the runner
        os.kill(pid, 9)
    assert took < 20
    assert capsys.readouterr().out == "heard\n"


def test_a_driver_without_standard_streams_runs_on(tmp_path):
    out = run_driver(
        """
        kept, sys.stdout, sys.stderr = sys.stdout, None, None
        with Runner("mute", workers=1) as rr:
            rr.service(print)("unheard").get(20)
            value = rr.service(double)(4).get(20)
        sys.stdout = kept
        print(value)
        """,
        tmp_path,
    )
    assert out == "8\n"


def test_a_driver_whose_stdout_is_closed_by_the_reader(tmp_path):
    """As in `python main.py | head -1`: what cannot be shown is lost, the work goes on."""
    driver = Driver(
        """
        with Runner("piped", workers=1) as rr:
            print("first", flush=True)
            sys.stdin.close()
            values = []
            for number in range(200):
                values.append(rr.service(lambda n: (print("x" * 2000), n)[1])(number).get(20))
            sys.stderr.write(f"{sum(values)}\\n")
        sys.stderr.flush()
        os._exit(0)
        """,
        tmp_path,
    )
    assert driver.stdout is not None and driver.stderr is not None
    assert driver.stdout.readline() == "first\n"
    driver.stdout.close()
    try:
        assert driver.stderr.read() == "19900\n"
    finally:
        driver.kill()
        driver.wait()
        driver.stderr.close()


def test_in_a_script_the_streams_are_kept_apart_and_in_lines(tmp_path):
    driver = Driver(
        """
        def both(number):
            print(f"out {number}")
            print(f"err {number}", file=sys.stderr)
            os.write(1, f"raw {number}\\n".encode())

        with Runner("script", workers=2) as rr:
            rr.get([rr.service(both)(number) for number in range(100)], 20)
        print("after close")
        """,
        tmp_path,
    )
    out, err = driver.finish()
    assert driver.returncode == 0
    lines = out.splitlines()
    assert lines[-1] == "after close"
    expected = [f"{kind} {number}" for kind in ("out", "raw") for number in range(100)]
    assert sorted(lines[:-1]) == sorted(expected)
    assert sorted(err.splitlines()) == sorted(f"err {number}" for number in range(100))


def test_a_quiet_runner_writes_nothing(capfd):
    with Runner("quiet", workers=2) as rr:
        rr.get([rr.service(len)("text") for _ in range(20)], PATIENCE_S)
        rr.service(Victim()).add(1).get(PATIENCE_S)
    assert capfd.readouterr() == ("", "")
    assert children(os.getpid()) == []


def test_warnings_of_a_task_name_the_users_file(project, monkeypatch, capsys):
    module = new_module(monkeypatch, project, "import warnings\ndef warn():\n    warnings.warn('look here')\n")
    with Runner("warns", workers=1) as rr:
        rr.service(module.warn)().get()
    assert f"{module.__file__}:3: UserWarning: look here" in capsys.readouterr().err


# ---- before the outcome --------------------------------------------------------------------------------------------------


def by_get(rr, number):
    rr.service(say)(number).get(PATIENCE_S)


def by_get_of_a_list(rr, number):
    rr.get([rr.service(len)("text"), rr.service(say)(number)], PATIENCE_S)


def by_wait(rr, number):
    rr.service(say)(number).wait(PATIENCE_S)


def by_wait_of_a_list(rr, number):
    rr.wait([rr.service(say)(number)], PATIENCE_S)


def by_select(rr, number):
    next(rr.select([rr.service(say)(number)], PATIENCE_S))


def by_map(rr, number):
    assert list(rr.service(say).map([number])) == [number]


def by_unordered_map(rr, number):
    assert list(rr.service(say).map([number], ordered=False)) == [number]


def by_exception(rr, number):
    assert isinstance(rr.service(say_and_fail)(number).exception(PATIENCE_S), LookupError)


def by_failure_in_a_list(rr, number):
    with pytest.raises(LookupError):
        rr.get([rr.service(say_and_fail)(number)], PATIENCE_S)


def by_await(rr, number):
    async def main():
        await rr.service(say)(number)

    asyncio.run(main())


def by_dependent(rr, number):
    assert rr.service(same)(rr.service(say)(number)).get(PATIENCE_S) == number


def by_nested_call(rr, number):
    assert rr.service(call)(rr.service(say), number).get(PATIENCE_S) == number


def by_death(rr, number):
    assert isinstance(rr.service(say_and_die)(number).exception(PATIENCE_S), WorkerDiedError)


OUTCOMES = [
    by_get, by_get_of_a_list, by_wait, by_wait_of_a_list, by_select, by_map, by_unordered_map, by_exception,
    by_failure_in_a_list, by_await, by_dependent, by_nested_call, by_death,
]  # fmt: skip


@pytest.mark.parametrize("learn", OUTCOMES, ids=lambda learn: learn.__name__)
def test_what_a_task_has_printed_is_there_once_its_outcome_is(learn, capsys):
    """From the first call of a new worker on."""
    with Runner("before", workers=2) as rr:
        for number in range(10):
            learn(rr, number)
            assert capsys.readouterr().out == f"says {number}\n"


def test_a_callback_finds_what_the_call_has_printed(capsys):
    found = []
    called = threading.Event()

    def look(future) -> None:
        found.append(capsys.readouterr().out)
        called.set()

    with Runner("before", workers=1) as rr:
        for number in range(10):
            called.clear()
            rr.service(say)(number).add_done_callback(look)
            assert called.wait(PATIENCE_S)
    assert found == [f"says {number}\n" for number in range(10)]


WAYS = {
    by_bytes: "bytes\n",
    by_the_stream_at_the_start: "start\n",
    by_a_fork: "child\n",
    by_half_a_line: "half\n",
    by_another_thread: "thread\n",
    by_much: "much" * 50_000 + "\n",
}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_however_python_code_writes_it_is_there_before_the_value(name, capsys):
    with Runner("ways", workers=1) as rr:
        for way, text in WAYS.items():
            for _ in range(5):
                rr.service(way)(name).get(PATIENCE_S)
                captured = capsys.readouterr()
                assert {"stdout": captured.out, "stderr": captured.err}[name] == text, way.__name__


def test_many_threads_find_what_their_own_calls_have_printed():
    class Shown(io.StringIO):
        encoding = "utf-8"

    shown, missed = Shown(), []

    def ask(who: int) -> None:
        for number in range(who, who + 40):
            rr.service(say)(number).get(PATIENCE_S)
            if f"says {number}\n" not in shown.getvalue():
                missed.append(number)

    with contextlib.redirect_stdout(shown), Runner("threads", workers=2) as rr:
        threads = [threading.Thread(target=ask, args=(1000 * who,)) for who in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert missed == []
    assert len(shown.getvalue().splitlines()) == 160


def test_a_stream_that_waits_for_calls_itself_is_no_deadlock(monkeypatch):
    class Asks(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str) -> int:
            values.append(rr.service(len)("four").get(PATIENCE_S))
            return super().write(text)

    values: list[int] = []
    with Runner("asks", workers=1) as rr:
        stream = Asks()
        monkeypatch.setattr(sys, "stdout", stream)
        rr.get([rr.service(say)(number) for number in range(3)], PATIENCE_S)
        wait_until(lambda: stream.getvalue().count("\n") == 3, "all is written: a slow stream holds no value up for long")
        monkeypatch.undo()
        assert stream.getvalue() == "says 0\nsays 1\nsays 2\n"
    assert values and set(values) == {4}


def test_a_driver_s_stream_that_blocks_holds_a_value_up_for_a_second_at_most(monkeypatch):
    class Stuck(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str) -> int:
            stuck.set()
            assert goes_on.wait(PATIENCE_S)
            return super().write(text)

    stuck, goes_on = threading.Event(), threading.Event()
    stream = Stuck()
    with Runner("stuck", workers=1) as rr:
        monkeypatch.setattr(sys, "stdout", stream)
        first = threading.Thread(target=rr.service(say)(1).get, args=(PATIENCE_S,))
        first.start()
        assert stuck.wait(PATIENCE_S)
        assert rr.service(say)(2).get(PATIENCE_S) == 2
        assert stream.getvalue() == ""
        goes_on.set()
        first.join()
        assert rr.service(say)(3).get(PATIENCE_S) == 3
        assert stream.getvalue() == "says 1\nsays 2\nsays 3\n"
        monkeypatch.undo()


def test_each_task_s_last_line_ends_with_it(capsys):
    with Runner("ends", workers=1) as rr:
        service = rr.service(write_text)
        for text in ("one", "two\n", "three, ", "100%\r"):
            service(text).get(PATIENCE_S)
    assert capsys.readouterr().out == "one\ntwo\nthree, \n100%\r"


# ---- letters that a stream lacks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"sp\\xe4t \\u706b \\U0001f525\nafter\n"), ("latin-1", b"sp\xe4t \\u706b \\U0001f525\nafter\n")],
)
def test_what_the_driver_s_stream_cannot_encode_is_escaped(encoding, shown, project):
    (project / "script.py").write_text(
        "from flame_fast import Runner\n"
        "with Runner('letters', workers=1) as rr:\n"
        "    rr.service(print)('sp\\xe4t \\u706b \\U0001f525').get()\n"
        "    rr.service(print)('after').get()\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, timeout=60, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")


def test_bytes_that_are_no_text_are_escaped(capsys):
    with Runner("output", workers=1) as rr:
        rr.service(raw)(b"\xff\xfe broken\n").get(PATIENCE_S)
    assert capsys.readouterr().out == "\\xff\\xfe broken\n"


# ---- progress bars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["\r 50%|###  |", " 50%|###  |\r"])
def test_a_progress_bar_is_seen_while_its_task_runs(state, project, capfd):
    seen = []

    def look() -> bool:
        seen.append(capfd.readouterr().err)
        return state in "".join(seen)

    with Runner("bar", workers=1) as rr, Gate() as gate:
        future = rr.service(write_at_gate)(gate, "stderr", state)
        gate.entered()
        wait_until(look, "the bar's being shown")
        gate.open()
        future.get(PATIENCE_S)


def test_bars_and_lines_of_several_workers_are_kept_apart(capsys):
    with Runner("bars", workers=3) as rr:
        drawn = [rr.service(draw_bar)(who, 200) for who in "ab"]
        rr.get([*drawn, rr.service(print_lines)("c", 200, False)], PATIENCE_S)
    captured = capsys.readouterr()
    pieces = [piece for piece in re.split(r"[\r\n]", captured.err) if piece]
    assert all(re.fullmatch(r"<[ab] (\d+|all)>", piece) for piece in pieces), pieces
    for who in "ab":
        mine = [piece for piece in pieces if piece[1] == who]
        assert mine == [f"<{who} {number}>" for number in range(200)] + [f"<{who} all>"]
    assert len(captured.out.splitlines()) == 200


def test_a_terminal_has_one_line_for_all_bars(project, monkeypatch):
    """A bar takes the place of another worker's; so does a whole line."""

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with Runner("terminal", workers=2) as rr, Gate() as first, Gate() as second:
        monkeypatch.setattr(sys, "stdout", terminal)
        one = rr.service(write_at_gate)(first, "stdout", "\r<one>")
        wait_until(lambda: "one" in terminal.getvalue(), "the first bar")
        other = rr.service(write_at_gate)(second, "stdout", "\r<two>")
        wait_until(lambda: "two" in terminal.getvalue(), "the second bar")
        first.open()
        one.get(PATIENCE_S)
        second.open()
        other.get(PATIENCE_S)
        shown = terminal.getvalue()
        monkeypatch.undo()
    erase = "\r\x1b[K"
    assert shown == f"\r<one>{erase}\r<two>{erase}\n\n"

"""What tasks write comes out on the driver's streams: all of it, in whole lines, before `close` returns."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections import Counter

import pytest
from gates import new_module
from process_events import PATIENCE_S, Driver, Victim, children, die, run_driver

from flame_fast import Runner, WorkerDiedError

LONG = 3 << 20  # more than the longest line that is kept together


def raw(data: bytes, fd: int = 1) -> None:
    while data:
        data = data[os.write(fd, data) :]


def by_print(stream) -> None:
    print("printed", file=stream)


def by_pieces(stream) -> None:
    print("one,", "two,", sep=" ", end=" ", file=stream)
    stream.write("three\n")


def by_descriptor(stream) -> None:
    raw(b"from C\n", stream.fileno())


def by_subprocess(stream) -> None:
    subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=stream.fileno(), check=True)


def by_shell(stream) -> None:
    os.system(f"echo from a shell >&{stream.fileno()}")


def by_thread(stream) -> None:
    thread = threading.Thread(target=print, args=("from a thread",), kwargs={"file": stream})
    thread.start()
    thread.join()


def without_newline(stream) -> None:
    stream.write("no end")


def unicode_text(stream) -> None:
    print("späte Zeile ✓ 火", file=stream)


def by_writelines(stream) -> None:
    stream.writelines(["a\n", "b\n"])


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


def write_to(name: str, writer) -> None:
    writer(getattr(sys, name))


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


def log_something() -> None:
    logging.getLogger("my.module").warning("logged")
    logging.error("logged too")


def test_logging_comes_out_on_stderr(capsys):
    with Runner("output", workers=1) as rr:
        rr.service(log_something)().get(PATIENCE_S)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["logged", "ERROR:root:logged too"]


class Talker:
    def __init__(self) -> None:
        print("made")

    def talk(self) -> None:
        print("talks")


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


def print_lines(who: str, count: int, in_pieces: bool) -> None:
    for number in range(count):
        if in_pieces:
            for piece in (f"<{who}", f" {number} ", "x" * (number % 97), ">\n"):
                sys.stdout.write(piece)
                sys.stdout.flush()
        else:
            print(f"<{who} {number} {'x' * (number % 97)}>")


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
    def write(text: str) -> None:
        for letter in text:
            sys.stdout.write(letter)
            sys.stdout.flush()

    texts = ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"]
    with Runner("output", workers=2) as rr:
        rr.get([rr.service(write)(text) for text in texts], PATIENCE_S)
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
    def last_words(how: str) -> None:
        print("last words", flush=True)
        print("and more", end="", flush=True)
        die(how)

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
    def spoil(how: str) -> None:
        if how == "close":
            sys.stdout.close()
        else:
            sys.stdout = None

    with Runner("output", workers=1) as rr:
        for how in ("close", "none"):
            rr.service(spoil)(how).get(PATIENCE_S)
        assert rr.service(len)("four").get(PATIENCE_S) == 4
    assert capsys.readouterr().out == ""


def test_a_process_that_detached_does_not_hold_close_up(capsys):
    """It holds the worker's pipe open."""

    def leave_behind() -> int:
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    import time

    with Runner("output", workers=1) as rr:
        pid = rr.service(leave_behind)().get(PATIENCE_S)
        rr.service(print)("heard").get(PATIENCE_S)
        start = time.monotonic()
    took = time.monotonic() - start
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

"""What takes long before a task's own work is told on a terminal, once, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from gates import PATIENCE_S

from flame_fast.engine.slow_steps import SLOW_S, SUPERVISOR, SlowSteps

#: Steps of so many seconds are slow, so that a test need not wait for longer ones.
SOON = "from flame_fast.engine import slow_steps; slow_steps.SLOW_S = {}"


def run_on_a_terminal(project: Path, text: str) -> str:
    """Run a script whose standard error is a terminal; return what that shows."""
    Path(project, "main.py").write_text(textwrap.dedent(text))
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen([sys.executable, "main.py"], cwd=project, stdout=subprocess.PIPE, stderr=theirs) as script:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    piece = os.read(ours, 1 << 16)
                except OSError:  # its other end is closed
                    break
                shown += piece
            assert script.wait(PATIENCE_S) == 0, shown
    finally:
        os.close(ours)
    lines = shown.decode().replace("\r\n", "\n").splitlines(keepends=True)
    return "".join(line for line in lines if "unpacks the project" not in line)  # on a slow machine


def test_an_import_of_more_than_two_seconds_is_told_once_for_all_workers(project):
    Path(project, "slow.py").write_text("import time\ntime.sleep(2.6)\ndef one(x): return x\n")
    shown = run_on_a_terminal(
        project,
        """
        import sys
        from flame_fast import Runner
        sys.path.insert(0, "")
        class Slow:
            def __reduce__(self):
                return __import__, ("slow",)
        def task(x, kept=Slow()):
            return kept.one(x)
        with Runner("slow", workers=2) as rr:
            assert rr.get([rr.service(task)(x) for x in range(4)]) == [0, 1, 2, 3]
        """,
    )
    (line,) = [line for line in shown.splitlines() if line]
    assert line.startswith("flame_fast: runner 'slow': worker ")
    assert "loads the service 'task' and what it imports, for 2 seconds by now" in line or "for 3 seconds" in line


STEPS = {
    "loading": (
        "",
        "import time\nclass Late:\n def __init__(self): time.sleep(1)\n def work(self, x): return x\n"
        "def work(x): return x\n",
        "rr.service(helper.Late).work(1).get()",
        "loads the service 'Late'",
    ),
    "compiling": (
        "",
        "import numba\n@numba.njit\ndef kernel(x): return x + 1\n",
        "rr.service(helper.kernel)(1).get()",
        "compiles kernel()",
    ),
    "compiling as it is imported": (
        "",
        "import numba\n@numba.njit('i8(i8)')\ndef kernel(x): return x + 1\ndef work(x): return kernel(x)\n",
        "rr.service(helper.work)(1).get()",
        "compiles kernel()",
    ),
    "importing for all": (
        "preload=['late_library']",
        "def work(x): return x\n",
        "rr.service(helper.work)(1).get()",
        "the supervisor imports late_library for the workers",
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_kind_of_step_is_told_by_its_name(project, step, tmp_path):
    options, module, call, told = STEPS[step]
    Path(project, "helper.py").write_text(module)
    library = tmp_path / "library"
    library.mkdir()
    (library / "late_library.py").write_text("import time\ntime.sleep(1)\n")
    shown = run_on_a_terminal(
        project,
        f"""
        import os, sys
        os.environ["PYTHONPATH"] = {str(library)!r}
        {SOON.format(0.01 if "compiling" in step else 0.5)}
        import helper
        from flame_fast import Runner
        with Runner("steps", workers=1, {options}) as rr:
            {call}
        """,
    )
    assert told in shown, shown
    assert shown.count(told) == 1


def test_nothing_is_told_where_there_is_no_terminal_nor_of_a_task_itself(project):
    text = f"""
        import time
        {SOON.format(0.5)}
        from flame_fast import Runner
        class Late:
            def __init__(self): time.sleep(1)
            def work(self, x): return x
        def slow(x): time.sleep(1)
        with Runner("steps", workers=1) as rr:
            TASK
        """
    assert run_on_a_terminal(project, text.replace("TASK", "rr.service(slow)(1).get()")) == ""
    script = textwrap.dedent(text.replace("TASK", "rr.service(Late).work(1).get()"))
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_task_that_puts_a_file_in_the_place_of_its_standard_error_finds_only_its_own_text_there(project):
    shown = run_on_a_terminal(
        project,
        f"""
        import os
        {SOON.format(0.5)}
        from flame_fast import Runner
        def move(path):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
        class Late:
            def __init__(self): os.write(2, b"mine")
            def work(self, x): return x
        with Runner("steps", workers=1) as rr:
            rr.service(move)("own.txt").get()
            rr.service(Late).work(1).get()
        """,
    )
    assert Path(project, "own.txt").read_bytes() == b"mine"
    assert shown == ""


def test_a_step_that_ends_in_time_or_with_its_process_is_not_told(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    steps = SlowSteps()
    assert steps.left() is None and steps.due() == []
    steps.note(7, "loads")
    steps.note(8, "compiles")
    steps.note(7, "")
    assert steps.left() == SLOW_S
    now += SLOW_S - 0.25
    assert steps.left() == 0.25 and steps.due() == []
    steps.note(SUPERVISOR, "imports pandas")
    now += 0.5
    assert steps.due() == ["worker 8 compiles, for 2 seconds by now"]
    now += 5
    steps.note(9, "compiles")  # told before
    assert steps.due() == ["the supervisor imports pandas, for 6 seconds by now"]
    assert steps.left() is None and steps.due() == []

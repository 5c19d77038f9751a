"""Programs that are no plain `python script.py`: frozen ones, and those that embed an interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from gates import PATIENCE_S

from flame_fast import Executor, FlameError, FlameErrorCode, Runner
from flame_fast.engine import program

#: A frozen program, as its own file sees it. Each start adds a line to the file `starts`.
FROZEN = """\
#!{python}
import os, sys
with open({starts!r}, "a") as file:
    file.write("start\\n")
{before}
sys.executable = os.path.abspath(__file__)
import flame_fast
{hook}
from flame_fast import FlameError, Runner

class Counter:
    count = 0

    def add(self):
        self.count += 1
        return self.count

with Runner("frozen", workers=2) as rr:
    counter = rr.service(Counter())
    print(rr.get([rr.service(lambda x: x * x)(3), rr.service(lambda: sys.argv)(), counter.add(), counter.add()]))
"""


@pytest.fixture
def starts(tmp_path):
    """Return a file in which programs note their starts."""
    return tmp_path / "starts"


def count(starts):
    return len(starts.read_text().splitlines())


def run_program(tmp_path, starts, before="", hook="", *arguments, text=FROZEN):
    path = tmp_path / "program"
    path.write_text(text.format(python=sys.executable, starts=str(starts), before=before, hook=hook))
    path.chmod(0o700)
    return path, subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60)


FREEZES = ["sys.frozen = True", "__compiled__ = type('Compiled', (), {'standalone': True})"]


@pytest.mark.parametrize("freezes", FREEZES, ids=["sys.frozen", "__compiled__"])
def test_a_frozen_program_with_the_hook_starts_its_supervisor_and_nothing_more(freezes, project, tmp_path, starts):
    path, done = run_program(tmp_path, starts, freezes, "flame_fast.freeze_support()", "one", "two")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"[9, ['{path}', 'one', 'two'], 1, 2]\n"
    assert count(starts) == 2


@pytest.mark.parametrize("freezes", FREEZES, ids=["sys.frozen", "__compiled__"])
def test_a_frozen_program_without_the_hook_is_refused_at_once(freezes, project, tmp_path, starts):
    _, done = run_program(tmp_path, starts, freezes)
    assert done.returncode == 1
    assert "freeze_support()" in done.stderr.splitlines()[-1]
    assert count(starts) == 1


def test_a_frozen_program_that_does_not_come_to_its_hook_again_starts_a_few_times_and_no_more(project, tmp_path, starts):
    """Its hook is called only where it is started without arguments."""
    hook = "if len(sys.argv) == 1: flame_fast.freeze_support()"
    _, done = run_program(tmp_path, starts, "sys.frozen = True", hook)
    assert done.returncode == 1
    assert "runs its own program anew" in done.stderr and "supervises the workers" in done.stderr
    assert 2 <= count(starts) <= 6


def test_the_hook_does_nothing_in_other_programs(project, tmp_path, starts):
    path, done = run_program(
        tmp_path, starts, "executable = sys.executable", "sys.executable = executable; flame_fast.freeze_support()"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[9, ") and count(starts) == 1


def test_a_program_named_like_python_that_runs_itself_anew_is_refused(project, tmp_path, starts):
    """It embeds an interpreter, is named my_python_program, and knows no -c."""
    path = tmp_path / "my_python_program"
    path.write_text(FROZEN.format(python=sys.executable, starts=str(starts), before="", hook=""))
    path.chmod(0o700)
    done = subprocess.run([path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "multiprocessing.set_executable" in done.stderr
    assert 2 <= count(starts) <= 6


# ---- embedded interpreters -------------------------------------------------------------------------------------------


def squared():
    with Runner("embedded", workers=1) as rr:
        return rr.service(lambda x: x * x)(3).get(PATIENCE_S)


@pytest.fixture
def other_program(tmp_path, starts):
    """Write a program that is no Python, and notes its starts."""
    path = tmp_path / "server"
    path.write_text(f"#!/bin/sh\necho start >> {starts}\n")
    path.chmod(0o700)
    starts.touch()
    return str(path)


@pytest.fixture
def no_python_around(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))
    monkeypatch.delitem(sys.modules, "multiprocessing.spawn", raising=False)


@pytest.mark.parametrize("executable", [None, "", "/no/such/python3"])
def test_without_an_executable_the_python_of_the_installation_is_started(executable, monkeypatch, project):
    monkeypatch.setattr(sys, "executable", executable)
    assert squared() == 9


def test_another_program_than_python_is_not_started(monkeypatch, other_program, project, starts):
    monkeypatch.setattr(sys, "executable", other_program)
    assert squared() == 9
    assert count(starts) == 0


@pytest.mark.parametrize("executable", [None, "", "/no/such/python3", "server"])
def test_where_there_is_no_python_a_runner_is_refused(
    executable, monkeypatch, other_program, no_python_around, project, starts
):
    monkeypatch.setattr(sys, "executable", other_program if executable == "server" else executable)
    for make in (Runner, lambda name: Executor(1)):
        with pytest.raises(FlameError, match=r"no Python to start workers with.*set_executable") as caught:
            make("embedded")
        assert caught.value.code == FlameErrorCode.INVALID_STATE
    assert count(starts) == 0


def test_the_executable_of_multiprocessing_is_started(monkeypatch, other_program, no_python_around, project):
    from multiprocessing import spawn

    monkeypatch.setitem(sys.modules, "multiprocessing.spawn", spawn)
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))
    monkeypatch.setattr(sys, "executable", other_program)
    assert squared() == 9


def test_a_link_to_python_under_another_name_is_started(monkeypatch, tmp_path, no_python_around, project):
    link = tmp_path / "interpreter"
    link.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(link))
    assert program.supervisor_command(["-O"], "pass") == [str(link), "-O", "-P", "-c", "pass"]


def test_the_inline_engine_needs_no_program(monkeypatch, no_python_around, project):
    monkeypatch.setattr(sys, "executable", None)
    with Runner("inline", engine="inline") as rr:
        assert rr.service(lambda x: x * x)(3).get() == 9


def test_neither_tasks_nor_what_they_start_has_the_mark(project):
    def look():
        import subprocess

        text = "import os; print(os.environ.get('FLAME_FAST_SUPERVISOR_OF'))"
        return os.environ.get(program.MARK), subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True
        ).stdout

    with Runner("mark", workers=1) as rr:
        assert rr.service(look)().get(PATIENCE_S) == (None, "None\n")
    assert program.MARK not in os.environ


def test_a_supervisor_that_takes_anothers_place_is_the_same_program(monkeypatch, other_program, project, starts):
    """The program has changed sys.executable since."""
    from process_events import wait_until, zygotes

    with Runner("again", workers=1) as rr:
        service = rr.service(pow)
        assert service(2, 3).get(PATIENCE_S) == 8
        monkeypatch.setattr(sys, "executable", other_program)
        (supervisor,) = zygotes()
        os.kill(supervisor, 9)
        wait_until(lambda: zygotes() not in ([], [supervisor]))
        assert service.options(retries=3)(2, 4).get(PATIENCE_S) == 16
    assert count(starts) == 0

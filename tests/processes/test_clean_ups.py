"""Clean-ups under difficulties: Ctrl-C again and again, closed descriptors, a full disk, another's wait, SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from gates import same, wait_until
from process_events import PATIENCE_S, Driver, leavings, run_driver, zygotes

from flame_fast import FlameError, FlameErrorCode, Runner
from flame_fast.interrupts import interrupts_deferred

#: Sends SIGINT to a process without a pause, until it has ended.
INTERRUPTER = """
import os, signal, sys, time
while True:
    try:
        os.kill(int(sys.argv[1]), signal.SIGINT)
    except ProcessLookupError:
        break
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("ending", "pause_s"), [("with", 0.0005), ("close", 0.02), ("exit", 0.0005)])
def test_any_number_of_ctrl_c_in_the_end_leaves_nothing(ending, pause_s, nothing_left, tmp_path):
    """They begin when the body ends, and go on until the driver has gone."""
    ends = {
        "with": "with rr:\n    start()\n    raise LookupError",
        "close": "start()\nrr.close()\ntime.sleep(20)  # it may close between two of them",
        "exit": "start()",
    }
    script = f"""
        import subprocess
        rr = Runner("ending", workers=2)
        assert rr.service(double)(2).get() == 4
        running = rr.service(time.sleep)(60)
        def start():
            subprocess.Popen(
                [sys.executable, "-c", {INTERRUPTER!r}, str(os.getpid()), "{pause_s}"], stdout=-3, stderr=-3
            )
            try:
                time.sleep(20)
            except KeyboardInterrupt:
                pass
        """
    driver = Driver(textwrap.dedent(script) + ends[ending], tmp_path)
    driver.finish()
    assert driver.returncode != 0
    assert wait_until(lambda: leavings(nothing_left) == [], "the clean-up")


def test_an_interrupt_that_waited_comes_after_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_users_handler_of_interrupts_is_called_once():
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert calls == []
        assert calls == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_ignored_interrupts_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_driver_that_has_closed_all_descriptors_closes(reopened, nothing_left, tmp_path):
    """The numbers may be other files' by then: those stay open."""
    out = run_driver(
        f"""
        rr = Runner("closing", workers=1)
        assert rr.service(double)(2).get() == 4
        os.closerange(3, 200)
        files = [open(__file__) for _ in range(60 * {reopened})]
        rr.close()
        assert all(file.readline() for file in files)
        print("closed")
        """,
        tmp_path,
    )
    assert out == "closed\n"
    assert leavings(nothing_left) == []


def test_a_wait_for_any_child_does_not_disturb(project):
    with Runner("waiting", workers=1) as rr:
        assert rr.service(same)(1).get(PATIENCE_S) == 1
        child = subprocess.Popen([sys.executable, "-c", ""])
        assert os.waitpid(-1, 0)[0] == child.pid
        child.returncode = 0
        (zygote,) = zygotes()
        os.kill(zygote, signal.SIGKILL)
        future = rr.service(same).options(retries=1)(2)  # the worker that ends may begin it
        while not future.done():  # whoever is first reaps the supervisor
            with contextlib.suppress(ChildProcessError):  # there may be none just now
                os.waitpid(-1, os.WNOHANG)
        assert future.get() == 2


def test_a_full_disk_at_the_end_is_a_warning(nothing_left, tmp_path):
    """A limit on the size of files stands for the disk: every write of the registry fails."""
    driver = Driver(
        """
        import resource, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Runner("full", workers=1) as rr:
                assert rr.service(double)(2).get() == 4
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        print([str(one.message) for one in caught])
        """,
        tmp_path,
    )
    out, err = driver.finish()
    assert (driver.returncode, err) == (0, "")
    assert "next Runner removes it" in out
    with Runner("next", workers=1):
        pass
    assert leavings(nothing_left) == []


def test_a_driver_killed_between_its_workers_end_and_the_release_is_cleaned_up(nothing_left, tmp_path):
    driver = Driver(
        """
        from flame_fast import runner
        rr = Runner("killed", workers=1)
        assert rr.service(double)(2).get() == 4
        runner._release = lambda *_: (print(workers(), flush=True), os.kill(os.getpid(), signal.SIGKILL))
        rr.close()
        """,
        tmp_path,
    )
    out, err = driver.finish()
    assert (driver.returncode, out, err) == (-signal.SIGKILL, "[]\n", "")
    assert wait_until(lambda: leavings(nothing_left) == [], "the clean-up")


def test_sigterm_ends_the_body_in_order(nothing_left, tmp_path):
    driver = Driver(
        """
        try:
            with Runner("term", workers=1, handle_sigterm=True) as rr:
                assert rr.service(double)(2).get() == 4
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
        finally:
            print("in order", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
        """,
        tmp_path,
    )
    out, err = driver.finish()
    assert (driver.returncode, out, err) == (128 + signal.SIGTERM, "in order True\n", "")
    assert leavings(nothing_left) == []


def test_sigterm_is_handled_for_the_runner_alone(project):
    with Runner("term", workers=1, handle_sigterm=True):
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with Runner("term", workers=1):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_cannot_be_handled_in_a_thread(project):
    caught = []

    def make():
        try:
            Runner("term", workers=1, handle_sigterm=True)
        except FlameError as error:
            caught.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(PATIENCE_S)
    assert "main thread" in caught[0].message


def test_a_flag_that_is_none(project):
    with pytest.raises(FlameError, match="handle_sigterm") as caught:
        Runner("term", handle_sigterm="yes")
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT

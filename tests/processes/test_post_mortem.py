"""Post-mortems: what a `WorkerDiedError` tells of the call, its process and what that printed."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time

import numpy as np
import pytest
from flame_fast.kernels.runtime.serialization.described import described_arguments
from gates import new_module
from hypothesis import given
from hypothesis import strategies as st
from process_events import PATIENCE_S

from flame_fast import Runner, WorkerDiedError
from flame_fast.engine import memory_kills
from flame_fast.engine.post_mortem import death_of, users_stack


def ends(how, *args, **kwargs):
    for number in range(30):
        print(f"line {number}")
    sys.stdout.flush()
    os.write(2, b"natively\n")
    time.sleep(0.05)
    if how == "crash":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


class Ends:
    def method(self, how):
        ends(how)


def error_of(future):
    error = future.exception(PATIENCE_S)
    assert type(error) is WorkerDiedError
    return error


def test_what_a_death_tells(project, capfd):
    with Runner("post-mortem", workers=1) as rr:
        error = error_of(rr.service(ends)("kill", np.zeros((10, 1000)), 5, text="x" * 10))
    assert (error.service, error.method, error.signal, error.exit_code) == ("ends", None, "SIGKILL", None)
    assert error.pid not in (None, os.getpid())
    assert 0.04 <= error.run_time < PATIENCE_S
    assert error.peak_memory > 1 << 20
    assert error.out_of_memory in (False, None)
    assert error.arguments == ["str of 4 bytes", "float64 array (10, 1000), 80,000 bytes", "int", "text: str of 10 bytes"]
    assert len(error.output) == 20
    assert {"natively", "line 29"} <= set(error.output)
    for told in ("had run for", "MiB of memory", "float64 array (10, 1000)", "line 29"):
        assert told in str(error)
    assert "\n" not in error.message
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.signal) == (str(error).partition("\n  it printed")[0], "SIGKILL")


def test_a_crash_tells_its_stack(project, monkeypatch, capsys):
    module = new_module(monkeypatch, project, "import ctypes\ndef crash(): ctypes.string_at(0)")
    with Runner("post-mortem", workers=1) as rr:
        error = error_of(rr.service(Ends).method("crash"))
        mine = error_of(rr.service(module.crash)())
    assert f'File "{module.__file__}", line 2 in crash' in mine.stack  # the user's own file, not the unpacked one
    assert (error.method, error.signal, error.service) == ("method", "SIGSEGV", "Ends")
    assert "Segmentation fault" in error.stack
    assert "in ends" in error.stack
    assert "zygote.py" not in error.stack
    assert "in ends" in str(error)
    assert "Segmentation fault" in capsys.readouterr().err


def test_an_exit_code(project, capfd):
    with Runner("post-mortem", workers=1) as rr:
        error = error_of(rr.service(ends)("exit"))
    assert (error.exit_code, error.signal, error.out_of_memory, error.stack) == (3, None, False, "")


@pytest.mark.filterwarnings("ignore:.*unfinished call")  # the inner one's recovery may not be over
def test_each_of_several_calls_on_a_stack_tells_its_own(project, capfd):
    """The inner one runs inside the wait of the outer one, in one process."""

    def outer(service, _):
        with Runner("inner"):
            return service("kill").get()

    with Runner("post-mortem", workers=1) as rr:
        error = error_of(rr.service(outer)(rr.service(ends), 7))
    assert error.service.endswith("outer")
    assert error.run_time is None  # the inner one's is known


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (["oom_kill 0", "oom_kill 0"], False),
        (["oom_kill 1", "oom_kill 0"], True),
        (["oom_kill 0", "oom_kill 9"], False),
        ([None, "oom_kill 0"], False),
        ([None, "oom_kill 9"], None),
        (["high 5", "oom_kill 9"], None),
        ([None, None], None),
    ],
)
def test_whether_the_kernel_killed_for_want_of_memory(tmp_path, monkeypatch, counts, told):
    """Counters as the kernel writes them, of the cgroup and of the system: here they are files that the test writes."""
    files = [tmp_path / "memory.events", tmp_path / "vmstat"]
    for file in files:
        file.write_text("low 0\noom_kill 0\n")
    monkeypatch.setattr(memory_kills, "memory_events", lambda: [str(files[0])])
    monkeypatch.setattr(memory_kills, "SYSTEM", str(files[1]))
    kills = memory_kills.MemoryKills()
    for file, text in zip(files, counts, strict=True):
        if text is None:
            file.unlink()
        else:
            file.write_text(f"low 3\n{text}\n")
    assert kills.since_last_look() is told


@pytest.mark.parametrize(("told", "text"), [(True, "for want of memory"), (False, "did not"), (None, "or the system")])
def test_a_kill_says_who_did_it(told, text):
    assert text in death_of(7, -signal.SIGKILL, None, told, "").how
    assert death_of(7, -signal.SIGTERM, None, True, "").facts["out_of_memory"] is False


def test_stacks_end_where_the_runtime_begins():
    from flame_fast.engine import worker

    frame = f'  File "{worker.__file__}", line 3 in _serve'
    written = (
        f'Fatal\n\nCurrent thread:\n  File "a.py", line 1 in f\n{frame}\n  File "b", line 2 in g\n\nThread 2:\n  File "c"\n'
    )
    assert users_stack(written) == 'Fatal\n\nCurrent thread:\n  File "a.py", line 1 in f\n\nThread 2:\n  File "c"\n'
    assert users_stack("") == ""


@given(st.binary(max_size=300), st.booleans())
def test_damaged_arguments_are_described_as_far_as_they_go(data, pickled):
    assert all(isinstance(text, str) for text in described_arguments(data, pickled, 300))


def test_deeply_nested_bytes_are_described():
    nested = b"(" + (1).to_bytes(8, "little")
    assert described_arguments(nested * 5000, False, 45_000) == ["the rest of 45,000 bytes"]

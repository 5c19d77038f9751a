"""The driver's waits and memory: Ctrl-C interrupts a wait, and dropped futures give their memory back."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from gates import PATIENCE_S, add, wait_until

from flame_fast import Runner


@pytest.fixture
def rr(project):
    with Runner("futures", workers=2) as runner:
        yield runner


def test_dropped_futures_give_their_memory_back(rr):
    service = rr.service(lambda number: np.full(1_000_000, number, dtype=np.float64))
    for number in range(100):
        assert service(number).get()[-1] == number
    plus = rr.service(add)
    for _ in range(20):
        rr.get([plus(number) for number in range(2000)])
    gc.collect()
    counters = wait_until(lambda: (c := rr._engine.runtime.statistics())["bytes"] < 8_000_000 and c, "giving memory back")
    assert counters["slots"] < 100


INTERRUPTED = """
    import sys
    from flame_fast import Runner

    def forever(path):
        open(path).read()

    with Runner("interrupted", workers=1) as rr:
        future = rr.service(forever)("gate")
        select = rr.select([future])
        try:
            print("waiting", flush=True)
            {wait}
        except KeyboardInterrupt:
            print("interrupted", future.done(), flush=True)
        sys.stdin.readline()
        open("gate", "w").close()
        print(future.get(timeout=20), rr.service(len)("12345").get(timeout=20))
"""


@pytest.mark.parametrize(
    "wait", ["future.get()", "future.get(timeout=60)", "rr.get([future])", "future.wait()", "next(select)"]
)
def test_ctrl_c_interrupts_a_wait_and_nothing_else(project, wait):
    os.mkfifo("gate")
    (project / "script.py").write_text(textwrap.dedent(INTERRUPTED.format(wait=wait)))
    driver = subprocess.Popen(
        [sys.executable, "script.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert driver.stdout.readline() == "waiting\n"
        wait_until(lambda: waits_or_sleeps(driver.pid), "the driver's sleeping")
        os.killpg(driver.pid, signal.SIGINT)  # as the terminal does: to the whole group
        assert driver.stdout.readline() == "interrupted False\n"
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == "None 5\n"
        assert driver.wait(PATIENCE_S) == 0
    finally:
        driver.kill()
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()


def waits_or_sleeps(pid):
    """Whether the main thread of a process sleeps in a futex."""
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] == str({"x86_64": 202, "aarch64": 98}[os.uname().machine])

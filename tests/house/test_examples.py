"""Each example, run as a user runs it: its output, its exit, and that it leaves nothing behind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_sandbox import EXAMPLES, ROOT, Sandbox, nothing_left_by_examples

RULE = "=" * 60


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """Yield a sandbox of the test's own, and check that nothing is left in it afterwards."""
    sandbox = Sandbox(tmp_path)
    with nothing_left_by_examples(sandbox):
        yield sandbox


def check_pi(text: str, batches: int, samples: int) -> None:
    """Check every line of the pi example's output, and that its figures belong together."""
    number = r"\d\.\d{10}"
    expected = [
        RULE,
        "Monte Carlo Estimation of PI using Flame Runner",
        RULE,
        "",
        "Configuration:",
        f"  Batches: {batches}",
        f"  Samples per batch: {samples:,}",
        f"  Total samples: {batches * samples:,}",
        "",
        r"Running distributed Monte Carlo simulation\.\.\.",
        "",
        "Results:",
        f"  Estimated PI: ({number})",
        "  Actual PI:    (3\\.1415926536)",
        f"  Error:        ({number}) \\((\\d+\\.\\d{{6}})%\\)",
        "  Speed:        [\\d,]+ samples a second",
        RULE,
    ]
    lines = text.splitlines()
    assert len(lines) == len(expected), text
    figures: list[float] = []
    for line, pattern in zip(lines, expected, strict=True):
        match = re.fullmatch(pattern, line)
        assert match, (line, pattern)
        figures += map(float, match.groups())

    estimate, actual, error, percentage = figures
    assert abs(estimate - actual) == pytest.approx(error, abs=2e-10)
    assert percentage == pytest.approx(100 * error / math.pi, abs=1e-6)
    standard_error = math.sqrt(math.pi * (4 - math.pi) / (batches * samples))
    assert error < 7 * standard_error


@pytest.mark.parametrize(
    ("script", "cwd"),
    [("examples/pi/main.py", ROOT), ("main.py", EXAMPLES / "pi")],
    ids=["from the root", "from its directory"],
)
def test_pi_prints_the_estimate(sandbox: Sandbox, script: str, cwd: Path) -> None:
    check_pi(sandbox.output([script], cwd=cwd), batches=10, samples=1_000_000)
    assert sandbox.storage.is_dir()  # so that finding it empty proves something


def test_pi_takes_its_size_from_the_environment(sandbox: Sandbox) -> None:
    text = sandbox.output(["examples/pi/main.py"], {"PI_NUM_BATCHES": "3", "PI_SAMPLES_PER_BATCH": "12345"})
    check_pi(text, batches=3, samples=12_345)


def test_pi_runs_the_articles_function_too(sandbox: Sandbox) -> None:
    text = sandbox.output(["examples/pi/main.py", "--baseline", "numpy"], {"PI_SAMPLES_PER_BATCH": "100000"})
    check_pi(text, batches=10, samples=100_000)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "1\n2"])
@pytest.mark.parametrize("name", ["PI_NUM_BATCHES", "PI_SAMPLES_PER_BATCH"])
def test_pi_refuses_what_is_no_positive_integer(sandbox: Sandbox, name: str, value: str) -> None:
    result = sandbox.run(["examples/pi/main.py"], {name: value})
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"{name}: expected a positive integer, got {value!r}\n"


def test_counter_counts_the_primes(sandbox: Sandbox) -> None:
    *progress, last = sandbox.output(["examples/counter.py"]).splitlines()
    assert last == "There are 17,984 primes below 200,000."
    totals = [re.fullmatch(r"primes so far: (\d+,\d{3})", line) for line in progress]
    assert len(totals) == 10
    assert all(totals), progress
    assert max(int(match[1].replace(",", "")) for match in totals if match) == 17_984


def test_parameter_server_learns_the_weights(sandbox: Sandbox) -> None:
    *progress, last = sandbox.output(["examples/parameter_server.py"]).splitlines()
    steps = [re.fullmatch(r"round ([ \d]\d): step of length (\d\.\de-\d\d)", line) for line in progress]
    assert all(steps), progress
    lengths = {int(match[1]): float(match[2]) for match in steps if match}
    assert sorted(lengths) == [5, 10, 15, 20, 25, 30]
    assert lengths[30] < 1e-6 < 1e-2 < lengths[5]
    match = re.fullmatch(r"Learned 8 weights in 30 rounds; the largest error is (\d\.\d{6})\.", last)
    assert match, last
    assert float(match[1]) < 1e-3

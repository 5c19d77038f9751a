"""Each example, run as a user runs it: what it prints, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
RULE = "=" * 60
Settings = dict[str, str]
NONE: Settings = {}
Completed = subprocess.CompletedProcess[str]
LIST_APPLICATIONS = "import json, flame_fast as f; print(json.dumps([a.name for a in f.list_applications()]))"


class Sandbox:
    """A home and a data directory of its own, for programs run in subprocesses."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.data = path / "data"
        self.storage = self.data / "packages"  # where packages go when no configuration says otherwise
        self.home.mkdir()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PI_", "FLAME_"))}
        self.environment = inherited | {
            "HOME": str(self.home),
            "FLAME_FAST_HOME": str(self.data),
            "PYTHONPYCACHEPREFIX": str(path / "pycache"),  # bytecode is Python's doing, not an example's
        }

    def run(self, arguments: list[str], settings: Settings = NONE, cwd: Path = ROOT) -> Completed:
        """Run Python with `arguments`; a process left behind holds the pipes open: a timeout."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self, arguments: list[str], settings: Settings = NONE, cwd: Path = ROOT) -> str:
        """What a run that succeeds and does not complain prints."""
        result = self.run(arguments, settings, cwd)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout


def files_of_examples() -> set[Path]:
    return set(EXAMPLES.rglob("*"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox; afterwards, nothing may be left in storage, in the registry or beside the examples."""
    before = files_of_examples()
    sandbox = Sandbox(tmp_path)
    yield sandbox
    assert list(sandbox.storage.rglob("*")) == []
    assert json.loads(sandbox.output(["-c", LIST_APPLICATIONS], cwd=sandbox.home)) == ["flmrun"]
    assert files_of_examples() == before


def check_pi(text: str, batches: int, samples: int) -> None:
    """Every line of the pi example's output, and that its figures belong together."""
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
    assert sandbox.storage.is_dir()  # so that finding it empty says something


def test_pi_takes_its_size_from_the_environment(sandbox: Sandbox) -> None:
    text = sandbox.output(["examples/pi/main.py"], {"PI_NUM_BATCHES": "3", "PI_SAMPLES_PER_BATCH": "12345"})
    check_pi(text, batches=3, samples=12_345)


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

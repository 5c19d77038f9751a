"""Each example, run as a user runs it: its output, its exit, and that it leaves nothing behind."""

from __future__ import annotations

import math
import random
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


def test_pi_refuses_what_is_no_positive_integer(sandbox: Sandbox) -> None:
    """Both settings, and all values: which of them go together is drawn anew for each run of the tests."""
    values = random.sample(["0", "-1", "x", "1.5", "", "1\n2"], 6)
    for value, name in zip(values, ("PI_NUM_BATCHES", "PI_SAMPLES_PER_BATCH") * 3, strict=True):
        result = sandbox.run(["examples/pi/main.py"], {name: value})
        assert (result.returncode, result.stdout) == (2, ""), (name, value)
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
    length = r"(\d\.\de-\d\d)"
    shards = [re.fullmatch(rf"(\d) of 8 shards done: steps of length {length} to {length}", line) for line in progress]
    assert all(shards), progress
    assert [int(match[1]) for match in shards if match] == list(range(1, 9))
    assert max(float(match[2]) for match in shards if match) > 0.1
    assert float(shards[-1][3]) < 1e-2
    match = re.fullmatch(r"Learned 8 weights in 240 steps; the largest error is (\d\.\d{6})\.", last)
    assert match, last
    assert float(match[1]) < 1e-3


def test_pi_draws_a_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    picture = tmp_path / "pi.png"
    settings = {"PI_SAMPLES_PER_BATCH": "10000", "MPLCONFIGDIR": str(tmp_path)}
    text = sandbox.output(["examples/pi/main.py", "--baseline", "numpy", "--picture", str(picture)], settings)
    check_pi(text, batches=10, samples=10_000)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_pi_refuses_a_picture_that_it_could_not_draw(sandbox: Sandbox, tmp_path: Path) -> None:
    without = "expected matplotlib to draw 'a.png' with, got no matplotlib; install it with `pip install matplotlib`"
    messages = {
        "a.jpeg": "expected a file name that ends with .pdf, .png, .svg, got 'a.jpeg'",
        "no/a.png": "expected a file in a directory that can be written to, got 'no/a.png'",
    }
    settings = {"MPLCONFIGDIR": str(tmp_path)}
    for name, message in [*messages.items(), ("a.png", without)]:
        if message == without:
            (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('no matplotlib')\n")
            settings["PYTHONPATH"] = str(tmp_path)
        result = sandbox.run(["examples/pi/main.py", "--picture", name], settings)
        assert (result.returncode, result.stdout) == (2, ""), name
        assert result.stderr.splitlines()[-1] == f"main.py: error: argument --picture: {message}"


@pytest.mark.libraries  # scikit-learn is imported in three processes
def test_grid_search_finds_what_one_process_finds(sandbox: Sandbox) -> None:
    *scores, last = sandbox.output(["examples/grid_search.py"]).splitlines()
    assert len(scores) == 9
    for line in scores:
        assert re.fullmatch(r"C = \S+ +gamma = \S+ *: \d+\.\d% of the digits are right", line), line
    assert re.fullmatch(r"Best of 9 in \d+\.\d\d s: \{'C': \d+, 'gamma': 0\.\d+\}\.", last), last


def test_crawler_follows_every_link(sandbox: Sandbox) -> None:
    lines = sandbox.output(["examples/crawler.py"]).splitlines()
    assert lines == [
        *(f"reading {number} pages" for number in (2, 4, 8, 17, 9)),
        "Found 40 pages, and a broken link to missing.html.",
    ]


def test_csv_summary_names_the_bad_files(sandbox: Sandbox) -> None:
    assert sandbox.output(["examples/csv_summary.py", "300"]).splitlines() == [
        "00096.csv: ValueError: could not convert string to float: 'not a number'",
        "00193.csv: ValueError: no column 'price' among ['cost']",
        "00290.csv: ValueError: no column 'price' among None",
        f"The sum of 297 files is {20 * (45 * 30 - 6 - 3 - 0):,}; 3 files are bad.",
    ]


def test_three_ways_find_the_same(sandbox: Sandbox) -> None:
    text = sandbox.output(["examples/three_ways.py", "3"])
    for name, lines in (("pool", 3), ("joblib", 2), ("runner", 3)):
        assert re.search(rf"def with_{name}\(blocks: int\).*?# {lines} lines, \d+\.\d\d s\n", text, re.DOTALL), text
    assert text.splitlines()[-1] == "All three: of the numbers up to 6,000, 3,711 takes the most steps, 237."

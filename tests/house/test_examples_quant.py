"""The examples of finance: their output, whether its figures belong together and are right, and their refusals."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from example_sandbox import EXAMPLES, ROOT, Sandbox, nothing_left_by_examples
from flame_fast.kernels.moments import Moments

QUANT = EXAMPLES / "quant"
SCRIPTS = ("european", "asian", "path", "value_at_risk")
OF_OPTIONS = SCRIPTS[:3]
BAND = 1.96

NUMBER = r"-?\d[\d,]*(?:\.\d*)?(?:e[+-]\d+)?"


@pytest.fixture(scope="module")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Return one sandbox for all tests here: the first run compiles, the others load."""
    return Sandbox(tmp_path_factory.mktemp("quant"))


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    with nothing_left_by_examples(shared_sandbox):
        yield shared_sandbox


class Quant:
    """The examples' modules, imported by name."""

    def __getattr__(self, name: str) -> ModuleType:
        return import_module(name)


@pytest.fixture
def quant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Quant]:
    """Return the examples' modules, in this process for as long as the test.

    Modules for Numba would compile, and stay out.
    """
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(QUANT))
    yield Quant()
    for name in set(sys.modules) - before:
        if (QUANT / f"{name}.py").exists():
            del sys.modules[name]


def read(text: str) -> float:
    return float(text.replace(",", "").removeprefix("x "))


class Row:
    """A line of a table: a script's figures for one quantity."""

    def __init__(self, cells: list[str]) -> None:
        self.name, value, error, interval, reference, off, *factors = cells
        self.value, self.error, self.reference, self.off = map(read, (value, error, reference, off))
        self.low, self.high = map(read, interval.split(" to "))
        self.factors = [read(factor) for factor in factors]
        self.digit = self.unit_of(value)

    @staticmethod
    def unit_of(text: str) -> float:
        """Return the value of one unit in a number's last printed digit."""
        return 10.0 ** -len(text.partition(".")[2])

    def check(self, symmetric: bool = True, band: float = BAND) -> None:
        """Check that the figures belong together, as far as they are printed."""
        rounding = 2 * self.digit + band * 0.05 * self.error  # the standard error has two digits
        if symmetric:
            assert abs(self.value - band * self.error - self.low) <= rounding
            assert abs(self.value + band * self.error - self.high) <= rounding
        assert self.low <= self.value <= self.high
        assert abs(self.value - self.reference - self.off * self.error) <= rounding + 0.05 * abs(self.off) * self.error


def rows_of(table: list[str], header: list[str]) -> dict[str, Row]:
    """Return a table's rows by their names; at least two spaces separate its columns."""
    assert re.split(r"\s{2,}", table[0].strip()) == header
    rows = [Row(re.split(r"\s{2,}", line)) for line in table[1:]]
    return {row.name: row for row in rows}


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def run_everywhere(
    sandbox: Sandbox, script: str, picture: Path, elsewhere: Path = ROOT, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the lines that a script prints with its defaults, but for the arguments, the same from every run.

    The runs have 1 worker and as many as there are CPUs, draw a picture and none, and start from the root and from another
    directory.
    """
    path = f"examples/quant/{script}.py"
    first = sandbox.output([path, *arguments, "--picture", str(picture)])
    assert is_png(picture)
    path = str((ROOT / path).relative_to(elsewhere))
    assert sandbox.output([path, *arguments, "--workers", "1"], cwd=elsewhere) == first
    return first.splitlines()


# ---- output --------------------------------------------------------------------------------------------------------------


def test_european(sandbox: Sandbox, quant: Quant, tmp_path: Path) -> None:
    title, parameters, empty, *table, note, empty_too, last = run_everywhere(sandbox, "european", tmp_path / "a.png", QUANT)
    assert title == "European call and put by Monte Carlo, with the discounted price of the asset as control variate"
    assert parameters == (
        "spot 100, strike 100, rate 0.05, volatility 0.2, maturity 1; 4,000,000 paths in antithetic pairs, seed 1"
    )
    assert empty == empty_too == ""
    assert note == "(antithetic and with control: by what factor the variance falls, for as many paths)"
    columns = ["estimate", "std. error", "95 % confidence", "Black-Scholes", "off by", "antithetic", "with control"]
    rows = rows_of(table, columns)

    option = quant.closed_forms.Option(100.0, 100.0, 0.05, 0.2, 1.0)
    exact = {
        f"{kind} {name}": value
        for kind, values in (
            ("call", quant.closed_forms.black_scholes_call(option)),
            ("put", quant.closed_forms.black_scholes_put(option)),
        )
        for name, value in values._asdict().items()
    }
    assert set(rows) == set(exact)
    for name, row in rows.items():
        row.check()
        assert row.reference == pytest.approx(exact[name], rel=1e-6)
        assert abs(row.off) < 5
        assert len(row.factors) == 2
        assert min(row.factors) > 1
    assert rows["call price"].factors[1] > 20  # the control variate follows a call closely
    # The control variate makes the estimates satisfy put-call parity, not only the formulas.
    parity = 100.0 - 100.0 * math.exp(-0.05)
    assert rows["call price"].value - rows["put price"].value == pytest.approx(parity, abs=1e-5)
    assert rows["call delta"].value - rows["put delta"].value == pytest.approx(1.0, abs=1e-6)

    match = re.fullmatch(
        rf"Checked: the call's price, ({NUMBER}), and the other 7 estimates are within 5 standard errors of "
        rf"Black-Scholes, at most ({NUMBER}) off\.",
        last,
    )
    assert match, last
    assert float(match[1]) == pytest.approx(rows["call price"].value, abs=1e-5)
    assert float(match[2]) == max(abs(row.off) for row in rows.values())


def test_asian(sandbox: Sandbox, quant: Quant, tmp_path: Path) -> None:
    lines = run_everywhere(sandbox, "asian", tmp_path / "a.png")
    assert lines[0] == "Asian call by Monte Carlo, with the call on the geometric average as control variate"
    assert lines[1] == (
        "spot 100, strike 100, rate 0.05, volatility 0.2, maturity 1, 50 dates; 400,000 paths in antithetic pairs, seed 1"
    )
    assert lines[2] == lines[8] == lines[13] == ""
    assert lines[7] == "(antithetic and with control: by what factor the variance falls, for as many paths)"
    columns = ["estimate", "std. error", "95 % confidence"]
    arithmetic = rows_of(
        lines[3:7], ["arithmetic average", *columns, "plain estimate", "off by", "antithetic", "with control"]
    )
    geometric = rows_of(lines[9:13], ["geometric average", *columns, "closed form", "off by"])

    exact = quant.closed_forms.geometric_asian_call(quant.closed_forms.Option(100.0, 100.0, 0.05, 0.2, 1.0), 50)
    assert set(arithmetic) == set(geometric) == {"price", "delta", "vega"}
    for name, row in geometric.items():
        row.check()
        assert row.reference == pytest.approx(getattr(exact, name), rel=1e-6)
        assert abs(row.off) < 5
    for row in arithmetic.values():
        assert abs(row.off) < 5
        assert row.high - row.low == pytest.approx(2 * BAND * row.error, rel=0.06, abs=2 * row.digit)
        assert row.factors[1] > row.factors[0] > 1
    assert arithmetic["price"].factors[1] > 500  # Kemna and Vorst are known for it
    assert arithmetic["price"].value > exact.price  # no geometric average is above the arithmetic one

    match = re.fullmatch(
        r"Checked: the geometric average is within 5 standard errors of its closed form, at most (\S+) off;\n"
        r"the arithmetic average, price (\S+), of its plain estimate, at most (\S+) off\.",
        "\n".join(lines[14:]),
    )
    assert match, lines[14:]
    assert float(match[1]) == max(abs(row.off) for row in geometric.values())
    assert float(match[2]) == pytest.approx(arithmetic["price"].value, abs=1e-5)
    assert float(match[3]) == max(abs(row.off) for row in arithmetic.values())


def value_at_risk_tables(lines: list[str]) -> tuple[dict[str, Row], dict[str, Row]]:
    """Check the rows of both tables, and that the last lines say what the tables do; return the rows."""
    assert lines[0] == "Value at risk by Monte Carlo, from returns whose covariance matrix all tasks share; amounts in euros"
    assert lines[2] == lines[6] == lines[10] == ""
    columns = ["estimate", "std. error", "95 % confidence"]
    shares = rows_of(lines[3:6], ["shares", *columns, "closed form", "off by"])
    everything = rows_of(lines[7:10], ["shares and options", *columns, "by deltas alone", "off by"])
    for rows in (shares, everything):
        assert set(rows) == {"value at risk", "expected shortfall"}
        rows["value at risk"].check(symmetric=False)
        rows["expected shortfall"].check()
        assert rows["expected shortfall"].value > rows["value at risk"].value
    match = re.fullmatch(
        r"Checked: the shares' value at risk, (\S+), and expected shortfall are within 5 standard errors of\n"
        r"their closed forms, at most (\S+) off; the expected loss of shares and options, (\S+), of quadrature, (\S+) off\.",
        "\n".join(lines[11:]),
    )
    assert match, lines[11:]
    assert read(match[1]) == shares["value at risk"].value
    assert float(match[2]) == max(abs(row.off) for row in shares.values()) < 5
    assert abs(float(match[4])) < 5
    return shares, everything


def test_value_at_risk(sandbox: Sandbox, quant: Quant, tmp_path: Path) -> None:
    lines = run_everywhere(sandbox, "value_at_risk", tmp_path / "a.png")
    assert lines[1] == "assets 120, options 24, days 10, confidence 0.99; 200,000 scenarios, seed 1"
    shares, _ = value_at_risk_tables(lines)
    covariance = 10 * quant.portfolio.made_up_covariance(120)
    holdings = quant.portfolio.made_up_book(covariance).holdings
    spread = math.sqrt(holdings @ covariance @ holdings)
    assert shares["value at risk"].reference == pytest.approx(2.3263479 * spread, rel=1e-6)
    assert shares["expected shortfall"].reference == pytest.approx(2.6652142 * spread, rel=1e-6)


def test_value_at_risk_of_a_covariance_matrix_of_ones_own(sandbox: Sandbox, quant: Quant, tmp_path: Path) -> None:
    """The script takes parameters of the user's own, and runs without matplotlib as long as no picture is asked for."""
    covariance = np.array([[4e-4, 1e-4, 0.0], [1e-4, 1e-4, -5e-5], [0.0, -5e-5, 9e-4]])
    np.savetxt(tmp_path / "covariance.csv", covariance, delimiter=",")
    parameters = ["--days", "5", "--confidence", "0.95", "--scenarios", "20000", "--seed", "2"]
    without = {"PYTHONPATH": str(without_matplotlib(tmp_path))}
    script = "examples/quant/value_at_risk.py"
    lines = sandbox.output([script, "--covariance", str(tmp_path / "covariance.csv"), *parameters], without).splitlines()
    assert lines[1] == "assets 3, options 1, days 5, confidence 0.95; 20,000 scenarios, seed 2"
    shares, _ = value_at_risk_tables(lines)
    holdings = quant.portfolio.made_up_book(covariance).holdings
    spread = math.sqrt(5 * holdings @ covariance @ holdings)
    assert shares["value at risk"].reference == pytest.approx(1.6448536 * spread, rel=1e-5)

    np.save(tmp_path / "covariance.npy", covariance)
    np.testing.assert_array_equal(quant.portfolio.read_covariance(str(tmp_path / "covariance.npy")), covariance)


def test_an_asian_call_on_two_dates_is_an_integral(sandbox: Sandbox, quant: Quant) -> None:
    """Given the price s at the first date, it is half a European call on 2 K - s.

    The test integrates over all s, by quadrature.
    """
    spot, strike, rate, volatility, maturity = 90.0, 95.0, 0.03, 0.4, 2.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    first = spot * np.exp((rate - volatility**2 / 2) * maturity / 2 + volatility * math.sqrt(maturity / 2) * nodes)
    exact = 0.0
    for price, weight in zip(first, weights / weights.sum(), strict=True):
        if 2 * strike > price:
            call = quant.closed_forms.black_scholes_call(
                quant.closed_forms.Option(price, 2 * strike - price, rate, volatility, maturity / 2)
            )
            later = call.price
        else:
            later = price - (2 * strike - price) * math.exp(-rate * maturity / 2)
        exact += weight * math.exp(-rate * maturity / 2) * later / 2

    names = ("spot", "strike", "rate", "volatility", "maturity")
    values = (spot, strike, rate, volatility, maturity)
    parameters = itertools.chain.from_iterable((f"--{n}", str(v)) for n, v in zip(names, values, strict=True))
    lines = sandbox.output(
        ["examples/quant/asian.py", "--steps", "2", "--seed", "5", "--paths", "100000", *parameters]
    ).splitlines()
    assert lines[1].startswith("spot 90, strike 95, rate 0.03, volatility 0.4, maturity 2, 2 dates; 100,000 paths")
    row = Row(re.split(r"\s{2,}", lines[4]))
    assert abs(row.value - exact) < 5 * row.error
    assert row.error < 1e-3 * exact


def errors_of(table: list[str], monitored: str) -> tuple[np.ndarray, list[list[float]]]:
    """Return a table of convergence.

    Counts and the errors of both ways, an array of shape (n, 3), and both rates, with their standard errors.
    """
    header, *lines, last = [re.split(r"\s{2,}", line) for line in table]
    assert header == [f"error of n paths, monitored {monitored}", "random numbers", "Sobol points", "smaller by"]
    figures = np.array([[read(cell) for cell in line] for line in lines])
    np.testing.assert_allclose(figures[:, 1] / figures[:, 2], figures[:, 3], rtol=0.01, atol=0.05)
    assert last[0] == "rate"
    return figures[:, :3], [list(map(float, cell.removeprefix("n^").split(" +/- "))) for cell in last[1:]]


def test_path(sandbox: Sandbox, quant: Quant, tmp_path: Path) -> None:
    arguments = ["--paths", "8192", "--workers", "2"]
    lines = run_everywhere(sandbox, "path", tmp_path / "a.png", QUANT, arguments)
    assert lines[0] == "Down-and-out call by quasi-Monte Carlo: scrambled Sobol points beside random numbers"
    assert lines[1] == (
        "spot 100, strike 100, rate 0.05, volatility 0.2, maturity 1, barrier 90, 52 dates; "
        "64 estimates by each way, of 8,192 paths, seed 1"
    )
    assert lines[2] == lines[9] == lines[16] == lines[19] == ""
    tables = {name: errors_of(lines[at : at + 6], name) for name, at in (("at the dates", 3), ("all the time", 10))}
    for figures, rates in tables.values():
        counts, random, sobol = figures.T
        np.testing.assert_array_equal(counts, [1024, 2048, 4096, 8192])
        assert (random > 4 * sobol).all()
        (rate, off), (rate_of_sobol, _) = rates
        slopes = np.polyfit(np.log(counts), np.log(figures[:, 1:]), 1)[0]
        np.testing.assert_allclose([rate, rate_of_sobol], slopes, atol=0.01)
        assert abs(rate + 0.5) < 3 * off < 0.2
        assert rate_of_sobol < -0.5

    forms, option = quant.closed_forms, quant.closed_forms.Option(100.0, 100.0, 0.05, 0.2, 1.0)
    at_dates = quant.quadrature.discrete_down_and_out_call(option, 90.0, 52)
    always = forms.down_and_out_call(option, 90.0)
    rows = rows_of(lines[20:25], ["monitored", "estimate", "std. error", "95 % confidence", "exact", "off by"])
    assert set(rows) == {f"{name}, {way}" for name in tables for way in ("random numbers", "Sobol points")}
    for name, row in rows.items():
        row.check(band=1.99834)  # Student's, of 63 degrees of freedom
        monitored, way = name.split(", ")
        assert row.reference == pytest.approx(at_dates if monitored == "at the dates" else always, rel=1e-6)
        of_one = tables[monitored][0][-1, 1 if way == "random numbers" else 2]
        assert row.error == pytest.approx(of_one / 8, rel=0.06)
        assert abs(row.off) < 5
    assert lines[25] == "(exact: at the dates by quadrature, all the time by the closed form)"

    corrected = forms.down_and_out_call(option, forms.continuity_corrected(option, 90.0, 52))
    assert lines[17:19] == [
        f"The closed form with a barrier at 88.55744, the continuity correction for these dates, gives {corrected:.6f}:",
        f"off by {corrected / at_dates - 1:+.1e} of the exact price at the dates.",
    ]
    assert lines[26:] == [
        "Checked: all 4 estimates are within 5 standard errors of their exact values, "
        f"at most {max(abs(row.off) for row in rows.values()):.2f} off."
    ]


def test_the_picture_of_a_path_shows_both_ways(sandbox: Sandbox, tmp_path: Path) -> None:
    """In two panels, with a point for each number of paths; Sobol points are below random numbers, so further down."""
    picture = tmp_path / "a.svg"
    sandbox.output(["examples/quant/path.py", "--paths", "4096", "--estimates", "32", "--picture", str(picture)])
    text = picture.read_text()
    for label in ("random numbers", "Sobol points"):
        assert text.count(f"<!-- {label} -->") == 2

    def points(colour: str) -> list[tuple[str, float]]:
        found = re.findall(rf'<use [^>]*x="([^"]+)" y="([^"]+)" style="fill: {colour}', text)
        return [(x, float(y)) for x, y in found]

    for panel in (slice(0, 3), slice(4, 7)):  # the fourth point of each is the legend's
        random, sobol = points("#b0532d")[panel], points("#1f5f8b")[panel]
        assert [x for x, _ in random] == [x for x, _ in sobol]
        assert len(set(random)) == 3
        assert all(low > high for (_, low), (_, high) in zip(sobol, random, strict=True))


# ---- refusals ------------------------------------------------------------------------------------------------------------


def without_matplotlib(path: Path) -> Path:
    """Return a directory for PYTHONPATH that makes matplotlib one that is not installed."""
    directory = path / "hiding"
    directory.mkdir()
    (directory / "matplotlib.py").write_text("raise ModuleNotFoundError(\"No module named 'matplotlib'\")\n")
    return directory


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_matplotlib_a_picture_is_refused_at_once(sandbox: Sandbox, script: str, tmp_path: Path) -> None:
    without = {"PYTHONPATH": str(without_matplotlib(tmp_path))}
    result = sandbox.run([f"examples/quant/{script}.py", "--picture", "a.png"], without)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == (
        f"{script}.py: error: argument --picture: expected matplotlib to draw 'a.png' with, "
        "got No module named 'matplotlib'; install it with `pip install matplotlib`"
    )


def test_a_matrix_that_is_no_covariance_matrix(sandbox: Sandbox, tmp_path: Path) -> None:
    """The task that makes its Cholesky factor raises the error, as do all that depend on it."""
    (tmp_path / "matrix.csv").write_text("1, 2\n2, 1\n")
    result = sandbox.run(["examples/quant/value_at_risk.py", "--covariance", str(tmp_path / "matrix.csv")])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == (
        "value_at_risk.py: error: argument --covariance: expected a positive definite matrix, "
        "got one whose smallest eigenvalue is -1"
    )


POSITIVE = "expected a number from 0.001 to 1e+09"
POWER_OF_TWO = "expected a power of two from 4,096 to 4,294,967,296"
PATHS = "expected an even whole number from 10,000 to 1,000,000,000,000"
SEED = "expected a whole number from 0 to below 2**128"
WORKERS = "expected a whole number from 1 to 1,024"
FRACTION = "expected a number above 0 and below 1"
DAYS = "expected a whole number from 1 to 100"

REFUSED = [
    *((script, "seed", value, SEED) for script in SCRIPTS for value in ("-1", "1.5", "x", str(2**128))),
    *((script, "workers", value, WORKERS) for script in SCRIPTS for value in ("0", "-2", "many")),
    *((script, "spot", value, POSITIVE) for script in OF_OPTIONS for value in ("0", "-100", "nan", "inf", "x", "")),
    *((script, "strike", value, POSITIVE) for script in OF_OPTIONS for value in ("0", "-1")),
    *((script, "rate", value, "expected a number from -1 to 1") for script in OF_OPTIONS for value in ("5", "nan")),
    *((s, "volatility", value, "expected a number from 0.001 to 10") for s in OF_OPTIONS for value in ("0", "-0.2", "nan")),
    *((s, "maturity", value, "expected a number from 0.001 to 100") for s in OF_OPTIONS for value in ("0", "-1", "inf")),
    *((script, "paths", value, PATHS) for script in ("european", "asian") for value in ("0", "-2", "10001", "1e6", "x")),
    *(("asian", "steps", value, "expected a whole number from 1 to 100,000") for value in ("0", "-1", "2.5", "x")),
    *(("path", "steps", value, "expected a whole number from 1 to 365") for value in ("0", "366", "x")),
    *(("path", "barrier", value, POSITIVE) for value in ("0", "-1", "nan")),
    *(("path", "paths", value, POWER_OF_TWO) for value in ("0", "2048", "10000", "-4096", str(1 << 33), "x")),
    *(("path", "estimates", value, "expected a whole number from 32 to 10,000") for value in ("31", "10001")),
    *(("value_at_risk", "confidence", value, FRACTION) for value in ("0", "1", "-0.5", "99", "nan", "x")),
    *(("value_at_risk", "days", value, DAYS) for value in ("0", "101", "1.5")),
    *(("value_at_risk", "scenarios", v, "expected a whole number from 10,000 to 100,000,000") for v in ("0", "9999")),
    *(("value_at_risk", "assets", v, "expected a whole number from 1 to 2,000") for v in ("0", "2001", "x")),
]


def refusal(quant: Quant, capsys: pytest.CaptureFixture[str], script: str, arguments: list[str]) -> str:
    """Return the last line of a script that refuses its arguments."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as raised:
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        getattr(quant, script).main()
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1].removeprefix(f"{script}.py: error: ")


def test_bad_parameters(quant: Quant, capsys: pytest.CaptureFixture[str]) -> None:
    for script, name, value, expected in REFUSED:
        said = refusal(quant, capsys, script, [f"--{name}={value}"])
        assert said == f"argument --{name}: {expected}, got {value!r}"


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        (
            "european",
            "--strike 1000",
            "argument --strike: expected at least 1000 of 4,000,000 paths to end above it, got 1000, where about 0 would; "
            "give more paths or another strike",
        ),
        (
            "european",
            "--strike 50 --paths 100000",
            "argument --strike: expected at least 1000 of 100,000 paths to end below it, got 50, where about 15 would; "
            "give more paths or another strike",
        ),
        (
            "asian",
            "--strike 200",
            "argument --strike: expected at least 1000 of 400,000 paths to average above it, got 200, where about 0 would; "
            "give more paths or another strike",
        ),
        (
            "asian",
            "--volatility 0.8 --maturity 4",
            "argument --volatility: expected volatility * sqrt(maturity) to be at most 1.5, got 1.6",
        ),
        (
            "european",
            "--rate -1 --maturity 20",
            "argument --rate: expected rate * maturity from -10 to 10, got -20",
        ),
        ("path", "--barrier 100", "argument --barrier: expected a price below the spot, 100, got 100"),
        (
            "path",
            "--barrier 99.9",
            "argument --strike: expected at least 1000 of 65,536 paths to stay above the barrier, and end above it, "
            "got 100, where about 313 would; give more paths or another strike",
        ),
        (
            "path",
            "--volatility 0.01 --rate -0.5",
            "argument --rate: expected (1 - 2 * rate / volatility**2) * log(spot / barrier) to be at most 600, got 1061.79",
        ),
        (
            "value_at_risk",
            "--confidence 0.9999",
            "argument --confidence: expected at least 100 of 200,000 scenarios on either side of the value at risk, "
            "got 0.9999, which leaves 20; give more scenarios or another one",
        ),
        (
            "european",
            "--picture a.jpeg2",
            "argument --picture: expected a file name that ends with .pdf, .png, .svg, got 'a.jpeg2'",
        ),
        (
            "asian",
            "--picture no/such/a.png",
            "argument --picture: expected a file in a directory that can be written to, got 'no/such/a.png'",
        ),
        ("value_at_risk", "--assets 3 --covariance a", "argument --covariance: not allowed with argument --assets"),
        ("value_at_risk", "--covariance a.csv", "argument --covariance: expected a matrix in 'a.csv', got a.csv not found."),
    ],
)
def test_parameters_that_do_not_go_together(
    quant: Quant, capsys: pytest.CaptureFixture[str], script: str, arguments: str, said: str
) -> None:
    assert refusal(quant, capsys, script, arguments.split()) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n", "expected a square matrix in 'm.csv', got one of shape (1, 2)"),
        ("1,x\n", "expected a matrix in 'm.csv', got could not convert string 'x' to float64 at row 0, column 2."),
        ("1,nan\nnan,1\n", "expected finite numbers in 'm.csv', got nan"),
        ("1,0.5\n0.4,1\n", "expected a symmetric matrix in 'm.csv', got 0.5 in row 1, column 2, and 0.4 in row 2, column 1"),
        ("1,0\n0,-1\n", "expected variances above 0 on the diagonal in 'm.csv', got -1"),
    ],
)
def test_files_that_hold_no_covariance_matrix(quant: Quant, project: Path, text: str, said: str) -> None:
    (project / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=".") as raised:
        quant.portfolio.read_covariance("m.csv")
    assert str(raised.value) == said


def test_an_estimate_that_is_wrong_ends_the_program(quant: Quant) -> None:
    quant.reports.check(["price", "delta"], np.array([-5.0, 5.0]))
    for wrong, said in ((5.1, "+5.1"), (-7.0, "-7.0"), (math.nan, "+nan"), (math.inf, "+inf")):
        with pytest.raises(SystemExit) as raised:
            quant.reports.check(["price", "delta"], np.array([0.0, wrong]))
        assert raised.value.code == f"delta: expected to be off by at most 5 standard errors, got {said}"


# ---- closed forms --------------------------------------------------------------------------------------------------------


def test_black_scholes_against_textbooks(quant: Quant) -> None:
    forms = quant.closed_forms
    option = forms.Option(100.0, 100.0, 0.05, 0.2, 1.0)
    assert forms.black_scholes_call(option) == pytest.approx((10.4506, 0.6368, 37.524, 0.01876), rel=1e-4, abs=1e-4)
    assert forms.black_scholes_put(option) == pytest.approx((5.5735, -0.3632, 37.524, 0.01876), rel=1e-4, abs=1e-4)
    hull = forms.Option(42.0, 40.0, 0.1, 0.2, 0.5)  # Options, Futures and Other Derivatives, example 15.6
    assert forms.black_scholes_call(hull).price == pytest.approx(4.76, abs=0.005)
    assert forms.black_scholes_put(hull).price == pytest.approx(0.81, abs=0.005)


OPTIONS = [
    (100.0, 100.0, 0.05, 0.2, 1.0),
    (80.0, 120.0, -0.02, 0.6, 2.5),
    (1e-2, 1.01e-2, 0.3, 0.05, 0.1),
    (2e6, 1.5e6, 0.0, 1.2, 0.4),
]


@pytest.mark.parametrize("numbers", OPTIONS)
def test_put_call_parity(quant: Quant, numbers: tuple[float, ...]) -> None:
    option = quant.closed_forms.Option(*numbers)
    call, put = quant.closed_forms.black_scholes_call(option), quant.closed_forms.black_scholes_put(option)
    forward = option.spot - option.strike * math.exp(-option.rate * option.maturity)
    assert call.price - put.price == pytest.approx(forward, rel=1e-9, abs=1e-9 * option.spot)
    assert call.delta - put.delta == pytest.approx(1.0)
    assert (call.vega, call.gamma) == pytest.approx((put.vega, put.gamma))


@pytest.mark.parametrize("numbers", OPTIONS)
@pytest.mark.parametrize("kind", ["call", "put", "geometric average"])
def test_greeks_are_derivatives_of_the_price(quant: Quant, kind: str, numbers: tuple[float, ...]) -> None:
    forms = quant.closed_forms
    option = forms.Option(*numbers)

    def valued(**changed: float) -> tuple[float, ...]:
        moved = option._replace(**changed)
        if kind == "geometric average":
            return forms.geometric_asian_call(moved, 12)
        return forms.black_scholes_call(moved) if kind == "call" else forms.black_scholes_put(moved)

    price, delta, vega, gamma = valued()
    step = 1e-4 * option.spot * option.volatility
    up, down = valued(spot=option.spot + step), valued(spot=option.spot - step)
    assert delta == pytest.approx((up.price - down.price) / (2 * step), rel=1e-5, abs=1e-7)
    assert gamma == pytest.approx((up.delta - down.delta) / (2 * step), rel=1e-5)
    step = 1e-5 * option.volatility
    up, down = valued(volatility=option.volatility + step), valued(volatility=option.volatility - step)
    assert vega == pytest.approx((up.price - down.price) / (2 * step), rel=1e-5)
    assert price > 0


@pytest.mark.parametrize("numbers", OPTIONS)
def test_the_geometric_average_of_one_date_is_the_price(quant: Quant, numbers: tuple[float, ...]) -> None:
    option = quant.closed_forms.Option(*numbers)
    assert quant.closed_forms.geometric_asian_call(option, 1) == pytest.approx(quant.closed_forms.black_scholes_call(option))


def test_the_geometric_average_of_many_dates_is_the_one_of_kemna_and_vorst(quant: Quant) -> None:
    """Their formula has other parameters.

    The volatility is divided by the square root of 3, and the growth is half of (r - volatility**2 / 6).
    """
    option = quant.closed_forms.Option(100.0, 95.0, 0.08, 0.3, 0.75)
    spread = 0.3 / math.sqrt(3) * math.sqrt(0.75)
    growth = (0.08 - 0.3**2 / 6) / 2 * 0.75
    normal = quant.closed_forms.NORMAL
    d1 = (math.log(100 / 95) + growth + spread**2 / 2) / spread
    continuous = math.exp(-0.06) * (100 * math.exp(growth) * normal.cdf(d1) - 95 * normal.cdf(d1 - spread))
    assert quant.closed_forms.geometric_asian_call(option, 1_000_000).price == pytest.approx(continuous, rel=1e-5)


BARRIERS = [
    ((100.0, 100.0, 0.05, 0.2, 1.0), 90.0),
    ((100.0, 80.0, 0.1, 0.3, 0.5), 95.0),  # a barrier above the strike
    ((80.0, 120.0, -0.02, 0.6, 2.5), 60.0),
]


@pytest.mark.parametrize(("numbers", "barrier"), BARRIERS)
def test_the_down_and_out_call_solves_its_equation(quant: Quant, numbers: tuple[float, ...], barrier: float) -> None:
    """It solves Black and Scholes' equation, is worth nothing at the barrier, and in the end what it pays."""
    forms, option = quant.closed_forms, quant.closed_forms.Option(*numbers)

    def priced(**changed: float) -> float:
        return forms.down_and_out_call(option._replace(**changed), barrier)

    step, later = 1e-3 * option.spot, 1e-4 * option.maturity
    price, up, down = priced(), priced(spot=option.spot + step), priced(spot=option.spot - step)
    by_time = (priced(maturity=option.maturity + later) - priced(maturity=option.maturity - later)) / (2 * later)
    drift = option.rate * (option.spot * (up - down) / (2 * step) - price)
    assert by_time == pytest.approx(
        drift + option.volatility**2 / 2 * option.spot**2 * (up - 2 * price + down) / step**2, rel=1e-4
    )
    assert priced(spot=barrier) == pytest.approx(0.0, abs=1e-9)
    assert priced(maturity=1e-9) == pytest.approx(max(option.spot - option.strike, 0.0), abs=1e-3)
    assert 0 < price < forms.black_scholes_call(option).price


@pytest.mark.parametrize(("numbers", "barrier"), BARRIERS)
def test_the_chance_of_a_payoff_is_the_derivative_by_the_strike(
    quant: Quant, numbers: tuple[float, ...], barrier: float
) -> None:
    forms, option = quant.closed_forms, quant.closed_forms.Option(*numbers)
    step = 1e-4 * option.strike
    low, high = (forms.down_and_out_call(option._replace(strike=option.strike + by), barrier) for by in (-step, step))
    expected = (low - high) / (2 * step) * math.exp(option.rate * option.maturity)
    assert forms.chance_of_payoff(option, barrier) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("numbers", "barrier"), BARRIERS)
def test_a_call_with_a_barrier_at_two_dates_is_an_integral(quant: Quant, numbers: tuple[float, ...], barrier: float) -> None:
    """Of the price at the second date, which is normal, over the first one's, from the barrier on: on fine grids here."""
    spot, strike, rate, volatility, maturity = numbers
    spread, drift = volatility * math.sqrt(maturity / 2), (rate - volatility**2 / 2) * maturity / 2
    first = np.linspace((math.log(barrier / spot) - drift) / spread, 9.0, 1501)
    second = np.linspace(-9.0, 9.0, 1501)
    prices = spot * np.exp(2 * drift + spread * (first[:, None] + second))
    payoffs = np.where(prices > barrier, np.maximum(prices - strike, 0.0), 0.0)
    densities = np.exp(-(first[:, None] ** 2 + second**2) / 2) / (2 * math.pi)
    weights = np.full(1501, 1.0)
    weights[[0, -1]] = 0.5
    area = (first[1] - first[0]) * (second[1] - second[0])
    expected = weights @ (payoffs * densities) @ weights * area * math.exp(-rate * maturity)
    price = quant.quadrature.discrete_down_and_out_call(quant.closed_forms.Option(*numbers), barrier, 2)
    assert price == pytest.approx(expected, rel=1e-3)


def test_a_call_with_a_barrier_at_one_date_below_the_strike_is_a_european_one(quant: Quant) -> None:
    option = quant.closed_forms.Option(100.0, 100.0, 0.05, 0.2, 1.0)
    price = quant.quadrature.discrete_down_and_out_call(option, 90.0, 1)
    assert price == pytest.approx(quant.closed_forms.black_scholes_call(option).price)


def test_the_continuity_correction_follows_quadrature(quant: Quant) -> None:
    """What it leaves falls faster than the square root of a step, as which the uncorrected price's error falls."""
    forms, option = quant.closed_forms, quant.closed_forms.Option(100.0, 100.0, 0.05, 0.2, 1.0)
    always = forms.down_and_out_call(option, 90.0)
    off, uncorrected = {}, {}
    for dates in (13, 52, 208):
        exact = quant.quadrature.discrete_down_and_out_call(option, 90.0, dates)
        off[dates] = forms.down_and_out_call(option, forms.continuity_corrected(option, 90.0, dates)) - exact
        uncorrected[dates] = always - exact
    for dates in (13, 52):
        assert uncorrected[dates] == pytest.approx(2 * uncorrected[4 * dates], rel=0.2)
        assert abs(off[dates]) > 3 * abs(off[4 * dates])
    assert abs(off[52]) < 1e-3 * abs(uncorrected[52]) * 2


def test_the_rate_of_convergence_and_its_error(quant: Quant) -> None:
    """The standard error is that of rates which are found anew: here of means of prefixes, 200 times 64 of them."""
    rng = np.random.default_rng(8)
    counts = 2.0 ** np.arange(6)
    lines = []
    for _ in range(200):
        sums = np.cumsum(rng.normal(size=(32, 64)), axis=0)
        means = sums[counts.astype(int) - 1] / counts[:, None]
        lines.append(quant.convergence.Convergence("means", counts, means).rate())
    rates, errors = np.array(lines).T
    assert rates.mean() == pytest.approx(-0.5, abs=4 * rates.std() / math.sqrt(200))
    assert errors.mean() == pytest.approx(rates.std(), rel=0.15)
    exact = quant.convergence.Convergence("errors", counts, counts[:, None] ** -1.25 * [-1.0, 3.0, 4.0])
    assert exact.rate() == pytest.approx((-1.25, 0.0), abs=1e-12)


def test_the_overshoot_is_of_the_zeta_function(quant: Quant) -> None:
    """The alternating series of the zeta function at 1/2, by means of means of its partial sums."""
    sums = np.cumsum([(-1) ** k / math.sqrt(k + 1) for k in range(60)])
    while len(sums) > 1:
        sums = (sums[1:] + sums[:-1]) / 2
    zeta = sums[0] / (1 - math.sqrt(2))
    assert -zeta / math.sqrt(2 * math.pi) == pytest.approx(quant.closed_forms.OVERSHOOT, rel=1e-14)


# ---- moments -------------------------------------------------------------------------------------------------------------


def moments_of(samples: np.ndarray) -> Moments:
    """Compute moments by NumPy: of samples of shape (quantities, 3, pairs)."""
    pairs = samples.shape[2]
    products = np.array([np.cov(columns) * (pairs - 1) for columns in samples])
    return Moments(pairs, samples.mean(axis=2), products, samples.min(axis=2), samples.max(axis=2))


def drawn_samples(pairs: int) -> np.ndarray:
    """Draw two quantities with control variates, of the expectation 7, that correlate strongly with them."""
    rng = np.random.default_rng(11)
    control = rng.normal(7.0, 2.0, size=(2, pairs))
    paired = 3.0 * control + rng.normal(size=(2, pairs)) + 1e6  # far from zero, where squares would lose digits
    return np.stack([paired + rng.normal(size=(2, pairs)), paired, control], axis=1)


def test_merged_blocks_have_the_moments_of_the_whole() -> None:
    samples = drawn_samples(1000)
    blocks = [moments_of(samples[:, :, low:high]) for low, high in itertools.pairwise((0, 2, 300, 301 + 2, 1000))]
    *_, merged = itertools.accumulate(blocks, Moments.merge)
    whole = moments_of(samples)
    assert merged.count == 1000
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.products, whole.products, rtol=1e-9)


def test_a_control_variate_is_a_regression(quant: Quant) -> None:
    samples = drawn_samples(500)
    found = quant.moments.controlled(moments_of(samples), np.array([7.0, 7.0]))
    for quantity, (_, paired, control) in enumerate(samples):
        slope, intercept = np.polyfit(control - 7.0, paired, 1)
        residuals = paired - intercept - slope * (control - 7.0)
        assert found.values[quantity] == pytest.approx(intercept, rel=1e-12)
        assert found.errors[quantity] == pytest.approx(math.sqrt((residuals**2).sum() / 498 / 500), rel=1e-6)


def test_estimates_of_the_same_paths_are_compared_with_their_joint_error(quant: Quant) -> None:
    samples = drawn_samples(500)
    moments = moments_of(samples)
    apart = quant.moments.controlled_less_plain(moments, np.array([7.0, 7.0]))
    for quantity, (slope, (plain, paired, control)) in enumerate(
        zip(quant.moments.coefficients(moments), samples, strict=True)
    ):
        differences = paired - slope * (control - 7.0) - plain
        assert apart.values[quantity] == pytest.approx(differences.mean(), rel=1e-6)
        assert apart.errors[quantity] == pytest.approx(differences.std(ddof=1) / math.sqrt(500), rel=1e-6)


def test_a_control_variate_that_never_varies_corrects_nothing(quant: Quant) -> None:
    samples = drawn_samples(100)
    samples[:, 2] = 0.0
    moments = moments_of(samples)
    np.testing.assert_array_equal(quant.moments.controlled(moments, np.array([7.0, 7.0])).values, moments.mean[:, 1])


@pytest.mark.parametrize("blocks", [1, 2, 21, 200])
def test_thinned_moments_end_with_the_last(quant: Quant, blocks: int) -> None:
    running = [Moments(1024 * (i + 1), *[np.zeros((1, 3))] * 4) for i in range(blocks)]
    kept = [moments.count for moments in quant.moments.thinned(running)]
    assert kept[0] == 1024
    assert kept[-1] == 1024 * blocks
    assert all(later >= 1.05 * earlier for earlier, later in itertools.pairwise(kept[:-1]))
    assert list(quant.moments.thinned([])) == []


def test_tail_risk_of_known_losses(quant: Quant) -> None:
    losses = np.random.default_rng(3).permutation(np.arange(1.0, 1001.0))
    estimates, ((low, high), _) = quant.tail_risk.tail_risk(losses, 0.99)
    assert estimates.values == pytest.approx([990.0, 995.5])
    margin = BAND * math.sqrt(1000 * 0.99 * 0.01)
    assert (low, high) == (math.floor(990 - margin), math.ceil(990 + margin) + 1)
    assert estimates.errors[0] == pytest.approx((high - low) / (2 * BAND))
    assert estimates.errors[1] == pytest.approx(math.sqrt((np.arange(10).var() + 0.99 * 5.5**2) / 10))

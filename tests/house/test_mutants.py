"""Mutants that no test can kill: each entry of `mutants_alike.txt` is about a line of the core that is there."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "mutation"))

import mutants  # noqa: E402

RUNTIME = ROOT / "kernels" / "runtime"


def keys():
    """Return (file, function, line, line as changed) of every mutant of the core."""
    files = {Path(name).name: (RUNTIME / name).read_text() for name in mutants.CORE}
    return {mutant.key for name, text in files.items() for mutant in mutants.transformed(name, text, 1).mutants.values()}


def entries():
    for entry in (ROOT / "tests" / "mutation" / "mutants_alike.txt").read_text().split("\n\n"):
        lines = [line.strip() for line in entry.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            yield (*lines[0].split(), *lines[1:3]), lines[3:]


def test_every_entry_names_a_mutant_and_gives_a_reason():
    made = keys()
    known = made | {(*key[:3], "*") for key in made}
    assert len(made) > 3000
    for key, reason in entries():
        assert key in known, f"no such mutant: {key}"
        assert reason

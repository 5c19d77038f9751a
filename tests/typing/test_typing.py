"""What mypy and pyright say of programs that use the package: the types after `reveal_type`, and where there are errors.

A remark at the end of a program's line is what both must say of it: a type, or `error`. A line without one must pass.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the package as it is when installed: kernels/ inside flame_fast/."""
    folder = tmp_path_factory.mktemp("installed")
    package = folder / "flame_fast"
    package.mkdir()
    for source in (ROOT / "flame_fast").iterdir():
        (package / source.name).symlink_to(source)
    (package / "kernels").symlink_to(ROOT / "kernels")
    return folder


def expected(program: Path) -> dict[int, str]:
    """Return the remarks of a program's lines, by their numbers from 1."""
    found = {}
    for number, line in enumerate(program.read_text().splitlines(), 1):
        remark = re.search(r"[)\]]  # (.+)$", line)
        if remark:
            found[number] = remark.group(1)
    return found


def plain(shown: str) -> str:
    """Return a type without the modules of its names, as both checkers would write it."""
    return re.sub(r"\b[a-z_]+(?:\.[a-z_]+)*\.(?=[A-Za-z])", "", shown).replace("(x: int)", "[x: int]")


def said_by_mypy(programs: list[Path], installed: Path) -> dict[tuple[str, int], str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", ROOT / "pyproject.toml", *programs],
        capture_output=True,
        text=True,
        cwd=installed,
        env={**os.environ, "MYPYPATH": str(installed)},
    )
    assert done.returncode == 1, done.stdout + done.stderr  # the programs have errors
    said = {}
    for path, number, kind, text in re.findall(r"^(.+?):(\d+): (error|note): (.*)$", done.stdout, re.MULTILINE):
        revealed = re.search(r'Revealed type is "(.*)"', text)
        if kind == "error" or revealed:
            said[Path(path).name, int(number)] = "error" if kind == "error" else plain(revealed.group(1))
    return said


def said_by_pyright(programs: list[Path], installed: Path) -> dict[tuple[str, int], str]:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *programs],
        capture_output=True,
        text=True,
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = {}
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        revealed = re.search(r' is "(.*)"$', found["message"])
        key = Path(found["file"]).name, found["range"]["start"]["line"] + 1
        if found["severity"] == "error":
            said[key] = "error"
        elif found["severity"] == "information" and revealed:
            said[key] = plain(revealed.group(1))
    return said


@pytest.mark.parametrize("checker", [said_by_mypy, said_by_pyright])
def test_a_checker_says_what_the_programs_remark(installed, checker):
    remarks = {(program.name, number): remark for program in PROGRAMS for number, remark in expected(program).items()}
    assert len(remarks) > 50
    said = checker(PROGRAMS, installed)
    assert {key: (said.get(key), remarks.get(key)) for key in {*said, *remarks} if said.get(key) != remarks.get(key)} == {}


def test_every_public_name_has_a_type(installed):
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "flame_fast", "--ignoreexternal"],
        capture_output=True,
        text=True,
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert "Type completeness score: 100%" in done.stdout, done.stdout.partition("Public modules")[2] + done.stderr

"""The papers keep their promises: links lead somewhere, verbs of .ci exist, each dependency has a reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: The papers that a newcomer reads.
PAPERS = sorted(path.relative_to(ROOT) for at in ("", "docs", "bench", "examples") for path in (ROOT / at).glob("*.md"))

#: Packages of an extra that the reason of another package covers, or that need no reason.
UNEXPLAINED = {"flame-fast"}


def fences(text: str) -> list[str]:
    """Return the code blocks of a paper."""
    return re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readme_begins_with_two_commands():
    """`.ci/test` runs the second one; both are one line, so that a user can copy them."""
    text = (ROOT / "README.md").read_text()
    first, second, *_ = fences(text)
    assert first.count("\n") == second.count("\n") == 1
    assert "examples/pi/main.py" in first
    assert "-m pytest" in second
    between = text.partition(first)[2].partition(second)[0]
    assert len(between.strip("`\n").splitlines()) <= 3


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_links_lead_somewhere(paper):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / paper).read_text()):
        assert "://" in target or (ROOT / paper).parent.joinpath(target).exists(), f"{paper}: {target}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_verbs_of_ci_exist(paper):
    for verb in re.findall(r"\.ci/(\w+)", (ROOT / paper).read_text()):
        assert (ROOT / ".ci" / verb).exists(), f"{paper}: .ci/{verb}"


def test_every_dependency_has_a_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=]", name)[0].replace("_", "-").lower() for name in named}
    table = (ROOT / "ARCHITECTURE.md").read_text().lower()
    reasons = "\n".join(line.partition(" | ")[0] for line in table.partition("## dependencies")[2].splitlines())
    assert not {name for name in names - UNEXPLAINED if not re.search(rf"\b{name}\b", reasons)}

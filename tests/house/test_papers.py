"""The papers keep their promises: links lead somewhere, verbs of .ci exist, each dependency has a reason."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from native_names import cimports_of, uses_of

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "kernels" / "runtime"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()

#: The papers that a newcomer reads.
PAPERS = sorted(path.relative_to(ROOT) for at in ("", "docs", "bench", "examples") for path in (ROOT / at).glob("*.md"))

#: Packages of an extra that the reason of another package covers, or that need no reason.
UNEXPLAINED = {"flame-fast"}

#: A file as a paper names it: by the end of its path.
FILE = re.compile(r"`([\w./-]+\.(?:py|pyi|pyx|pxi|pxd|h|c|md|txt))(?:::[^`]*)?`")

#: Words that this project once had of its own, where the field has others.
PRIVATE = re.compile(r"who[e]ver|[b]urial|[b]ury|[b]uried|[e]pitaph|[g]iver|[s]eat_", re.IGNORECASE)


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


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Return the paths of all source files, each after a slash."""
    folders = [ROOT / name for name in ("flame_fast", "kernels", "tests", "bench", "docs", "examples")]
    found = [path for folder in folders for path in folder.rglob("*.*")] + list(ROOT.glob("*.*"))
    return [f"/{path.relative_to(ROOT)}" for path in found]


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_files_that_papers_name_exist(paper, files):
    for name in FILE.findall((ROOT / paper).read_text()):
        assert any(path.endswith(f"/{name}") for path in files), f"{paper}: {name}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_papers_use_the_words_of_the_field(paper):
    assert not PRIVATE.findall((ROOT / paper).read_text())


def section(heading: str) -> str:
    """Return the part of ARCHITECTURE.md from a heading to the next."""
    return ARCHITECTURE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_folder_of_source_is_a_room():
    rooms = set(re.findall(r"`((?:flame_fast|kernels)/[\w/]*)`", section("Rooms")))
    sources = [
        path
        for top in ("flame_fast", "kernels")
        for path in (ROOT / top).rglob("*.p[yx]*")
        if "__pycache__" not in path.parts
    ]
    assert rooms == {f"{path.parent.relative_to(ROOT)}/" for path in sources}


def core_floors() -> list[list[str]]:
    """Return the picture of the native core, from the top floor down."""
    picture = fences(section("The native runtime"))[0]
    return [re.split(r" {4,}", line)[0].split() for line in picture.splitlines()]


def test_the_picture_of_the_core_is_its_cimports():
    """Every file stands on one floor, and cimports from lower ones only."""
    floor = {name: number for number, names in enumerate(core_floors()) for name in names}
    core = {path.stem: path.read_text() for path in (RUNTIME / "core").glob("*.pxd") if path.stem != "__init__"}
    assert sorted(core) == sorted(name for names in core_floors() for name in names)
    for name, text in core.items():
        below = {module[1:] for module in cimports_of(text) if module.startswith(".")}
        assert all(floor[other] > floor[name] for other in below), f"{name} stands no higher than {below}"


def test_the_groups_above_the_core_name_every_file():
    """Each once, and none uses a file of a later group."""
    groups = [
        re.findall(r"`(\w+)`", item) for item in re.findall(r"^- \*.*\n(?:  .*\n)*", section("The native runtime"), re.M)
    ]
    group = {name: number for number, names in enumerate(groups) for name in names}
    files = {path.stem: path.read_text() for path in RUNTIME.glob("*.pxi")}
    assert sorted(files) == sorted(name for names in groups for name in names)
    for name, text in files.items():
        assert all(group[other] <= group[name] for other in uses_of(text)), f"{name} uses a file of a later group"


def test_the_glossary_is_short_and_in_order():
    terms = [line.split(" | ")[0].strip("| ").lower() for line in section("Glossary").splitlines() if line.startswith("| ")][
        1:
    ]
    assert 0 < len(terms) <= 40
    assert terms == sorted(terms)


def test_commits_that_blame_ignores_are_named():
    """A full hash below its subject; where the commit is at hand, that is its subject."""
    lines = [line for line in (ROOT / ".git-blame-ignore-revs").read_text().splitlines() if line]
    hashes = [number for number, line in enumerate(lines) if not line.startswith("#")]
    assert hashes
    for number in hashes:
        assert re.fullmatch(r"[0-9a-f]{40}", lines[number])
        command = ["git", "-C", str(ROOT), "show", "--no-patch", "--format=%s", lines[number]]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        assert shown.returncode or f"# {shown.stdout.strip()}" == lines[number - 1]


def test_every_dependency_has_a_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=]", name)[0].replace("_", "-").lower() for name in named}
    table = ARCHITECTURE.lower()
    reasons = "\n".join(line.partition(" | ")[0] for line in table.partition("## dependencies")[2].splitlines())
    assert not {name for name in names - UNEXPLAINED if not re.search(rf"\b{name}\b", reasons)}

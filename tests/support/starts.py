"""One program with functions of three origins, and the ways in which Python starts it.

    project/ program        the program itself, `of_program`, and `beside.txt`
             inner/         a module of the project, `of_project`, and `beside.txt`
             src/edited/    an editable-installed package, `of_package`, and `beside.txt`
    site/                   its finder and the `.pth` file that installs it

The program makes a Runner, calls the function of each origin, and writes one JSON line of what came back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from definition_matrix import as_module, as_notebook, as_option, as_script

ORIGINS = ["program", "project", "package"]

#: Numbers that each function is called with.
NUMBERS = range(4)

FUNCTION = """
import os

def of_{origin}(number):
    print(f"a task of the {origin} has {{number}}")
    with open(os.path.join({place}, "beside.txt")) as file:
        return os.getpid(), file.read(), number * number
"""

PROGRAM = """
import json, traceback
import edited.work, inner.work
from flame_fast import Runner

def outcome_of(function, rr):
    try:
        service = rr.service(function)
        return {{"results": rr.get([service(number) for number in {numbers}], timeout=20)}}
    except BaseException as error:
        return {{"error": "".join(traceback.format_exception(error))}}

def main():
    functions = {{"program": of_program, "project": inner.work.of_project, "package": edited.work.of_package}}
    with Runner("starts", workers=2) as rr:
        outcomes = {{origin: outcome_of(function, rr) for origin, function in functions.items()}}
    with open(os.environ["STARTS_OUTPUT"], "a") as file:
        file.write(json.dumps({{"driver": os.getpid(), **outcomes}}) + "\\n")
"""

TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_all(number):
    main()
"""

FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

MAPPING = {{"edited": {place!r}}}

class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            place = MAPPING[fullname]
            return spec_from_file_location(fullname, place + "/__init__.py", submodule_search_locations=[place])
        return None

def install():
    if _EditableFinder not in sys.meta_path:
        sys.meta_path.append(_EditableFinder)
"""

#: Where a function finds the directory of its own file; some programs have no file.
BESIDE_FILE = "os.path.dirname(os.path.abspath(__file__))"
CURRENT = "os.getcwd()"


def text_of_program(place: str) -> str:
    return FUNCTION.format(origin="program", place=place) + PROGRAM.format(numbers=list(NUMBERS))


@dataclass
class Started:
    """What a start left: its end, what it printed, and a line for each process that opened a Runner."""

    done: subprocess.CompletedProcess[str]
    drivers: list[dict]

    def told(self) -> str:
        return f"ended with {self.done.returncode}\n{self.done.stdout[-2000:]}\n{self.done.stderr[-4000:]}"


# ---- starts --------------------------------------------------------------------------------------------------------------


def script(project: Path) -> list[str]:
    return [sys.executable, *as_script(project, [text_of_program(BESIDE_FILE)], "main()")]


def option(project: Path) -> list[str]:
    return [sys.executable, *as_option(project, [text_of_program(CURRENT)], "main()")]


def module(project: Path) -> list[str]:
    (project / "package").mkdir()
    (project / "beside.txt").rename(project / "package" / "beside.txt")
    return [sys.executable, *as_module(project, [text_of_program(BESIDE_FILE)], "main()")]


def standard_input(project: Path) -> list[str]:
    (project / "input").write_text(text_of_program(CURRENT) + "\nmain()\n")
    return [sys.executable, "-"]


def notebook(project: Path) -> list[str]:
    return [sys.executable, *as_notebook(project, [text_of_program(CURRENT)], "main()")]


def uv_run(project: Path) -> list[str]:
    import shutil

    beside = os.path.dirname(sys.executable)
    uv = shutil.which("uv", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if uv is None:
        pytest.skip("uv is not installed: pip install uv")
    as_script(project, [text_of_program(BESIDE_FILE)], "main()")
    return [uv, "run", "--quiet", "--offline", "--no-project", "--no-config", "--python", sys.executable, "program.py"]


def frozen(project: Path) -> list[str]:
    """Stand for a frozen program: its own file is what starts it anew, by its hook."""
    path = project / "program"
    before = f"#!{sys.executable}\nimport os, sys\nsys.frozen = True\nsys.executable = os.path.abspath(__file__)\n"
    before += "import flame_fast\nflame_fast.freeze_support()\n"
    path.write_text(f"{before}{text_of_program(BESIDE_FILE)}\nmain()\n")
    path.chmod(0o700)
    return [str(path)]


def pytest_with(*options: str, given: str = "tests", count: int = 1):
    """Return a start by pytest, of a module in a folder of tests. `-rP` shows what its tests printed."""

    def start(project: Path) -> list[str]:
        (project / "tests").mkdir()
        (project / "beside.txt").rename(project / "tests" / "beside.txt")
        text = text_of_program(BESIDE_FILE) + TESTS.format(count=count)
        (project / "tests" / "test_program.py").write_text(text)
        (project / "pytest.ini").touch()
        return [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", *options, given]

    return start


STARTS = {
    "script": script,
    "-c": option,
    "-m": module,
    "stdin": standard_input,
    "notebook": notebook,
    "pytest prepend": pytest_with("--import-mode=prepend"),
    "pytest append": pytest_with("--import-mode=append"),
    "pytest importlib": pytest_with("--import-mode=importlib"),
    "pytest importlib by file": pytest_with("--import-mode=importlib", given="tests/test_program.py"),
    "pytest xdist": pytest_with("-p", "xdist", "-n", "2", count=2),
    "uv run": uv_run,
    "frozen": frozen,
}

#: Processes that open a Runner each; one if not said.
DRIVERS = {"pytest xdist": 2}


# ---- the project ---------------------------------------------------------------------------------------------------------


def beside(origin: str) -> str:
    """Return the text beside the file of a function."""
    return f"beside the {origin}"


def lay_out(project: Path) -> Path:
    """Write the project, and return the directory whose `sitecustomize` makes `edited` an installed package."""
    (project / "beside.txt").write_text(beside("program"))
    for origin, place in (("project", project / "inner"), ("package", project / "src" / "edited")):
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        (place / "work.py").write_text(FUNCTION.format(origin=origin, place=BESIDE_FILE))
        (place / "beside.txt").write_text(beside(origin))
    site = project.parent / "site"
    installed = site / "installed"
    installed.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(installed)!r})\n")
    name = "__editable___edited_1_0_finder"
    (installed / "__editable__.edited-1.0.pth").write_text(f"import {name}; {name}.install()\n")
    (installed / f"{name}.py").write_text(FINDER.format(place=str(project / "src" / "edited")))
    return site


def start(name: str, project: Path) -> Started:
    """Run the program in one of `STARTS`, in an empty project."""
    site = lay_out(project)
    command = STARTS[name](project)
    output = project.parent / "outcomes"
    given = project / "input"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"STARTS_OUTPUT": str(output), "PYTHONPATH": str(site), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with open(given if given.exists() else os.devnull) as stdin:
        done = subprocess.run(
            command, cwd=project, env=environment, stdin=stdin, capture_output=True, text=True, timeout=100
        )
    lines = output.read_text().splitlines() if output.exists() else []
    return Started(done, [json.loads(line) for line in lines])

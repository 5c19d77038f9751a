"""A program that defines every kind of definition and tries it in every position, in each way Python is run.

The program is text: `definitions/kinds.py`, a few lines for each of its kinds, `definitions/checks.py`. It writes a JSON
line for each combination of a kind and a position. Programs of other tests can run in the same ways.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

PARTS = Path(__file__).parent / "definitions"

POSITION_LINES = """\
LOOK_{number} = KINDS[{name!r}].look
GLOBAL_{number} = KINDS[{name!r}].make()


def by_global_{number}():
    return LOOK_{number}(GLOBAL_{number})


def by_default_{number}(value=GLOBAL_{number}):
    return LOOK_{number}(value)


class Holder_{number}:
    value = GLOBAL_{number}


def by_attribute_{number}():
    return LOOK_{number}(Holder_{number}.value)


BY_GLOBAL[{name!r}] = by_global_{number}
BY_DEFAULT[{name!r}] = by_default_{number}
BY_ATTRIBUTE[{name!r}] = by_attribute_{number}
"""

EXECUTE_NOTEBOOK = """\
import sys
import nbclient, nbformat
notebook = nbformat.read("program.ipynb", as_version=4)
done = nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
for cell in done.cells:
    for output in cell.outputs:
        getattr(sys, output.get("name", "stdout")).write(output.get("text", ""))
"""

EXECUTE_MADE_UP = """\
import linecache, sys, types
text = open("program.txt").read()
linecache.cache["<made up>"] = len(text), None, text.splitlines(keepends=True), "<made up>"
module = sys.modules["made_up_program"] = types.ModuleType("made_up_program")
exec(compile(text, "<made up>", "exec"), vars(module))
module.{call}
"""


def parts() -> list[str]:
    """Return the program as cells of a notebook."""
    kinds = (PARTS / "kinds.py").read_text()
    names = re.findall(r'^(?:kind|member)\(\s*"([^"]+)"', kinds, re.MULTILINE)
    lines = ["BY_GLOBAL, BY_DEFAULT, BY_ATTRIBUTE = {}, {}, {}\n"]
    lines += [POSITION_LINES.format(name=name, number=number) for number, name in enumerate(names)]
    return [kinds, "\n".join(lines), (PARTS / "checks.py").read_text()]


# ---- ways of running a program ---------------------------------------------------------------------------------------


def as_script(project: Path, cells: list[str], call: str) -> list[str]:
    (project / "program.py").write_text("\n\n".join([*cells, call, ""]))
    return ["program.py"]


def as_option(project: Path, cells: list[str], call: str) -> list[str]:
    return ["-c", "\n\n".join([*cells, call, ""])]


def as_module(project: Path, cells: list[str], call: str) -> list[str]:
    (project / "package").mkdir(exist_ok=True)
    (project / "package" / "__init__.py").touch()
    (project / "package" / "program.py").write_text("\n\n".join([*cells, call, ""]))
    return ["-m", "package.program"]


def as_notebook(project: Path, cells: list[str], call: str) -> list[str]:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in [*cells, call]])
    (project / "program.ipynb").write_text(nbformat.writes(notebook))
    (project / "execute.py").write_text(EXECUTE_NOTEBOOK)
    return ["execute.py"]


def as_test(project: Path, cells: list[str], call: str) -> list[str]:
    (project / "test_program.py").write_text("\n\n".join([*cells, f"def test_all():\n    {call}\n"]))
    return ["-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "test_program.py"]


def as_made_up(project: Path, cells: list[str], call: str) -> list[str]:
    (project / "program.txt").write_text("\n\n".join(cells))
    (project / "execute.py").write_text(EXECUTE_MADE_UP.format(call=call))
    return ["execute.py"]


def as_zip(project: Path, cells: list[str], call: str) -> list[str]:
    """Run a module beside the `__main__.py` of a zip that lies outside the project."""
    path = project.parent / f"{project.name}.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", f"import sibling_program\nsibling_program.{call}\n")
        archive.writestr("sibling_program.py", "\n\n".join(cells))
    return [str(path)]


MODES = {
    "script": as_script,
    "-c": as_option,
    "-m": as_module,
    "notebook": as_notebook,
    "pytest module": as_test,
    "made-up module": as_made_up,
    "zip": as_zip,
}


def run_program(mode: str, project: Path, cells: list[str], call: str, **environment: str) -> str:
    """Run a program made of cells and a last line that calls it; return its standard output.

    It must succeed.
    """
    arguments = MODES[mode](project, cells, call)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    told = textwrap.indent(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}", "    ")
    assert done.returncode == 0, f"{mode}: ended with {done.returncode}\n{told}"
    return done.stdout


def run_matrix(mode: str, project: Path, output: Path, draw: str = "") -> tuple[list[dict[str, str]], dict]:
    """Run the program in a mode; return a dict with `kind`, `position` and `outcome` for each combination that was tried.

    Beside it: the `count` of all combinations, the `kinds` and the `positions`. With a draw only some are tried, each kind
    and each position among them.
    """
    (project / "kinds_beside.py").write_text((PARTS / "kinds_beside.py").read_text())
    run_program(mode, project, parts(), "check_all()", MATRIX_OUTPUT=str(output), MATRIX_DRAW=draw)
    *lines, last = map(json.loads, output.read_text().splitlines())
    return lines, last

"""One program that defines everything there is to define and tries it in every position; run in each way Python is run.

The program is text: `definitions/kinds.py`, a few lines for each of its kinds, `definitions/checks.py`. It writes a JSON line
for each combination of a kind and a position.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
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
notebook = nbformat.read("matrix.ipynb", as_version=4)
nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
"""

EXECUTE_MADE_UP = """\
import sys, types
text = open("matrix.txt").read()
module = sys.modules["made_up_matrix"] = types.ModuleType("made_up_matrix")
exec(compile(text, "<made up>", "exec"), vars(module))
module.check_all()
"""


def parts(**options: object) -> list[str]:
    """The program, as a notebook's cells would have it; `options` are the Runner's."""
    kinds = (PARTS / "kinds.py").read_text()
    names = re.findall(r'^(?:kind|member)\(\s*"([^"]+)"', kinds, re.MULTILINE)
    lines = ["BY_GLOBAL, BY_DEFAULT, BY_ATTRIBUTE = {}, {}, {}\n", f"RUNNER_OPTIONS = {options!r}\n"]
    lines += [POSITION_LINES.format(name=name, number=number) for number, name in enumerate(names)]
    return [kinds, "\n".join(lines), (PARTS / "checks.py").read_text()]


def write_notebook(path: Path, cells: list[str]) -> None:
    """A notebook of code cells, in the form that `nbformat` reads."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path.write_text(nbformat.writes(notebook))


def arguments_of(mode: str, project: Path, cells: list[str]) -> list[str]:
    """Writes what a mode needs into the project; Python's arguments."""
    text = "\n\n".join(cells)
    (project / "kinds_beside.py").write_text((PARTS / "kinds_beside.py").read_text())
    if mode == "script":
        (project / "matrix.py").write_text(text + "\n\ncheck_all()\n")
        return ["matrix.py"]
    if mode == "-c":
        return ["-c", text + "\n\ncheck_all()\n"]
    if mode == "-m":
        (project / "package").mkdir()
        (project / "package" / "__init__.py").touch()
        (project / "package" / "matrix.py").write_text(text + "\n\ncheck_all()\n")
        return ["-m", "package.matrix"]
    if mode == "notebook":
        write_notebook(project / "matrix.ipynb", [*cells, "check_all()"])
        (project / "execute.py").write_text(EXECUTE_NOTEBOOK)
        return ["execute.py"]
    if mode == "pytest module":
        (project / "test_matrix.py").write_text(text + "\n\ndef test_all():\n    check_all()\n")
        return ["-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "test_matrix.py"]
    assert mode == "made-up module", mode
    (project / "matrix.txt").write_text(text)
    (project / "execute.py").write_text(EXECUTE_MADE_UP)
    return ["execute.py"]


def run_matrix(mode: str, project: Path, output: Path, **options: object) -> list[dict[str, str]]:
    """Runs the program in a mode; a dict with `kind`, `position` and `outcome` for each combination it tried."""
    environment = os.environ | {"MATRIX_OUTPUT": str(output)}
    arguments = arguments_of(mode, project, parts(**options))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=110
    )
    told = textwrap.indent(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}", "    ")
    assert output.exists(), f"{mode}: nothing was tried\n{told}"
    *lines, last = map(json.loads, output.read_text().splitlines())
    assert (done.returncode, last) == (0, {"count": len(lines)}), f"{mode}: {last}\n{told}"
    return lines

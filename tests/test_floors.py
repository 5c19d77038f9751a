"""The house's floors: imports run only downwards, the two wings do not know each other, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flame_fast"

#: From the top floor down. A module may import only from floors below its own; a pair on one floor does not know each other.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"runner", "dump"},
    {"service", "future", "application", "diagnosis", "picture"},
    {"engine.local", "engine.inline"},
    {"engine.zygote"},
    {"engine.worker", "engine.output"},
    {"engine.host", "engine.processes", "execution", "libraries", "drawing"},
    {"engine.preloading", "engine.base", "engine.protocol", "engine.context", "engine.libraries", "engine.seeds"},
    {"session", "closures", "statistics", "package"},
    {"kernels.pickling", "kernels.montecarlo", "package.explanation", "package.import_path"},
    {"kernels.picklers"},
    {"kernels.unpickling", "kernels.bodies"},
    {"kernels.building"},
    {"kernels.definitions", "kernels.carried"},
    {
        "kernels.runtime",
        "kernels.array_pickling",
        "kernels.quarter_circle",
        "kernels.sampling",
        "package.packing",
        "package.unpacking",
        "registry",
    },
    {"package.snapshot", "package.reuse", "package.parallel", "storage"},
    {
        "package.blocks",
        "package.ignore",
        "package.locks",
        "package.notices",
        "package.progress",
        "package.requirements",
        "resources",
    },
    {"kernels.rng"},
    {"kernels.elementary"},
    {"kernels.arguments", "kernels.caching", "kernels.simd", "kernels.threads", "kernels.archive", "config", "ownership"},
    {"errors", "_version", "kernels", "engine"},
]

CALLS = {"service", "drawing", "future", "execution", "libraries", "closures", "session", "statistics", "engine", "kernels"}
CALLS |= {"dump", "diagnosis", "picture"}
APPLICATION = {"application", "cli", "package", "kernels.archive", "storage", "registry", "config", "ownership"}

#: Doors between the wings, each with its reason.
DOORS = {
    ("engine.worker", "package.import_path"): "a worker imports the project from the unpacked package",
    ("cli", "dump"): "the command line shows either wing",
    ("engine.zygote", "application"): "undoes the application for a driver that no longer can",
}


def modules() -> dict[str, Path]:
    found = {}
    folders = (
        (PACKAGE, ""),
        (PACKAGE / "engine", "engine."),
        (PACKAGE / "package", "package."),
        (ROOT / "kernels", "kernels."),
    )
    for folder, prefix in folders:
        for path in folder.glob("*.py"):
            found[prefix + path.stem if path.stem != "__init__" else prefix.rstrip(".")] = path
    del found[""]  # flame_fast/__init__.py: the front door
    for name in ("runtime", "archive"):
        found[f"kernels.{name}"] = ROOT / "kernels" / f"{name}.pyx"
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, late imports too; those for type checkers alone do not count."""
    if path.suffix == ".pyx":
        lines = [line for line in path.read_text().splitlines() if line.startswith("from flame_fast")]
        tree = ast.parse("\n".join(lines))
    else:
        tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped or not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("flame_fast"):
            continue
        base = node.module.removeprefix("flame_fast").lstrip(".")
        for alias in node.names:
            whole = f"{base}.{alias.name}".lstrip(".")
            found.add(whole if whole in modules() else base)
    return found


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if module in floor)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_only_downwards(module):
    """A new module must be given a floor; then whatever it imports lies below."""
    for imported in imports_of(modules()[module]):
        if (module, imported) not in DOORS and module != "kernels":
            assert floor_of(imported) > floor_of(module), f"{module} imports {imported}, which is not below it"


def wing_of(module: str) -> str:
    names = {module, module.split(".")[0]}
    return "application" if names & APPLICATION else "calls" if names & CALLS else ""


@pytest.mark.parametrize("module", sorted(modules()))
def test_the_wings_do_not_know_each_other(module):
    for imported in imports_of(modules()[module]):
        wings = {wing_of(module), wing_of(imported)} - {""}
        assert len(wings) < 2 or module == "runner" or (module, imported) in DOORS, f"{module} imports {imported}"


def test_every_door_is_used():
    for module, imported in DOORS:
        assert imported in imports_of(modules()[module])


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_neither_numpy_nor_numba():
    assert not {"numpy", "numba", "cloudpickle", "sqlite3", "yaml"} & loaded_after("import flame_fast")


def test_runner_loads_neither_numpy_nor_numba():
    """Nor typing, which costs as much as a third of the interpreter's start."""
    assert not {"numpy", "numba", "cloudpickle", "typing"} & loaded_after("from flame_fast import Runner")


def test_every_public_name_is_there():
    import flame_fast

    for name in flame_fast.__all__:
        assert getattr(flame_fast, name) is not None
    assert set(flame_fast.__all__) <= set(dir(flame_fast))


def test_an_unknown_name_is_an_attribute_error():
    import flame_fast

    with pytest.raises(AttributeError, match="flame_fast.*no_such_name"):
        flame_fast.no_such_name  # noqa: B018


def test_a_clone_that_shadows_an_installed_package_says_so(tmp_path):
    """From a clone's root after a plain `pip install .`: ./flame_fast comes first and has no kernels."""
    package = tmp_path / "flame_fast"
    package.mkdir()
    for name in ("__init__.py", "_version.py", "future.py", "runner.py", "errors.py"):
        (package / name).write_text((PACKAGE / name).read_text())
    done = subprocess.run(
        [sys.executable, "-S", "-c", "from flame_fast import ObjectFuture"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={},
    )
    assert done.returncode == 1
    assert "pip install -e" in done.stderr.splitlines()[-1]


def test_a_missing_native_part_says_what_to_do(tmp_path):
    """From a clone without a build: `kernels` alone, no compiled runtime."""
    package = tmp_path / "flame_fast" / "kernels"
    package.mkdir(parents=True)
    (tmp_path / "flame_fast" / "__init__.py").touch()
    (package / "__init__.py").write_text((ROOT / "kernels" / "__init__.py").read_text())
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import flame_fast.kernels"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={},
    )
    assert done.returncode == 1
    assert "pip install" in done.stderr.splitlines()[-1]

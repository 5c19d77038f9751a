"""The house's floors: imports run only downwards, the two wings stay apart, and importing is cheap."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "flame_fast"

#: From the top floor down. A module may import only from floors below its own; two modules on one floor stay apart.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"joblib"},
    {"faces._joblib"},
    {"executor", "pool", "app"},
    {"faces.pool_results", "faces.pool_worker"},
    {"faces.chunk_calls"},
    {"faces.function_services"},
    {"runner", "inspection.dump"},
    {"calls.collecting", "application.snapshots"},
    {
        "calls.service",
        "calls.gather",
        "application.lifecycle",
        "calls.source_files",
        "inspection.diagnosis",
        "inspection.picture",
    },
    {"calls.mapping", "calls.worker_setup"},
    {"calls.options", "calls.separate_calls", "calls.selection", "calls.construction"},
    {"calls.progress"},
    {"engine.local", "engine.inline", "freezing"},
    {"engine.zygote"},
    {"engine.worker", "engine.output"},
    {
        "engine.segment",
        "engine.task_host",
        "engine.spawn",
        "calls.introspection",
        "calls.import_scan",
        "calls.shared_generators",
    },
    {"engine.post_mortem", "engine.memory_kills", "engine.shortage"},
    {
        "engine.capture",
        "engine.concurrency",
        "engine.descriptors",
        "engine.leaving",
        "engine.log_records",
        "engine.left_behind",
        "engine.preload",
        "engine.spec",
        "engine.protocol",
        "engine.current",
        "engine.slow_steps",
        "engine.program",
        "engine.thread_limits",
        "engine.seeds",
    },
    {"engine.settings"},
    {"engine.import_watch"},
    {"calls.applied", "calls.session", "calls.captures", "calls.statistics", "package"},
    {
        "kernels.runtime.serialization",
        "kernels.montecarlo",
        "kernels.moments",
        "kernels.variance",
        "kernels.running",
        "package.explanation",
        "package.sys_path",
    },
    {"package.project"},
    {"package.snapshot_import"},
    {"kernels.runtime.serialization.picklers"},
    {"kernels.runtime.serialization.compiled"},
    {"kernels.runtime.serialization.unpickling", "kernels.runtime.serialization.bodies"},
    {"kernels.runtime.serialization.building"},
    {
        "kernels.runtime.serialization.definitions",
        "kernels.runtime.serialization.carried",
        "kernels.runtime.serialization.described",
    },
    {"kernels.runtime.serialization.inherited", "kernels.runtime.serialization.by_file"},
    {"kernels.quasi"},
    {"kernels.quasi.brownian"},
    {"kernels.quasi.points"},
    {"kernels.quasi.directions", "kernels.quasi.scrambling"},
    {"package.packing", "package.unpacking", "application.registry"},
    {"package.archive_writer", "package.manifest"},
    {
        "kernels.runtime.serialization.arrays",
        "kernels.runtime.serialization.notebooks",
        "package.snapshot",
        "package.stored_index",
        "package.ordered_pool",
    },
    {"kernels", "application.storage", "application.registry.database"},
    {"kernels.runtime"},
    {"kernels.runtime._native"},
    {"package.block_format", "package.gitignore", "package.notices", "package.progress"},
    {"kernels.sampling", "kernels.task_keys"},
    {"kernels.sampling.choosing"},
    {
        "kernels.sampling.arrays",
        "kernels.sampling.distributions",
        "kernels.sampling.multivariate",
        "kernels.sampling.permuting",
    },
    {"kernels.sampling.arguments", "kernels.jit.quarter_circle"},
    {"kernels.moments", "kernels.variance", "kernels.running"},
    {"kernels.jit.sample_moments", "kernels.jit.strata", "kernels.quantiles"},
    {"kernels.rng"},
    {"kernels.rng.distributions", "kernels.rng.arranging", "kernels.rng.multivariate"},
    {"kernels.rng.generators", "kernels.rng.streams"},
    {"kernels.rng.drawing", "kernels.rng.filling", "kernels.rng.naming", "kernels.rng.ranges", "kernels.jit.block_kernels"},
    {"kernels.bitgen"},
    {"kernels.bitgen._native"},
    {"kernels.jit.numbers", "kernels.jit.transforms", "kernels.keys"},
    {"package.requirements", "application.registry.validation"},
    {"kernels.jit.calls", "kernels.jit.lanes", "kernels.jit.vector_math"},
    {"kernels.jit.cache", "kernels.jit.simd", "kernels.jit.parallel"},
    {"kernels.jit.dependencies", "kernels.jit.arguments", "kernels.domains"},
    {"kernels.runtime.awaiting", "kernels.runtime.concurrent_future"},
    {"kernels.archive", "config", "application.liveness", "application.registry.records"},
    {"kernels.archive._native", "package.file_lock", "package.removal", "resources", "scarcity", "inspection.html"},
    {"lifetime"},
    {
        "errors",
        "forks",
        "interrupts",
        "journal",
        "terminal",
        "_version",
        "_lazy",
        "_records",
        "application",
        "calls",
        "engine",
        "faces",
        "inspection",
        "kernels.jit",
    },
]

#: The folders of each wing, and modules outside of them that belong to one.
CALLS = {"calls", "engine", "inspection", "kernels"}
APPLICATION = {"application", "package", "kernels.archive", "cli", "config"}

#: Doors between the wings, each with its reason.
DOORS = {
    ("engine.worker", "package.sys_path"): "a worker imports the project from the unpacked package",
    ("cli", "inspection.dump"): "the command line shows either wing",
    ("engine.zygote", "application.lifecycle"): "undoes the application for a driver that no longer can",
}


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for folder, prefix in ((PACKAGE, ""), (ROOT / "kernels", "kernels.")):
        for path in [*folder.rglob("*.py"), *folder.rglob("*.pyx")]:
            inside = path.relative_to(folder).with_suffix("").parts
            name = prefix + ".".join(part for part in inside if part != "__init__")
            found[name.rstrip(".")] = path
    del found[""]  # flame_fast/__init__.py: the front door
    return found


def python_of(path: Path) -> str:
    """Return a module's text; of a native one, the imports from the package's Python in it and its included files."""
    if path.suffix == ".py":
        return path.read_text()
    files = [file for kind in ("pyx", "pxi", "pxd") for file in path.parent.rglob(f"*.{kind}")]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    return "\n".join(line for line in lines if re.match(r"from flame_fast[\w.]* import [^(]*$", line))


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Return the package's modules that a file imports, late imports too, but none for type checkers alone."""
    inside = modules()
    tree = ast.parse(python_of(path))
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
            found.add(whole if whole in inside else base)
    return found - {""}


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if module in floor)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_only_downwards(module):
    """A new module must get a floor; then all its imports lie below."""
    for imported in imports_of(modules()[module]):
        if (module, imported) not in DOORS:
            assert floor_of(imported) > floor_of(module), f"{module} imports {imported}, which is not below it"


def wing_of(module: str) -> str:
    """Return the wing of the nearest folder that has one."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        folder = ".".join(parts[:end])
        if folder in APPLICATION | CALLS:
            return "application" if folder in APPLICATION else "calls"
    return ""


@pytest.mark.parametrize("module", sorted(modules()))
def test_the_wings_do_not_know_each_other(module):
    for imported in imports_of(modules()[module]):
        wings = {wing_of(module), wing_of(imported)} - {""}
        assert len(wings) < 2 or module == "runner" or (module, imported) in DOORS, f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.startswith(("engine", "kernels"))))
def test_only_engines_know_that_there_is_a_segment(module):
    """What else they ask of an engine, `engine.protocol` declares."""
    assert "engine.runtime" not in modules()[module].read_text()


def test_every_door_is_used():
    for module, imported in DOORS:
        assert imported in imports_of(modules()[module])


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


#: Modules that records and annotations would load at a start: typing takes a third of the interpreter's own time.
FOR_ANNOTATIONS = {"typing", "dataclasses", "inspect"}


def test_importing_loads_neither_numpy_nor_numba():
    assert not {"numpy", "numba", "cloudpickle", "sqlite3", "yaml", *FOR_ANNOTATIONS} & loaded_after("import flame_fast")


def test_runner_loads_neither_numpy_nor_numba():
    assert not {"numpy", "numba", "cloudpickle", *FOR_ANNOTATIONS} & loaded_after("from flame_fast import Runner")


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
    for name in ("__init__.py", "_lazy.py", "_version.py", "runner.py", "errors.py"):
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
    (tmp_path / "flame_fast" / "_lazy.py").write_text((PACKAGE / "_lazy.py").read_text())
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

"""The cache of compiled code: one worker compiles for all, edits elsewhere cost nothing, a damaged disk no more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60

HELPER = """\
from numba import njit

FACTOR = 3


@njit
def scaled(x):
    return x * FACTOR
"""

KERNEL = """\
import os
from numba import njit
from helper import scaled


@njit(cache=True)
def kernel(n):
    total = 0
    for i in range(n):
        total += scaled(i)
    return total


def compiled(n):
    found = kernel(n)
    return os.getpid(), found, sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values())


@njit(cache=True)
def refused(x):
    return x + "no such sum"
"""

MAIN = """\
import json, os, sys, threading
from numba import njit
from flame_fast import Runner
from kernel import compiled, kernel, refused


@njit(cache=True)
def own(n):
    return n + 1


def own_compiled(n):
    return os.getpid(), own(n), sum(own.stats.cache_hits.values()), sum(own.stats.cache_misses.values())


def by_process(rows):
    return sorted({tuple(row) for row in rows})


def found():
    with Runner("kernels", workers=4) as rr:
        return {
            "kernel": by_process(rr.get([rr.service(compiled)(10) for _ in range(40)])),
            "own": by_process(rr.get([rr.service(own_compiled)(10) for _ in range(40)])),
            "dispatchers": rr.get([rr.service(kernel)(10), rr.service(own)(10)]),
        }


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


"""

EDITED = f"""\
if __name__ == "__main__":
    told = [found()]
    write("notes.py", "edited = True")
    told += [found()]
    write("helper.py", {HELPER.replace("FACTOR = 3", "FACTOR = 5")!r})
    print(json.dumps([*told, found()]))
"""

#: Each killed worker makes room for one that the supervisor forks, and that has loaded nothing.
DAMAGED = """\
import glob, signal


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def fresh(rr):
    rr.service(killed)().exception(60)
    return {"kernel": rr.service(compiled)(10).get(60), "own": rr.service(own_compiled)(10).get(60)}


if __name__ == "__main__":
    with Runner("damaged", workers=1) as rr:
        told = [fresh(rr)]
        kept = [path for path in glob.glob(os.environ["FLAME_FAST_HOME"] + "/numba/*/*.nb?") if path[-1] in "ic"]
        for path in kept:
            os.truncate(path, os.path.getsize(path) // 2)
        print(json.dumps([len(kept), *told, fresh(rr), fresh(rr)]))
"""


@pytest.fixture
def kernels(project):
    (project / "helper.py").write_text(HELPER)
    (project / "kernel.py").write_text(KERNEL)
    (project / "notes.py").write_text("")
    return project


def run(arguments, **settings):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **settings}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def told_by(program):
    Path("main.py").write_text(MAIN + program)
    return json.loads(run(["main.py"]))


def compilations(rows):
    return sum(misses for _, _, _, misses in rows)


def test_one_worker_compiles_and_the_others_load_until_an_edit_of_what_it_uses(kernels, nothing_left):
    told, again, changed = told_by(EDITED)
    for name, value in (("kernel", 135), ("own", 11)):
        assert {found for _, found, _, _ in told[name]} == {value}
        assert compilations(told[name]) == 1
        assert all(hits + misses == 1 for _, _, hits, misses in told[name])
    assert told["dispatchers"] == [135, 11]
    assert compilations(again["kernel"]) == compilations(again["own"]) == 0  # an edit elsewhere keeps it
    assert {found for _, found, _, _ in changed["kernel"]} == {225}
    assert compilations(changed["kernel"]) == 1
    assert not list(kernels.rglob("*.nbi"))  # the user's directory stays as it is
    assert list((nothing_left / "numba").rglob("kernel.kernel-*.nbi"))


def test_damaged_files_cost_a_compilation(kernels):
    files, *rounds = told_by(DAMAGED)
    assert files == 4
    assert [told["kernel"][1:] for told in rounds] == [[135, 0, 1], [135, 0, 1], [135, 1, 0]]
    assert [told["own"][1:] for told in rounds] == [[11, 0, 1], [11, 0, 1], [11, 1, 0]]


def test_a_compilation_that_fails_lets_the_next_one_in(kernels):
    (kernels / "fails.py").write_text(
        "from flame_fast import Runner\n"
        "from kernel import kernel, refused\n"
        "import numba\n"
        "with Runner('fails', workers=2) as rr:\n"
        "    refuse = rr.service(refused)\n"
        "    futures = [refuse(1) for _ in range(8)]\n"
        "    assert all(isinstance(f.exception(30), numba.TypingError) for f in futures), [f.exception() for f in futures]\n"
        "    print(rr.get([rr.service(kernel)(10) for _ in range(8)]))\n"
    )
    assert run(["fails.py"]) == f"{[135] * 8}\n"


def test_without_a_place_to_write_it_compiles_all_the_same(tmp_path):
    """A copy of the package has a file for `__pycache__`, and its home is a file too."""
    package = tmp_path / "flame_fast"
    shutil.copytree(ROOT / "flame_fast", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.px*"))
    for directory in ("kernels", "kernels/jit"):
        (package / directory / "__pycache__").touch()
    (tmp_path / "home").touch()
    code = (
        "import flame_fast.kernels.jit.quarter_circle as q, flame_fast.kernels as k\n"
        f"assert q.__file__.startswith({str(tmp_path)!r})\n"
        "print(k.estimate_batch(1000, 1), q.count_by_turns.stats.cache_path)\n"
    )
    home = str(tmp_path / "home")
    settings = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "HOME": home, "XDG_CACHE_HOME": home}
    from flame_fast.kernels import estimate_batch

    assert run(["-c", code], **settings) == f"{estimate_batch(1000, 1)} None\n"


def test_without_a_compiler_a_kernel_says_so(tmp_path):
    code = "from flame_fast.kernels import estimate_batch; estimate_batch(1000)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: NUMBA_DISABLE_JIT is set")


def test_what_has_not_been_used_for_long_is_removed(tmp_path):
    from flame_fast.kernels.jit.cache import Project

    for number in range(Project.CACHE_ENTRIES + 5):
        project = Project(str(tmp_path / "tree"), str(tmp_path / f"project{number}"), str(tmp_path))
        project.tidy()
        place = Path(project.place)
        (place / "kernel.nbi").write_text("code")
        os.utime(place, (number, number))
    Project(str(tmp_path / "tree"), str(tmp_path / "latest"), str(tmp_path)).tidy()
    assert len(list((tmp_path / "numba").iterdir())) == Project.CACHE_ENTRIES
    assert place.exists()


def test_a_functions_sources_are_what_its_file_imports(kernels, monkeypatch):
    from flame_fast.kernels.jit.cache import sources_behind

    monkeypatch.syspath_prepend(str(kernels))
    for name in ("kernel", "helper"):
        sys.modules.pop(name, None)
    import kernel

    try:
        found = [
            os.path.basename(path)
            for path in sources_behind(kernel.compiled, lambda path: path if path.startswith(str(kernels)) else None)
        ]
        assert found == ["helper.py", "kernel.py"]
    finally:
        for name in ("kernel", "helper"):
            del sys.modules[name]

"""NumPy's own tests pass in a process whose arrays are born in the segment. All of them with FLAME_FAST_STORM=1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = os.environ.get("FLAME_FAST_STORM") == "1"

#: The policy itself; growing, shrinking, reference checks; what makes or copies many arrays of more than 32 KiB.
SOME = [
    "_core/tests/test_mem_policy.py",
    "_core/tests/test_mem_overlap.py",
    "_core/tests/test_item_selection.py",
    "_core/tests/test_multiarray.py::TestResize",
    "_core/tests/test_multiarray.py::TestMethods",
    "_core/tests/test_multiarray.py::TestDot",
    "_core/tests/test_multiarray.py::TestWhere",
    "_core/tests/test_multiarray.py::TestTemporaryElide",
    "_core/tests/test_multiarray.py::TestFlags",
    "lib/tests/test_arraypad.py",
    "lib/tests/test_packbits.py",
]
#: What fails without the handler too: f2py's tests want Meson and a Fortran compiler, those of distutils an old setuptools.
IGNORED = ["f2py", "distutils"]

#: Runs the tests named on its command line and writes what came of them to report.json.
SUITE = """\
import gc, json, os, subprocess, sys, sysconfig
from pathlib import Path
import numpy, pytest
from numpy._core.multiarray import get_handler_name
from numpy.testing import extbuild
from flame_fast.kernels.runtime import Supervisor, Worker

runtime = Worker.create("numpy", os.eventfd(0, os.EFD_NONBLOCK), 1, 1, 1 << 32)
runtime.install_array_allocator()
report = {"passed": 0, "failed": [], "elsewhere": []}

def build(source, module, compile_extra, link_extra, include_dirs, libraries, library_dirs):
    # In place of one by Meson, which would be needed for test_mem_policy.py only.
    built = module.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    folders = [f"-I{folder}" for folder in [*include_dirs, sysconfig.get_path("include")]]
    subprocess.run(["cc", "-shared", *compile_extra, *folders, source, "-o", built], check=True)
    return built

def held():
    gc.collect()
    return runtime.statistics()["bytes"]

class Watch:
    def pytest_collection_finish(self):
        report["begin"] = held(), Supervisor(runtime).cached_memory()[1]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        before = get_handler_name()
        try:
            return (yield)
        finally:
            if {before, get_handler_name()} != {"flame_fast"}:
                report["elsewhere"].append(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport):
        self.count(report)

    def pytest_collectreport(self, report: pytest.CollectReport):
        if report.failed:
            self.count(report)

    def count(self, outcome):
        if outcome.failed:
            report["failed"].append(f"{outcome.nodeid}: {outcome.longreprtext}")
        elif outcome.passed and outcome.when == "call":
            report["passed"] += 1

extbuild.build = build
root = Path(numpy.__file__).parent
names, ignored = json.loads(sys.argv[1])
options = ["-c", "empty.ini", f"--rootdir={root.parent}", *(f"--ignore={root / name}" for name in ignored)]
for plugin in ("cacheprovider", "randomly", "benchmark"):
    options += ["-p", f"no:{plugin}"]
report["code"] = pytest.main([*options, "-q", "-m", "not slow", *(str(root / name) for name in names)], [Watch()])
report["end"] = held(), Supervisor(runtime).cached_memory()[1]
Path("report.json").write_text(json.dumps(report))
"""


def run_suite(project: Path, names: list[str], timeout: float) -> dict:
    (project / "suite.py").write_text(SUITE)
    (project / "empty.ini").write_text("[pytest]\n")
    command = [sys.executable, "-B", "suite.py", json.dumps([names, IGNORED])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "NPY_", "NUMPY_"))}
    environment["TMPDIR"] = str(project)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads((project / "report.json").read_text())


def check(report: dict, passed: int, born: int) -> None:
    (held_before, born_before), (held_after, born_after) = report["begin"], report["end"]
    assert report["failed"] == []
    assert report["code"] == 0
    assert report["elsewhere"] == [], "another handler was in force"
    assert report["passed"] >= passed
    assert born_after - born_before >= born
    assert held_after - held_before < 1 << 20, "arrays that are gone keep their memory"


def test_numpys_tests_of_memory_pass_with_arrays_born_in_the_segment(project):
    """Of NumPy 2.4, 1,500 tests and 2,300 births."""
    check(run_suite(project, SOME, timeout=110), passed=1000, born=1500)


@pytest.mark.storm
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not LONG, reason="NumPy's whole suite takes minutes: FLAME_FAST_STORM=1")
def test_numpys_whole_suite_passes_with_arrays_born_in_the_segment(project):
    """Of NumPy 2.4, 47,200 tests and 28,000 births."""
    check(run_suite(project, [""], timeout=1100), passed=20_000, born=10_000)

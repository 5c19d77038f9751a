"""A private data directory and an empty project for every benchmark, and the machine's description with every result."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "harness"))

from contenders import WORKERS  # noqa: E402
from measuring import HARNESS, foreign_seconds  # noqa: E402

PACKAGES = ("flame_fast", "numpy", "joblib", "mpire")


def pytest_report_header():
    described = ["git", "-C", HARNESS, "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = []
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    machine = f"{len(os.sched_getaffinity(0))} usable CPUs, Linux {os.uname().release}, Python {sys.version.split()[0]}"
    return f"bench: {WORKERS} workers, {machine}, commit {commit}, {', '.join(versions)}"


def pytest_collection_modifyitems(items):
    """Mark what prints ratios: its name begins with `test_ratios`, so `-m ratios` and `-k ratios` select the same."""
    for item in items:
        if item.name.startswith("test_ratios"):
            item.add_marker(pytest.mark.ratios)


@pytest.fixture(autouse=True, scope="session")
def private_home(tmp_path_factory):
    os.environ["FLAME_FAST_HOME"] = str(tmp_path_factory.mktemp("home"))
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("project"))
    yield
    os.chdir(before)


@pytest.fixture
def report(capsys):
    """Print a heading and rows of (what, the measured figure, the promised one); to be called when the contenders are gone.

    The heading says how much of the machine others took meanwhile: beyond a few percent the figures are theirs as well.
    """
    start, before = time.monotonic(), foreign_seconds()

    def show(title, rows):
        others = (foreign_seconds() - before) / (time.monotonic() - start) / os.cpu_count()
        with capsys.disabled():
            print(f"\n{title}; median (lowest to highest); others took {max(others, 0):.0%} of the machine")
            for what, measured, *promised in rows:
                print(f"  {what:54} {measured:54} {'promised ' * any(promised)}{''.join(promised)}".rstrip())

    return show


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["usable_cpus"] = len(os.sched_getaffinity(0))

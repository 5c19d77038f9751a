"""A private data directory and an empty project for every benchmark, and the machine's description with every result."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def private_home(tmp_path_factory):
    os.environ["FLAME_FAST_HOME"] = str(tmp_path_factory.mktemp("home"))
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("project"))
    yield
    os.chdir(before)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["usable_cpus"] = len(os.sched_getaffinity(0))

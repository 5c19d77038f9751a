"""Forks while other threads import: the child can import what they were importing."""

from __future__ import annotations

import importlib
import sys
import threading
import time

import pytest
from gates import PATIENCE_S, passes_in_child

from flame_fast import forks

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def child_imports(name: str) -> bool:
    """Fork; return whether the child can import a module. One that waits for ever fails the test by its time-out."""
    return passes_in_child(lambda: importlib.import_module(name))


@pytest.fixture
def imports(tmp_path, monkeypatch):
    """Return (entered, leave, write): events of modules whose import waits, and what writes such a module."""
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(forks, "entered", entered, raising=False)
    monkeypatch.setattr(forks, "leave", leave, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(name: str, after: str = "") -> None:
        text = f"from flame_fast import forks\nforks.entered.set()\nassert forks.leave.wait({PATIENCE_S})\n{after}"
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield entered, leave, write
    for name in written:
        sys.modules.pop(name, None)


def importing(name: str) -> threading.Thread:
    thread = threading.Thread(target=importlib.import_module, args=(name,))
    thread.start()
    return thread


@pytest.mark.parametrize("outer", ["slow_to_import", "package_around"])
def test_a_fork_waits_for_an_import_of_another_thread(imports, tmp_path, outer):
    """Also for one in the middle of another."""
    entered, leave, write = imports
    write("slow_to_import")
    (tmp_path / "package_around.py").write_text("import slow_to_import\n")
    thread = importing(outer)
    assert entered.wait(PATIENCE_S)
    timer = threading.Timer(forks.PATIENCE_S / 5, leave.set)
    timer.start()
    assert child_imports(outer)
    thread.join()
    timer.join()
    sys.modules.pop(outer, None)


def test_a_fork_does_not_wait_for_ever_for_an_import_that_waits_for_it(imports):
    entered, leave, write = imports
    write("waits_for_the_fork")
    thread = importing("waits_for_the_fork")
    assert entered.wait(PATIENCE_S)
    begin = time.monotonic()
    assert child_imports("json")
    assert forks.PATIENCE_S <= time.monotonic() - begin < PATIENCE_S
    leave.set()
    thread.join()


def test_a_module_that_forks_as_it_is_imported_does_not_wait_for_itself(imports, tmp_path):
    (tmp_path / "forks_itself.py").write_text(
        "import os, time\nbegin = time.monotonic()\nchild = os.fork()\nif child == 0:\n    os._exit(0)\n"
        "took = time.monotonic() - begin\nos.waitpid(child, 0)\n"
    )
    assert importlib.import_module("forks_itself").took < forks.PATIENCE_S
    del sys.modules["forks_itself"]

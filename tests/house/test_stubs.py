"""The type stubs of both native modules say what the modules have: names, members and signatures, in both directions.

Static analysis cannot read Cython, so mypy's stubtest imports each module and compares it with its stub.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"

#: Public names that only native code uses; a Python module that needs one adds it to the stub.
INTERNAL = {
    "archive": {"DirectoryReader"},
    "runtime": {
        *("AllWait", "AnyWait", "CallbackWait", "Chunk", "Int64List", "Layout", "Notifier", "OneWait", "PositionWait"),
        *("MarkOfAttributes", "MarkOfContent", "MarkOfMembers", "MarkOfPlace", "UsersLook"),
        *("SharedBuffer", "SlotReference", "ValueWriter", "Wait"),
        *("EXTENT_NAMES", "PROCESS_NAMES", "QUEUE_NAMES", "REDO_NAMES", "ROLE_NAMES", "SERVICE_NAMES", "STATUS_NAMES"),
    },
}

#: Differences that are none: stubtest's line, without the module's name, and the reason.
ALLOWED = {
    r"(\w+\.)?__(reduce_cython|setstate_cython|test)__ is not present in stub": "Cython generates them",
    r"\w+ is a disjoint base at runtime, .*": "typing.disjoint_base is newer than the oldest Python supported",
    r"\w+ cannot be subclassed at runtime, but isn't marked with @final .*": "no Python code derives from native classes",
    r"\w+\.__init__ is inconsistent, stub does not have \*args .*": "object's own, in a class that makes no instances",
    r"Buffer\.__buffer__ is not present at runtime": "the buffer protocol has this method from Python 3.12 on (PEP 688)",
    r"(Kind|[A-Z]|R_co) is not present at runtime": "a type variable of the stub",
    r"\w+\.__class_getitem__ is not present in stub": "the stub's class is generic",
}


def differences(root: Path, stubs: dict[str, str]) -> dict[str, set[str]]:
    """Return stubtest's lines about each native module but for those of `ALLOWED`; the stubs are written below `root`."""
    packages = [root / "flame_fast", root / "flame_fast/kernels"]
    for folder, text in stubs.items():
        packages.append(root / "flame_fast/kernels" / folder)
        packages[-1].mkdir(parents=True)
        (packages[-1] / "_native.pyi").write_text(text)
    for package in packages:  # without the package's own modules, which mypy would check as well
        (package / "__init__.pyi").touch()
    modules = {f"flame_fast.kernels.{folder}._native": folder for folder in stubs}
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", *modules],
        capture_output=True,
        text=True,
        cwd=root / "flame_fast",  # not `root`: its `flame_fast` would shadow the installed one
        env={**os.environ, "MYPYPATH": str(root)},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, set[str]] = {folder: set() for folder in stubs}
    for line in done.stdout.splitlines():
        module = next((module for module in modules if line.startswith(f"{module}.")), None)
        assert module is not None, done.stdout + done.stderr
        difference = line.removeprefix(f"{module}.")
        if not any(re.fullmatch(allowed, difference) for allowed in ALLOWED):
            found[modules[module]].add(difference)
    return found


def stub_of(folder: str) -> str:
    return (KERNELS / folder / "_native.pyi").read_text()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return differences(tmp_path_factory.mktemp("stubs"), {folder: stub_of(folder) for folder in INTERNAL})


@pytest.mark.parametrize("folder", INTERNAL)
def test_a_stub_says_what_its_module_has(found, folder):
    assert found[folder] == {f"{name} is not present in stub" for name in INTERNAL[folder]}


def test_a_method_on_one_side_only_is_found(tmp_path):
    """The test of the test, in both directions, and with a parameter of another name."""
    text = stub_of("archive")
    for old, new in (
        ("def find(self, path", "def found(self, path"),
        ("def verify(self, entries", "def verify(self, entry"),
        ("def open_below(", "def open_beneath("),
        ("    def run(self) -> None: ...\n", ""),
    ):
        assert old in text
        text = text.replace(old, new)
    lines = sorted(differences(tmp_path, {"archive": text})["archive"])
    assert [line.partition(",")[0] for line in lines] == [
        "DirectoryReader is not present in stub",
        "Extractor.verify is inconsistent",
        "Members.find is not present in stub",
        "Members.found is not present at runtime",
        "Walk.run is not present in stub",
        "open_below is not present in stub",
        "open_beneath is not present at runtime",
    ]

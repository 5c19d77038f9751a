"""Examples run as a user runs them: in subprocesses, with a home and a data directory of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from applications import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
Settings = dict[str, str]
NONE: Settings = {}
Completed = subprocess.CompletedProcess[str]
LIST_APPLICATIONS = "import json, flame_fast as f; print(json.dumps([a.name for a in f.list_applications()]))"


class Sandbox:
    """A home and a data directory of its own, for programs run in subprocesses."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.data = path / "data"
        self.storage = self.data / "packages"  # packages go here without a configuration
        self.home.mkdir()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PI_", "FLAME_"))}
        self.environment = inherited | {
            "HOME": str(self.home),
            "FLAME_FAST_HOME": str(self.data),
            "PYTHONDONTWRITEBYTECODE": "1",  # Python's caches beside an example would not be the example's
        }

    def run(self, arguments: list[str], settings: Settings = NONE, cwd: Path = ROOT) -> Completed:
        """Run Python with `arguments`; a process left behind holds the pipes open: a timeout."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self, arguments: list[str], settings: Settings = NONE, cwd: Path = ROOT) -> str:
        """Return the output of a run that must succeed without complaint."""
        result = self.run(arguments, settings, cwd)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout


def files_of_examples() -> set[Path]:
    return set(EXAMPLES.rglob("*"))


@contextmanager
def nothing_left_by_examples(sandbox: Sandbox) -> Iterator[None]:
    """Check that the examples left nothing in storage, in the registry or beside themselves."""
    before = files_of_examples()
    yield
    assert list(sandbox.storage.rglob("*")) == []
    assert json.loads(sandbox.output(["-c", LIST_APPLICATIONS], cwd=sandbox.home)) == list(BUILT_IN)
    assert files_of_examples() == before

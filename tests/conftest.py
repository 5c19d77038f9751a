"""For every test a private home and project, and nothing left behind afterwards; and modules made in memory."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from applications import registered
from modules_in_memory import made_up_module
from owned_processes import processes_of

#: What a test may take to let go of what it started: ten times what the contract promises.
LEAVE_S = 20.0


#: Tests after which what they have imported and compiled is set aside.
FREEZE_EVERY = 20


def pytest_configure():
    """Of the thousands of processes that tests start none compiles the package's sources anew, and each hears SIGINT.

    A shell ignores that for what it starts in the background, and all that is started by it would, too.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    freeze()


def freeze():
    """Set aside what is there and stays: looking through it after every test takes longer than many tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tests_over():
    return itertools.count(1)


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """Directories for each test to come: pytest would look through all that it has made before it makes one more."""
    base = tmp_path_factory.mktemp("places")
    return (base / str(number) for number in itertools.count())


class WrapsSoon:
    """Stands for a class of the runtime where engines make theirs: counters wrap around after so many more steps."""

    def __init__(self, made, steps):
        self.made = made
        self.steps = steps

    def create(self, *arguments):
        runtime = self.made.create(*arguments)
        runtime.wrap_after(self.steps)
        return runtime


def pytest_addoption(parser):
    parser.addoption(
        "--wrap-after", type=int, metavar="N", help="make every counter wrap around after N more steps, in every runner"
    )
    parser.addoption("--minutes", type=float, metavar="N", help="let the storms go on for so long, all together")


def pytest_collection_modifyitems(config, items):
    storms = sum("rounds" in getattr(item, "fixturenames", ()) for item in items)
    config.storm_share_s = 60 * (config.getoption("minutes") or 0) / max(1, storms)


@pytest.fixture
def rounds(request):
    """Return numbers of rounds of a storm, without end until its share of `--minutes` is over; by default only 0."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    end = time.monotonic() + request.config.storm_share_s * processes
    return itertools.takewhile(lambda number: number == 0 or time.monotonic() < end, itertools.count())


@pytest.fixture
def wrap_after(monkeypatch):
    """Make every counter of the runners made later wrap around after so many more steps."""

    def wrap(steps):
        import runtime_harness

        from flame_fast.engine import inline, local

        for module, name in ((runtime_harness, "Worker"), (inline, "Worker"), (local, "Client")):
            monkeypatch.setattr(module, name, WrapsSoon(getattr(module, name), steps))

    return wrap


@pytest.fixture(autouse=True)
def every_counter_wraps(request):
    if steps := request.config.getoption("wrap_after"):
        request.getfixturevalue("wrap_after")(steps)


@pytest.fixture(autouse=True)
def nothing_left(request, places, monkeypatch, tests_over):
    """Run the test in an empty project directory with a data directory of its own, then look for leftovers.

    Yields the data directory. Left over are: processes that had it in their environment, file descriptors, mapped segments,
    threads, files in storage, owners' locks, and registry rows beyond the built-in template.
    """
    place = next(places)
    home, project = place / "home", place / "project"
    for directory in (place, home, project):
        directory.mkdir(mode=0o700)
    monkeypatch.setenv("FLAME_FAST_HOME", str(home))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("FLAME_CONF", raising=False)
    monkeypatch.chdir(project)
    descriptors = open_descriptors()
    segments = mapped_segments()
    yield home
    (request.node.funcargs or {}).clear()  # pytest would keep what the test's other fixtures made until after this one
    gc.collect()
    leftovers = wait_until_none(lambda: find_leftovers(home, descriptors, segments))
    if leftovers:
        for pid in processes_of(home):
            os.kill(pid, 9)
    assert not leftovers, "\n".join(leftovers)
    if next(tests_over) % FREEZE_EVERY == 0:
        freeze()


@pytest.fixture
def alone():
    """Yield a runtime in this process alone; look through its tables when the test is over."""
    from runtime_harness import Alone

    made = Alone()
    yield made
    gc.collect()
    made.check()
    made.close()


@pytest.fixture
def family(nothing_left, request):
    """One with relatives; when the test is over all of them leave, and the tables are looked through.

    An indirect parameter is its limit.
    """
    from runtime_harness import Family

    made = Family(limit=getattr(request, "param", 1 << 26), workers=2, cpus=2)
    yield made
    gc.collect()
    made.runtime.announce_close()
    assert {made.recover_process(relative) for relative in list(made.relatives)} <= {0}
    made.check()
    made.close()


@pytest.fixture
def define(monkeypatch):
    """Make a module out of text; no worker can import it."""
    return lambda text="", name=None: made_up_module(monkeypatch, text, name)


@pytest.fixture
def project(nothing_left) -> Path:
    """Return the empty project directory that is the current one."""
    return Path.cwd()


def wait_until_none(look):
    """Look again until nothing is found, or time is up; return what is found then."""
    deadline = time.monotonic() + LEAVE_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    return found


def find_leftovers(home: Path, descriptors: set[str], segments: int) -> list[str]:
    found = [f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}" for pid in processes_of(home)]
    found += [f"descriptor {name}" for name in sorted(open_descriptors() - descriptors)]
    if mapped_segments() > segments:
        found.append(f"{mapped_segments() - segments} segments still mapped")
    found += [f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("flame-")]
    for directory in ("packages", "owners", "tmp"):
        found += [f"file {path}" for path in (home / directory).rglob("*") if path.is_file()]
    return found + registry_rows(home)


def registry_rows(home: Path) -> list[str]:
    if not any(home.glob("*.db")):
        return []
    return [f"application {name}" for name in registered()]


def open_descriptors() -> set[str]:
    """Return `number -> target` of everything open, but for what the test runner itself opens and closes."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if not target.startswith("/dev/pts"):
            found.add(f"{name} -> {target}")
    return {item for item in found if "/proc/" not in item}


def mapped_segments() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:flame_fast" in line for line in maps)

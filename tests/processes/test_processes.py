"""Worker processes as a user meets them: what they run, where they are, what they import, how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from applications import registered
from process_events import PATIENCE_S, double, fifos, hold, pid_of_worker, run_driver, wait_until, workers, zygotes

from flame_fast import FlameError, FlameErrorCode, Runner


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


def run_python(*arguments: object, text: str = "", **options: object) -> str:
    """Python as a user starts it; must succeed silently."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=60, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return done.stdout


# ---- __main__ --------------------------------------------------------------------------------------------------------

#: Everything of `__main__`, at top level, without a guard.
SCRIPT = """
import os
from dataclasses import dataclass
from enum import Enum
from flame_fast import Runner

FACTOR = 3
print("top level")

class Colour(Enum):
    RED = 1

@dataclass
class Point:
    x: int
    def moved(self, by):
        return Point(self.x + by)

class Mine(Exception):
    pass

class Counter:
    step = FACTOR
    def __init__(self):
        self.total = 0
    def add(self, times):
        self.total += times * self.step
        return self.total

def helper(value):
    return value * FACTOR

def work(value):
    return helper(value) + 1

def fail():
    raise Mine("of main")

def recursive(n):
    return 1 if n == 0 else n * recursive(n - 1)

rr = Runner("guardless", workers=2)
print(rr.get([rr.service(work)(number) for number in range(4)]))
print(rr.service(Counter).add(2).get(), rr.service(Counter()).add(2).get())
print(rr.service(Point(1)).moved(2).get(), rr.service(Point.moved)(Point(3), 4).get() == Point(7))
print(rr.service(lambda colour: colour is Colour.RED)(Colour.RED).get(), rr.service(recursive)(5).get())
print(rr.service(isinstance)(Point(1), Point).get(), rr.service(lambda p: type(p) is Point)(Point(1)).get())
try:
    rr.service(fail)().get()
except Mine as error:
    print(type(error) is Mine, error)
print(rr.service(os.getpid)().get() != os.getpid())
rr.close()
"""
PRINTED = """\
top level
[1, 4, 7, 10]
6 6
Point(x=3) True
True 120
True True
True of main
True
"""


@pytest.mark.parametrize("way", ["script", "-c", "stdin", "-m", "subdirectory", "zip"])
def test_no_guard_is_needed_however_the_script_is_started(way, project, tmp_path):
    """A second import of `__main__` would print "top level" again."""
    if way == "-c":
        assert run_python("-c", SCRIPT) == PRINTED
    elif way == "stdin":
        assert run_python("-", text=SCRIPT) == PRINTED
    elif way == "-m":
        (project / "program.py").write_text(SCRIPT)
        assert run_python("-m", "program") == PRINTED
    elif way == "zip":
        import zipfile

        with zipfile.ZipFile(project / "program.pyz", "w") as archive:
            archive.writestr("__main__.py", SCRIPT)
        assert run_python("program.pyz") == PRINTED
    else:
        script = project / ("script.py" if way == "script" else "examples/x/main.py")
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(SCRIPT)
        assert run_python(script.relative_to(project)) == PRINTED


def test_a_globals_value_is_the_one_at_service_and_arguments_those_at_the_call(project):
    out = run_python(
        "-c",
        """
from flame_fast import Runner
FACTOR = 2
def scale(values):
    return [FACTOR * value for value in values]
with Runner("globals", workers=1) as rr:
    first = rr.service(scale)
    FACTOR = 3
    second = rr.service(scale)
    values = [1]
    futures = [first(values), second(values)]
    values.append(2)
    futures.append(first(values))
    print(rr.get(futures))
""",
    )
    assert out == "[[2], [3], [2, 4]]\n"


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_a_module_beside_a_script_in_a_subdirectory_is_found(project):
    """As `python examples/x/main.py` from the root, which puts examples/x on sys.path, not the root."""
    where = project / "examples" / "x"
    where.mkdir(parents=True)
    (where / "beside.py").write_text("def origin(): return __file__\n")
    (where / "main.py").write_text(
        "from beside import origin\n"
        "from flame_fast import Runner\n"
        "with Runner('beside') as rr:\n"
        "    print(origin())\n"
        "    print(rr.service(origin)().get())\n"
    )
    for options in ({}, {"cwd": where}):
        driver_file, worker_file = run_python(where / "main.py", **options).splitlines()
        assert driver_file == worker_file == str(where / "beside.py")
        assert list(project.rglob("*.tar.gz")) == []


@pytest.fixture
def module(project, monkeypatch):
    """Make a module of the project, importable here as the current directory's."""
    import importlib

    name = f"project_module_{os.urandom(4).hex()}"
    (project / f"{name}.py").write_text("VALUE = 'before'\ndef value(): return VALUE\ndef origin(): return __file__\n")
    monkeypatch.syspath_prepend(str(project))
    yield importlib.import_module(name)
    sys.modules.pop(name)


def test_workers_import_the_package_not_the_directory_being_edited(module, project):
    path = project / f"{module.__name__}.py"
    with Runner("snapshot", workers=1) as rr:
        path.write_text("raise ImportError('half edited')\n")
        assert rr.service(module.value)().get(PATIENCE_S) == "before"
        assert rr.service(module.origin)().get(PATIENCE_S) == str(path)
    path.write_text("VALUE = 'after'\ndef value(): return VALUE\n")
    with Runner("snapshot", workers=1) as rr:
        assert rr.service(module.value)().get(PATIENCE_S) == "after"


def test_a_deleted_project_file_is_still_there_for_workers(module, project):
    with Runner("snapshot", workers=2) as rr:
        (project / f"{module.__name__}.py").unlink()
        assert rr.get([rr.service(module.value)() for _ in range(4)], PATIENCE_S) == ["before"] * 4


def test_modules_outside_the_project_come_from_where_they_are(tmp_path, monkeypatch):
    import importlib

    name = f"outside_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text("def origin(): return __file__\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)
    with Runner("outside", workers=1) as rr:
        assert rr.service(module.origin)().get(PATIENCE_S) == str(tmp_path / f"{name}.py")
    sys.modules.pop(name)


def test_a_module_that_fails_in_the_worker_raises_there_and_does_not_hang(project, monkeypatch):
    import importlib

    name = f"driver_only_{os.urandom(4).hex()}"
    (project / f"{name}.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}: raise ImportError('driver only')\ndef work(): pass\n"
    )
    monkeypatch.syspath_prepend(str(project))
    module = importlib.import_module(name)
    with Runner("failing", workers=1) as rr:
        service = rr.service(module.work)
        for _ in range(2):
            with pytest.raises(ImportError, match="driver only"):
                service().get(PATIENCE_S)
        assert rr.service(double)(2).get(PATIENCE_S) == 4
    sys.modules.pop(name)


def test_a_users_module_named_like_the_standard_librarys_does_no_harm(project):
    (project / "random.py").write_text("raise ImportError('not the one you want')\n")
    (project / "socket.py").write_text("raise ImportError('not the one you want')\n")
    (project / "scripts").mkdir()
    (project / "scripts" / "main.py").write_text(
        "from flame_fast import Runner\nwith Runner('shadow') as rr: print(rr.service(len)('four').get())\n"
    )
    assert run_python("scripts/main.py") == "4\n"


def test_importing_the_package_is_light():
    look = "print({'numpy', 'numba', 'cloudpickle', 'yaml'} & set(sys.modules))"
    assert run_python("-c", f"import sys, flame_fast; {look}") == "set()\n"
    every_name = "[getattr(flame_fast, name) for name in flame_fast.__all__]"
    loaded = run_python("-c", f"import sys, flame_fast; {every_name}; {look}")
    assert "numpy" not in loaded and "numba" not in loaded


def test_workers_load_numpy_only_when_a_task_does():
    def loaded() -> list[str]:
        return [name for name in ("numpy", "numba") if name in sys.modules]

    with Runner("light", workers=1) as rr:
        assert rr.service(loaded)().get(PATIENCE_S) == []


# ---- surroundings ----------------------------------------------------------------------------------------------------


def test_a_workers_directory_is_the_users(project):
    (project / "data.txt").write_text("relative")
    with Runner("cwd", workers=1) as rr:
        assert rr.service(os.getcwd)().get(PATIENCE_S) == str(project)
        assert rr.service(lambda: Path("data.txt").read_text())().get(PATIENCE_S) == "relative"
        rr.service(lambda: Path("written.txt").write_text("by a task"))().get(PATIENCE_S)
    assert (project / "written.txt").read_text() == "by a task"


def test_a_workers_directory_is_the_one_at_the_runners_creation(project, tmp_path, monkeypatch, fifo):
    """Also that of workers and instances started later."""
    with Runner("cwd", workers=1) as rr:
        monkeypatch.chdir(tmp_path)
        (pid,) = {rr.service(pid_of_worker)().get(PATIENCE_S)}
        os.kill(pid, 9)
        wait_until(lambda: workers() and workers() != [pid])
        assert rr.service(os.getcwd)().get(PATIENCE_S) == str(project)


def test_a_workers_environment_is_the_drivers_at_the_runners_creation(monkeypatch):
    monkeypatch.setenv("T2_VALUE", "at creation")
    monkeypatch.delenv("T2_OTHER", raising=False)
    with Runner("environment", workers=1) as rr:
        monkeypatch.setenv("T2_VALUE", "later")
        monkeypatch.setenv("T2_OTHER", "later")
        environment = rr.service(lambda: dict(os.environ))().get(PATIENCE_S)
        assert environment["T2_VALUE"] == "at creation"
        assert "T2_OTHER" not in environment
        (pid,) = workers()
        os.kill(pid, 9)
        wait_until(lambda: workers() and workers() != [pid])
        assert rr.service(os.getenv)("T2_VALUE").get(PATIENCE_S) == "at creation"
    monkeypatch.delenv("T2_VALUE")


def test_interpreter_options_that_matter_are_the_drivers():
    script = (
        "import sys\nfrom flame_fast import Runner\n"
        "look = lambda: (sys.flags.optimize, sys.warnoptions, sys._xoptions.get('mine'), sys.flags.utf8_mode)\n"
        "with Runner('options', workers=1) as rr: print(rr.service(look)().get() == look(), look())\n"
    )
    out = run_python("-O", "-Werror::BytesWarning", "-Xmine=1", "-c", script)
    assert out.startswith("True (1, ['error::BytesWarning'], '1'")


def test_standard_input_is_empty_in_a_task_and_stays_the_drivers():
    out = run_python(
        "-c",
        "import sys\nfrom flame_fast import Runner\n"
        "with Runner('stdin', workers=1) as rr: print(repr(rr.service(lambda: sys.stdin.read())().get()))\n"
        "print(repr(sys.stdin.read()))",
        text="for the driver",
    )
    assert out == "''\n'for the driver'\n"


# ---- random numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["random", "numpy"])
def test_each_workers_random_state_is_its_own(library, fifo):
    """Neither the other workers', nor the driver's, nor that of the runner before."""
    said, gate = fifo("said"), fifo("gate")

    def draw(said: str, gate: str) -> tuple[int, float]:
        pid = hold(said, gate, os.getpid())
        if library == "random":
            import random

            return pid, random.random()
        import numpy

        return pid, numpy.random.random()

    import random

    import numpy

    random.seed(1)
    numpy.random.seed(1)
    draws = {}
    for round_number in range(2):
        with Runner("random", workers=2) as rr:
            service = rr.service(draw)
            futures = [service(said.path, gate.path) for _ in range(2)]
            said.read_pids(2)
            gate.open_gate(2)
            for pid, value in rr.get(futures, PATIENCE_S):
                draws[round_number, pid] = value
    random.seed(1)
    numpy.random.seed(1)
    draws["driver"] = random.random() if library == "random" else numpy.random.random()
    assert len(draws) == 5
    assert len(set(draws.values())) == 5


def test_a_new_worker_in_place_of_a_dead_one_draws_anew():
    def draw() -> float:
        import random

        return random.random()

    with Runner("random", workers=1) as rr:
        first = rr.service(draw)().get(PATIENCE_S)
        (pid,) = workers()
        os.kill(pid, 9)
        wait_until(lambda: workers() and workers() != [pid])
        assert rr.service(draw)().get(PATIENCE_S) != first


# ---- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_as_many_workers_as_asked_for_run_at_once(count, fifo):
    """More than the CPUs, too."""
    said, gate = fifo("said"), fifo("gate")
    with Runner("many", workers=count) as rr:
        holding = rr.service(hold)
        futures = [holding(said, gate, number) for number in range(count + 1)]
        assert len(set(said.read_pids(count))) == count
        assert len(workers()) == count and len(zygotes()) == 1
        gate.open_gate(count + 1)
        assert rr.get(futures, PATIENCE_S) == list(range(count + 1))


def test_by_default_as_many_workers_as_cpus_this_process_may_use():
    out = run_python(
        "-c",
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from flame_fast import Runner\nwith Runner('default') as rr: print(rr)\n",
    )
    assert "1 worker" in out


@pytest.mark.parametrize("bad", [0, -1, 1.0, 1.5, "2", True, False, [], 10**9])
def test_bad_numbers_of_workers(bad, nothing_left):
    with pytest.raises(FlameError) as caught:
        Runner("bad", workers=bad)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert "workers" in caught.value.message and repr(bad) in caught.value.message
    assert list(nothing_left.iterdir()) == []


@pytest.mark.parametrize("bad", [0, 1, 4, None, "yes", 2.0])
def test_what_is_given_in_the_place_of_fail_if_exists(bad, nothing_left):
    """Pools of other libraries take their workers there."""
    with pytest.raises(FlameError, match="fail_if_exists: expected True or False, got ") as caught:
        Runner("bad", bad)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert (f"write workers={bad!r}" in caught.value.message) == isinstance(bad, int)
    assert list(nothing_left.iterdir()) == []


@pytest.mark.parametrize("bad", ["", "Local", "threads", 3, []])
def test_bad_engines(bad, nothing_left):
    with pytest.raises(FlameError) as caught:
        Runner("bad", engine=bad)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    for text in (repr(bad), "inline", "local"):
        assert text in caught.value.message
    assert list(nothing_left.iterdir()) == []


BAD_NAMES = [
    "", "a" * 254, "a/b", "a\\b", "..", "a..b", ".hidden", "-option", "a\nb", "a\0b", "\x7f", "a\tb", "\x85",
    None, 3, b"bytes", ["list"], Path("path"),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize("engine", ["local", "inline"])
def test_bad_names(bad, engine, nothing_left):
    with pytest.raises(FlameError) as caught:
        Runner(bad, engine=engine)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert "name" in caught.value.message
    assert list(nothing_left.iterdir()) == []


def test_bad_names_in_a_task():
    def nested(name: object) -> None:
        Runner(name)

    with Runner("outer", workers=1) as rr:
        for bad in ("", "a/b", None):
            error = rr.service(nested)(bad).exception(PATIENCE_S)
            assert getattr(error, "code", error) is FlameErrorCode.INVALID_ARGUMENT


GOOD_NAMES = [
    "a",
    "a" * 253,
    "pi-estimation",
    "with space",
    "a.b",
    "日本" * 100,
    'it\'s "quoted" %s {x} ;--',
    "a~b*c?d",
    "ü",
]


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
def test_good_names(name):
    with Runner(name, workers=1) as rr:
        assert rr.name == name
        assert registered() == [name]
        assert rr.service(double)(2).get(PATIENCE_S) == 4
    assert registered() == []


def test_functions_of_a_notebook_work(tmp_path):
    """What is of `__main__` there comes from no file."""
    out = run_driver(
        """
        source = "def square(x): return x * x\\nclass Box:\\n  def put(self, x): return [x]"
        cell = compile(source, "<ipython-input-1>", "exec")
        exec(cell, sys.modules["__main__"].__dict__)
        with Runner("notebook", workers=1) as rr:
            print(rr.service(square)(3).get(20), rr.service(Box).put(1).get(20))
        """,
        tmp_path,
    )
    assert out == "9 [1]\n"

"""Libraries that the supervisor (zygote) loads for its workers, their threads in workers, and what it is told to load."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import os
import signal
import subprocess
import sys
import weakref

import numba
import numpy as np
import pytest
from flame_fast.kernels import estimate_batch, estimate_batch_numpy
from gates import Gate, wait_until

import flame_fast
from flame_fast import ResourceRequirement, Runner, WorkerDiedError
from flame_fast.calls import import_scan
from flame_fast.calls.import_scan import libraries_of
from flame_fast.engine.preload import COMPILER, HEAVY_BITS, KERNELS, NUMBA, NUMPY
from flame_fast.resources import available_cpus

PATIENCE_S = 30


@numba.njit
def doubled(x):
    return 2 * x


@numba.njit(parallel=True, cache=True)
def summed(n):
    total = 0
    for i in numba.prange(n):
        total += i % 3
    return total


@numba.njit
def drawn():
    return np.random.random()


# ---- which library a service needs ---------------------------------------------------------------------------------------


def imports_by_itself(n):
    import numba

    return numba.njit(lambda x: x)(n)


class Holder:
    def __init__(self):
        self.values = np.zeros(3)

    def total(self):
        return float(self.values.sum())


def by_value(source, **names):
    """Make a function of a script: it goes to the worker by value, with what it uses and no more."""
    namespace = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace["function"]


NEEDS = {
    "builtin": (len, 0),
    "lambda": (by_value("function = lambda x: x"), 0),
    "of NumPy": (np.add, NUMPY),
    "script's, using NumPy": (by_value("def function(x): return np.sum(x)", np=np), NUMPY),
    "script's, beside NumPy": (by_value("def function(x): return x", np=np), 0),
    "nested code": (by_value("def function(x): return [np.sum(y) for y in x]", np=np), NUMPY),
    "importing Numba": (by_value("def function():\n import numba\n return numba"), NUMPY | NUMBA | COMPILER),
    "importing our streams": (
        by_value("def function():\n from flame_fast.kernels import rng\n return rng"),
        NUMPY | NUMBA | COMPILER,
    ),
    "importing the kernel": (
        by_value("def function():\n from flame_fast.kernels import estimate_batch as e\n return e"),
        NUMPY | NUMBA | KERNELS,
    ),
    "dispatcher": (doubled, NUMPY | NUMBA | COMPILER),
    "using a dispatcher": (by_value("def function(x): return doubled(x)", doubled=doubled), NUMPY | NUMBA | COMPILER),
    "partial": (functools.partial(doubled, 3), NUMPY | NUMBA | COMPILER),
    "importing Numba by itself, in a module with it": (imports_by_itself, NUMPY | NUMBA | COMPILER),
    "class": (Holder, NUMPY | NUMBA | KERNELS),
    "instance": (Holder(), NUMPY | NUMBA | KERNELS),
    "the kernel": (estimate_batch, NUMPY | NUMBA | KERNELS),
    "the baseline": (estimate_batch_numpy, NUMPY),
}


def class_of(module):
    """Return a class that a module of a library might have; the scan knows it by this name alone."""
    return type("Made", (), {"__module__": module})


HEAVY_NEEDS = {
    "importing pandas": (by_value("def function():\n import pandas\n return pandas"), "pandas"),
    "class of pandas": (by_value("def function(): return made", made=class_of("pandas.core.frame")), "pandas"),
    "class of a part": (by_value("def function(): return made", made=class_of("sklearn.svm._classes")), "sklearn.svm"),
    "class of another part": (by_value("def function(): return made", made=class_of("sklearn.utils")), "sklearn"),
    "argument": (functools.partial(by_value("def function(x): return x"), class_of("scipy.stats.x")()), "scipy.stats"),
    "named argument": (functools.partial(by_value("def function(x): return x"), x=class_of("pandas")()), "pandas"),
}


@pytest.mark.parametrize("obj, module", HEAVY_NEEDS.values(), ids=HEAVY_NEEDS)
def test_heavy_libraries_are_seen_from_an_object(obj, module):
    assert libraries_of(obj) == NUMPY | HEAVY_BITS[module]


def test_what_is_not_installed_is_not_preloaded(monkeypatch):
    monkeypatch.setattr(import_scan, "_is_installed", lambda name: name not in ("pandas", "scipy"))
    made = [class_of("pandas"), class_of("sklearn.svm"), class_of("scipy.stats")]
    assert libraries_of(by_value("def function(): return a, b, c", **dict(zip("abc", made, strict=True)))) == (
        NUMPY | HEAVY_BITS["sklearn.svm"]
    )


@pytest.mark.parametrize("obj, needs", NEEDS.values(), ids=NEEDS)
def test_what_an_object_needs_is_seen_from_it(obj, needs):
    assert libraries_of(obj) & needs == needs
    assert needs or not libraries_of(obj)


@pytest.mark.parametrize("obj", [estimate_batch, Holder, Holder()], ids=["our kernel", "class beside kernels", "instance"])
def test_what_compiles_nothing_needs_no_compiler(obj):
    assert not libraries_of(obj) & COMPILER


def test_looking_calls_nothing_of_the_users():
    class Proxy:
        """Like a request of a web framework outside of one."""

        @property
        def __class__(self):
            raise RuntimeError("not now")

        def __getattr__(self, name):
            raise RuntimeError("not now")

    assert libraries_of(by_value("def function(): return proxy", proxy=Proxy())) == 0


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Import modules of the user's, written as (name, text) pairs, for one test."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def written(*texts):
        names.extend(name for name, _ in texts)
        for name, text in texts:
            (tmp_path / f"{name}.py").write_text(text)
        return [importlib.import_module(name) for name in names]

    yield written
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_that_grows_is_looked_through_again(modules):
    (grown,) = modules(("grown_later", "def function(): pass"))
    assert libraries_of(grown.function) == 0
    grown.numpy = np
    assert libraries_of(grown.function) == NUMPY
    del grown.numpy
    assert libraries_of(grown.function) == 0


def test_what_modules_import_of_each_other_is_found_from_either(modules):
    """Round in a circle, of which only the last imports NumPy."""
    first, second, third = modules(
        ("circle_first", "import circle_second\ndef function(): pass"),
        ("circle_second", "from circle_third import helper\ndef function(): pass"),
        ("circle_third", "import circle_first, numpy\ndef helper(): pass\ndef function(): pass"),
    )
    for module in (second, first, third, second):
        assert libraries_of(module.function) == NUMPY
        assert libraries_of(by_value("def function(): return used()", used=module.function)) == NUMPY


def test_a_module_goes_with_the_thread_that_took_it_out(modules):
    """What was found of modules keeps none of them, in whatever circle they stand."""
    first, second = modules(("held_first", "import held_second\ndef function(): pass"), ("held_second", "import held_first"))
    assert libraries_of(first.function) == 0
    gone = [weakref.ref(first), weakref.ref(second)]
    del first, second, sys.modules["held_first"], sys.modules["held_second"]
    gc.collect()
    assert [module() for module in gone] == [None, None]


def test_modules_under_other_names_and_things_that_are_no_modules_are_passed_over(modules, monkeypatch):
    (module,) = modules(("renamed", "import numpy\ndef function(): return numpy\ndef other(): pass"))
    module.__name__ = "was_renamed"
    assert libraries_of(module.function) == NUMPY
    module.__name__ = "renamed"
    user = modules(("uses_renamed", "import renamed\ndef function(): pass"))[-1]
    assert libraries_of(user.function) == NUMPY
    monkeypatch.setitem(sys.modules, "renamed", object())
    assert libraries_of(user.function) == 0
    assert libraries_of(module.function) == NUMPY
    assert libraries_of(module.other) == 0


def test_what_is_only_reached_by_value_is_looked_at(modules):
    """The module has it under another name, or not at all: no import gives it, so it travels with what it uses."""
    (module,) = modules(("holds_values", "def make(function): return lambda: function()"))
    assert libraries_of(module.make) == 0
    module.made = module.make(doubled)
    assert libraries_of(module.make) == NUMPY | NUMBA
    assert libraries_of(module.made) == NUMPY | NUMBA | COMPILER


# ---- loading -------------------------------------------------------------------------------------------------------------


def where_numba_lies():
    """Return the process and Numba's address, the same in every process that did not import Numba by itself."""
    return os.getpid(), id(sys.modules.get("numba"))


def numbers():
    return drawn(), np.random.random()


def test_workers_share_one_import_and_draw_different_numbers(project):
    with Runner("shared", workers=3) as rr:
        kernel = rr.service(doubled)
        assert rr.get([kernel(n) for n in range(30)]) == [2 * n for n in range(30)]
        look = rr.service(where_numba_lies)
        places = set(rr.get([look() for _ in range(60)]))
        draw = rr.service(numbers)
        rows = rr.get([draw() for _ in range(60)])
    assert len({address for _, address in places}) == 1
    assert id(None) not in {address for _, address in places}
    assert len({number for number, _ in rows}) == len({number for _, number in rows}) == 60


LATE = """\
import os, sys, time
from flame_fast import Runner

def who():
    return os.getpid(), "numba" in sys.modules

class Counting:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return os.getpid(), self.n

with Runner("late", workers=2) as rr:
    before = {pid for pid, _ in rr.get([rr.service(who)() for _ in range(20)])}
    counting = rr.service(Counting, autoscale=False)
    keeper, _ = counting.add().get(30)
    import numba
    @numba.njit
    def half(x):
        return x // 2
    assert rr.service(half)(84).get(30) == 42
    plain = rr.service(who)
    new, deadline = set(), time.monotonic() + 30
    while not new:  # the one that stayed may be quicker than the import and the fork
        assert time.monotonic() < deadline, "no worker was forked with Numba"
        new = {told for told in rr.get([plain() for _ in range(20)]) if told[0] not in before | {keeper}}
    assert all(loaded for _, loaded in new)
    assert counting.add().get(30) == (keeper, 2), "a worker with state was sent away"
print("well")
"""


def test_a_service_that_comes_late_gets_workers_that_have_it(project):
    (project / "main.py").write_text(LATE)
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def imports(name):
    before = "numba" in sys.modules
    importlib.import_module(name)
    return before, sys.modules["numba.core.dispatcher"].Dispatcher.enable_caching.__module__


@pytest.mark.parametrize("module", ["jit.cache", "jit.parallel", "rng", "jit.quarter_circle", "sampling"])
def test_a_task_may_be_the_one_that_imports_our_kernels(project, module):
    """The import of Numba, in the middle of one of ours, tells the worker to use ours."""
    source = inspect.getsource(imports).replace("imports", "function")
    with Runner("imports", workers=1) as rr:
        service = rr.service(by_value(source, sys=sys, importlib=importlib))
        assert service(f"flame_fast.kernels.{module}").get(PATIENCE_S) == (False, "flame_fast.kernels.jit.cache")


def tells_and_waits(path):
    with open(path, "w") as fifo:
        fifo.write(str(os.getpid()))
    signal.pause()


def test_deaths_are_noticed_while_it_loads(project):
    """A worker that is busy when the import begins is killed then; no other is there to be forked."""
    with Runner("busy", workers=1) as rr:
        os.mkfifo("fifo")
        future = rr.service(
            by_value(inspect.getsource(tells_and_waits).replace("tells_and_waits", "function"), os=os, signal=signal)
        )("fifo")
        with open("fifo") as fifo:
            victim = int(fifo.read())
        kernel = rr.service(doubled)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            future.get(PATIENCE_S)
        assert kernel(21).get(PATIENCE_S) == 42


def test_a_new_zygote_loads_it_again(project):
    with Runner("again", workers=2) as rr:
        service = rr.service(doubled)
        assert service(1).get(PATIENCE_S) == 2
        zygote = rr.service(os.getppid)().get(PATIENCE_S)
        os.kill(zygote, signal.SIGKILL)
        look = rr.service(where_numba_lies)
        deadline = [look() for _ in range(20)]
        addresses = set()
        for future in deadline:
            if future.exception(PATIENCE_S) is None:
                addresses.add(future.get()[1])
        assert service(2).get(PATIENCE_S) == 4
        assert id(None) not in addresses


class Alone:
    def answer(self):
        return 42


def test_calls_do_not_wait_for_a_heavy_import_that_they_do_not_need(project, monkeypatch):
    """The supervisor finds a pandas that stands at a gate in the middle of its import; workers would find the real one."""
    with Gate(project.parent) as gate:
        (project / "fake").mkdir()
        (project / "fake" / "pandas.py").write_text(f"open({gate.path!r}).read()\n")
        monkeypatch.setenv("PYTHONPATH", str(project / "fake"))
        look = by_value("def function():\n import os, sys\n return os.getpid(), 'pandas' in sys.modules")
        with Runner("heavy", workers=2) as rr:
            alone, plain = rr.service(Alone()), rr.service(look)
            early = alone.answer()
            rr.service(by_value("def function():\n import pandas\n return pandas"))
            gate.entered()
            stays, loaded = plain().get(PATIENCE_S)
            assert not loaded
            assert early.get(PATIENCE_S) == 42
            gate.open()
            new = wait_until(lambda: {told for told in rr.get([plain() for _ in range(20)]) if told[0] != stays}, "a fork")
    assert {loaded for _, loaded in new} == {True}


LOADS_ALONE = """\
import os, sys
from flame_fast.engine.preload import HEAVY_BITS, MODULES, NUMPY, Preloading
bits = sum(bit for name, bit in HEAVY_BITS.items() if name.startswith(sys.argv[1]))
preloading = Preloading(lambda: None)
preloading._load(NUMPY | bits)
assert all(name in sys.modules for bit, name in MODULES.items() if bit & bits)
print(len(os.listdir("/proc/self/task")), sorted(set(os.environ) & {"JE_ARROW_MALLOC_CONF", "OMP_NUM_THREADS"}))
"""


@pytest.mark.parametrize(
    "package", ["pandas", *(pytest.param(name, marks=pytest.mark.libraries) for name in ("scipy", "sklearn"))]
)
def test_no_heavy_library_starts_a_thread_in_the_supervisor(package):
    """Not even pandas, which imports pyarrow: a process of one thread alone may be forked at any time."""
    done = subprocess.run([sys.executable, "-c", LOADS_ALONE, package], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == ("1 []\n", "")


# ---- threads -------------------------------------------------------------------------------------------------------------


def busy_threads(kernel, *args):
    """How many threads of this process a kernel keeps busy. Others may sleep beside them, or spin for a moment."""
    before = running_ns()
    kernel(*args)
    spent = [after - before.get(thread, 0) for thread, after in running_ns().items()]
    return sum(each > max(spent) / 4 for each in spent)


def running_ns():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/schedstat") as file:
            found[thread] = int(file.read().split()[0])
    return found


def forks(points):
    alone = estimate_batch(points, 3)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(estimate_batch(points, 3)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = int(file.read())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), found == alone


#: Kernels, and sizes that keep a thread busy for longer than it takes to start.
BUSY = {"ours": (estimate_batch, 600_000_000), "a user's own": (summed, 100_000_000)}


def test_a_worker_uses_its_share_of_threads_and_a_task_may_fork_after_it(project):
    cpus = available_cpus()
    for workers in (1, cpus):
        with Runner("threads", workers=workers) as rr:
            service = rr.service(busy_threads)
            for name, (kernel, size) in BUSY.items():
                rr.get([service(kernel, size // 100) for _ in range(workers)])  # compiled, and its threads started
                found = set(rr.get([service(kernel, size) for _ in range(workers)]))
                assert found == {max(1, cpus // workers)}, (name, workers)
                if workers == 1:
                    alone = rr.service(busy_threads, resreq=ResourceRequirement(cpu=1))
                    assert alone(kernel, size).get(PATIENCE_S) == 1, name
            assert rr.service(forks)(3_000_000).get(PATIENCE_S) == (0, True)


def test_the_package_says_where_its_kernels_are():
    assert flame_fast.kernels.GENERATOR.startswith("xoshiro256++")
    assert {"GENERATOR", "estimate_batch", "estimate_batch_numpy"} <= set(dir(flame_fast.kernels))
    with pytest.raises(AttributeError, match="no_such_name"):
        flame_fast.kernels.no_such_name  # noqa: B018

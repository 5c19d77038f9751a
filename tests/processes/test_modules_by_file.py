"""Modules that `sys.path` does not lead to: loaded by their files, by pytest's `importlib` mode, run or made in memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gates import PATIENCE_S, run_script

LOAD = """
import importlib.util, sys
from flame_fast import Runner
def load(name, path, **options):
    spec = importlib.util.spec_from_file_location(name, path, **options)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
"""

#: By value it could not travel: a lock among its globals, names looked up at the call.
PLUGIN = """
    import threading
    LOCK = threading.Lock()
    CALLS = []
    KIND = "before"
    with open("imports.txt", "a") as file:
        file.write("x")
    class Thing:
        def __init__(self, number=0):
            self.number = number
        def of(self):
            return globals()["KIND"], self.number
    def work(number):
        with LOCK:
            CALLS.append(number)
        return Thing(number), list(CALLS), KIND, __file__
"""


def files(project: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(textwrap.dedent(text))


def script(text: str) -> str:
    return LOAD + textwrap.dedent(text)


def test_a_module_of_the_recipe_is_imported_once_from_the_snapshot(project):
    files(project, {"plugins/plug.py": PLUGIN})
    out = run_script(
        project,
        script("""
        import pathlib, warnings
        warnings.filterwarnings("ignore", ".*has changed since", UserWarning)
        plug = load("another_name", "plugins/plug.py")
        with Runner("recipe", workers=1) as rr:
            pathlib.Path("plugins/plug.py").write_text("")
            service = rr.service(plug.work)
            print([service(number).get()[1:] == (list(range(number + 1)), "before", plug.__file__) for number in range(3)])
            thing = service(3).get()[0]
            print(type(thing) is plug.Thing, thing.number)
            print(rr.service(plug.Thing(4)).of().get(), rr.service(plug.Thing, args=(5,)).of().get())
            print(rr.service(plug.Thing.of)(plug.Thing(6)).get())
            print(rr.service(lambda module, kind: (module.CALLS, module.Thing is kind))(plug, plug.Thing).get())
            print(rr.service(lambda: plug.KIND)().get())
        """),
    )
    assert out.splitlines() == [
        "[True, True, True]",
        "True 3",
        "('before', 4) ('before', 5)",
        "('before', 6)",
        "([0, 1, 2, 3], True)",
        "before",
    ]
    assert (project / "imports.txt").read_text() == "xxx", "by the driver, the pool's worker, the instance's process"


def test_a_package_loaded_by_its_file_brings_its_submodules(project):
    files(
        project,
        {
            "plugins/pk/__init__.py": """
                from .sub import deep
                def top(x):
                    from . import late
                    return late.K + deep(x)
            """,
            "plugins/pk/sub.py": """
                import threading
                LOCK = threading.Lock()
                def deep(x):
                    with LOCK:
                        return x
            """,
            "plugins/pk/late.py": "K = 10\nclass Late: pass\n",
        },
    )
    out = run_script(
        project,
        script("""
        load("weird", "plugins/pk/__init__.py", submodule_search_locations=["plugins/pk"])
        import weird.late, weird.sub
        with Runner("package", workers=1) as rr:
            print(rr.service(weird.top)(1).get(), rr.service(weird.sub.deep)(2).get())
            print(type(rr.service(lambda kind: kind())(weird.late.Late).get()) is weird.late.Late)
        with Runner("package", workers=1) as rr:
            print(rr.service(weird.sub.deep)(3).get())
            print(rr.service(lambda module: module.__name__)(weird.late).get())
        """),
    )
    assert out.splitlines() == ["11 2", "True", "3", "weird.late"]


def test_modules_of_one_name_stay_apart(project):
    files(
        project,
        {f"{side}/mod.py": f"import threading\nLOCK = threading.Lock()\ndef side(): return {side!r}\n" for side in "ab"},
    )
    out = run_script(
        project,
        script("""
        with Runner("twice", workers=1) as rr:
            services = [rr.service(load("mod", f"{side}/mod.py").side) for side in "ab"]
            print([service().get() for service in services])
            print([service().get() for service in reversed(services)])
        """),
    )
    assert out.splitlines() == ["['a', 'b']", "['b', 'a']"]


def test_what_a_module_loads_as_it_is_imported_is_the_snapshot_too(project):
    files(project, {"plugins/plug.py": PLUGIN, "main_module.py": LOAD + "plug = load('inner', 'plugins/plug.py')\n"})
    out = run_script(
        project,
        """
        import pathlib, warnings
        import main_module
        from flame_fast import Runner
        warnings.filterwarnings("ignore", ".*has changed since", UserWarning)
        def kind():
            import main_module
            return main_module.plug.KIND, main_module.plug.Thing
        with Runner("inner", workers=1) as rr:
            pathlib.Path("plugins/plug.py").write_text("KIND = 'after'")
            kind_there, thing = rr.service(kind)().get()
            print(kind_there, thing is main_module.plug.Thing, rr.service(main_module.plug.work)(1).get()[2])
        """,
    )
    assert out == "before True before\n"


def test_a_task_makes_services_of_a_module_of_the_recipe(project):
    files(project, {"plugins/plug.py": PLUGIN})
    out = run_script(
        project,
        script("""
        plug = load("plug", "plugins/plug.py")
        def outer(work, kind):
            with Runner("nested") as rr:
                thing = rr.service(work)(1).get()[0]
                return isinstance(thing, kind), thing
        with Runner("nested", workers=1) as rr:
            same, thing = rr.service(outer)(plug.work, plug.Thing).get()
            print(same, type(thing) is plug.Thing)
        """),
    )
    assert out == "True True\n"


ELSEWHERE = """
    KIND = "before"
    class Thing:
        def of(self): return KIND
    def work(number): return Thing().of(), number
"""


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("{project}/plug.py", ", package=False"),
        ("{project}/left/plug.py", ", excludes=['left/']"),
        ("{outside}/plug.py", ""),
        ("{project}/plug.py", ", engine='inline'"),
    ],
)
def test_a_module_of_a_file_outside_the_package_travels_by_value(project, tmp_path, path, options):
    path = path.format(project=project, outside=tmp_path)
    files(Path(path).parent, {"plug.py": ELSEWHERE})
    out = run_script(
        project,
        script(f"""
        plug = load("elsewhere", {path!r})
        with Runner("outside", workers=1{options}) as rr:
            print(rr.service(plug.work)(1).get(), rr.service(plug.Thing).of().get(), rr.service(plug.Thing()).of().get())
        """),
    )
    assert out == "('before', 1) before before\n"


@pytest.mark.parametrize(
    "made",
    [
        "SourceFileLoader('made', 'plug.py').load_module()",
        "exec_module(SourceFileLoader('made', 'plug.py'))",
        "types.SimpleNamespace(**runpy.run_path('plug.py'))",
        "types.SimpleNamespace(**runpy.run_path('plug.py', run_name='made'))",
        "types.SimpleNamespace(**runpy.run_path('plug.py', run_name='__main__'))",
        "executed('made', 'plug.py')",
        "executed('made.part', 'plug.py')",
        "load('made.part.more', 'plug.py')",
        "load('made-with.a dash', 'plug.py')",
    ],
)
def test_modules_made_in_other_ways_work(project, made):
    files(project, {"plug.py": ELSEWHERE})
    out = run_script(
        project,
        script(f"""
        import runpy, types, warnings
        from importlib.machinery import SourceFileLoader
        warnings.simplefilter("ignore")
        def exec_module(loader):
            module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
            loader.exec_module(module)
            return sys.modules.setdefault(loader.name, module)
        def executed(name, path):
            module = sys.modules[name] = types.ModuleType(name)
            exec(compile(open(path).read(), path, "exec"), vars(module))
            return module
        plug = {made}
        def closed(number):
            return plug.work(number)
        with Runner("made", workers=1) as rr:
            print(rr.service(plug.work)(1).get(), rr.service(plug.Thing).of().get(), rr.service(plug.Thing()).of().get())
            print(rr.service(closed)(2).get())
        """),
    )
    assert out == "('before', 1) before before\n('before', 2)\n"


def test_an_extension_module_outside_of_everything_is_imported_by_its_file(project, tmp_path):
    import _struct

    if not getattr(_struct, "__file__", None):
        pytest.skip("this Python has the module built in")
    (tmp_path / os.path.basename(_struct.__file__)).write_bytes(Path(_struct.__file__).read_bytes())
    out = run_script(
        project,
        script(f"""
        loaded = load("_struct", {str(tmp_path / os.path.basename(_struct.__file__))!r})
        def size(module): return module.calcsize("i"), module.__file__
        with Runner("extension", workers=1) as rr:
            print(rr.service(size)(loaded).get() == (4, loaded.__file__))
        """),
    )
    assert out == "True\n"


# ---- pytest --------------------------------------------------------------------------------------------------------------


TEST_MODULE = """
    import os, threading
    from flame_fast import Runner
    LOCK = threading.Lock()
    SIDE = os.path.basename(os.path.dirname(__file__))
    class Pair:
        def __init__(self, number=0): self.number = number
        def of(self): return self.number, SIDE
    def work(pair):
        with LOCK:
            return Pair(pair.number + 1), SIDE, __file__, __name__
    def test_it(helper, doubled):
        def inner(number):
            assert number, "rewritten"
            return work(Pair(number))[1], helper(number)
        with Runner("pytest", workers=1) as rr:
            pair, *rest = rr.service(work)(Pair(1)).get(20)
            assert type(pair) is Pair and pair.number == 2 and rest == [SIDE, __file__, __name__]
            assert rr.service(Pair(2)).of().get(20) == (2, SIDE)
            assert rr.service(Pair, args=(3,)).of().get(20) == (3, SIDE)
            assert rr.service(inner)(4).get(20) == (SIDE, 8)
            assert rr.service(helper)(5).get(20) == 10 and rr.service(doubled.twice)().get(20) == doubled.name
"""
CONFTEST = """
    import pytest
    def double(number): return number * 2
    @pytest.fixture
    def helper(): return double
"""
OWN_CONFTEST = """
    import pytest
    NAME = {0!r}
    class Doubled:
        name = NAME
        def twice(self): return NAME
    @pytest.fixture
    def doubled(): return Doubled()
"""


#: Import modes of pytest, with packages or without. It refuses two test modules of one name in mode `prepend` without any.
LAYOUTS = [("importlib", False), ("importlib", True), ("prepend", True)]


def run_tests(place, mode, packages, option):
    """Run two test modules of one name, each with a conftest of its own, under a common one; return what was wrong."""
    files(place, {"tests/conftest.py": CONFTEST, "pytest.ini": f"[pytest]\n{option if '=' in option else ''}\n"})
    for side in "ab":
        files(place, {f"tests/{side}/test_x.py": TEST_MODULE, f"tests/{side}/conftest.py": OWN_CONFTEST.format(side)})
        if packages:
            files(place, {"tests/__init__.py": "", f"tests/{side}/__init__.py": ""})
    rootdir = ["--rootdir", str(place / "tests")] if option == "rootdir" else []
    program = (
        "import sys; sys.path.pop(0); import pytest; sys.exit(pytest.main(sys.argv[1:]))"  # so does the command `pytest`
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"--import-mode={mode}", *rootdir, "tests"]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        cwd=place,
        env=os.environ | {"FLAME_FAST_PACKAGE": "0" if option == "unpackaged" else "1"},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
    )
    return "" if done.returncode == 0 and "2 passed" in done.stdout else done.stdout + done.stderr


def test_test_modules_and_conftests_work_in_workers(project):
    """Each option with a drawn layout, each layout at least once: how files are found and how they are named are apart."""
    drawn = random.sample([*LAYOUTS, random.choice(LAYOUTS)], 4)
    for option, (mode, packages) in zip(["", "rootdir", "pythonpath=tests", "unpackaged"], drawn, strict=True):
        place = project / (option or "plain")
        place.mkdir()
        wrong = run_tests(place, mode, packages, option)
        assert not wrong, f"option {option!r}, mode {mode}, packages {packages}:\n{wrong}"

"""The worker's `__main__`: a real module that holds what a service brought along, in which nothing was executed."""

from __future__ import annotations

import json

import pytest
from definition_matrix import PARTS, run_program
from gates import PATIENCE_S, run_script, same
from modules_in_memory import run_cell

from flame_fast import Runner

#: Tasks and checks of `definitions/main_checks.py`.
CHECKS = 22


@pytest.fixture
def rr(project):
    with Runner("main-module", workers=1) as runner:
        yield runner


def call(rr, function, *args):
    return rr.service(function)(*args).get(PATIENCE_S)


@pytest.mark.parametrize("mode", ["script", "-c", "-m", "notebook", "made-up module", "zip"])
def test_a_task_finds_in_its_module_what_an_imported_one_has(mode, project, tmp_path):
    """pickle, multiprocessing, typing, inspect, doctest and the like, which look things up by a module's name."""
    output = tmp_path / "output"
    text = (PARTS / "main_checks.py").read_text()
    run_program(mode, project, [text], "main()", MAIN_OUTPUT=str(output), MAIN_MODE=mode)
    found = json.loads(output.read_text())
    assert not found["wrong"], "\n".join(f"{name}: {got}" for name, got in found["wrong"].items())
    assert found["count"] == CHECKS


# ---- nothing is executed ---------------------------------------------------------------------------------------------

NOTED = """
import os, sys
with open("executed", "a") as file:
    print({name!r}, os.getpid(), file=file)
"""
WORK = """
class Model:
    def __init__(self, number):
        self.number = number
def work(model):
    import pickle
    return type(pickle.loads(pickle.dumps(model))) is Model
"""


@pytest.mark.parametrize("way", ["script", "-c", "-m"])
def test_nothing_of_a_script_is_executed_in_a_worker(way, project):
    text = NOTED.format(name="program") + WORK
    text += "from flame_fast import Runner\nwith Runner('once', workers=2) as rr:\n"
    text += "    assert rr.get([rr.service(work)(Model(1)) for _ in range(10)], timeout=30) == [True] * 10\n"
    run_program(way, project, [text], "")
    assert len((project / "executed").read_text().splitlines()) == 1


def test_nothing_of_a_module_that_only_the_driver_can_import_is_executed_in_a_worker(project):
    """Its directory is taken off `sys.path` and deleted before there is a worker."""
    out = run_script(
        project,
        f"""
        import shutil, sys, tempfile
        from pathlib import Path
        where = tempfile.mkdtemp()
        Path(where, "only_here.py").write_text({NOTED.format(name="only_here") + WORK!r})
        sys.path.insert(0, where)
        import only_here
        del sys.path[0]
        shutil.rmtree(where)
        from flame_fast import Runner
        def own(model):
            return only_here.work(model)
        with Runner("once", workers=2) as rr:
            print(rr.get([rr.service(only_here.work)(only_here.Model(1)) for _ in range(5)], timeout=30))
            print(rr.service(own)(only_here.Model(1)).get(timeout=30))
            print(rr.service(lambda: only_here.Model(2).number)().get(timeout=30))
        """,
    )
    assert out == f"{[True] * 5}\nTrue\n2\n"
    assert len((project / "executed").read_text().splitlines()) == 1


def test_a_main_guard_is_not_entered_in_a_worker(project):
    out = run_script(
        project,
        """
        from flame_fast import Runner
        def work():
            import __main__
            return __name__, __main__.work is work
        if __name__ == "__main__":
            print("entered")
            with Runner("guarded", workers=1) as rr:
                print(rr.service(work)().get(timeout=20))
        """,
    )
    assert out == "entered\n('__main__', True)\n"


# ---- modules that only the driver can import -------------------------------------------------------------------------


def test_a_global_that_is_a_made_up_module_is_usable(rr, define):
    module = define("LIMIT = 7\nclass Model:\n    pass\ndef work(number): return number + LIMIT")
    user = define("def use(number): return module.work(number), type(module.Model()) is module.Model")
    user.module = module
    assert call(rr, user.use, 1) == (8, True)


def test_a_made_up_module_as_a_value(rr, define):
    module = define("def work(): return 'worked'")
    assert call(rr, lambda: module.work()) == "worked"
    assert call(rr, lambda given: given.work(), module) == "worked"
    assert call(rr, same, [module])[0] is module


def test_a_made_up_module_is_importable_in_a_task(rr, define):
    """It is in the worker's `sys.modules` as it is in the driver's."""
    module = define(
        """
        class Model:
            pass
        def work():
            import importlib
            found = importlib.import_module(__name__)
            return found.Model is Model, found.work is work, found.__name__ == __name__
        """
    )
    assert call(rr, module.work) == (True, True, True)


def test_a_module_of_the_package_uses_a_class_of_the_script(project):
    """It imports `__main__` when its function runs, as plug-ins and unpicklers do."""
    (project / "plugin.py").write_text(
        "def check(value):\n    import __main__\n    return isinstance(value, __main__.Model), __main__.Model(3).number\n"
    )
    out = run_script(
        project,
        """
        import plugin
        from flame_fast import Runner
        class Model:
            def __init__(self, number):
                self.number = number
        with Runner("plugin", workers=1) as rr:
            print(rr.service(plugin.check)(Model(1)).get(timeout=20))
        """,
    )
    assert out == "(True, 3)\n"


def test_a_relative_import_in_a_function_of_a_module_that_is_run(project):
    """`python -m package.program`: its `__main__` is in the package."""
    (project / "package").mkdir()
    (project / "package" / "beside.py").write_text("VALUE = 5\n")
    text = """
from flame_fast import Runner

def work():
    from . import beside
    from .beside import VALUE

    return VALUE, beside.__name__, __package__

with Runner("relative", workers=1) as rr:
    print(rr.service(work)().get(timeout=20))
"""
    assert run_program("-m", project, [text], "") == "(5, 'package.beside', 'package')\n"


# ---- notebooks -------------------------------------------------------------------------------------------------------


def test_cells_run_again_one_after_the_other(project):
    """A notebook of a morning's work: define, call, change, call again, with one Runner all the time."""
    model = "class Model:\n    def __init__(self, number=0):\n        pass\n    def show(self):\n        return {!r}"
    cells = [
        "import inspect, pickle\nfrom flame_fast import Runner\nrr = Runner('notebook', workers=1)",
        model.format("first"),
        "def work(model):\n    return model.show(), type(model) is Model, inspect.getsource(work)",
        "old = Model(1)\nprint(rr.service(work)(old).get(timeout=20))",
        model.format("second"),
        "print(rr.service(work)(Model(1)).get(timeout=20)[:2])",
        "print(rr.service(work)(old).get(timeout=20)[:2])",
        "def work(model):\n    return type(pickle.loads(pickle.dumps(model))) is Model, 'loads' in inspect.getsource(work)",
        "print(rr.service(work)(Model(2)).get(timeout=20))",
        "got = rr.service(lambda: Model(3))().get(timeout=20)\nprint(type(got) is Model, got.show())",
    ]
    out = run_program("notebook", project, cells, "rr.close()").splitlines()
    assert out[0].startswith("('first', True, 'def work(model):")
    assert out[1:] == ["('second', True)", "('first', False)", "(True, True)", "True second"]


# ---- globals ---------------------------------------------------------------------------------------------------------

#: What cannot be pickled: an expression for each.
UNPICKLABLE = {
    "socket": "__import__('socket').socket()",
    "generator": "(number for number in range(3))",
    "open file": "open('/dev/null', 'w')",
    "database": "__import__('sqlite3').connect(':memory:')",
    "thread": "__import__('threading').Thread()",
    "frame": "__import__('sys')._getframe()",
    "object that refuses": "type('Odd', (), {'__reduce__': lambda self: 1 / 0})()",
    "event loop": "__import__('asyncio').new_event_loop()",
}


@pytest.fixture(params=UNPICKLABLE)
def awkward(request, define):
    """Yield a module with a global that cannot be pickled, which a function uses or not."""
    module = define(f"AWKWARD = {UNPICKLABLE[request.param]}\n")
    yield module
    getattr(vars(module).pop("AWKWARD"), "close", lambda: None)()


def test_a_global_that_cannot_be_pickled_does_no_harm_unread(rr, awkward):
    run_cell(
        awkward,
        """
        class User:
            def read(self):
                return AWKWARD
        def helper():
            return AWKWARD
        def work(read=False):
            if read:
                return repr(AWKWARD), helper()
            return User is not None
        """,
    )
    assert call(rr, awkward.work) is True
    assert call(rr, lambda user: type(user).__name__, awkward.User()) == "User"
    assert type(call(rr, same, awkward.User())) is awkward.User


def test_a_global_that_cannot_be_pickled_says_so_where_it_is_read(rr, awkward):
    run_cell(awkward, "def work_with_it():\n    return 'before', repr(AWKWARD)\n")
    with pytest.raises(Exception, match="work_with_it") as caught:
        call(rr, awkward.work_with_it)
    assert "AWKWARD" in str(caught.value)


def test_the_error_for_a_global_tells_the_chain(rr, define):
    """A function that uses a function that uses what cannot be pickled, inside an object."""
    module = define(
        """
        HOLDER = {"inside": (number for number in range(3))}
        def inner():
            return list(HOLDER["inside"])
        def outer():
            return inner()
        """
    )
    with pytest.raises(Exception, match="inner") as caught:
        call(rr, module.outer)
    assert "HOLDER" in str(caught.value)
    assert "generator" in str(caught.value)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_guards_in_a_task(rr, define, kind):
    """A fresh one, also when the driver holds its own."""
    module = define(
        f"""
        import threading
        guard = threading.{kind}()
        total = 0
        def add(number):
            global total
            with guard:
                total += number
            return total
        """
    )
    add = rr.service(module.add)
    assert [add(1).get(PATIENCE_S) for _ in range(3)] == [1, 2, 3]
    with module.guard:
        held = rr.service(module.add)
        assert held(1).get(PATIENCE_S) >= 1
    assert module.guard.acquire(blocking=False)
    module.guard.release()


def test_functions_that_share_a_lock_share_it_in_the_worker(rr, define):
    module = define(
        """
        import threading
        guard = threading.Lock()
        def is_free():
            if guard.acquire(blocking=False):
                guard.release()
                return True
            return False
        def work():
            with guard:
                inside = is_free()
            return inside, is_free()
        """
    )
    assert call(rr, module.work) == (False, True)


def test_a_context_variable_works(rr, define):
    module = define(
        """
        from contextvars import ContextVar
        request = ContextVar("request", default="none")
        def read():
            return request.get()
        def work(value):
            before = read()
            token = request.set(value)
            inside = read()
            request.reset(token)
            return before, inside, read(), request.name
        """
    )
    for _ in range(2):
        assert call(rr, module.work, "mine") == ("none", "mine", "none", "request")


def test_a_logger_works(project):
    """By its name: the worker's own, whose records reach the driver's standard error."""
    done = run_script(
        project,
        """
        import logging
        from flame_fast import Runner
        logger = logging.getLogger("of.the.script")
        logger.addHandler(logging.StreamHandler())
        class Model:
            log = logging.getLogger(__name__)
        def work():
            logger.warning("logged by a task")
            return logger is logging.getLogger("of.the.script"), Model.log.name, logger.name
        with Runner("logging", workers=1) as rr:
            print(rr.service(work)().get(timeout=20))
        """,
        check=False,
    )
    assert done.stdout == "(True, '__main__', 'of.the.script')\n"
    assert done.stderr.count("logged by a task") == 1


def test_a_global_is_the_workers_own_between_calls(rr, define):
    """A cache at module level fills up, as an imported module's does."""
    module = define(
        """
        CACHE = {}
        def work(number):
            CACHE[number] = True
            return len(CACHE)
        """
    )
    service = rr.service(module.work)
    assert [service(number).get(PATIENCE_S) for number in range(4)] == [1, 2, 3, 4]
    assert module.CACHE == {}


def test_globals_are_those_at_the_making_of_the_service(rr, define):
    module = define("LIMIT = 1\nNAMES = ['a']\ndef inner(): return LIMIT, list(NAMES)\ndef work(): return inner()")
    first = rr.service(module.work)
    module.LIMIT = 2
    module.NAMES.append("b")
    second = rr.service(module.work)
    for _ in range(2):
        assert first().get(PATIENCE_S) == (1, ["a"])
        assert second().get(PATIENCE_S) == (2, ["a", "b"])


def test_a_global_that_is_not_there_yet_raises_a_name_error(rr, define):
    module = define("def work(): return LATER")
    early = rr.service(module.work)
    with pytest.raises(NameError, match="LATER"):
        early().get(PATIENCE_S)
    module.LATER = 5
    assert call(rr, module.work) == 5


def test_globals_reached_only_through_a_nested_function_or_a_comprehension(rr, define):
    module = define(
        """
        BASE = 10
        def helper(number):
            return number + BASE
        def work():
            def inner():
                return [helper(number) for number in range(2)]
            return inner(), [*map(lambda number: helper(number), range(2))], {n: helper(n) for n in (0,)}
        """
    )
    assert call(rr, module.work) == ([10, 11], [10, 11], {0: 10})


def test_a_script_with_much_that_no_task_needs_starts_quickly(project):
    """Only what a service uses is brought along: a large global beside it costs nothing."""
    out = run_script(
        project,
        """
        from flame_fast import Runner
        BESIDE = [bytes(1000) for _ in range(100_000)]
        class Model:
            pass
        def work(model):
            return type(model) is Model
        with Runner("beside", workers=1) as rr:
            before = rr.statistics()
            print(rr.service(work)(Model()).get(timeout=20))
            after = rr.statistics()
            print(after.copied_bytes - before.copied_bytes < 1_000_000)
        """,
    )
    assert out == "True\nTrue\n"

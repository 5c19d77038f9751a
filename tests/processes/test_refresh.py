"""`Runner.refresh`, and the warning that names it: a project that is edited while its runner lives."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from gates import PATIENCE_S, Gate, hold, new_module, run_script, wait_until
from owned_processes import processes_of

from flame_fast import FlameError, FlameErrorCode, Runner, SessionContext

CHANGED = r"changed since runner '.*' took its snapshot, which its workers import; Runner\.refresh\(\)"


def edit(module, text):
    """Write another version of a module, and reload it here."""
    Path(module.__file__).write_text(text)
    importlib.invalidate_caches()
    sys.modules.pop(module.__name__)  # as a restart of a notebook's cell would: also what a reload keeps goes
    found = importlib.import_module(module.__name__)
    vars(module).clear()
    vars(module).update(vars(found))
    sys.modules[module.__name__] = module
    return module


@pytest.fixture
def module(monkeypatch, project):
    return new_module(monkeypatch, project, BEFORE)


BEFORE = """
VALUE = 'before'
class Kind:
    def of(self): return VALUE
def value(): return VALUE
"""
AFTER = BEFORE.replace("before", "afterwards") + "def fresh(): return 'new'"


def told(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught]


def test_a_new_snapshot_is_for_services_made_from_then_on(project, module):
    with Runner("refreshed", workers=1) as rr:
        old = rr.service(module.value), rr.service(module.Kind), rr.service(module.Kind())
        assert rr.get([old[0](), old[1].of(), old[2].of()], timeout=PATIENCE_S) == ["before"] * 3
        edit(module, AFTER)
        rr.refresh()
        new = rr.service(module.value), rr.service(module.Kind), rr.service(module.Kind())
        for _ in range(3):  # one worker: it changes from one to the other and back
            assert rr.get([new[0](), new[1].of(), new[2].of()], timeout=PATIENCE_S) == ["afterwards"] * 3
            assert rr.get([old[0](), old[1].of(), old[2].of()], timeout=PATIENCE_S) == ["before"] * 3
        assert rr.service(module.fresh)().get(PATIENCE_S) == "new"
        edit(module, AFTER.replace("afterwards", "third"))
        rr.refresh()
        assert rr.service(module.value)().get(PATIENCE_S) == "third"
        assert rr.get([old[0](), new[0]()], timeout=PATIENCE_S) == ["before", "afterwards"]


def test_a_session_of_a_name_has_the_new_snapshot_too(project, module):
    with Runner("refreshed", workers=1) as rr:
        module.value._session_context = SessionContext(session_id="mine")
        old = rr.service(module.value)
        assert old().get(PATIENCE_S) == "before"
        Path(module.__file__).write_text(AFTER)
        rr.refresh()
        new = rr.service(module.value)
        assert rr.service(module.value) is new
        assert rr.get([new(), old()], timeout=PATIENCE_S) == ["afterwards", "before"]


def test_it_warns_once_for_each_file_that_has_changed(project, module, monkeypatch):
    other = new_module(monkeypatch, project, f"import {module.__name__} as used\ndef value(): return used.VALUE\n")
    unrelated = new_module(monkeypatch, project, "def value(): return 1\n")

    def by_value():
        return other.value()

    with Runner("warned", workers=1) as rr:
        assert told(lambda: rr.service(module.value)) == []
        edit(module, AFTER)
        for made in (other.value, by_value):  # what these use has changed
            with pytest.warns(UserWarning, match=rf"{module.__name__}\.py has {CHANGED}") as caught:
                rr.service(made)
            assert caught[0].filename == __file__
            rr._snapshots._told.clear()
        assert len(told(lambda: [rr.service(module.value), rr.service(module.Kind()), rr.service(other.value)])) == 1
        assert told(lambda: rr.service(unrelated.value)) == []
        Path(other.__file__).write_text("def value(): pass\n")
        assert len(told(lambda: [rr.service(other.value), rr.service(module.Kind)])) == 1
        edit(other, f"import {module.__name__} as used\ndef value(): return used.VALUE, 2\n")
        rr.refresh()
        assert told(lambda: [rr.service(other.value), rr.service(module.Kind)]) == []
        assert rr.service(other.value)().get(PATIENCE_S) == ("afterwards", 2)
        edit(module, "")
        assert len(told(lambda: [rr.service(other.value), rr.service(other.value)])) == 1


def test_a_file_made_after_the_runner_is_told_of_and_one_that_was_only_touched_is_not(project, module, monkeypatch):
    with Runner("made later", workers=1) as rr:
        os.utime(module.__file__)
        assert told(lambda: rr.service(module.value)) == []  # by the package
        assert rr.service(module.value)().get(PATIENCE_S) == "before"
        os.utime(module.__file__)
        assert told(lambda: rr.service(module.value)) == []  # by its tree
        later = new_module(monkeypatch, project, "def value(): return 'later'\n")
        with pytest.warns(UserWarning, match=CHANGED):
            service = rr.service(later.value)
        with pytest.raises(ModuleNotFoundError, match=later.__name__):
            service().get(PATIENCE_S)
        rr.refresh()
        assert rr.service(later.value)().get(PATIENCE_S) == "later"


def test_calls_in_flight_finish_and_nothing_is_left_behind(project, module, nothing_left):
    storage = nothing_left / "packages"
    with Runner("in flight", workers=2) as rr, Gate() as gate:
        held = rr.service(hold)(gate, "held")
        gate.entered()
        waiting = [rr.service(module.value)() for _ in range(5)]
        before = set(processes_of(nothing_left))
        edit(module, AFTER)
        rr.refresh()
        assert rr.service(module.value)().get(PATIENCE_S) == "afterwards"
        assert rr.get(waiting, timeout=PATIENCE_S) == ["before"] * 5
        assert before <= set(processes_of(nothing_left)), "no worker is replaced"
        gate.open()
        assert held.get(PATIENCE_S) == "held"
        assert len(list(storage.iterdir())) == 2
    assert not list(storage.iterdir())


def test_nothing_changed_is_nothing_done(project, module, nothing_left):
    with Runner("unchanged", workers=1) as rr:
        service = rr.service(module.value)
        assert service().get(PATIENCE_S) == "before"
        rr.refresh()
        rr.refresh()
        assert rr._snapshots.project is None and len(list((nothing_left / "packages").iterdir())) == 1
        assert service().get(PATIENCE_S) == "before"


def test_classes_of_each_snapshot_are_the_driver_s_where_they_arrive(project, module):
    with Runner("classes", workers=1) as rr:
        make = rr.service(lambda kind: kind())
        assert type(make(module.Kind).get(PATIENCE_S)) is module.Kind
        edit(module, AFTER)
        rr.refresh()
        made = rr.service(lambda kind: kind())(module.Kind)
        assert type(made.get(PATIENCE_S)) is module.Kind
        assert rr.service(module.Kind.of)(made).get(PATIENCE_S) == "afterwards"
        assert make(module.Kind).get(PATIENCE_S).of() == "afterwards", "the driver's class"


def test_state_of_modules_initializers_and_values_by_name_are_kept_apart(project, monkeypatch):
    text = """
        COUNT = []
        SET = None
        def note(value):
            COUNT.append(value)
            return list(COUNT), SET
        def begin():
            global SET
            SET = "old"
    """
    module = new_module(monkeypatch, project, text)
    with Runner("state", workers=1, initializer=module.begin) as rr:
        old = rr.service(module.note)
        assert old(1).get(PATIENCE_S) == ([1], "old")
        edit(module, textwrap.dedent(text).replace("old", "newer"))
        rr.refresh()
        new = rr.service(module.note)
        assert [new(2).get(PATIENCE_S), old(3).get(PATIENCE_S), new(4).get(PATIENCE_S)] == [
            ([2], "newer"),
            ([1, 3], "old"),
            ([2, 4], "newer"),
        ]


def test_files_of_both_snapshots_modules_are_flushed_at_the_end(project, monkeypatch):
    text = "FILE = open('{0}.txt', 'w')\ndef write(): return FILE.write('{0}')\n"
    module = new_module(monkeypatch, project, text.format("before"))
    module.FILE.close()
    with Runner("flushed", workers=1) as rr:
        assert rr.service(module.write)().get(PATIENCE_S) == 6
        edit(module, text.format("afterwards")).FILE.close()
        rr.refresh()
        assert rr.service(module.write)().get(PATIENCE_S) == 10
    assert [(project / f"{name}.txt").read_text() for name in ("before", "afterwards")] == ["before", "afterwards"]


def test_a_late_import_and_a_traceback_are_of_the_call_s_snapshot(project, monkeypatch):
    part = new_module(monkeypatch, project, "VALUE = 'before'\n")
    module = new_module(
        monkeypatch,
        project,
        f"""
        def late():
            import {part.__name__} as part
            return part.VALUE
        def fail():
            raise ValueError('before')
        """,
    )

    def trace(future):
        with pytest.raises(ValueError, match="before|after") as caught:
            future.get(PATIENCE_S)
        return str(caught.value.__cause__)

    with Runner("late", workers=1) as rr:
        old = rr.service(module.late), rr.service(module.fail)
        assert "raise ValueError('before')" in trace(old[1]())
        Path(part.__file__).write_text("VALUE = 'afterwards'\n")
        edit(module, Path(module.__file__).read_text().replace("'before'", "'afterwards'"))
        rr.refresh()
        new = rr.service(module.late), rr.service(module.fail)
        assert "raise ValueError('afterwards')" in trace(new[1]()) and new[0]().get(PATIENCE_S) == "afterwards"
        assert old[0]().get(PATIENCE_S) == "before" and "raise ValueError('before')" in trace(old[1]())


def test_a_runner_in_a_task_has_the_snapshot_of_its_task(project, module):
    def inner():
        with Runner("nested") as rr:
            value = rr.service(importlib.import_module(module.__name__).value)().get()
            try:
                rr.refresh()
            except FlameError as error:
                return value, error.code, "refresh that one" in error.message

    with Runner("nested", workers=1) as rr:
        old = rr.service(inner)
        assert old().get(PATIENCE_S) == ("before", FlameErrorCode.INVALID_STATE, True)
        edit(module, AFTER)
        rr.refresh()
        assert rr.service(inner)().get(PATIENCE_S)[0] == "afterwards"
        assert old().get(PATIENCE_S)[0] == "before"


def test_without_a_package_workers_import_the_directory_as_it_is_by_then(project, module):
    with Runner("live", workers=1, package=False) as rr:
        old = rr.service(module.value)
        assert old().get(PATIENCE_S) == "before"
        edit(module, AFTER)
        assert told(lambda: rr.service(module.value)) == []
        rr.refresh()
        assert rr.service(module.value)().get(PATIENCE_S) == "afterwards"
        assert old().get(PATIENCE_S) == "before"


def test_inline_has_the_driver_s_modules_and_a_closed_runner_refuses(project, module):
    with Runner("inline", engine="inline") as rr:
        edit(module, AFTER)
        assert told(lambda: rr.service(module.value)) == []
        rr.refresh()
        assert rr.service(module.value)().get() == "afterwards"
    with pytest.raises(FlameError, match="closed") as caught:
        rr.refresh()
    assert caught.value.code is FlameErrorCode.INVALID_STATE


def test_a_snapshot_that_cannot_be_taken_leaves_the_one_there_is(project, module):
    with Runner("failing", workers=1) as rr:
        edit(module, AFTER)
        (project / ".flameignore").mkdir()
        with pytest.raises(FlameError, match="ignore file"):
            rr.refresh()
        with pytest.warns(UserWarning, match=CHANGED):
            assert rr.service(module.value)().get(PATIENCE_S) == "before"
        (project / ".flameignore").rmdir()
        rr.refresh()
        assert rr.service(module.value)().get(PATIENCE_S) == "afterwards"


def test_a_driver_that_is_killed_leaves_no_snapshot_behind(project, nothing_left):
    (project / "edited.py").write_text("def value(): return 1\n")
    done = run_script(
        project,
        """
        import os, pathlib, signal
        import edited
        from flame_fast import Runner
        rr = Runner("killed", workers=1)
        rr.service(edited.value)().get()
        pathlib.Path("edited.py").write_text("def value(): return 'two'\\n")
        rr.refresh()
        print(rr.service(edited.value)().get(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "two\n"), done.stderr
    wait_until(lambda: not list((nothing_left / "packages").iterdir()), "the end of both packages")


def test_modules_loaded_by_their_files_and_packages_are_kept_apart_too(project):
    (project / "plugins").mkdir()
    (project / "plugins" / "plug.py").write_text("import threading\nLOCK = threading.Lock()\ndef value(): return 'before'\n")
    (project / "pkg").mkdir()
    (project / "pkg" / "__init__.py").write_text("")
    (project / "pkg" / "part.py").write_text("def value(): return 'before'\n")
    out = run_script(
        project,
        """
        import importlib, importlib.util, pathlib, sys
        from flame_fast import Runner
        import pkg.part
        def load():
            spec = importlib.util.spec_from_file_location("plug", "plugins/plug.py")
            module = sys.modules["plug"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        def both():
            return pkg.part.value(), sys.modules["pkg"].part is pkg.part
        plug = load()
        with Runner("kinds", workers=1) as rr:
            old = [rr.service(found) for found in (plug.value, pkg.part.value, both)]
            print(rr.get([service() for service in old]))
            for path in ("plugins/plug.py", "pkg/part.py"):
                pathlib.Path(path).write_text(pathlib.Path(path).read_text().replace("before", "afterwards"))
            plug = load()
            importlib.reload(pkg.part)
            rr.refresh()
            new = [rr.service(found) for found in (plug.value, pkg.part.value, both)]
            print(rr.get([service() for service in new]))
            print(rr.get([service() for service in old]))
        """,
    )
    before, after = (f"['{word}', '{word}', ('{word}', True)]" for word in ("before", "afterwards"))
    assert out.splitlines() == [before, after, before]

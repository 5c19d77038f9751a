"""Notebooks and IPython: tracebacks are of the user's lines, and a cell's changes are in the calls of the next."""

from __future__ import annotations

import pytest
from gates import run_script

from kernels import plain, run_cells

# ---- tracebacks ----------------------------------------------------------------------------------------------------------

DEFINE = """\
def inner(number):
    return 1 / number      # the line that fails

def work(number):
    return inner(number)   # the line that calls it
"""

#: Ways by which the driver gets a task's error: the line of the cell, which the traceback shows.
WAYS = {
    "rr.get": "rr.get([service(0)])",
    "get": "service(0).get()",
    "map": "list(service.map([1, 0]))",
    "select": "next(rr.select([service(0)])).get()",
    "executor": "executor.submit(work, 0).result()",
    "executor's map": "list(executor.map(work, [0]))",
}
SETUP = "from flame_fast import Executor, Runner\nrr, executor = Runner('cells', workers=1), Executor(1)"
CLOSE = "rr.close()\nexecutor.shutdown()"
MODES = ["Plain", "Context", "Verbose", "Minimal"]

#: What nobody wants to read: lines of native code, of the import system, and that there are none.
NOBODYS = [".pxi", ".pxd", "_native", "<frozen", "could not get source", "failed resolving"]


@pytest.fixture(scope="session")
def made():
    """Return what the cells showed that were run so far."""
    return {}


def shown_by_kernel():
    cells = {"setup": SETUP, "define": DEFINE, "service": "service = rr.service(work)"}
    for mode in MODES:
        cells |= {mode: f"%xmode {mode}"} | {(mode, way): line for way, line in WAYS.items()}
    cells |= {"again": "%xmode Context", "refused": "service(1, 2, 3)", "close": CLOSE, "closed": "service(1)"}
    return dict(zip(cells, run_cells(cells.values()), strict=True))


@pytest.fixture
def shown(project, made):
    if not made:
        made.update(shown_by_kernel())
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_the_traceback_of_a_tasks_error_has_the_lines_of_the_cells(shown, mode, way):
    text = shown[mode, way].traceback
    assert "ZeroDivisionError: division by zero" in text
    for words in NOBODYS:
        assert words not in text.replace("Could", "could"), text
    if mode == "Minimal":
        return
    assert WAYS[way] in text
    assert "Cell In[2], line 2, in inner\n    return 1 / number      # the line that fails" in text
    assert "Cell In[2], line 5, in work\n    return inner(number)   # the line that calls it" in text
    assert "ipykernel_" not in text
    if way == "map":
        assert "item 1: 0" in text  # a note


@pytest.mark.parametrize(
    ("cell", "line", "error"),
    [
        ("refused", "service(1, 2, 3)", "TypeError: work(number): too many positional arguments"),
        ("closed", "service(1)", "runner 'cells' is closed"),
    ],
)
def test_the_traceback_of_a_call_that_is_refused_begins_at_the_cell(shown, cell, line, error):
    text = shown[cell].traceback
    assert line in text and error in text
    assert not any(words in text.replace("Could", "could") for words in NOBODYS), text


def test_at_ipythons_prompt_they_have_them_too(project):
    """And a debugger begins where the user's own line is, not in native code."""
    out = run_script(
        project,
        f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance(colors="NoColor", history_length=0)
        cells = [{SETUP!r}, {DEFINE!r}, "service = rr.service(work)", "service(0).get()"]
        for cell in cells:
            shell.run_cell(cell, store_history=True)
        import sys, traceback
        print("names:", [frame.name for frame in traceback.extract_tb(sys.last_traceback)][-1:])
        print("code:", sys.last_traceback.tb_next.tb_frame.f_code.co_filename.startswith("<ipython-input-4"))
        shell.run_cell({CLOSE!r})
        """,
        check=False,
    )
    text = plain(out.stdout + out.stderr)
    assert out.returncode == 0, text
    assert "service(0).get()" in text
    assert "Cell In[2], line 2, in inner\n    return 1 / number      # the line that fails" in text
    assert "names: ['<module>']" in text
    assert not any(words in text.replace("Could", "could") for words in NOBODYS), text


@pytest.mark.parametrize("value", [None, "1"])
def test_a_plain_traceback_has_native_frames_for_those_who_ask(project, value):
    done = run_script(
        project,
        """
        from flame_fast import Runner
        with Runner("plain", workers=1) as rr:
            rr.service(divmod)(1, 0).get()
        """,
        check=False,
        **({} if value is None else {"FLAME_FAST_NATIVE_FRAMES": value}),
    )
    assert "ZeroDivisionError" in done.stderr and "divmod)(1, 0).get()" in done.stderr
    assert (".pxi" in done.stderr) is (value is not None)


# ---- changes -------------------------------------------------------------------------------------------------------------

DRIVER = """\
import joblib, numpy as np
import flame_fast.joblib
from flame_fast import Executor, Pool, Runner
flame_fast.joblib.register()
rr, executor, pool = Runner("cells", workers=1), Executor(1), Pool(1)
FACTOR, NAMES, DEEP = 1, ["a"], {"deep": {"er": [1]}}
TABLE = {number: 0 for number in range(1000)}
DATA = np.zeros(100_000)
"""
STATE = """\
class Model:
    def version(self):
        return 1
def helper():
    return 1
def work(number=0):
    return FACTOR, NAMES[-1], DEEP["deep"]["er"][0], TABLE[5], float(DATA[7]), Model().version(), helper()
"""
ASK = """\
def ask():
    with joblib.parallel_backend("flame_fast", n_jobs=1):
        by_joblib = joblib.Parallel()(joblib.delayed(work)(number) for number in range(2))
    return [
        rr.service(work)().get(), *[executor.submit(work).result() for _ in range(3)], *executor.map(work, [1]),
        pool.apply(work), *pool.map(work, [1, 2], chunksize=2), *pool.map(work, [1]), *by_joblib,
    ]
def check():
    print(set(ask()) == {work()}, set(ask()) == {work()}, executor._functions._services[work][0] is kept)
ask()
kept = executor._functions._services[work][0]
"""
#: What a cell changes that a function uses, and whether that is in fact a change.
CHANGES = {
    "nothing": ("other = 1", False),
    "bound to an equal value": ("FACTOR = int('1')", False),
    "name bound again": ("FACTOR = 2", True),
    "list": ("NAMES.append('b')", True),
    "deep": ("DEEP['deep']['er'][0] = 2", True),
    "large table": ("TABLE[5] = 1", True),
    "array": ("DATA[7] = 1", True),
    "patched method": ("Model.version = lambda self: 2", True),
    "class defined again": ("class Model:\n    def version(self):\n        return 3", True),
    "helper defined again": ("def helper():\n    return 2", True),
}


def test_what_a_cell_changes_is_in_the_calls_of_the_next_and_nothing_else_makes_a_service(project):
    cells = [DRIVER, STATE, ASK]
    for text, _ in CHANGES.values():
        cells += [text, "check()", "kept = executor._functions._services[work][0]"]
    shown = run_cells([*cells, "rr.close(), executor.shutdown(), pool.close(), pool.join()"])
    assert not any(cell.traceback for cell in shown), "\n".join(cell.traceback for cell in shown)
    printed = [cell.printed.strip() for cell in shown if cell.printed]
    assert dict(zip(CHANGES, printed, strict=True)) == {
        name: f"True True {not is_change}" for name, (_, is_change) in CHANGES.items()
    }

"""Settings of the driver's process in its tasks: what a fork would carry, though workers are forked from another program."""

from __future__ import annotations

import contextlib
import decimal
import gc
import importlib
import locale
import os
import re
import signal
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from gates import PATIENCE_S, new_module, run_script, wait_until
from process_events import zygotes
from setting_tasks import (
    Hashing,
    Looking,
    NarrowerWarning,
    OwnWarning,
    Unloadable,
    Unsendable,
    all_warned,
    attributes_of_sys,
    called,
    contexts,
    current_filters,
    divided,
    give_up,
    in_angles,
    is_loaded,
    look_at_process,
    names_of_locale,
    pid_and_limit,
    printed,
    umask,
    warned,
    with_filters,
)

from flame_fast import Runner
from flame_fast.engine import settings


def in_task(look, *args, **options):
    with Runner("settings", workers=1, **options) as rr:
        return rr.service(look)(*args).get(PATIENCE_S)


@contextlib.contextmanager
def changed(get, change, value):
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


# ---- the interpreter -------------------------------------------------------------------------------------------------


def collect_at(thresholds):
    gc.set_threshold(*thresholds)


SETTINGS = [
    (sys.getrecursionlimit, sys.setrecursionlimit, 4321),
    (sys.getswitchinterval, sys.setswitchinterval, 0.25),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits, 1234),
    (gc.get_threshold, collect_at, (321, 7, 6)),
]


def test_settings_of_the_interpreter_are_the_drivers(project):
    getters = [get for get, *_ in SETTINGS]
    own = called(getters)
    with contextlib.ExitStack() as undone:
        for get, change, value in SETTINGS:
            undone.enter_context(changed(get, change, value))
        assert called(getters) == {get.__name__: value for get, _, value in SETTINGS}
        assert in_task(called, getters) == called(getters)
    assert in_task(called, getters) == called(getters) == own
    assert all(own[get.__name__] != value for get, _, value in SETTINGS)


def test_a_recursion_limit_below_the_workers_own_depth_leaves_the_workers(project):
    out = run_script(
        project,
        """
        import sys
        from flame_fast import Runner
        from flame_fast.engine import settings
        taken = settings.taken
        settings.taken = lambda: {**taken(), "functions": [3, *taken()["functions"][1:]]}
        with Runner("shallow", workers=1) as rr:
            print(rr.service(sys.getrecursionlimit)().get() == sys.getrecursionlimit())
        """,
    )
    assert out == "True\n"


def test_the_collector_is_off_in_tasks_if_it_is_off_in_the_driver(project):
    assert in_task(gc.isenabled)
    gc.disable()
    try:
        assert not in_task(gc.isenabled)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "attributes", [{"dont_write_bytecode": True}, {"dont_write_bytecode": False, "pycache_prefix": "/x"}], ids=str
)
def test_attributes_of_sys_are_the_drivers(attributes, monkeypatch, project):
    for name, value in attributes.items():
        monkeypatch.setattr(sys, name, value)
    assert in_task(attributes_of_sys, list(attributes)) == attributes


def test_an_instance_and_a_replaced_worker_have_them_too(project):
    with changed(sys.getrecursionlimit, sys.setrecursionlimit, 4321), Runner("again", workers=1) as rr:
        look = rr.service(pid_and_limit)
        assert rr.service(Looking()).limit().get(PATIENCE_S) == 4321
        pid, limit = look().get(PATIENCE_S)
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: retried(look) not in (None, (pid, limit))) and look().get(PATIENCE_S)[1] == limit == 4321


def retried(service):
    from flame_fast import WorkerDiedError

    try:
        return service().get(PATIENCE_S)
    except WorkerDiedError:
        return None


def test_directory_umask_and_environment_are_those_at_the_runner_also_after_the_supervisors_death(project, monkeypatch):
    (project / "elsewhere").mkdir()
    monkeypatch.setenv("SETTING", "at the runner")
    with changed(umask, os.umask, 0o27), Runner("place", workers=1) as rr:
        look = rr.service(look_at_process)
        assert look().get(PATIENCE_S) == (str(project), "at the runner", 0o27)
        monkeypatch.setenv("SETTING", "later")
        monkeypatch.chdir("elsewhere")
        assert rr.service(look_at_process)().get(PATIENCE_S) == (str(project), "at the runner", 0o27)
        (supervisor,) = zygotes()
        os.kill(supervisor, signal.SIGKILL)
        assert wait_until(lambda: retried(look)) == (str(project), "at the runner", 0o27)


# ---- options of the interpreter --------------------------------------------------------------------------------------

LOOK_AT_FLAGS = """
import os, sys
from flame_fast import Runner
NAMES = ("optimize", "bytes_warning", "dont_write_bytecode", "no_user_site", "ignore_environment", "isolated", "dev_mode",
         "utf8_mode", "hash_randomization", "warn_default_encoding", "int_max_str_digits")
look = lambda: ([getattr(sys.flags, name) for name in NAMES], sys.warnoptions, sys._xoptions, sys.dont_write_bytecode,
                os.environ.get("PYTHONHOME"))
with Runner("flags", workers=1) as rr:
    there, here = rr.service(look)().get(), look()
    assert there == here, (there, here)
    print(*[name for name in NAMES if getattr(sys.flags, name)])
"""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["-E", "-B", "-X", "utf8"], "ignore_environment dont_write_bytecode utf8_mode"),
        (["-I", "-bb"], "no_user_site ignore_environment isolated bytes_warning"),
        (["-OO", "-s", "-X", "int_max_str_digits=5000"], "optimize no_user_site int_max_str_digits"),
        (["-X", "dev", "-W", "error::UserWarning", "-u"], "dev_mode"),
    ],
    ids=" ".join,
)
def test_options_of_the_interpreter_are_the_drivers(options, names, project, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::BytesWarning")
    done = subprocess.run([sys.executable, *options, "-c", LOOK_AT_FLAGS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(names.split()) <= set(done.stdout.split())


HASH = """
from flame_fast import Runner
with Runner("hash", workers=1) as rr:
    print(rr.service(hash)("abc").get() == hash("abc"))
"""


@pytest.mark.parametrize("seed", ["0", "7", "4294967295"])
def test_hashes_of_text_are_the_drivers_where_its_seed_is_given(seed, project):
    assert run_script(project, HASH, PYTHONHASHSEED=seed) == "True\n"


def test_workers_agree_on_hashes_of_text_whatever_the_drivers_seed(project):
    with Runner("hash", workers=2) as rr:
        instances = [rr.service(Hashing()) for _ in range(3)]
        assert len({one.of("abc").get(PATIENCE_S) for one in instances}) == 1


def test_pythonhome_is_handed_on(project, tmp_path):
    """As a program that embeds Python sets it: the package is found by PYTHONPATH alone, as it is installed."""
    import flame_fast
    from flame_fast import kernels

    installed = tmp_path / "installed" / "flame_fast"
    installed.mkdir(parents=True)
    for entry in os.scandir(os.path.dirname(flame_fast.__file__)):
        (installed / entry.name).symlink_to(entry.path)
    if not (installed / "kernels").exists():
        (installed / "kernels").symlink_to(os.path.dirname(kernels.__file__))
    paths = os.pathsep.join([str(installed.parent), os.path.dirname(os.path.dirname(np.__file__))])
    done = subprocess.run(
        [sys._base_executable, "-c", LOOK_AT_FLAGS + "    print(sys.prefix, look()[-1])"],
        env=os.environ | {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"\n{sys.base_prefix} {sys.base_prefix}\n")


# ---- locale ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_locale():
    """Set a locale that the environment does not name; yield the name of all its categories."""
    before = names_of_locale()
    for name in ("C", "C.UTF-8", "POSIX"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        if names_of_locale() != before:
            break
    yield names_of_locale()
    locale.setlocale(locale.LC_ALL, before)


def test_the_locale_is_the_drivers(other_locale, project):
    assert in_task(names_of_locale) == other_locale
    assert in_task(locale.getlocale) == locale.getlocale()


# ---- warnings --------------------------------------------------------------------------------------------------------


def in_words(filters):
    return [(one[0], one[1], one[2].__module__, one[2].__qualname__, *one[3:]) for one in filters]


@pytest.fixture
def filters():
    with warnings.catch_warnings():
        yield warnings.filters


def test_filters_are_the_drivers_in_their_order(filters, project):
    warnings.simplefilter("always")
    warnings.filterwarnings("error", "b.d", OwnWarning, r"some\.module", 7)
    warnings.filterwarnings("ignore", "", DeprecationWarning)
    assert in_words(in_task(current_filters)) == in_words(filters)


@pytest.mark.parametrize("action", ["error", "ignore", "always", "default", "module", "once"])
def test_a_warning_in_a_task_ends_as_in_the_driver(action, filters, project):
    warnings.simplefilter("ignore")
    warnings.simplefilter(action, UserWarning)
    categories = [UserWarning, OwnWarning, RuntimeWarning]
    assert in_task(all_warned, categories) == all_warned(categories)


WARNS_BY_NUMPY = """
import numpy as np
from setting_tasks import warned
def of_rank(text):
    return warned(np.exceptions.RankWarning, text)
def of_complex_numbers(text):
    return warned(np.exceptions.ComplexWarning, text)
"""


def test_a_filter_of_a_module_that_a_worker_has_not_loaded_holds_once_it_is(filters, project, monkeypatch):
    """A class of a library, one of the project, and one of a script: with the classes derived from them."""
    module = new_module(monkeypatch, project, "class Near(UserWarning):\n    pass\n\n\nclass Nearer(Near):\n    pass\n")
    warnings.simplefilter("ignore")
    for category in (np.exceptions.RankWarning, module.Near, OwnWarning):
        warnings.simplefilter("error", category)
    assert not in_task(is_loaded, module.__name__)
    with_numpy = new_module(monkeypatch, project, WARNS_BY_NUMPY)
    assert in_task(with_numpy.of_rank, "of numpy") == "error: of numpy"
    assert in_task(with_numpy.of_complex_numbers, "of numpy") == "ignored"
    assert in_task(warned, module.Nearer, "of the project") == "error: of the project"
    assert in_task(warned, NarrowerWarning, "of the test") == "error: of the test"


def test_filters_of_a_script_hold_for_its_own_classes(project):
    out = run_script(
        project,
        """
        import warnings
        from flame_fast import Runner
        class Mine(UserWarning): pass
        class Other(UserWarning): pass
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Mine)
        def warn(category): warnings.warn("told", category)
        with Runner("script", workers=1) as rr:
            service = rr.service(warn)
            print(repr(service(Mine).exception()), service(Other).exception())
        """,
    )
    assert out == "Mine('told') None\n"


ADDS_FILTERS = """
import warnings
warnings.simplefilter("always", FutureWarning)
warnings.simplefilter("error", UserWarning)
def warn(category):
    warnings.warn("told", category)
"""


def test_an_import_in_a_worker_does_not_put_its_filters_before_the_users(filters, project, monkeypatch):
    """The driver has imported it before, and then changed the filters."""
    module = new_module(monkeypatch, project, ADDS_FILTERS)
    warnings.simplefilter("ignore")
    with Runner("imports", workers=1) as rr:
        assert in_words(rr.service(with_filters(module.warn))().get(PATIENCE_S)[1]) == in_words(filters)
        assert rr.service(module.warn)(UserWarning).get(PATIENCE_S) is None


IMPORTS_IN_TASKS = """
import sys, warnings
def in_its_body():
    import numpy
    return told(numpy)
def by_an_argument(array):
    return told(sys.modules[type(array).__module__])
def by_another_module():
    import {another}
    return told({another}.np)
def by_a_submodule():
    import numpy.linalg
    return told(sys.modules["numpy"])
def told(numpy):
    return issued(numpy.exceptions.RankWarning)
def issued(category):
    try:
        warnings.warn("told", category)
    except category:
        return "raised"
    return "not raised"
"""


@pytest.mark.parametrize("way", ["in_its_body", "by_an_argument", "by_another_module", "by_a_submodule"])
def test_an_import_that_a_task_makes_does_not_put_its_filters_before_the_users(way, filters, project, monkeypatch):
    """A task of a module without NumPy, which adds a filter for its own category."""
    another = new_module(monkeypatch, project, "import numpy as np\n")
    tasks = new_module(monkeypatch, project, IMPORTS_IN_TASKS.format(another=another.__name__))
    warnings.simplefilter("error", np.exceptions.RankWarning)
    task = getattr(tasks, way)
    with Runner("imports", workers=1) as rr:
        assert not rr.service(is_loaded)("numpy").get(PATIENCE_S)
        assert rr.service(task)(*[np.ones(3)] * (way == "by_an_argument")).get(PATIENCE_S) == "raised"


LOADS = """
import importlib, warnings
def load(name, again):
    module = importlib.import_module(name)
    if again:
        warnings.simplefilter("ignore")
        importlib.reload(module)
    return [(action, category.__name__) for action, _, category, *_ in warnings.filters[:2]]
"""


def test_a_task_that_loads_a_module_anew_gets_its_filters_in_front(filters, project, monkeypatch):
    module, tasks = (new_module(monkeypatch, project, text) for text in (ADDS_FILTERS, LOADS))
    warnings.simplefilter("ignore")
    with Runner("anew", workers=1) as rr:
        load = rr.service(tasks.load)
        assert load(module.__name__, False).get(PATIENCE_S)[0] == ("ignore", "Warning")
        assert load(module.__name__, True).get(PATIENCE_S) == [("error", "UserWarning"), ("always", "FutureWarning")]


def test_a_task_that_imports_from_an_archive_keeps_the_users_filters(filters, project, monkeypatch):
    """Its modules have one loader together; the driver has imported one of the two."""
    with zipfile.ZipFile(project / "packed.zip", "w") as archive:
        archive.writestr("packed_known.py", ADDS_FILTERS + "import packed_plain\n")
        archive.writestr("packed_plain.py", "")
        archive.writestr("packed_new.py", "import warnings\nwarnings.simplefilter('error', BytesWarning)\n")
    monkeypatch.syspath_prepend(str(project / "packed.zip"))
    tasks = new_module(monkeypatch, project, LOADS)
    importlib.import_module("packed_known")
    warnings.simplefilter("ignore")
    with Runner("archive", workers=1) as rr:
        load = rr.service(tasks.load)
        assert load("packed_known", False).get(PATIENCE_S)[0] == ("ignore", "Warning")
        assert load("packed_new", False).get(PATIENCE_S) == [("error", "BytesWarning"), ("ignore", "Warning")]


def test_filters_that_an_import_adds_are_in_front_if_the_driver_has_not_imported_it(filters, project, monkeypatch):
    """The Runner is there before the module."""
    (project / "added_later.py").write_text(ADDS_FILTERS)
    monkeypatch.syspath_prepend(str(project))
    warnings.simplefilter("ignore", UserWarning)
    with Runner("imports", workers=1) as rr:
        module = new_module(monkeypatch, project, ADDS_FILTERS, "added_later")
        assert isinstance(rr.service(module.warn)(UserWarning).exception(PATIENCE_S), UserWarning)


def test_filters_that_a_task_or_an_initializer_sets_stay(filters, project):
    warnings.simplefilter("error", UserWarning)
    with Runner("own", workers=1, initializer=warnings.simplefilter, initargs=("ignore", UserWarning)) as rr:
        assert rr.service(warned)(UserWarning).get(PATIENCE_S) == "ignored"
        rr.service(warnings.simplefilter)("error", UserWarning).get(PATIENCE_S)
        assert rr.service(warned)(UserWarning).get(PATIENCE_S) == "error: a text"


@pytest.mark.parametrize("way", ["at the start", "in the program", "of the runner"])
def test_pythonwarnings(way, project):
    script = """
        import os, warnings
        from flame_fast import Runner
        if {late}: os.environ["PYTHONWARNINGS"] = "error::UserWarning"
        def warn(): warnings.warn("told")
        with Runner("environment", workers=1, env={env}) as rr:
            print(repr(rr.service(warn)().exception()))
        """
    option = "error::UserWarning"
    text = script.format(late=way == "in the program", env={"PYTHONWARNINGS": option} if way == "of the runner" else None)
    assert (
        run_script(project, text, **({"PYTHONWARNINGS": option} if way == "at the start" else {})) == "UserWarning('told')\n"
    )


def test_a_pattern_of_the_interpreters_own_filters_may_be_text(filters):
    filters[:] = [("default", None, DeprecationWarning, "__main__", 0), ("ignore", re.compile("x", re.I), Warning, None, 3)]
    assert [settings._filter(*one) for one in settings.taken()["filters"]] == filters


# ---- libraries -------------------------------------------------------------------------------------------------------


def test_numpys_handling_of_errors_is_the_drivers(project):
    with np.errstate(divide="raise", under="warn", over="ignore"):
        assert in_task(np.geterr) == np.geterr()
        with Runner("raise", workers=1) as rr:
            assert isinstance(rr.service(divided)().exception(PATIENCE_S), FloatingPointError)
    with np.errstate(all="ignore"):
        assert in_task(divided) == np.inf


def test_numpys_callback_for_errors_is_the_drivers(project):
    with np.errstate(divide="call", call=give_up), Runner("callback", workers=1) as rr:
        assert repr(rr.service(divided)().exception(PATIENCE_S)) == "LookupError('divide by zero')"


def test_numpys_printing_is_the_drivers(project):
    values = np.array([1.23456789, 1e-9])
    for options in (
        {"precision": 2, "suppress": True},
        {"threshold": np.int64(5), "edgeitems": 1},
        {"formatter": {"float": in_angles}},
        {"legacy": "1.13"},
    ):
        with np.printoptions(**options):
            assert in_task(printed, values, np.arange(100)) == (repr(values), repr(np.arange(100)))


def test_numpys_buffer_is_the_drivers(project):
    with changed(np.getbufsize, np.setbufsize, 16 * 1024):
        assert in_task(np.getbufsize) == 16 * 1024


def test_printing_that_cannot_be_sent_is_numpys_own(project):
    before = repr(np.ones(1))
    with np.printoptions(formatter={"float": Unsendable()}):
        assert repr(np.ones(1)) != before
        assert in_task(printed, np.ones(1)) == (before,)


def test_printing_that_a_worker_cannot_load_is_numpys_own(project):
    before = repr(np.ones(1))
    with np.printoptions(formatter={"float": Unloadable()}, precision=3):
        assert in_task(printed, np.ones(1)) == (before,)
        assert in_task(np.get_printoptions)["precision"] == 3


def test_the_decimal_context_is_the_drivers(project):
    own = decimal.Context(prec=7, rounding=decimal.ROUND_UP, Emin=-99, Emax=88, capitals=0, clamp=1, traps=[decimal.Inexact])
    with decimal.localcontext(own):
        assert in_task(contexts) == contexts()
        assert contexts()[0] != contexts()[1]


def test_the_decimal_context_of_a_driver_that_has_made_none_is_the_default_at_the_runner(project):
    out = run_script(
        project,
        """
        import decimal
        from flame_fast import Runner
        decimal.DefaultContext.prec = 9
        with Runner("default", workers=1) as rr:
            print(rr.service(lambda: decimal.getcontext().prec)().get())
        decimal.DefaultContext.prec = 11
        print(decimal.getcontext().prec)
        """,
    )
    assert out == "9\n11\n"


def test_the_driver_loads_nothing_for_settings(project):
    out = run_script(
        project,
        """
        import sys
        from flame_fast import Runner
        loaded = lambda: {"numpy", "decimal", "locale", "_locale", "contextvars", "re"} & set(sys.modules)
        before = loaded()
        with Runner("nothing", workers=1, package=False) as rr:
            rr.service(pow)(2, 3).get()
            assert loaded() == before, loaded() - before
            print(rr.service(lambda: "numpy" in sys.modules)().get())
        """,
    )
    assert out == "False\n"

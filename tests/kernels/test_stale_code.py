"""Code that Numba caches is never stale: whatever a function's result depends on has changed, it is compiled anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PATIENCE_S = 240

#: Constants that no source file tells: they come from the environment, through a module whose text stays the same.
CONSTANTS = """\
import enum, os, typing
import numpy as np

N = int(os.environ["FACTOR"])
ARRAY = np.arange(4) * N
SCALAR = np.float32(N)
NESTED = (1, (2.0, (N, "text")))


class Point(typing.NamedTuple):
    x: int
    y: int


POINT = Point(1, N)


class Kind(enum.IntEnum):
    FIRST = N
"""

#: Helpers three modules deep.
DEEP = """\
import constants
from numba import njit


@njit
def by_attribute(x):
    return x * constants.N


@njit(error_model="numpy" if constants.N == 3 else "python")
def divided(x, y):
    return x / y


@njit
def with_default(x, factor=constants.N):
    return x * factor


def scaled_by(factor):
    @njit
    def scaled(x):
        return x * factor

    return scaled


scaled = scaled_by(constants.N)
"""

MIDDLE = """\
import os
import deep
from deep import by_attribute, divided, with_default, scaled
from numba import njit, types
from numba.extending import intrinsic, overload, overload_attribute, overload_method, register_jitable

FACTOR = int(os.environ["FACTOR"])


@njit
def deeper(x):
    return deep.by_attribute(x)


@njit
def safely(x, y):
    return divided(x, y)


@register_jitable
def plain(x):
    return x * FACTOR


def overloaded(x):
    raise NotImplementedError


@overload(overloaded)
def _overloaded(x):
    factor = FACTOR
    return lambda x: x * factor


@overload_method(types.UnicodeType, "times_factor")
def _times_factor(self):
    return lambda self: len(self) * FACTOR


@intrinsic
def intrinsically(context, x):
    def generate(context, builder, signature, args):
        return builder.mul(args[0], context.get_constant(types.int64, FACTOR))

    return types.int64(types.int64), generate
"""

KERNELS = """\
import numpy as np
from numba import float64, guvectorize, njit, prange, vectorize
import middle
from constants import ARRAY, N, NESTED, POINT, SCALAR, Kind


@njit(cache=True)
def constant():
    return 1.0 * N


@njit(cache=True)
def array():
    return 1.0 * ARRAY[1]


@njit(cache=True)
def scalar():
    return 1.0 * SCALAR


@njit(cache=True)
def nested():
    return 1.0 * NESTED[1][1][0]


@njit(cache=True)
def point():
    return 1.0 * POINT.y


@njit(cache=True)
def member():
    return 1.0 * Kind.FIRST.value


@njit(cache=True)
def deeper():
    return 1.0 * middle.deeper(1)


@njit(cache=True)
def options():
    try:
        return 0.0 * middle.safely(0.0, 0.0)
    except Exception:
        return 5.0


@njit(cache=True)
def default():
    return 1.0 * with_default(1)


@njit(cache=True)
def closure():
    return 1.0 * scaled(1)


@njit(cache=True)
def plain():
    return 1.0 * middle.plain(1)


@njit(cache=True)
def overloaded():
    return 1.0 * middle.overloaded(1)


@njit(cache=True)
def method():
    return 1.0 * "a".times_factor()


@njit(cache=True)
def intrinsically():
    return 1.0 * middle.intrinsically(1)


@njit(cache=True)
def below():
    return 1.0 * below_constant(1)


def local_kernel(factor):
    helper = njit(lambda x: x * factor)

    @njit(cache=True)
    def local():
        return 1.0 * helper(1)

    return local


enclosed = local_kernel(N)


@vectorize(cache=True)
def dynamic(x):
    return 1.0 * x * N


@vectorize([float64(float64)], cache=True)
def declared(x):
    return x * N


@guvectorize([(float64[:], float64[:])], "(n)->()", cache=True)
def general(x, out):
    out[0] = x[0] * N


@njit(cache=True, parallel=True)
def parallel():
    out = np.empty(1)
    for i in prange(1):
        out[i] = N
    return out[0]


from middle import deeper as below_constant, with_default, scaled
"""

#: A worker that is killed makes room for one that has imported nothing of the project, as a program run anew would: by the
#: supervisor, which has imported Numba once for all.
FRESH = """\
import json, os, signal, sys
from flame_fast import Runner


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def fresh(rr, function, *arguments):
    rr.service(killed)().exception(60)
    return rr.service(function)(*arguments).get(60)


"""

MAIN = """\
DISPATCHERS = (
    "constant array scalar nested point member deeper options default closure below "
    "plain overloaded method intrinsically enclosed parallel"
)


def told(factor):
    os.environ["FACTOR"] = factor
    import numba, numpy as np
    import kernels

    found = {}
    for name in DISPATCHERS.split():
        kernel = getattr(kernels, name)
        found[name] = kernel(), sum(kernel.stats.cache_hits.values())
    ufuncs = {name: float(getattr(kernels, name)(1.0)) for name in ("dynamic", "declared")}
    return found | ufuncs | {"general": float(kernels.general(np.ones(1))[()])}


if __name__ == "__main__":
    with Runner("stale", workers=1) as rr:
        print(json.dumps([fresh(rr, told, factor) for factor in "335"]))
"""


def run(*arguments, **settings):
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def kernels(project):
    for name, text in (
        ("constants", CONSTANTS),
        ("deep", DEEP),
        ("middle", MIDDLE),
        ("kernels", KERNELS),
        ("main", FRESH + MAIN),
    ):
        (project / f"{name}.py").write_text(text)
    return project


def values_of(told):
    """Return the kernels' values; that of `options` is a NaN where a division by zero raises nothing."""
    return {name: found[0] if isinstance(found, list) else found for name, found in told.items()}


@pytest.mark.timeout(PATIENCE_S)
def test_values_that_no_source_tells_are_followed_at_any_depth(kernels):
    three, again, five = run("main.py")
    assert {name for name, value in values_of(three).items() if value != 3} <= {"options"}
    assert {name for name, value in values_of(five).items() if value != 5} == set()
    loaded = {name: found[1] for name, found in again.items() if isinstance(found, list)}
    assert {name for name, hits in loaded.items() if not hits} == set()


KERNEL = """\
from numba import njit
import near


@njit(cache=True)
def kernel(x):
    return near.deeper(x)
"""

#: Two edits each: a constant that another file imports by its name, and a helper that lies outside of the project.
NEAR = """\
from numba import njit
from values import FACTOR
import outside


@njit
def deeper(x):
    return outside.scaled(x) + FACTOR
"""

OUTSIDE = """\
from numba import njit


@njit
def scaled(x):
    return x * 1
"""

COUNTED = """\
def told(x):
    import numba
    from kernel import kernel

    return kernel(x), sum(kernel.stats.cache_hits.values())


def look(rr):
    return fresh(rr, told, 10)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


"""

#: Of other lengths than before: Python's own cache goes by that, since its times are whole seconds.
VALUES, OTHER_VALUES = "FACTOR = 1\n", "FACTOR = 1 + 1\n"
OTHER_OUTSIDE = OUTSIDE.replace("x * 1", "x * 1 * 3")

EDITED = f"""\
if __name__ == "__main__":
    options, outside = json.loads(sys.argv[1]), sys.argv[2]
    with Runner("counted", workers=1, **options) as rr:
        found = [look(rr), look(rr)]
        write(outside, {OTHER_OUTSIDE!r})
        found += [look(rr)]
        write("values.py", {OTHER_VALUES!r})
        with Runner("counted", workers=1, **options) as later:
            found += [look(later)]
            write(outside, {OUTSIDE!r})
            found += [look(later)]
        write("values.py", {VALUES!r})
        print(json.dumps([*found, look(rr)]))
"""

REPLACED = f"""\
if __name__ == "__main__":
    with Runner("counted", workers=1, package=False) as rr:
        found = [look(rr)]
        (path,) = glob.glob(os.environ["FLAME_FAST_HOME"] + "/numba/**/kernel.kernel-*.nbc", recursive=True)
        with open(path, "rb") as file:
            before = file.read()
        os.unlink(path.replace(".1.nbc", ".nbi"))
        write("values.py", {OTHER_VALUES!r})
        found += [look(rr)]
        with open(path, "wb") as file:
            file.write(before)
        print(json.dumps([*found, look(rr), look(rr)]))
"""


@pytest.fixture
def counted(project, tmp_path):
    """Return the project, and a folder outside of it that its program imports from."""
    outside = tmp_path / "library"
    outside.mkdir()
    (outside / "outside.py").write_text(OUTSIDE)
    for name, text in (("values", VALUES), ("near", NEAR), ("kernel", KERNEL)):
        (project / f"{name}.py").write_text(text)
    return project, outside


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("options", [{}, {"package": False}], ids=["packaged", "in place"])
def test_edits_are_followed_inside_and_outside_of_the_project(counted, nothing_left, options):
    project, outside = counted
    (project / "main.py").write_text(FRESH + COUNTED + EDITED)
    found = run("main.py", json.dumps(options), str(outside / "outside.py"), PYTHONPATH=str(outside))
    assert found[:5] == [[11, 0], [11, 1], [31, 0], [32, 0], [12, 0]]
    assert found[5] == [11, 1]  # all versions are kept
    assert list((nothing_left / "numba").rglob("kernel.kernel-*.nbi"))
    assert not list(project.rglob("*.nb?")) + list(outside.rglob("*.nb?"))


def test_functions_of_a_module_that_the_supervisor_has_imported_are_cached_alike(project, tmp_path, nothing_left):
    """Numba gave them its own caches: nothing was there yet to take those over."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "loaded.py").write_text(
        "from numba import njit\nN = 3\n"
        "@njit\ndef helper(x):\n    return x * N\n"
        "@njit(cache=True)\ndef kernel(x):\n    return helper(x)\n"
    )
    (project / "main.py").write_text(
        FRESH + "def told(n):\n"
        "    assert 'loaded' in sys.modules\n"
        "    import loaded\n"
        "    loaded.N = n\n"
        "    return loaded.kernel(1), sum(loaded.kernel.stats.cache_hits.values())\n"
        "if __name__ == '__main__':\n"
        "    with Runner('preloaded', workers=1, preload=['loaded']) as rr:\n"
        "        print(json.dumps([fresh(rr, told, n) for n in (3, 3, 5)]))\n"
    )
    assert run("main.py", PYTHONPATH=str(library)) == [[3, 0], [3, 1], [5, 0]]
    assert list((nothing_left / "numba").rglob("*.nbi"))


BEYOND = """\
import numba


@numba.njit(cache=True)
def beyond(array, i):
    return array[i]
"""

SETTINGS = """\
def told(settings):
    os.environ.update(settings)
    import numba, numpy as np
    from kernel import beyond

    try:
        beyond(np.arange(4), 4)
        found = "read"
    except IndexError:
        found = "refused"
    return found, sum(beyond.stats.cache_hits.values())


if __name__ == "__main__":
    with Runner("settings", workers=1) as rr:
        print(json.dumps([fresh(rr, told, settings) for settings in json.loads(sys.argv[1])]))
"""


OTHERS = [
    {"NUMBA_OPT": "0"},
    {"NUMBA_LOOP_VECTORIZE": "0"},
    {"NUMBA_SLP_VECTORIZE": "1"},
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
]


@pytest.mark.timeout(PATIENCE_S)
def test_settings_of_numba_that_change_code_are_part_of_the_key(project):
    (project / "kernel.py").write_text(BEYOND)
    (project / "main.py").write_text(FRESH + SETTINGS)
    checks = {"NUMBA_BOUNDSCHECK": "1"}
    settings = [{}, checks, *OTHERS, {"NUMBA_FUNCTION_CACHE_SIZE": "64"}, checks]
    found = dict(zip(map(str, enumerate(settings)), run("main.py", json.dumps(settings)), strict=True))
    first, checked, *others, same, checked_again = found.values()
    assert first == ["read", 0]
    assert checked == ["refused", 0]
    assert others == [["read", 0]] * len(OTHERS), found
    assert [same, checked_again] == [["read", 1], ["refused", 1]]


WITHOUT_FILE = """\
import linecache

TEXT = '''
from numba import njit
N = {factor}

@njit
def helper(x):
    return x * N

@njit(cache=True)
def kernel(x):
    return helper(x)
'''


def told(kernel):
    return kernel(1), sum(kernel.stats.cache_hits.values())


def made(name, factor):
    text = TEXT.replace("{factor}", str(factor))
    linecache.cache[name] = len(text), None, text.splitlines(True), name
    namespace = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), namespace)
    return namespace["kernel"]


def of_text(name, factor):
    return told(made(name, factor))


if __name__ == "__main__":
    rounds = []
    with Runner("texts", workers=1) as rr:
        for number, factor in enumerate((3, 3, 5)):
            names = ["<string>", "<stdin>", "<ipython-input-1-abc>", f"/tmp/ipykernel_{number}/12.py"]
            found = [fresh(rr, of_text, names[0], factor)]
            found += [rr.service(of_text)(name, factor).get(60) for name in names[1:]]
            found += [rr.service(told)(made(name, factor)).get(60) for name in names[2:]]
            rounds.append(found)
    print(json.dumps(rounds))
"""


@pytest.mark.timeout(PATIENCE_S)
def test_functions_without_a_file_are_cached_in_the_data_directory(project, nothing_left):
    """Those of two cells are sent from the driver, too, where Numba takes them as IPython's."""
    (project / "main.py").write_text(FRESH + WITHOUT_FILE)
    first, again, changed = run("main.py")
    assert [value for value, _ in first] == [3] * 6
    assert first[0] == [3, 0]
    assert again == [[3, 1]] * 6
    assert [value for value, _ in changed] == [5] * 6
    assert changed[0] == [5, 0]
    assert list((nothing_left / "numba").rglob("cell.kernel-*.nbi"))


def test_a_process_that_dies_between_index_and_code_leaves_nothing_stale(counted):
    """Numba writes the index before the code: after a death between the two it names the code of before."""
    project, outside = counted
    (project / "main.py").write_text(FRESH + "import glob\n" + COUNTED + REPLACED)
    assert run("main.py", PYTHONPATH=str(outside)) == [[11, 0], [12, 0], [12, 0], [12, 1]]


def test_what_cannot_be_followed_is_not_cached_and_says_so(project):
    (project / "kernel.py").write_text(
        "import itertools, numpy as np\nfrom numba import njit\n"
        "HANDLE = open(__file__)\nLARGE = np.ones(10**6)\n"
        "@njit(cache=True)\ndef of_a_large_array():\n    return LARGE[0]\n"
        "def option():\n    return HANDLE\n"
        "from numba.extending import overload\n"
        "def overloaded():\n    pass\n"
        "@overload(overloaded)\ndef _overloaded():\n    HANDLE.seek(0)\n    n = len(HANDLE.read())\n    return lambda: n\n"
        "@njit(cache=True)\ndef of_a_file():\n    return overloaded()\n"
    )
    (project / "main.py").write_text(
        "from flame_fast import Runner\nimport kernel\n"
        "def told():\n    return kernel.of_a_large_array() + kernel.of_a_file()\n"
        "if __name__ == '__main__':\n"
        "    with Runner('large', workers=1) as rr:\n"
        "        print(rr.service(told)().get(60))\n"
    )
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert float(done.stdout) == 1 + len((project / "kernel.py").read_text())
    assert "'of_a_large_array', each process compiles it: it depends on an array of 8000000 bytes" in done.stderr
    assert "'of_a_file', each process compiles it: it depends on a TextIOWrapper" in done.stderr


SCRIPT = """\
import json
from numba import njit, types, vectorize
from numba.extending import intrinsic
from flame_fast import Runner

G = 3


@njit
def helper(x):
    return x * G


@njit
def kernel(x):
    return helper(x)


@vectorize
def ufunc(x):
    return x * G


@intrinsic
def times(context, x):
    def generate(context, builder, signature, args):
        return builder.mul(args[0], context.get_constant(types.int64, G))

    return types.int64(types.int64), generate


@njit
def by_intrinsic(x):
    return times(x)


@njit
def falling(n):
    return G if n == 0 else falling(n - 1)


def called(function, x):
    return int(function(x))


if __name__ == "__main__":
    found = []
    with Runner("script", workers=1) as rr:
        call = rr.service(called)
        for G in (3, 5, 3):
            for function in (kernel, ufunc, by_intrinsic, falling):
                found.append([rr.service(function)(1).get(60), call(function, 1).get(60)])
    print(json.dumps([[int(value) for value in pair] for pair in found]))
"""


def test_globals_of_a_script_are_those_at_the_service_for_compiled_functions_too(project):
    """Numba knows a function again by its number, whatever constants it arrives with."""
    (project / "main.py").write_text(SCRIPT)
    assert run("main.py") == [[3, 3]] * 4 + [[5, 5]] * 4 + [[3, 3]] * 4


MADE = """\
import numpy as np
from numba import cfunc, float64, guvectorize, int64, njit, stencil, types, vectorize
from numba.experimental import jitclass
from numba.extending import overload, overload_method, register_jitable


@vectorize([float64(float64)], target="parallel")
def ufunc(x):
    return x * 3


@guvectorize([(float64[:], float64[:])], "(n)->()", target="parallel")
def general(x, out):
    out[0] = x[0] * 3


@jitclass([("n", int64)])
class Counter:
    def __init__(self, n=2):
        self.n = n

    def add(self, k):
        self.n += k
        return self.n


@njit
def counted(k):
    return Counter(1).add(k)


def overloaded(x):
    raise NotImplementedError


@overload(overloaded)
def _overloaded(x):
    return lambda x: x * 3


@overload_method(types.UnicodeType, "thrice")
def _thrice(self):
    return lambda self: len(self) * 3


@register_jitable
def plain(x):
    return x * 3


@njit
def by_overload(x):
    return overloaded(x)


@njit
def by_method(x):
    return x.thrice()


@njit
def by_plain(x):
    return plain(x)


@cfunc("float64(float64)")
def callback(x):
    return x * 3


@stencil
def neighbours(a):
    return a[0] * 3


@njit
def by_stencil(a):
    return neighbours(a)


def by_callback(x):
    return callback.ctypes(x)


CALLS = [
    (ufunc, (np.ones(1),)), (general, (np.ones(1),)), (counted, (2,)), (by_overload, (1,)), (by_method, ("a",)),
    (by_plain, (1,)), (by_stencil, (np.ones(1),)),
]
"""

OF_A_MODULE = """\
import json
import numpy as np
from flame_fast import Runner
from made import *

if __name__ == "__main__":
    with Runner("made", workers=1) as rr:
        found = [np.sum(rr.service(function)(*arguments).get(60)) for function, arguments in CALLS]
        found += [rr.service(by_callback)(1.0).get(60), rr.service(Counter).add(1).get(60)]
        found += [rr.service(Counter, args=(1,)).add(2).get(60), rr.service(counted.py_func)(2).get(60)]
        try:
            rr.service(Counter(1))
        except TypeError as error:
            assert "give service() the class, with args=(...)" in str(error), error
        else:
            raise AssertionError("an instance of a compiled class was sent")
    print(json.dumps([float(value) for value in found]))
"""

OF_THE_SCRIPT = """
if __name__ == "__main__":
    import json
    from flame_fast import Runner

    refused = {}
    with Runner("made", workers=1) as rr:
        for function in [*(function for function, _ in CALLS), Counter, callback, neighbours]:
            try:
                rr.service(function)
            except TypeError as error:
                refused[getattr(function, "__name__", "stencil")] = str(error)
    print(json.dumps(refused))
"""


def test_what_numba_makes_is_sent_by_its_name_in_a_module(project):
    (project / "made.py").write_text(MADE)
    (project / "main.py").write_text(OF_A_MODULE)
    assert run("main.py") == [3.0] * 11


def test_what_a_script_cannot_send_is_refused_with_what_to_write(project):
    (project / "main.py").write_text(MADE + OF_THE_SCRIPT)
    refused = run("main.py")
    names = {"ufunc", "general", "counted", "by_overload", "by_method", "by_plain", "by_stencil", "Counter", "callback"}
    assert set(refused) == names | {"stencil"}
    assert all("put it into a module that the script imports" in message for message in refused.values())
    assert "target='parallel'" in refused["ufunc"]
    assert "'by_method' uses 'thrice', which '_thrice' of this script implements" in refused["by_method"]

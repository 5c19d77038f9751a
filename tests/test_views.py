"""Arrays in shared memory: views that stay, handles in place of copies, results born where they lie, and every dtype."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
from collections import namedtuple

import numpy as np
import pytest
from gates import PATIENCE_S, Gate, add, hold, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layouts import SHARED, content, is_like, is_locked, look, look_closely

from flame_fast import Runner

ENGINES = ["local", "inline"]

#: What may be copied beside values that are passed on as they lie: their descriptions.
LITTLE = 16 << 10

#: Elements of a large array, of eight bytes each.
MANY = 250_000

QUICK = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=ENGINES)
def rr(project, request):
    with Runner("views", workers=2, engine=request.param) as runner:
        yield runner


@pytest.fixture
def local(project):
    """One worker: what it has loaded and what it keeps is there for the next call."""
    with Runner("views", workers=1) as runner:
        yield runner


class Traffic:
    """What moves while the block runs: bytes copied into shared memory or out of it, bytes passed on or read as they lie."""

    def __init__(self, rr):
        self.rr = rr

    def __enter__(self):
        self.before = self.rr.statistics()
        return self

    def __exit__(self, *_):
        after = self.rr.statistics()
        self.copied = after.copied_bytes - self.before.copied_bytes
        self.shared = after.shared_bytes - self.before.shared_bytes


def address(array):
    return array.__array_interface__["data"][0]


# ---- views ---------------------------------------------------------------------------------------------------------------

LARGE = {
    "floats": lambda: np.arange(MANY, dtype="f8"),
    "just above the limit": lambda: np.arange(SHARED // 8 + 1),
    "booleans": lambda: np.arange(MANY) % 3 == 0,
    "bytes": lambda: np.arange(MANY).astype("u1"),
    "half": lambda: np.arange(MANY).astype("f2"),
    "complex": lambda: np.arange(MANY) * 1j,
    "long double": lambda: np.arange(MANY // 2).astype("g"),
    "two axes": lambda: np.arange(MANY).reshape(250, -1),
    "Fortran": lambda: np.asfortranarray(np.arange(MANY).reshape(250, -1)),
    "big-endian": lambda: np.arange(MANY, dtype=">i8"),
    "dates": lambda: np.arange(MANY).astype("M8[D]"),
    "big-endian times": lambda: np.arange(MANY).astype(">m8[us]"),
    "strings": lambda: np.array([b"abc", b"x"] * MANY),
    "text": lambda: np.array(["a€", ""] * MANY),
    "structured": lambda: np.zeros(MANY // 4, dtype=[("a", "<i4"), ("b", ">f8"), ("c", "S3")]),
    "void": lambda: np.zeros(MANY, dtype="V3"),
}


def test_large_arrays_arrive_as_read_only_views(rr):
    """In both directions; two looks at one value see the same memory."""
    locked, echo = rr.service(is_locked), rr.service(same)
    for name, make in LARGE.items():
        sent = make()
        assert locked(sent).get() is True, name
        future = echo(sent)
        got, again = future.get(), future.get()
        assert is_locked(got), name
        assert address(got) == address(again), name
        assert look(got) == look(sent), name
        assert sent.flags.writeable, name


def test_they_are_locked_inside_other_values(rr):
    Pair = namedtuple("Pair", "left right")

    def looks(value):
        return [is_locked(value[0]["a"]), is_locked(value[1].left), is_locked(value[1].right[0])]

    value = ({"a": np.ones(MANY)}, Pair(np.ones(MANY), [np.ones(MANY, dtype=">f4")]))
    assert rr.service(looks)(value).get() == [True] * 3
    assert looks(rr.service(same)(value).get()) == [True] * 3


def test_views_are_aligned(rr):
    """To 64 bytes, wherever they stand in a value and whatever stands before them."""
    sizes = [SHARED + 1, SHARED + 7, 50_001, 100_003, 1_000_001]
    arrays = [np.ones(size, dtype=kind) for size in sizes for kind in ("u1", "f8", ">f8")]
    values = [arrays[0], arrays, {"a": "x" * 13, "b": arrays}, (b"1", *arrays), [np.ma.array(array) for array in arrays]]

    def offsets(value):
        if isinstance(value, np.ndarray):
            return {np.asarray(value).ctypes.data % 64}
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return set().union(*map(offsets, items))

    service, echo = rr.service(offsets), rr.service(same)
    for value in values:
        assert service(value).get() == {0}
        assert offsets(echo(value).get()) == {0}
        assert offsets(rr.put_object(value).get()) == {0}


def test_results_are_aligned(local):
    service = local.service(lambda size: (np.ones(size, dtype="u1"), [np.arange(size), np.ones((3, size)).T]))
    for size in (SHARED + 1, 50_001, 100_003):
        one, (two, three) = service(size).get()
        assert {array.ctypes.data % 64 for array in (one, two, three)} == {0}


# ---- a view pins what it shows -------------------------------------------------------------------------------------------


def store_others(rr, count=20):
    """What would come to lie in the place of anything given back too early."""
    for number in range(count):
        rr.put_object(np.full(MANY, -number - 1.0))
        rr.service(lambda number: np.full(MANY, -number - 1.0))(number).get()


def test_a_view_stays_right_when_its_future_is_gone(rr):
    service = rr.service(lambda number: np.full(MANY, float(number)))
    made = [service(number).get() for number in range(5)]
    put = [rr.put_object({"a": [np.full(MANY, float(number))]}).get()["a"][0] for number in range(5)]
    windows = [service(number).get()[::-3][7:5000].reshape(-1, 1).T for number in range(5)]
    slow = [rr.put_object(np.full(MANY, number, dtype=">f8")).get() for number in range(5)]
    gc.collect()
    store_others(rr)
    for views in (made, put, windows, slow):
        assert all((view == number).all() for number, view in enumerate(views))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_view_stays_right_after_close(project, engine):
    with Runner("closing", workers=1, engine=engine) as rr:
        made = rr.service(lambda: np.arange(MANY))().get()
        part = rr.put_object([np.arange(MANY, dtype=">i8")]).get()[0][1000:]
        future = rr.service(same)(np.arange(MANY))
        future.wait()
    with Runner("next", workers=1, engine=engine) as rr:
        store_others(rr, 3)
    assert np.array_equal(made, np.arange(MANY))
    assert np.array_equal(part, np.arange(1000, MANY))
    late = future.get()
    del rr, future
    gc.collect()
    assert np.array_equal(late, np.arange(MANY))
    assert is_locked(made)


def test_views_outlive_everything_else_of_their_runner(project):
    """Not even the Runner itself is held any more."""

    def views():
        with Runner("gone", workers=1) as rr:
            return rr.service(lambda: np.arange(MANY))().get(), rr.put_object(np.arange(MANY)).get()[5:]

    whole, part = views()
    gc.collect()
    assert int(whole.sum() - part.sum()) == 10
    assert (whole + whole)[-1] == 2 * (MANY - 1)


def test_views_in_other_threads(rr):
    """Each thread looks at what it was given while others come and go; whoever drops a view last frees it."""
    errors = []
    before = rr.statistics().bytes

    def use(seed):
        try:
            mine = []
            for number in range(40):
                value = float(seed * 1000 + number)
                mine.append((value, rr.put_object(np.full(20_000, value)).get()[number:]))
                if len(mine) > 5:
                    expected, view = mine.pop(seed % 5)
                    assert (view == expected).all()
            assert all((view == expected).all() for expected, view in mine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []
    assert rr.statistics().bytes == before


def test_a_view_is_dropped_in_another_thread(rr):
    before = rr.statistics().bytes
    held = [rr.put_object(np.ones(MANY)).get() for _ in range(20)]
    assert rr.statistics().bytes - before >= 20 * 8 * MANY

    def drop():
        while held:
            held.pop()

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert rr.statistics().bytes == before


def test_an_instance_keeps_a_view_it_was_given(rr):
    class Keeper:
        def keep(self, array):
            self.array = array[::2]

        def give(self):
            return self.array

    keeper = rr.service(Keeper())
    keeper.keep(np.ones(MANY))
    keeper.give().wait()
    store_others(rr)
    assert (keeper.give().get() == 1).all()
    assert keeper.give().get().shape == (MANY // 2,)


def test_a_call_that_waits_has_its_argument_as_it_was(local):
    """Its argument is a view that the driver drops while the call is queued."""
    with Gate() as gate:
        first = local.service(hold)(gate)
        gate.entered()
        view = local.put_object(np.ones(MANY)).get()
        future = local.service(lambda part: float(part.sum()))(view[10:])
        del view
        store_others_in_the_driver(local)
        gate.open()
        first.wait()
        assert future.get() == MANY - 10


def store_others_in_the_driver(rr):
    for number in range(20):
        rr.put_object(np.full(MANY, -number - 1.0))


# ---- handles in place of copies ------------------------------------------------------------------------------------------

SIDE = 400

#: Arrays over the memory of one view of SIDE * SIDE floats, each of more than SHARED bytes.
PARTS = {
    "the whole": lambda v: v,
    "rows": lambda v: v[20:-20],
    "columns": lambda v: v[:, 30:350],
    "one row after another": lambda v: v[::2],
    "every third of every second": lambda v: v[::2, ::3],
    "backwards": lambda v: v[::-1],
    "backwards both ways": lambda v: v[::-1, ::-2],
    "transposed": lambda v: v.T,
    "transposed window": lambda v: v[10:300, 20:310].T,
    "flat": lambda v: v.reshape(-1),
    "flat and strided": lambda v: v.reshape(-1)[5::4],
    "flat and backwards": lambda v: v.reshape(-1)[::-3],
    "three axes": lambda v: v.reshape(SIDE, 20, -1),
    "three axes turned": lambda v: v.reshape(SIDE, 20, -1).transpose(2, 0, 1),
    "four axes": lambda v: v[:, None, :, None],
    "swapped": lambda v: v.reshape(SIDE, 20, -1).swapaxes(0, 2),
    "a row many times": lambda v: np.broadcast_to(v[7], (50, SIDE)),
    "windows": lambda v: np.lib.stride_tricks.sliding_window_view(v[3], 50),
    "as integers": lambda v: v.view("i8"),
    "as halves of integers": lambda v: v.view("u4")[:, ::2],
    "as complex": lambda v: v.view("c16"),
    "imaginary parts": lambda v: v.view("c16").imag,
    "a view of a view": lambda v: v[50:][:, 50:][::2].view(),
}

#: Views of other dtypes, passed on whole.
KINDS = ["big-endian", "dates", "big-endian times", "strings", "text", "structured", "Fortran", "void"]


def ways(rr):
    """Each way an array can be handed to a task."""
    service = rr.service(look_closely)
    Pair = namedtuple("Pair", "left right")
    return {
        "argument": lambda value: service(value).get(),
        "keyword": lambda value: service(array=value).get(),
        "in a list": lambda value: rr.service(lambda items: look_closely(items[1]))([1, value]).get(),
        "in a dict": lambda value: rr.service(lambda items: look_closely(items["a"]["b"]))({"a": {"b": value}}).get(),
        "in an object": lambda value: rr.service(lambda pair: look_closely(pair.right))(Pair(1, value)).get(),
        "as a ref": lambda value: service(rr.put_object(value)).get(),
        "by a closure": lambda value: rr.service(lambda: look_closely(value))().get(),
    }


def test_parts_of_a_view_are_passed_by_handle(rr):
    """Nothing is copied, and they arrive with the strides they have."""
    ref = rr.put_object(np.arange(SIDE * SIDE, dtype="f8").reshape(SIDE, SIDE))
    view = ref.get()
    for way, travel in ways(rr).items():
        travel(view)
        for name, cut in PARTS.items():
            part = cut(view)
            assert part.nbytes > SHARED, name
            with Traffic(rr) as traffic:
                seen = travel(part)
            assert seen == look_closely(part), f"{name} {way}"
            assert traffic.copied <= LITTLE, f"{name} {way}: {traffic.copied:,} bytes copied"
            assert traffic.shared >= 2 * part.nbytes, f"{name} {way}"


def test_parts_of_a_view_come_back_by_handle(rr):
    view = rr.put_object(np.arange(SIDE * SIDE, dtype="f8").reshape(SIDE, SIDE)).get()
    echo = rr.service(same)
    echo(view).wait()
    for name, cut in PARTS.items():
        part = cut(view)
        with Traffic(rr) as traffic:
            got, (again,), kept = echo(part).get(), echo([part]).get(), echo({"a": (part,)}).get()["a"][0]
        for array in (got, again, kept):
            assert look_closely(array) == look_closely(part), name
            assert address(array) == address(part), name
            assert np.may_share_memory(array, view), name
        assert traffic.copied <= LITTLE, f"{name}: {traffic.copied:,} bytes copied"


def test_a_task_cuts_its_input_and_passes_it_on(rr):
    """Cut in the task, returned, given to the next: all of it in the memory of the first."""
    whole = np.arange(SIDE * SIDE, dtype="f8").reshape(SIDE, SIDE)
    ref = rr.put_object(whole)
    view = ref.get()
    for name, cut in PARTS.items():
        service = rr.service(cut)
        service(ref).wait()
        with Traffic(rr) as traffic:
            got = service(ref).get()
            seen = rr.service(look_closely)(service(ref)).get()
        assert look_closely(got) == seen == look_closely(cut(whole)), name
        assert np.may_share_memory(got, view), name
        assert traffic.copied <= LITTLE, f"{name}: {traffic.copied:,} bytes copied"


def test_views_of_every_dtype_are_passed_by_handle(rr):
    seen, echo = rr.service(look), rr.service(same)
    for name in KINDS:
        sent = LARGE[name]()
        view = rr.put_object(sent).get()
        seen(view).wait()
        with Traffic(rr) as traffic:
            assert seen(view).get() == look(sent), name
            assert look(echo(view).get()) == look(sent), name
        assert traffic.copied <= LITTLE, f"{name}: {traffic.copied:,} bytes copied"


def test_an_argument_is_copied_once_whatever_becomes_of_it(rr):
    echo = rr.service(same)
    sent = np.ones(MANY)
    echo(sent[:10]).wait()
    with Traffic(rr) as traffic:
        future = echo(echo(echo(sent)))
        assert (future.get() == 1).all()
        assert future.get().sum() == MANY
    assert sent.nbytes <= traffic.copied <= sent.nbytes + LITTLE


def test_put_object_stores_a_view_by_handle(rr):
    view = rr.put_object(np.arange(MANY)).get()
    before = rr.statistics()
    ref = rr.put_object({"part": view[::2]})
    after = rr.statistics()
    assert after.copied_bytes - before.copied_bytes <= LITTLE
    assert after.bytes - before.bytes <= LITTLE
    del view
    store_others_in_the_driver(rr)
    assert np.array_equal(ref.get()["part"], np.arange(0, MANY, 2))


def test_small_parts_of_a_view_do_not_keep_it(rr):
    """A few numbers of a large value are copied when they are passed on."""
    echo = rr.service(same)
    echo(np.ones(10)).wait()
    before = rr.statistics().bytes
    view = rr.put_object(np.arange(MANY)).get()
    futures = [echo(view[5:15]), rr.service(lambda array: array[5:15])(view)]
    assert [future.get().tolist() for future in futures] == [list(range(5, 15))] * 2
    del view
    assert rr.statistics().bytes - before <= LITTLE


def test_views_of_another_runner_are_copied(project):
    with Runner("one", workers=1) as one, Runner("two", workers=1) as two:
        view = one.put_object(np.arange(MANY)).get()
        with Traffic(two) as traffic:
            ref = two.put_object(view)
        assert traffic.copied >= view.nbytes
        total = two.service(lambda array: int(array.sum()))(view)
        del view
        assert total.get() == MANY * (MANY - 1) // 2
    assert np.array_equal(ref.get(), np.arange(MANY))


def test_random_slices_of_a_view(rr):
    """Whatever basic slicing gives, of more than 32 KiB or less, in the driver and in the task."""
    whole = np.arange(30 * 40 * 50, dtype="i4").reshape(30, 40, 50)
    ref = rr.put_object(whole)
    view = ref.get()
    seen, cut = rr.service(look_closely), rr.service(lambda array, index: array[index])

    @settings(QUICK, max_examples=100)
    @given(hnp.basic_indices(whole.shape, min_dims=1, max_dims=6, allow_newaxis=True, allow_ellipsis=True))
    def passes(index):
        part = view[index]
        with Traffic(rr) as traffic:
            there, got = seen(part).get(), cut(ref, index).get()
        assert is_like(there[0], look(whole[index]))
        if part.nbytes > SHARED:
            assert traffic.copied <= LITTLE
            assert there[1] == part.strides
            assert look_closely(got) == look_closely(part)
        else:
            assert traffic.copied <= 4 * SHARED
            assert is_like(look(got), look(part))

    passes()


# ---- born in the arena ---------------------------------------------------------------------------------------------------


async def compute(array):
    return array * 2


#: Functions of an array of MANY ones whose results are fresh arrays of at least as many bytes.
FRESH = {
    "a + 1": lambda a: a + 1,
    "ones": lambda a: np.ones(MANY),
    "zeros": lambda a: np.zeros(MANY),
    "full": lambda a: np.full(MANY, 3.5),
    "arange": lambda a: np.arange(MANY),
    "filled after empty": lambda a: fill(np.empty(MANY), a),
    "changed in place": lambda a: fill(np.zeros(MANY), a),
    "concatenate": lambda a: np.concatenate([a, a]),
    "copy": lambda a: a.copy(),
    "sorted": lambda a: np.sort(a),
    "cumsum": lambda a: a.cumsum(),
    "where": lambda a: np.where(a > 0, a, 0.0),
    "complex": lambda a: a * 1j,
    "half as wide, twice as long": lambda a: np.ones(2 * MANY, dtype="f4"),
    "two axes": lambda a: np.ones((500, MANY // 500)),
    "Fortran": lambda a: np.asfortranarray(a.reshape(500, -1)),
    "transposed": lambda a: np.ones((500, MANY // 500)).T,
    "reshaped": lambda a: np.ones(MANY).reshape(50, -1),
    "most of a larger one": lambda a: np.ones(MANY + 1000)[1000:],
    "backwards": lambda a: np.arange(MANY)[::-1],
    "in a tuple": lambda a: (1, a + 1),
    "in a list": lambda a: [a + 1, a + 2],
    "in a dict": lambda a: {"a": a + 1, "b": [(a + 2,)]},
    "of a coroutine": compute,
}


def fill(target, source):
    np.multiply(source, 2, out=target)
    target[::2] += 1
    return target


def flat(value):
    """The arrays in a value, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [array for item in items for array in flat(item)]


def test_large_results_are_not_copied(local):
    import asyncio

    ones = np.ones(MANY)
    ref = local.put_object(ones)
    for name, make in FRESH.items():
        service = local.service(make)
        service(ref).wait()
        with Traffic(local) as traffic:
            got = flat(service(ref).get())
        expected = make(ones)
        expected = flat(asyncio.run(expected) if make is compute else expected)
        assert [look(array) for array in got] == [look(array) for array in expected], name
        assert all(is_locked(array) for array in got), name
        assert traffic.copied <= LITTLE, f"{name}: {traffic.copied:,} bytes copied"
        assert traffic.shared >= sum(array.nbytes for array in got), name


def test_the_very_first_result_is_not_copied(local):
    """Of a worker that loads NumPy in the middle of it."""

    def make(count):
        import numpy

        return numpy.ones(count)

    with Traffic(local) as traffic:
        assert (local.service(make)(MANY).get() == 1).all()
    assert traffic.copied <= LITTLE


def test_results_of_classes_and_instances_are_not_copied(local):
    class Maker:
        def __init__(self):
            self.calls = 0

        def make(self, array):
            self.calls += 1
            return array + self.calls

    for target in (Maker, Maker()):
        service = local.service(target, autoscale=None)
        service.make(np.ones(10)).wait()
        ref = local.put_object(np.ones(MANY))
        with Traffic(local) as traffic:
            assert (service.make(ref).get() == 3).all()
        assert traffic.copied <= LITTLE


def test_a_chain_of_results_is_not_copied(local):
    plus = local.service(add)
    start = local.put_object(np.zeros(MANY))
    plus(start, 1).wait()
    with Traffic(local) as traffic:
        future = plus(start, 1)
        for _ in range(20):
            future = plus(future, 1)
        assert (future.get() == 21).all()
    assert traffic.copied <= LITTLE * 20


def test_a_result_is_the_drivers_alone(local):
    """The memory it was born in is not used again while the driver looks at it."""
    service = local.service(lambda number: np.full(MANY, number))
    kept = [service(number).get() for number in range(10)]
    for number in range(50):
        service(-number - 1).wait()
    assert all((array == number).all() for number, array in enumerate(kept))


# ---- who owns it ---------------------------------------------------------------------------------------------------------


class Keeper:
    """Returns an array that something else still refers to, and changes it afterwards. One method per way of holding it."""

    def __init__(self):
        self.mine = np.zeros(MANY)

    def spoil(self):
        self.mine += 1

    def attribute(self):
        return self.mine

    def whole_view(self):
        return self.mine[:]

    def most_of_it(self):
        return self.mine[100:]

    def turned(self):
        return self.mine.reshape(500, -1).T

    def backwards(self):
        return self.mine[::-1]

    def in_a_list(self):
        return [self.mine]

    def deep_inside(self):
        return {"a": (1, [self.mine])}

    def in_a_kept_list(self):
        self.items = [self.mine]
        del self.mine
        self.mine = memoryview(self.items[0])
        self.spoil = lambda: np.add(self.items[0], 1, out=self.items[0])
        return self.items

    def twice(self):
        fresh = np.zeros(MANY)
        self.spoil = lambda: None
        return fresh, fresh

    def of_a_closure(self):
        array = np.zeros(MANY)

        def spoil():
            array[:] += 1

        self.spoil = spoil
        return array

    def of_another_object(self):
        array = np.zeros(MANY)
        self.spoil = Spoiler(array).spoil
        return array

    def of_a_module(self):
        import sys

        sys.kept = np.zeros(MANY)
        self.spoil = lambda: np.add(sys.kept, 1, out=sys.kept)
        return sys.kept

    def of_a_generator(self):
        def generate():
            array = np.zeros(MANY)
            yield array
            while True:
                array += 1
                yield

        generator = generate()
        self.spoil = lambda: next(generator)
        return next(generator)

    def of_a_view(self):
        array = np.zeros(MANY)
        self.part = array[10:20]
        self.spoil = lambda: self.part.fill(1)
        return array

    def of_a_sibling(self):
        array = np.zeros(MANY)
        self.part = array[:-5]
        self.spoil = lambda: self.part.fill(1)
        return array[5:]

    def of_a_memoryview(self):
        array = np.zeros(MANY, dtype="u1")
        self.raw = memoryview(array)
        self.spoil = lambda: self.raw.__setitem__(slice(0, 100), b"x" * 100)
        return array

    def of_frombuffer(self):
        array = np.zeros(MANY)
        self.raw = np.frombuffer(array, dtype="u1")
        self.spoil = lambda: self.raw.fill(1)
        return array

    def of_ctypes(self):
        import ctypes

        array = np.zeros(MANY)
        self.raw = (ctypes.c_double * MANY).from_buffer(array)
        self.spoil = lambda: self.raw.__setitem__(slice(0, 3), [1.0] * 3)
        return array

    def of_an_exception(self):
        array = np.zeros(MANY)
        try:
            raise ValueError(array)
        except ValueError as error:
            self.error = error
        self.spoil = lambda: self.error.args[0].fill(1)
        return array

    def of_a_frame(self):
        import sys

        array = np.zeros(MANY)
        self.frame = sys._getframe()
        self.spoil = lambda: self.frame.f_locals["array"].fill(1)
        return array

    def of_a_thread(self):
        array = np.zeros(MANY)
        go, done = threading.Event(), threading.Event()

        def wait(array):
            go.wait()
            array.fill(1)
            done.set()

        threading.Thread(target=wait, args=(array,), daemon=True).start()
        self.spoil = lambda: (go.set(), done.wait(), None)[2]
        return array

    def of_a_cache(self):
        import functools

        self.cached = functools.lru_cache(lambda number: np.zeros(MANY))
        self.spoil = lambda: self.cached(1).fill(1)
        return self.cached(1)

    def of_a_default(self):
        def make(array=np.zeros(MANY)):  # noqa: B008
            return array

        self.spoil = lambda: make().fill(1)
        return make()

    def of_a_key(self):
        self.table = {id(array): array for array in [np.zeros(MANY)]}
        self.spoil = lambda: [array.fill(1) for array in self.table.values()]
        (array,) = self.table.values()
        return array

    def in_its_own_dict(self):
        self.table = {"a": np.zeros(MANY)}
        self.spoil = lambda: self.table["a"].fill(1)
        return self.table

    def of_an_object_array(self):
        self.cells = np.empty(1, dtype=object)
        self.cells[0] = np.zeros(MANY)
        self.spoil = lambda: self.cells[0].fill(1)
        return self.cells[0]


class Spoiler:
    def __init__(self, array):
        self.array = array

    def spoil(self):
        self.array += 1


HELD = [name for name, value in vars(Keeper).items() if callable(value) and name not in ("__init__", "spoil")]


def keep_and_spoil(name):
    """In the task: makes a Keeper that the next call finds again."""
    import sys

    keeper = Keeper()
    sys.keeper = keeper
    return getattr(keeper, name)()


def spoil_it():
    import sys

    sys.keeper.spoil()


def test_what_somebody_else_holds_is_copied(local):
    """What the worker does to its own array later does not show in what was delivered."""
    give, spoil = local.service(keep_and_spoil), local.service(spoil_it)
    give("attribute").wait()
    for name in HELD:
        with Traffic(local) as traffic:
            future = give(name)
            values = flat(future.get())
        looks = [look(array) for array in values]
        assert values, name
        assert not any(array.any() for array in values), name
        assert all(is_locked(array) for array in values), name
        assert traffic.copied >= max(array.nbytes for array in values), name
        spoil().get()
        assert [look(array) for array in values] == looks, f"changed after it was delivered: {name}"
        assert [look(array) for array in flat(future.get())] == looks, name


def test_an_instance_returns_its_array_again_and_again(local):
    class Weights:
        def __init__(self):
            self.w = np.zeros(MANY)

        def step(self):
            self.w += 1
            return self.w

    for service in (local.service(Weights()), local.service(Weights)):
        steps = [service.step() for _ in range(5)]
        values = local.get(steps)
        assert [set(value.tolist()) for value in values] == [{1.0}, {2.0}, {3.0}, {4.0}, {5.0}]


def test_what_was_handed_over_is_the_workers_no_more(local):
    """A weak reference does not hold an array; neither does one that went with the call."""

    def make():
        import sys
        import weakref

        array = np.zeros(MANY)
        sys.weak = weakref.ref(array)
        return array

    def look_back():
        import sys

        return sys.weak() is None

    value = local.service(make)().get()
    assert local.service(look_back)().get() is True
    assert not value.any()


def test_a_small_part_of_a_fresh_array_does_not_keep_it(local):
    service = local.service(lambda count: np.ones(count)[: count // 100])
    service(10_000).wait()
    before = local.statistics()
    future = service(10 * MANY)
    value = future.get()
    after = local.statistics()
    assert value.nbytes == 8 * MANY // 10 > SHARED
    assert value.nbytes <= after.copied_bytes - before.copied_bytes <= value.nbytes + LITTLE
    assert after.bytes - before.bytes <= 2 * value.nbytes
    assert (value == 1).all()


def test_a_result_nested_in_an_object_is_right(local):
    @dataclasses.dataclass
    class Model:
        weights: np.ndarray
        rest: list

    def make(number):
        weights = np.full(MANY, float(number))
        return Model(weights, [weights[::2], {"a": np.arange(MANY)}, weights])

    got = local.service(make)(3).get()
    assert type(got) is Model
    assert (got.weights == 3).all() and (got.rest[0] == 3).all()
    assert got.rest[0].shape == (MANY // 2,)
    assert np.array_equal(got.rest[1]["a"], np.arange(MANY))
    assert got.rest[2] is got.weights
    assert all(is_locked(array) for array in (got.weights, got.rest[0], got.rest[1]["a"]))


# ---- memory used again ---------------------------------------------------------------------------------------------------


def test_zeros_are_zero_in_memory_that_was_used_before(local):
    """Larger, smaller and equal to what lay there; as the result, and inside the task."""

    def dirty(count):
        return np.full(count, 255, dtype="u1")

    def clean(count):
        made = [
            np.zeros(count, dtype="u1"),
            np.zeros((count // 8,)),
            np.zeros((3, count // 24), order="F"),
            np.zeros_like(np.empty(count // 8)),
            np.zeros(count // 16, dtype=[("a", "i8"), ("b", "f8")]),
        ]
        return [np.asarray(array).view("u1").any() if array.flags.c_contiguous else array.any() for array in made], made

    dirtying, cleaning = local.service(dirty), local.service(clean)
    sizes = [40_000, 100_000, 1_000_000, 4_000_000, 120_000, 50_000, 900_000, 1_000_001]
    for first, second in itertools.product(sizes, sizes):
        rest = [dirtying(first) for _ in range(3)]
        local.wait(rest)
        del rest
        seen, made = cleaning(second).get()
        assert not any(seen), (first, second)
        assert not any(array.view("u1").any() for array in made[:2]), (first, second)
    assert local.statistics().cached_bytes > 0


def test_zeros_are_zero_after_the_drivers_values(local):
    service = local.service(lambda count: np.zeros(count, dtype="u1"))
    for size in (50_000, 300_000, 2_000_000):
        for _ in range(5):
            local.put_object(np.full(size, 255, dtype="u1"))
            local.put_object(bytes([255]) * size)
            assert not service(size).get().any()
            assert not service(size - 1000).get().any()


def grow_in_place(count):
    array = np.arange(10)
    array.resize(count, refcheck=False)  # the new part is zero
    return array


def shrink_in_place(count):
    array = np.arange(count)
    array.resize(count // 2, refcheck=False)
    return array


def shrink_to_little(count):
    array = np.arange(count)
    array.resize(10, refcheck=False)
    return array


def to_and_fro(count):
    array = np.arange(count)
    for size in (count // 3, 2 * count, 7, count, 3 * count, count):
        array.resize(size, refcheck=False)
    return array


def append_many(count):
    array = np.empty(0)
    for number in range(100):
        array = np.append(array, np.full(count // 100, number))
    return array


def from_iterator(count):
    return np.fromiter((number * number for number in range(count)), dtype="i8")


def from_text(count):
    return np.fromstring(" ".join(map(str, range(count))), sep=" ")


RESIZED = {
    grow_in_place: lambda n: np.concatenate([np.arange(10), np.zeros(n - 10, dtype=int)]),
    shrink_in_place: lambda n: np.arange(n // 2),
    shrink_to_little: lambda n: np.arange(10),
    to_and_fro: lambda n: np.concatenate([np.arange(7), np.zeros(n - 7, dtype=int)]),
    append_many: lambda n: np.repeat(np.arange(100.0), n // 100),
    from_iterator: lambda n: np.arange(n) ** 2,
    from_text: lambda n: np.arange(float(n)),
}


def test_arrays_that_grow_and_shrink(local):
    for task, expected in RESIZED.items():
        service = local.service(task)
        for count in (1000, 4000, 4100, 20_000, 100_000):
            local.put_object(np.full(count, -1.0))
            got = service(count).get()
            assert look(got) == look(expected(count)), (task.__name__, count)


def test_a_resize_of_an_input_is_refused(local):
    """It is not the task's: a view."""

    def resize(array):
        array.resize(10, refcheck=False)

    with pytest.raises(ValueError):
        local.service(resize)(np.ones(MANY)).get()


def test_a_task_makes_more_than_the_store_may_take(project):
    """Its own arrays then lie in its own memory; what fits is delivered all the same."""
    with Runner("small", workers=1, memory="16m") as rr:

        def work(count):
            many = [np.full(MANY, float(number)) for number in range(count)]
            return sum(float(array[-1]) for array in many), many[-1]

        total, last = rr.service(work)(30).get()
        assert total == sum(range(30))
        assert (last == 29).all()


# ---- forks ---------------------------------------------------------------------------------------------------------------


def in_a_fork(work):
    """In a task: what `work` returns in a forked child, as text."""
    import os

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_forked_child_of_a_task_changes_only_its_own(local):
    def task(given):
        array, small = np.zeros(MANY), np.zeros(10)

        def change():
            array[:] = 1
            small[:] = 1
            more = np.ones(MANY) + array
            return float(array.sum()), float(more.sum()), float(given.sum())

        seen = in_a_fork(change)
        return seen, array, small

    seen, array, small = local.service(task)(np.ones(MANY)).get()
    assert seen == repr((float(MANY), 2.0 * MANY, float(MANY)))
    assert not array.any()
    assert not small.any()
    assert local.service(lambda: float((np.ones(MANY) + 1).sum()))().get() == 2 * MANY


def change_all(array, answers):
    array += 5
    answers.put(float(array.sum()))


def test_a_child_of_multiprocessing_changes_only_its_own(local):
    def task():
        import multiprocessing

        context = multiprocessing.get_context("fork")
        array, answers = np.zeros(MANY), context.SimpleQueue()
        child = context.Process(target=change_all, args=(array, answers))
        child.start()
        seen = answers.get()
        child.join()
        return seen, child.exitcode, array

    seen, code, array = local.service(task)().get()
    assert (seen, code) == (5.0 * MANY, 0)
    assert not array.any()


def test_a_pool_of_multiprocessing_in_a_task(local):
    def task():
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(np.ones, [MANY] * 4))

    value = local.service(task)().get()
    assert (value == 4).all()


def test_a_forked_child_of_a_task_has_the_arrays_as_they_were(local):
    """As after any fork: what the parent changes, frees and makes afterwards does not show in the child."""

    def task(given):
        import os

        changed, freed = np.zeros(MANY), np.zeros(MANY)
        go_read, go_write = os.pipe()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.read(go_read, 1)
                os.write(write, repr([float(array.sum()) for array in (changed, freed, given)]).encode())
            finally:
                os._exit(0)
        os.close(write)
        changed += 1
        del freed
        made = [np.ones(MANY) for _ in range(5)]
        os.write(go_write, b"x")
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        os.close(go_read)
        os.close(go_write)
        return text, len(made)

    assert local.service(task)(np.ones(MANY)).get() == (repr([0.0, 0.0, float(MANY)]), 5)


def test_a_forked_child_of_the_driver_has_the_views_as_they_were(local):
    """While the parent holds them: reading is all a child may do, and that it may."""
    view = local.service(lambda: np.ones(MANY))().get()
    assert in_a_fork(lambda: (float(view.sum()), is_locked(view), float((view + 1).sum()))) == repr(
        (float(MANY), True, 2.0 * MANY)
    )
    assert local.service(add)(view, 1).get().sum() == 2 * MANY


def test_a_forked_child_of_the_driver_keeps_views_that_the_parent_drops(local):
    """A value that somebody holds stays valid, in a child as well."""
    import os

    view = local.service(lambda: np.ones(MANY))().get()
    go_read, go_write = os.pipe()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(go_read, 1)
            os.write(write, repr(float(view.sum())).encode())
        finally:
            os._exit(0)
    os.close(write)
    del view
    store_others_in_the_driver(local)
    os.write(go_write, b"x")
    with os.fdopen(read) as answer:
        text = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    os.close(go_read)
    os.close(go_write)
    assert text == repr(float(MANY))


# ---- every dtype, on both sides of the boundary --------------------------------------------------------------------------

STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8"), ("c", "S3"), ("d", "U2", (2,)), ("e", "M8[s]")])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8"), ("c", "c8")], align=True)
TITLED = np.dtype({"names": ["x", "y"], "formats": ["i2", "f4"], "offsets": [1, 8], "itemsize": 16})

DTYPES = [
    *(np.dtype(char) for char in "?bBhHiIlLqQefdgFDG"),
    *(np.dtype(name) for name in (">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16")),
    *(np.dtype(name) for name in ("M8[D]", "M8[ns]", "M8[25s]", "m8[ms]", "m8", "M8[Y]", ">M8[us]", ">m8[h]", ">M8[10D]")),
    *(np.dtype(name) for name in ("S1", "S7", "U1", "U5", ">U3", "V3", "V16")),
    *(STRUCTURED, ALIGNED, TITLED, np.dtype([("p", "f4", (2, 3))]), np.dtype([("n", [("x", ">i2"), ("y", "?")])])),
    np.dtype("O"),
]


def make(dtype, count, seed=0):
    """So many elements of a dtype, all kinds of values among them."""
    random = np.random.default_rng([seed, count])
    numbers = random.integers(-1000, 1000, count)
    if dtype.names:
        array = np.zeros(count, dtype)
        for name in dtype.names:
            field = array[name]
            field[...] = make(field.dtype, field.size, seed + 1).reshape(field.shape)
        return array
    if dtype.kind == "O":
        kinds = (None, True, 10**30, "text", (1, 2), [3], {"a": 4}, 1.5, b"b")
        array = np.empty(count, dtype)
        array[:] = [kinds[number % len(kinds)] for number in numbers]
        return array
    if dtype.kind == "V":
        return np.frombuffer(random.bytes(count * dtype.itemsize), dtype).copy()
    if dtype.kind == "b":
        return numbers % 2 == 0
    if dtype.kind == "u":
        return (numbers + 1000).astype("u2").astype(dtype)
    if dtype.kind == "i" and dtype.itemsize == 1:
        return (numbers % 100).astype(dtype)
    if dtype.kind in "SU":
        return numbers.astype(f"{dtype.kind}7").astype(dtype)
    array = numbers.astype(dtype)
    if dtype.kind in "fc":
        array = (array * array.dtype.type(0.37)).astype(dtype)
        array[::7] = np.nan
        array[1::7] = -np.inf
        array[2::7] = -0.0
    if dtype.kind in "mM":
        array[::5] = "NaT"
    return array


#: What is done to a flat array whose number of elements is a multiple of 24.
LAYOUTS = {
    "flat": lambda a: a,
    "rows": lambda a: a.reshape(4, -1),
    "Fortran": lambda a: np.asfortranarray(a.reshape(4, -1)),
    "Fortran of three axes": lambda a: a.reshape(2, 3, -1).T,
    "turned": lambda a: a.reshape(2, 3, -1).transpose(1, 2, 0),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "backwards": lambda a: a[::-1],
    "window": lambda a: np.tile(a.reshape(4, -1), (1, 2))[:, 1 : a.size // 4 + 1],
    "columns backwards": lambda a: a.reshape(-1, 6)[::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[: a.size // 4], (4, a.size // 4)),
}

#: Bytes of the whole: far below what is shared, at the boundary, and above it.
SIZES = {"small": 2000, "at the boundary": SHARED, "just above": SHARED + 1, "large": 4 * SHARED}


def elements(dtype, nbytes):
    """How many it takes, in steps of 24: up to the boundary not more than so many bytes, above it not less."""
    step = 24 * dtype.itemsize
    return 24 * max(1, nbytes // step if nbytes <= SHARED else -(-nbytes // step))


@pytest.mark.parametrize("size", SIZES)
def test_every_dtype_in_every_layout(rr, size):
    """Equal in value, dtype, byte order and order, at the task and back, and read-only at both."""

    def seen(array):
        return look(array), array.flags.writeable

    there, back, wrong = rr.service(seen), rr.service(same), []
    for dtype in DTYPES:
        flat_array = make(dtype, elements(dtype, SIZES[size]))
        for name, lay in LAYOUTS.items():
            sent = lay(flat_array)
            assert (sent.dtype, sent.dtype.str) == (dtype, dtype.str)
            expected = look(sent)
            got = back(sent).get()
            for found, writeable, where in ((*there(sent).get(), "there"), (look(got), got.flags.writeable, "back")):
                if writeable or not is_like(found, expected):
                    wrong.append(f"{dtype} {name} {where}: {found} {writeable}, not {expected}")
            if sent.nbytes > SHARED and not dtype.hasobject and not is_locked(got):
                wrong.append(f"{dtype} {name}: not locked")
    assert not wrong, "\n".join(wrong[:10])


def test_big_endian_long_doubles(rr):
    """NumPy gives no buffer of them, and its own pickle makes their dtype native."""
    there, back = rr.service(look), rr.service(same)
    for dtype in (np.dtype(">g"), np.dtype(">G")):
        for nbytes in SIZES.values():
            flat_array = make(dtype, elements(dtype, nbytes))
            for lay in LAYOUTS.values():
                sent = lay(flat_array)
                got = back(sent).get()
                assert is_like(there(sent).get(), look(sent)) and is_like(look(got), look(sent))
                assert not got.flags.writeable


def test_every_dtype_as_a_result_of_its_own(local):
    """Made in the task, not just returned by it; above the boundary and below."""

    def made(number, size, name):
        dtype = DTYPES[number]
        return LAYOUTS[name](make(dtype, elements(dtype, SIZES[size])))

    service = local.service(made)
    for number, dtype in enumerate(DTYPES):
        for size in ("small", "large"):
            for name in LAYOUTS:
                got, expected = service(number, size, name).get(), made(number, size, name)
                assert is_like(look(got), look(expected)), (dtype, size, name)
                assert not got.flags.writeable, (dtype, size, name)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (0, 5000, 5000)])
def test_arrays_of_no_axes_and_of_no_elements(rr, shape):
    there, back = rr.service(look), rr.service(same)
    for dtype in DTYPES:
        count = int(np.prod(shape))
        for sent in (make(dtype, count).reshape(shape), np.asfortranarray(make(dtype, count).reshape(shape))):
            if sent.shape != shape:  # asfortranarray makes one axis of none
                continue
            got = back(sent).get()
            assert is_like(there(sent).get(), look(sent)) and is_like(look(got), look(sent)), dtype
            assert type(got) is np.ndarray
            assert not got.flags.writeable


def test_arrays_of_many_axes(rr):
    there, back = rr.service(look), rr.service(same)
    for axes in (32, 64):
        for shape in ((1,) * axes, (2,) * 4 + (1,) * (axes - 4), (2,) * 14 + (1,) * (axes - 14)):
            sent = np.arange(np.prod(shape), dtype="f8").reshape(shape)
            assert is_like(there(sent).get(), look(sent)) and is_like(look(back(sent).get()), look(sent)), shape


def test_random_arrays_on_both_sides_of_the_boundary(rr):
    """Any scalar dtype, any few values, repeated until they fill about as much as a copied value may have at most."""
    there, back = rr.service(look), rr.service(same)

    @settings(QUICK, max_examples=150)
    @given(st.data())
    def travels(data):
        few = data.draw(hnp.arrays(hnp.scalar_dtypes(), st.integers(1, 5)))
        around = SHARED // few.dtype.itemsize
        count = data.draw(st.integers(around - 2, around + 2) | st.integers(1, 4 * around))
        sent = np.resize(few, count)
        split = data.draw(st.sampled_from([size for size in (1, 2, 3, 4, 5, 6, 7, 8) if count % size == 0]))
        sent = sent.reshape(split, -1)
        if data.draw(st.booleans()):
            sent = sent.T
        got = back(sent).get()
        assert is_like(there(sent).get(), look(sent)) and is_like(look(got), look(sent))
        assert got.flags.f_contiguous == sent.flags.f_contiguous
        assert got.flags.c_contiguous == sent.flags.c_contiguous
        assert not got.flags.writeable

    travels()


# ---- masked arrays, pandas, objects --------------------------------------------------------------------------------------


def masked_arrays():
    for count in (24, 24 * 200):
        data = make(np.dtype("f8"), count)
        mask = np.arange(count) % 3 == 0
        yield "plain", np.ma.array(data, mask=mask)
        yield "with a fill value", np.ma.array(np.arange(count), mask=mask, fill_value=-7)
        yield "with a hard mask", np.ma.array(data, mask=mask, hard_mask=True)
        yield "without a mask", np.ma.array(data)
        yield "with nothing masked", np.ma.array(data, mask=np.zeros(count, dtype=bool))
        yield "with everything masked", np.ma.array(data, mask=True)
        yield "strided", np.ma.array(np.repeat(data, 2), mask=np.repeat(mask, 2))[::2]
        yield "backwards", np.ma.array(data, mask=mask)[::-1]
        yield "big-endian", np.ma.array(data.astype(">f8"), mask=mask, fill_value=2.5)
        yield "big-endian strided", np.ma.array(np.repeat(data, 2).astype(">f4"), mask=np.repeat(mask, 2))[::2]
        yield "Fortran", np.ma.array(np.asfortranarray(data.reshape(4, -1)), mask=np.asfortranarray(mask.reshape(4, -1)))
        yield "turned", np.ma.array(data.reshape(2, 3, -1), mask=mask.reshape(2, 3, -1)).transpose(1, 2, 0)
        yield "window", np.ma.array(data.reshape(4, -1), mask=mask.reshape(4, -1))[1:3, 1:-1]
        yield "booleans", np.ma.array(mask, mask=~mask)
        yield "times", np.ma.array(np.arange(count).astype("M8[s]"), mask=mask)
        yield "big-endian times", np.ma.array(np.arange(count).astype(">m8[ms]"), mask=mask)
        yield "text", np.ma.array(np.arange(count).astype("U6"), mask=mask, fill_value="none")
        yield "complex", np.ma.array(data * 1j, mask=mask)
        yield "objects", np.ma.array(make(np.dtype("O"), count), mask=mask)
        structured = np.zeros(count, dtype=[("a", "i4"), ("b", ">f8")])
        structured["a"] = np.arange(count)
        fields = np.zeros(count, dtype=[("a", "?"), ("b", "?")])
        fields["b"] = mask
        yield "structured", np.ma.array(structured, mask=fields)


def look_masked(array):
    """Without its order; with the values under the mask, which are part of it as well."""
    return (
        look(array)._replace(order=""),
        content(np.asarray(array.data)),
        array.hardmask,
        array.mask is np.ma.nomask,
        array._fill_value is None,
        str(array.fill_value),
    )


def test_masked_arrays(rr):
    def seen(array):
        locked = [not array.flags.writeable, array.mask is np.ma.nomask or not array.mask.flags.writeable]
        try:
            array[..., :1] = array[..., -1:]
            locked.append(False)
        except ValueError:
            locked.append(True)
        return look_masked(array), locked

    there, back = rr.service(seen), rr.service(same)
    for name, sent in masked_arrays():
        expected = look_masked(sent)
        got = back(sent).get()
        assert is_like(look(got), look(sent)), name
        for found in (there(sent).get(), seen(got), seen(back([sent]).get()[0]), seen(rr.put_object(sent).get())):
            assert found == (expected, [True] * 3), name
        if sent.dtype.kind in "fc":
            assert rr.service(lambda array: array.count())(sent).get() == sent.count(), name


def test_masked_scalars_and_constants(rr):
    echo = rr.service(same)
    assert echo(np.ma.masked).get() is np.ma.masked
    assert echo([np.ma.masked, 1]).get()[0] is np.ma.masked
    zero = np.ma.array(5.0, mask=False)
    got = echo(zero).get()
    assert (type(got), got.shape, float(got)) == (np.ma.MaskedArray, (), 5.0)


def test_masked_results_are_made_in_the_task(local):
    def make_masked(count):
        return np.ma.masked_greater(np.arange(count), 5, copy=False)

    for count in (10, MANY):
        got = local.service(make_masked)(count).get()
        assert look(got) == look(make_masked(count))


def test_pandas(rr):
    pandas = pytest.importorskip("pandas")
    count = 6000
    frame = pandas.DataFrame(
        {
            "whole": np.arange(count),
            "more whole": np.arange(count)[::-1],
            "real": np.arange(count) / 3,
            "short": np.arange(count).astype("f4"),
            "truth": np.arange(count) % 3 == 0,
            "time": pandas.date_range("2024-01-01", periods=count, freq="h"),
            "zoned": pandas.date_range("2024-01-01", periods=count, freq="h", tz="Europe/Berlin"),
            "span": pandas.to_timedelta(np.arange(count), unit="s"),
            "text": [f"row {number}" for number in range(count)],
            "kind": pandas.Categorical(["a", "b", "c"] * (count // 3)),
            "missing": pandas.array([1, None, 3] * (count // 3), dtype="Int64"),
            "object": [(number,) for number in range(count)],
        }
    )
    values = {
        "many blocks": frame,
        "few rows": frame.head(3),
        "numbers": frame[["whole", "more whole", "real", "short"]],
        "one block": pandas.DataFrame(np.arange(4.0 * count).reshape(count, 4), columns=list("abcd")),
        "transposed": pandas.DataFrame(np.arange(4.0 * count).reshape(count, 4)).T,
        "some rows": frame.iloc[::7],
        "two indexes": frame.set_index(["kind", "whole"]),
        "by time": frame.set_index("time"),
        "empty": frame.head(0),
        **{f"series {name}": frame[name] for name in frame},
        "index": pandas.Index(np.arange(count)),
        "range": pandas.RangeIndex(5, 50, 3),
        "times": pandas.DatetimeIndex(frame["zoned"]),
    }
    echo, sizes = rr.service(same), rr.service(lambda value: (type(value).__name__, value.shape))
    for name, sent in values.items():
        assert sizes(sent).get() == (type(sent).__name__, sent.shape), name
        for got in (echo(sent).get(), echo([sent]).get()[0], rr.put_object(sent).get()):
            assert type(got) is type(sent), name
            assert got.equals(sent), name
            if isinstance(sent, pandas.DataFrame):
                pandas.testing.assert_frame_equal(got, sent)
            elif isinstance(sent, pandas.Series):
                pandas.testing.assert_series_equal(got, sent)
            else:
                pandas.testing.assert_index_equal(got, sent)
    changed = rr.service(lambda value: value.assign(real=value["real"] * 2, new=1))(frame).get()
    assert changed["real"].equals(frame["real"] * 2)
    assert (changed["new"] == 1).all()


def test_the_numbers_of_a_frame_are_passed_by_handle(rr):
    pandas = pytest.importorskip("pandas")
    echo = rr.service(same)
    sent = pandas.DataFrame(np.arange(4.0 * MANY).reshape(MANY, 4))
    echo(sent.head()).wait()
    frame = rr.put_object(sent).get()
    with Traffic(rr) as traffic:
        got = echo(frame).get()
    assert got.equals(sent)
    assert traffic.copied <= LITTLE


@dataclasses.dataclass
class Plain:
    array: object
    rest: dict


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    array: object
    small: object


class Linked:
    """Refers to itself, and to one array in several ways."""

    def __init__(self, array):
        self.array = array
        self.again = [array]
        self.me = self


def test_objects_that_hold_arrays(rr):
    def seen(value):
        return look(value.array), value.array.flags.writeable

    there, back = rr.service(seen), rr.service(same)
    for dtype in ("f8", ">i4", "M8[s]", "U3", "O", STRUCTURED):
        for count in (24, 24 * 500):
            array = make(np.dtype(dtype), count).reshape(4, -1)
            for sent in (Plain(array, {"a": [array]}), Slotted(array, array[:1, :2]), Linked(array)):
                got = back(sent).get()
                assert type(got) is type(sent)
                assert there(sent).get() == seen(got)
                assert is_like(seen(got)[0], look(array)) and not got.array.flags.writeable
    linked = back(Linked(np.ones(MANY))).get()
    assert linked.again[0] is linked.array
    assert linked.me is linked
    slotted = back(Slotted(np.ones(MANY), np.ones(3))).get()
    assert not slotted.small.flags.writeable


def test_numpy_scalars(rr):
    echo = rr.service(same)
    names = rr.service(lambda value: (type(value).__name__, repr(value)))
    for dtype in DTYPES:
        if dtype.hasobject or dtype.char in "qQ":  # what is no NumPy scalar, and what NumPy pickles as its int64
            continue
        for scalar in make(dtype, 8):
            got = echo(scalar).get()
            assert type(got) is type(scalar)
            assert repr(got) == repr(scalar)
            assert got.dtype == scalar.dtype
            assert names(scalar).get() == (type(scalar).__name__, repr(scalar))


# ---- what is no array ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SHARED - 1, SHARED, SHARED + 1, 3 * SHARED, 2_000_000])
def test_bytes_and_text_are_ordinary_objects(rr, size):
    """Of any size; a bytearray is the receiver's own."""

    def change(array):
        array[0] = 7
        array.extend(b"end")
        return type(array).__name__, bytes(array[-4:]), array

    values = [b"\0\xff" * size, "x" * size, "é€\U0001f600" * (size // 3), "a\0" * size]
    echo = rr.service(same)
    kinds = rr.service(lambda value: (type(value).__name__, len(value), hash(value)))
    for value in values:
        for got in (echo(value).get(), echo([value, 1]).get()[0], echo({value: value}).get()[value]):
            assert type(got) is type(value)
            assert got == value
        assert kinds(value).get()[:2] == (type(value).__name__, len(value))
        assert rr.put_object((value,)).get() == (value,)
    own = bytearray(size)
    name, tail, got = rr.service(change)(own).get()
    assert (name, tail, own) == ("bytearray", b"\0end", bytearray(size))
    assert (len(got), got[0]) == (size + 3, 7)
    got[1] = 9
    got.append(1)
    kept = rr.put_object([own]).get()[0]
    own[0] = 1
    assert kept == bytearray(size)


# ---- futures and what is one object --------------------------------------------------------------------------------------


def test_futures_of_arrays_anywhere_in_an_argument(rr):
    """In dicts, lists, objects; large and small; each as one view of its value."""
    make_it = rr.service(lambda count, number: np.full(count, float(number)))

    def total(value):
        arrays = [value["a"], value["b"][0], value["b"][1]["c"], value["d"].array, value["d"].rest["e"]]
        return [(float(array.sum()), array.flags.writeable) for array in arrays]

    for count in (10, MANY):
        one, two = make_it(count, 1), make_it(count, 2)
        ref = rr.put_object(np.full(count, 3.0))
        value = {"a": one, "b": [two, {"c": ref}], "d": Plain(one, {"e": two})}
        rr.wait([one, two])
        rr.service(total)(value).wait()
        with Traffic(rr) as traffic:
            got = rr.service(total)(value).get()
        assert got == [(number * float(count), False) for number in (1, 2, 3, 1, 2)]
        assert traffic.copied <= LITTLE
        fetched = rr.get({"x": [one, (two,)], "y": ref})
        assert [float(array[0]) for array in (fetched["x"][0], fetched["x"][1][0], fetched["y"])] == [1, 2, 3]


def test_one_future_twice_in_an_argument_is_one_array(rr):
    future = rr.service(lambda: np.ones(MANY))()
    assert rr.service(lambda pair: pair[0] is pair[1]["a"])([future, {"a": future}]).get() is True


def test_what_is_one_object_in_a_value_arrives_as_one(rr):
    """A list, a dict and an object that stand twice, wherever: as pickle does it, with arrays beside them."""
    inner, table, array = [1, [2]], {"a": 1}, np.ones(MANY)

    def shared(value):
        return value[0] is value[1], value[2]["x"] is value[0], value[3] is value[4]

    value = [inner, inner, {"x": inner}, table, table, array]
    assert rr.service(shared)(value).get() == (True, True, True)
    assert shared(rr.service(same)(value).get()) == (True, True, True)
    assert shared(rr.put_object(value).get()) == (True, True, True)
    assert rr.service(lambda a, b, *, c: a is b and b is c[0])(inner, inner, c=[inner]).get() is True
    assert rr.service(lambda: [inner] * 2)().get()[0] == inner
    first, second = rr.service(lambda: [[1]] * 2)().get()
    assert first is second


def test_one_array_twice_in_a_value_is_one_array(rr):
    """And lies in memory once."""
    array, small = np.ones(MANY), np.arange(3)
    shared = rr.service(lambda value: (value[0] is value[1], value[2] is value[3]))
    together = rr.service(lambda a, b, *, c: a is b and b is c[0])
    shared([array, array, small, small]).wait()
    together(small, small, c=[small]).wait()
    with Traffic(rr) as traffic:
        assert shared([array, array, small, small]).get() == (True, True)
        assert together(array, array, c=[array]).get() is True
    assert traffic.copied <= 2 * array.nbytes + LITTLE


def test_cycles_with_arrays(rr):
    value = {"array": np.ones(MANY)}
    value["me"] = value
    got = rr.service(same)(value).get()
    assert got["me"] is got
    assert is_locked(got["array"])

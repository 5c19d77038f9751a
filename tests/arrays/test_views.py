"""Arrays read from shared memory: views that stay right, handles in place of copies, forked children."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections import namedtuple

import numpy as np
import pytest
from array_layouts import LITTLE, MANY, SHARED, Traffic, is_like, is_own, look, look_closely
from gates import PATIENCE_S, Gate, add, hold, same

from flame_fast import Runner


@pytest.fixture(params=["local", "inline"])
def rr(project, request):
    with Runner("views", workers=2, engine=request.param) as runner:
        yield runner


@pytest.fixture
def local(project):
    """One worker: what it has loaded and what it keeps is there for the next call."""
    with Runner("views", workers=1) as runner:
        yield runner


# ---- views ---------------------------------------------------------------------------------------------------------------

LARGE = {
    "floats": lambda: np.arange(MANY, dtype="f8"),
    "just above the limit": lambda: np.arange(SHARED // 8 + 1),
    "booleans": lambda: np.arange(MANY) % 3 == 0,
    "bytes": lambda: np.arange(MANY).astype("u1"),
    "half": lambda: (np.arange(MANY) % 1000).astype("f2"),
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


def test_large_arrays_arrive_as_views_of_their_own(rr):
    """In both directions; two looks at one value share nothing that either could write."""
    own, echo = rr.service(is_own), rr.service(same)
    for name, make in LARGE.items():
        sent = make()
        assert own(sent).get() is True, name
        future = echo(sent)
        got, again = future.get(), future.get()
        assert not np.may_share_memory(got, again), name
        assert is_own(got), name
        assert look(got) == look(sent), name
        assert sent.flags.writeable, name


def test_they_are_writable_inside_other_values(rr):
    Pair = namedtuple("Pair", "left right")

    def looks(value):
        return [is_own(value[0]["a"]), is_own(value[1].left), is_own(value[1].right[0])]

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
    """Store what would come to lie in the place of anything given back too early."""
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


@pytest.mark.parametrize("engine", ["local", "inline"])
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
    assert is_own(made)


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
    """Each thread looks at what it was given while others come and go; the thread that drops the last view frees it."""
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
        with contextlib.suppress(IndexError):  # another thread may take the last one
            while True:
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
            assert not np.may_share_memory(array, view), name
        assert traffic.copied <= LITTLE, f"{name}: {traffic.copied:,} bytes copied"


def test_a_task_cuts_its_input_and_passes_it_on(rr):
    """Cut in the task, returned, given to the next: all of it in the memory of the first."""
    whole = np.arange(SIDE * SIDE, dtype="f8").reshape(SIDE, SIDE)
    ref = rr.put_object(whole)
    for name, cut in PARTS.items():
        service = rr.service(cut)
        service(ref).wait()
        with Traffic(rr) as traffic:
            got = service(ref).get()
            seen = rr.service(look_closely)(service(ref)).get()
        assert look_closely(got) == seen == look_closely(cut(whole)), name
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
    from hypothesis import HealthCheck, given, settings  # here, since every worker imports this module
    from hypothesis.extra import numpy as hnp

    whole = np.arange(30 * 40 * 50, dtype="i4").reshape(30, 40, 50)
    ref = rr.put_object(whole)
    view = ref.get()
    seen, cut = rr.service(look_closely), rr.service(lambda array, index: array[index])

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=100)
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
    """While the parent holds them; what it writes there is its own."""
    view = local.service(lambda: np.ones(MANY))().get()
    assert in_a_fork(lambda: (float(view.sum()), is_own(view), float((view + 1).sum()))) == repr(
        (float(MANY), True, 2.0 * MANY)
    )
    assert local.service(add)(view, 1).get().sum() == 2 * MANY


def test_a_forked_child_of_the_driver_keeps_views_that_the_parent_drops(local):
    """A value with a reference stays valid, in a child as well."""
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

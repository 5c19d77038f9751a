"""What is written into an array that arrived shows nowhere else, however it is written; and a reader pays nothing."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import resource
import threading

import numpy as np
import pytest
from array_layouts import LITTLE, MANY, Traffic, is_locked, is_own
from array_writes import COMPILED, SOME, WAYS, fresh, write, written
from flame_fast.kernels.runtime import scan_pages
from gates import PATIENCE_S, in_child, run_script, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from write_tasks import (
    Box,
    Keeper,
    are_writeable,
    arrow_values,
    box_values,
    broadcast,
    change_found,
    first,
    frame_values,
    is_writeable_inside,
    list_values,
    masked_mask,
    masked_values,
    model_values,
    number_all,
    overwrite,
    pass_on_while_writing,
    rest_values,
    series_values,
    sparse_values,
    spoil,
    structured_values,
    whole,
    write_and_fork,
    write_around,
    write_both,
    write_in_a_box,
    write_in_a_list,
    write_one,
    write_pair,
    write_parts,
    write_seventh,
    writing,
)

from flame_fast import FlameError, FlameErrorCode, Runner

QUICK = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=["local", "inline"])
def rr(project, request):
    """With one worker: each loads NumPy anew."""
    with Runner("writes", workers=1, engine=request.param) as runner:
        yield runner


@pytest.fixture(params=["local", "inline"])
def two(project, request):
    """With two workers, so that what one writes might show in the other."""
    with Runner("writes", workers=2, engine=request.param) as runner:
        yield runner


@pytest.fixture
def local(project):
    """One worker: what it has seen and kept is there for the next call."""
    with Runner("writes", workers=1) as runner:
        yield runner


@pytest.fixture
def page_tables():
    """Ask the page table in the driver one way, then the other; a failure shows which."""

    def each():
        for way in ("scanned", "read"):
            print(f"The page table is {way}:")
            scan_pages(way == "scanned")
            yield way

    yield each()
    scan_pages(True)


# ---- every way of writing ------------------------------------------------------------------------------------------------


def hand_to_a_task(rr, way, ref):
    """Each way that a stored array can come to a task which writes to it; what the task then had."""
    service, view = rr.service(write), ref.get()
    yield "a ref", service(way, ref).get()
    yield "a view", service(way, view).get()
    yield "a part", service(way, view[:]).get()
    yield "another task's result", service(way, rr.service(same)(ref)).get()
    yield "a result that was just born", service(way, rr.service(fresh)()).get()
    yield "in containers", rr.service(write_in_a_list)(way, [{"a": view}, 1]).get()
    yield "in an object", rr.service(write_in_a_box)(way, Box(view, [view])).get()
    yield "in a closure", rr.service(writing(way, view))().get()
    yield "bound", rr.service(functools.partial(write, way, view))().get()
    yield "as a keyword", service(way, array=view).get()


def test_what_a_task_writes_shows_nowhere_else(two):
    ref, equal = two.put_object(fresh()), two.service(np.array_equal)
    view = ref.get()
    for way in WAYS:
        for name, found in hand_to_a_task(two, way, ref):
            assert np.array_equal(found, written(way)), (way, name)
            assert np.array_equal(view, fresh()), (way, name)
            assert np.array_equal(ref.get(), fresh()), (way, name)
            assert equal(ref, fresh()).get(), (way, name)


def test_what_the_driver_writes_shows_nowhere_else(rr):
    """Nor does it get lost: what is passed on is what the driver sees."""
    for way in WAYS:
        for future in (rr.put_object(fresh()), rr.service(fresh)(), rr.service(same)(fresh())):
            check_drivers_write(rr, way, future)


def check_drivers_write(rr, way, future):
    one, other = future.get(), future.get()
    WAYS[way](one)
    assert np.array_equal(one, written(way))
    assert np.array_equal(other, fresh())
    assert np.array_equal(future.get(), fresh())
    assert rr.service(np.array_equal)(future, fresh()).get()
    assert rr.service(np.array_equal)(one, written(way)).get()
    assert np.array_equal(rr.put_object([one]).get()[0], written(way))
    assert np.array_equal(rr.service(same)(one).get(), one)


@pytest.mark.parametrize(
    ("library", "ways"), [("numba", ["njit", "prange"]), ("scipy", ["blas"]), ("sklearn", ["scikit_learn"])]
)
def test_what_compiled_code_of_others_writes_shows_nowhere_else(local, library, ways):
    pytest.importorskip(library)
    for way in ways:
        ref = local.put_object(fresh())
        view = ref.get()
        assert np.array_equal(local.service(write)(way, ref).get(), written(way)), way
        COMPILED[way](view)
        assert np.array_equal(view, written(way)), way
        assert np.array_equal(local.service(same)(view).get(), written(way)), way
        assert np.array_equal(ref.get(), fresh()), way
        assert local.service(np.array_equal)(ref, fresh()).get(), way


def test_every_compiled_way_has_its_library():
    assert {"njit", "prange", "blas", "scikit_learn"} == set(COMPILED)


def test_a_caller_that_writes_after_the_call_does_not_change_what_was_sent(rr):
    ref = rr.put_object(fresh())
    view = ref.get()
    futures = [rr.service(same)(view)]
    view[0] = -1
    futures.append(rr.service(same)(view))
    view[0] = -2
    assert [first(future.get()) for future in futures] == [0, -1]
    assert first(view) == -2
    assert first(ref.get()) == 0


# ---- inside of objects ---------------------------------------------------------------------------------------------------


def boxes():
    """Map each name to an object with a large array in it, and what gives that array."""
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    pyarrow, linear = pytest.importorskip("pyarrow"), pytest.importorskip("sklearn.linear_model")
    column = fresh()
    holes = np.arange(SOME) % 3 == 0
    objects = np.array([[1, 2], [3]] * SOME, dtype=object)
    model = linear.LinearRegression().fit(np.eye(3), np.eye(3))
    model.coef_ = column
    mutable = pyarrow.allocate_buffer(8 * SOME)
    memoryview(mutable).cast("B")[:] = column.tobytes()
    structured = np.zeros(SOME, [("a", "f8"), ("t", "M8[s]")])
    return {
        "a frame": (pandas.DataFrame({"a": column, "b": column + 1}), frame_values),
        "a series": (pandas.Series(column), series_values),
        "times": (pandas.Series(column.astype("M8[ns]")), series_values),
        "a sparse matrix": (sparse.csr_matrix(np.diag(column[:10]) + sparse.eye(10)) @ sparse.eye(10), sparse_values),
        "a large sparse matrix": (sparse.diags_array(column).tocsr(), sparse_values),
        "a masked array": (np.ma.array(column, mask=holes), masked_values),
        "its mask": (np.ma.array(np.tile(column, 6), mask=np.tile(holes, 6)), masked_mask),
        "an estimator": (model, model_values),
        "objects": (objects, whole),
        "big-endian": (column.astype(">f8"), whole),
        "structured": (structured, structured_values),
        "text": (column.astype("U8"), whole),
        "an Arrow buffer": (mutable, arrow_values),
        "a list": ([column, [column]], list_values),
        "an array that was read-only": (np.frombuffer(column.tobytes()), whole),
        "one in an object": (Box(np.frombuffer(column.tobytes(), ">f8"), []), box_values),
        "small ones": (Box(np.arange(3), [np.arange(4.0)]), rest_values),
    }


def test_arrays_inside_of_objects_are_the_readers_own(rr):
    service, echo = rr.service(change_found), rr.service(same)
    for name, (sent, find) in boxes().items():
        before = find(sent).copy()
        expected = before.copy()
        expected.flat[1] = expected.flat[expected.size - 1]
        ref = rr.put_object(sent)
        got, again, back = ref.get(), ref.get(), echo(ref).get()
        assert np.array_equal(service(ref, find).get(), expected), name
        assert np.array_equal(service(got, find).get(), expected), name
        assert np.array_equal(change_found(got, find), expected), name
        for other in (again, back, ref.get(), sent):
            assert np.array_equal(find(other), before), name
        assert np.array_equal(find(echo(got).get()), expected), name
        assert np.array_equal(service(back, find).get(), expected), name


def test_a_pickled_buffer_that_is_immutable_stays_so(rr):
    """What Arrow's users rely on: it is only the memory below that became private."""
    pyarrow = pytest.importorskip("pyarrow")
    for count in (10, SOME):
        table = pyarrow.table({"a": list(range(count)), "b": [str(number) for number in range(count)]})
        assert rr.service(same)(table).get().equals(table)
        for sent in (pyarrow.py_buffer(bytes(8 * count)), pyarrow.allocate_buffer(8 * count)):
            got = rr.service(same)(sent).get()
            assert (got.size, got.is_mutable) == (8 * count, sent.is_mutable)


def test_a_frame_is_passed_on_by_its_place_until_it_is_written(rr):
    pandas = pytest.importorskip("pandas")
    echo = rr.service(same)
    frame = rr.put_object(pandas.DataFrame(np.arange(4.0 * MANY).reshape(MANY, 4))).get()
    echo(frame).get()
    with Traffic(rr) as traffic:
        echo(frame).get()
    assert traffic.copied <= LITTLE
    frame.iloc[5, 2] = -1
    with Traffic(rr) as traffic:
        got = echo(frame).get()
    assert traffic.copied >= 32 * MANY
    assert got.iloc[5, 2] == -1


# ---- passed on: by its place, or copied ----------------------------------------------------------------------------------


def test_a_view_that_was_written_is_copied_when_it_is_passed_on(rr, page_tables):
    """Part by part: what has no written page goes by its place still."""
    for _ in page_tables:
        echo = rr.service(same)
        view = rr.put_object(np.arange(float(MANY))).get()
        echo(view).get()
        for passed in (view, [view], Box(view, []), view[::2], view[MANY // 2 :]):
            with Traffic(rr) as traffic:
                echo(passed).wait()
            assert traffic.copied <= LITTLE
        view[MANY // 4] = -1
        with Traffic(rr) as traffic:
            assert echo(view[MANY // 2 :]).get()[0] == MANY // 2
            assert echo(view[: MANY // 8]).get()[1] == 1
            assert rr.put_object(view[MANY // 2 :]).get()[1] == MANY // 2 + 1
        assert traffic.copied <= LITTLE
        for passed, read in ((view, whole), ([view], lambda found: found[0]), (Box(view, []), lambda found: found.array)):
            with Traffic(rr) as traffic:
                assert read(echo(passed).get())[MANY // 4] == -1
            assert view.nbytes <= traffic.copied <= view.nbytes + LITTLE


def test_reading_is_no_writing(rr, page_tables):
    """Not even reading that faults in every page for the first time."""
    for _ in page_tables:
        echo = rr.service(same)
        ref = rr.put_object(np.arange(float(MANY)))
        echo(ref).wait()
        view = ref.get()
        total, more = view.sum(), [np.ones(MANY) for _ in range(3)]  # and faults elsewhere
        with Traffic(rr) as traffic:
            assert echo(view).get().sum() == total
        assert len(more) == 3
        assert traffic.copied <= LITTLE


def test_a_second_arrival_is_passed_on_by_its_place_too(rr, page_tables):
    for _ in page_tables:
        echo = rr.service(same)
        ref = rr.put_object(np.arange(float(MANY)))
        echo(ref).wait()
        first_one, second, third = ref.get(), ref.get(), ref.get()[MANY // 3 :]
        with Traffic(rr) as traffic:
            for view in (second, third, second[5:], third[::-1]):
                assert np.array_equal(echo(view).get(), view)
        assert traffic.copied <= LITTLE
        second[0] = -1
        with Traffic(rr) as traffic:
            assert echo(second).get()[0] == -1
        assert traffic.copied >= second.nbytes
        assert (first_one[0], third[0]) == (0, MANY // 3)


def test_a_task_that_writes_its_argument_returns_what_it_wrote(rr):
    ref = rr.put_object(np.arange(float(MANY)))
    first_one = rr.service(write_seventh)(ref)
    second = rr.service(write_seventh)(first_one)
    assert first_one.get()[7] == second.get()[7] == -1
    assert ref.get()[7] == 7


def test_elements_that_overlap_stay_read_only_where_they_are_passed_on(rr):
    """Writing to one would change others. What is made of private memory has been laid out, and each element is one."""
    view = rr.put_object(np.arange(float(MANY))).get()
    echo = rr.service(same)
    for passed in (np.broadcast_to(view[:SOME], (3, SOME)), np.lib.stride_tricks.sliding_window_view(view, 3)):
        got = echo(passed).get()
        assert np.array_equal(got, passed)
        assert got.strides == passed.strides
        assert not got.flags.writeable
    for future in (echo(np.broadcast_to(fresh(), (3, SOME))), rr.service(broadcast)()):
        got = future.get()
        got[0] = -1
        assert np.array_equal(got[1:], [fresh(), fresh()])


def test_an_unknown_page_table_counts_as_written(local):
    """No descriptor to ask it by: a copy is right, if slower."""
    view = local.put_object(fresh()).get()
    local.service(same)(view).wait()
    faults = np.ones(MANY)  # so that it must be asked
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Traffic(local) as traffic:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            ref = local.put_object(view)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert traffic.copied >= view.nbytes
    assert np.array_equal(ref.get(), view)
    assert faults.all()


# ---- two arrivals at once ------------------------------------------------------------------------------------------------


def test_two_arrivals_do_not_see_each_other(rr):
    future = rr.service(fresh)()
    arrivals = [future.get() for _ in range(5)]
    for number, array in enumerate(arrivals):
        array[0] = number
        array[-1] = -number
    assert [(array[0], array[-1]) for array in arrivals] == [(number, -number) for number in range(5)]
    del arrivals[0], array
    again = future.get()
    assert (again[0], again[-1]) == (0, SOME - 1)
    assert [array[0] for array in arrivals] == [1, 2, 3, 4]


def test_parts_of_one_value_in_a_call_do_not_see_each_other(rr):
    """As if each were pickled by itself."""
    view = rr.put_object(np.zeros(3 * SOME)).get()
    for _ in range(2):
        left, right = view[: 2 * SOME], view[SOME:]
        assert rr.service(write_parts)(left, right, {"a": view}).get() == (2.0 * SOME, 4.0 * SOME, 3.0)
        assert not view.any()
    got = rr.service(same)([left, right, view]).get()
    got[0][:] = 1
    assert not got[1].any()
    assert not got[2].any()


def test_one_array_twice_in_a_value_is_one_that_is_written(rr):
    for size in (3, SOME):
        view = rr.put_object(np.zeros(size)).get()
        assert rr.service(write_pair)([view, view]).get() == 5
        assert write_pair(rr.service(same)([view, view]).get()) == 5
        assert view[0] == 0


def test_very_many_arrivals(rr):
    """More than are mapped by themselves: the rest are copies."""
    ref = rr.put_object(fresh())
    arrivals = [ref.get() for _ in range(8_300)]
    for number, array in enumerate(arrivals):
        array[1] = number
    assert [array[1] for array in arrivals] == list(range(8_300))
    assert all(array[2] == 2 for array in arrivals)
    assert ref.get()[1] == 1
    assert rr.service(first)(arrivals[-1]).get() == 0
    del arrivals[::2]
    assert [array[1] for array in arrivals] == list(range(1, 8_300, 2))
    assert ref.get()[1] == 1


# ---- what a process keeps ------------------------------------------------------------------------------------------------


def test_an_instance_that_keeps_its_argument_has_it_to_itself(rr):
    keeper, ref = rr.service(Keeper()), rr.put_object(fresh())
    view = ref.get()
    for name in "ab":
        keeper.keep(name, ref)
    keeper.write("a", 0, -1)
    given = keeper.give("a")
    assert first(given.get()) == -1
    keeper.write("a", 0, -2)
    assert first(given.get()) == -1
    assert first(keeper.give("a").get()) == -2
    assert first(keeper.give("b").get()) == first(view) == first(ref.get()) == 0


def test_what_an_instance_keeps_unwritten_is_given_by_its_place(rr):
    keeper = rr.service(Keeper())
    ref = rr.put_object(np.arange(float(MANY)))
    rr.wait([keeper.keep("a", ref), keeper.give("a")])
    with Traffic(rr) as traffic:
        assert keeper.give("a").get()[5] == 5
    assert traffic.copied <= LITTLE


def test_memory_that_is_used_again_shows_what_is_there_now(rr):
    """A view that was written and dropped leaves nothing behind, in no process."""
    service, total = rr.service(overwrite), rr.service(np.sum)
    for number in range(5):
        ref = rr.put_object(np.full(SOME, float(number)))
        one = ref.get()
        other = ref.get()
        assert service(ref).get() == -SOME
        assert total(ref).get() == number * SOME
        one[:] = other[:] = -2
        del one, other
        gc.collect()
        assert (ref.get() == number).all()
        del ref


def test_memory_that_a_user_locked_shows_what_is_there_now(local):
    """The kernel does not drop a copy of a locked page: the place in the window is used no more."""
    libc = ctypes.CDLL(None, use_errno=True)
    ref = local.put_object(fresh())
    view = ref.get()
    view[5] = -1
    if libc.mlock(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(view.nbytes)):
        pytest.skip("may not lock memory")
    address = view.ctypes.data
    del view
    assert ref.get()[5] == 5
    got = ref.get()
    got[6] = -1
    assert first(got) == 0
    assert ref.get()[6] == 6
    libc.munlock(ctypes.c_void_p(address), ctypes.c_size_t(8 * SOME))


def test_a_task_that_closed_the_segments_descriptor_gets_copies(local):
    view = local.put_object(fresh()).get()
    assert local.service(spoil)().get() is True
    assert local.service(number_all)(view, view[:], view[:]).get() == [(0, 1), (1, 1), (2, 1)]
    assert first(view) == 0


# ---- after the end, in threads, in forked children -----------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_values_read_after_close_are_private_too(project, engine):
    with Runner("closing", workers=1, engine=engine) as rr:
        future = rr.service(same)(fresh())
        before, other = future.get(), future.get()
    before[0] = -1
    late, later = future.get(), future.get()
    late[0] = -2
    assert [array[0] for array in (before, other, late, later)] == [-1, 0, -2, 0]
    assert is_own(later)
    del before
    assert future.get()[0] == 0


def test_threads_that_write_pass_on_and_drop(two):
    """Each thread has its own arrivals of the same few values."""
    refs = [two.put_object(fresh(number)) for number in range(3)]
    echo, errors = two.service(same), []

    def use(seed):
        try:
            random = np.random.default_rng(seed)
            for _ in range(30):
                number, position = (int(found) for found in random.integers(0, 3, 2))
                view, expected = refs[number].get(), fresh(number)
                assert np.array_equal(view, expected)
                view[100 * position] = expected[100 * position] = -seed
                assert np.array_equal(echo(view).get(), expected)
                assert np.array_equal(view, expected)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []
    assert all(np.array_equal(ref.get(), fresh(number)) for number, ref in enumerate(refs))


def test_a_thread_that_writes_while_its_task_passes_on(local):
    """Whatever moment is caught, the value that was passed on never changes afterwards, nor does the one it came from."""
    ref = local.put_object(fresh())
    assert local.service(pass_on_while_writing)(ref).get() == [True] * 10
    assert np.array_equal(ref.get(), fresh())


def test_a_forked_child_and_its_parent_write_for_themselves(local):
    """Before the fork and after it, in the window and in a mapping of its own; what the child drops only it has dropped."""
    ref = local.put_object(fresh())
    views = [ref.get(), ref.get()]
    for number, view in enumerate(views):
        view[0] = -1 - number
    go_read, go_write = os.pipe()

    def look():
        os.close(go_write)
        os.read(go_read, 1)
        seen = [(view[0], view[1]) for view in views]
        for view in views:
            view[2:] = -9
        views.clear()
        gc.collect()
        return seen == [(-1, 1), (-2, 1)]

    pid = in_child(look)
    for view in views:
        view[1] = -5
    os.close(go_read)
    os.close(go_write)
    assert os.waitpid(pid, 0)[1] == 0
    assert [(view[0], view[1], view[2]) for view in views] == [(-1, -5, 2), (-2, -5, 2)]
    assert np.array_equal(ref.get(), fresh())


def test_a_forked_child_of_a_task_writes_for_itself(local):
    ref = local.put_object(fresh())
    code, zeroth, second, array = local.service(write_and_fork)(ref).get()
    assert (code, zeroth, second, array[0], array[1]) == (0, -1, 1, -1, 1)
    assert np.array_equal(ref.get(), fresh())


def test_a_task_inside_another_ones_wait_has_its_own_arrival(local):
    ref = local.put_object(fresh())
    assert local.service(write_around)(ref).get() == (3, 0, 5)
    assert np.array_equal(ref.get(), fresh())


# ---- scarce addresses, and arrays that refuse writes ---------------------------------------------------------------------


def test_without_room_for_a_window_each_view_is_mapped_by_itself(project):
    """A bound on addresses that leaves room for the segment once and not twice."""
    printed = run_script(
        project,
        """
        import resource
        import numpy as np
        from flame_fast import Runner

        resource.setrlimit(resource.RLIMIT_AS, (100 << 30, 100 << 30))
        def change(array):
            array[0] = -1
            return array

        with Runner("narrow", workers=1, memory="1g") as rr:
            ref = rr.put_object(np.arange(10_000.0))
            one, other = ref.get(), ref.get()
            one[0] = -2
            print(one[0], other[0], rr.service(change)(ref).get()[0], rr.service(change)(one).get()[1], ref.get()[0])
            before = rr.statistics().copied_bytes
            print(rr.service(lambda array: float(array[1]))(other).get(), rr.statistics().copied_bytes - before)
        """,
    )
    assert printed.splitlines() == ["-2.0 0.0 -1.0 1.0 0.0", "1.0 0"]


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_arrays_that_refuse_writes_if_asked_for(project, engine):
    with Runner("readonly", workers=1, engine=engine, arrays="readonly") as rr:
        locked = rr.service(is_locked)
        for size in (3, SOME):
            sent = [np.ones(size), np.ones(size, ">f8"), np.array([1, "a"] * size, dtype=object), np.ones(size, "M8[s]")]
            sent.append(np.ma.array(np.ones(size), mask=np.arange(size) % 2))
            got = rr.service(same)([*sent, Box(sent[0], [])]).get()
            arrays = [*got[:-1], got[-1].array, got[4].mask, got[4].data]
            assert not any(array.flags.writeable for array in arrays)
            assert not rr.put_object(sent[0]).get().flags.writeable
            assert rr.service(are_writeable)(sent).get() == [False] * 5
        ref = rr.put_object(fresh())
        assert locked(ref).get() is True
        assert is_locked(ref.get())
        view = ref.get()
        ctypes.memset(view.ctypes.data, 1, 8)  # code that ignores the flag writes to a copy of its own all the same
        assert view[0] != 0
        assert ref.get()[0] == 0
        assert rr.service(first)(ref).get() == 0

        assert rr.service(is_writeable_inside)().get() is False


@pytest.mark.parametrize("arrays", ["", "read-only", None, 1])
def test_an_unknown_kind_of_arrays_is_refused(project, arrays):
    with pytest.raises(FlameError, match="arrays: expected 'copy-on-write' or 'readonly', got ") as raised:
        Runner("unknown", arrays=arrays)
    assert raised.value.code == FlameErrorCode.INVALID_ARGUMENT


# ---- random programs -----------------------------------------------------------------------------------------------------

#: Positions on different pages, of which some are the first and the last.
POSITIONS = st.sampled_from([0, 1, 511, 512, 2_000, 4_095, SOME - 1])
NUMBERS = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("store"), NUMBERS),
    st.tuples(st.just("read"), NUMBERS),
    st.tuples(st.just("write"), NUMBERS, POSITIONS),
    st.tuples(st.just("cut"), NUMBERS, st.sampled_from([slice(0, 5_000), slice(900, None), slice(None, None, -1)])),
    st.tuples(st.just("drop"), NUMBERS),
    st.tuples(st.just("forget"), NUMBERS),
    st.tuples(st.just("pass on"), NUMBERS),
    st.tuples(st.just("pass pair"), NUMBERS, NUMBERS),
    st.tuples(st.just("task writes"), NUMBERS, POSITIONS),
    st.tuples(st.just("task passes"), NUMBERS),
    st.tuples(st.just("keep"), NUMBERS, st.sampled_from("ab")),
    st.tuples(st.just("keeper writes"), st.sampled_from("ab"), POSITIONS),
    st.tuples(st.just("keeper gives"), st.sampled_from("ab")),
)


class Program:
    """What the driver, tasks and an instance do with values, beside a model in which everything is copied.

    `refs` are stored values, `views` arrays in the driver (one may show the same memory as another), `kept` what the
    instance has: each with its model.
    """

    def __init__(self, rr, keeper):
        self.rr, self.keeper = rr, keeper
        self.refs, self.views, self.kept, self.count = [], [], {}, 0

    def pick(self, items, number):
        return items[number % len(items)]

    def add(self, items, item):
        items.append(item)
        del items[:-6]

    def step(self, kind, number, argument=None):
        self.count += 1
        if kind == "store" or not self.refs:
            array = fresh(self.count)
            self.add(self.refs, (self.rr.put_object(array), array))
        elif kind == "read":
            ref, model = self.pick(self.refs, number)
            self.add(self.views, (ref.get(), model.copy()))
        elif kind == "forget":
            del self.refs[number % len(self.refs)]
        elif kind == "task writes":
            ref, model = self.pick(self.refs, number)
            expected = write_one(model.copy(), argument, -self.count)
            self.add(self.refs, (self.rr.service(write_one)(ref, argument, -self.count), expected))
        elif kind == "task passes":
            ref, model = self.pick(self.refs, number)
            self.add(self.refs, (self.rr.service(same)(ref), model))
        elif kind == "keeper writes":
            if number in self.kept:
                position = argument % len(self.kept[number])
                self.keeper.write(number, position, -self.count).wait()
                self.kept[number][position] = -self.count
        elif kind == "keeper gives":
            if number in self.kept:
                self.add(self.refs, (self.keeper.give(number), self.kept[number].copy()))
        elif self.views:
            self.step_with_view(kind, number, argument)

    def step_with_view(self, kind, number, argument):
        view, model = self.pick(self.views, number)
        if kind == "write":
            write_one(view, argument, -self.count)
            write_one(model, argument, -self.count)
        elif kind == "cut":
            self.add(self.views, (view[argument], model[argument]))
        elif kind == "drop":
            del self.views[number % len(self.views)]
        elif kind == "pass on":
            self.add(self.refs, (self.rr.put_object(view), model.copy()))
        elif kind == "pass pair":
            other, second = self.pick(self.views, argument)
            future = self.rr.service(write_both)(view, other[:], -self.count)
            assert future.get() == write_both(model.copy(), second.copy(), -self.count)
        elif kind == "keep":
            self.keeper.keep(argument, view).wait()
            self.kept[argument] = model.copy()

    def check(self):
        assert all(np.array_equal(view, model) for view, model in self.views)
        assert all(np.array_equal(ref.get(), model) for ref, model in self.refs)
        for name, model in self.kept.items():
            assert np.array_equal(self.keeper.give(name).get(), model)


def test_random_programs_see_what_a_model_that_copies_sees(two, page_tables):
    keeper = two.service(Keeper())

    @settings(QUICK, max_examples=40)
    @given(st.lists(STEPS, min_size=5, max_size=25))
    def runs(steps):
        program = Program(two, keeper)
        for step in steps:
            program.step(*step)
            assert all(np.array_equal(view, model) for view, model in program.views)
        program.check()

    for _ in page_tables:
        runs()
        assert two.statistics().bytes <= 12 * 8 * SOME + LITTLE  # what the instance keeps, and no more

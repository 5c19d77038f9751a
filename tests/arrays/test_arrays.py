"""Every dtype and layout on both sides of the boundary, masked arrays, pandas, and objects that hold arrays."""

from __future__ import annotations

import numpy as np
import pytest
from array_kinds import (
    DTYPES,
    LAYOUTS,
    SIZES,
    STRUCTURED,
    Linked,
    Plain,
    Slotted,
    are_one,
    are_one_beside,
    change_bytearray,
    count_of,
    double_real,
    elements,
    filled,
    look_masked,
    made,
    make,
    make_masked,
    pairs_are_one,
    seen,
    seen_inside,
    seen_masked,
    shared_objects,
    totals,
    twice,
    type_and_ends,
    type_and_shape,
    type_and_text,
)
from array_layouts import LITTLE, MANY, SHARED, Traffic, is_like, is_own, look
from gates import same

from flame_fast import Runner


@pytest.fixture(params=["local", "inline"])
def rr(project, request):
    """With one worker: each loads NumPy anew."""
    with Runner("views", workers=1, engine=request.param) as runner:
        yield runner


@pytest.fixture(params=["local", "inline"])
def two(project, request):
    """With two workers, so that a value may come from one and go to the other."""
    with Runner("views", workers=2, engine=request.param) as runner:
        yield runner


@pytest.fixture
def local(project):
    """One worker: what it has loaded and what it keeps is there for the next call."""
    with Runner("views", workers=1) as runner:
        yield runner


# ---- every dtype, on both sides of the boundary --------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_every_dtype_in_every_layout(two, size):
    """Equal in value, dtype, byte order and order, at the task and back, and writable at both."""
    there, back, wrong = two.service(seen), two.service(same), []
    for dtype in DTYPES:
        flat_array = make(dtype, elements(dtype, SIZES[size]))
        for name, lay in LAYOUTS.items():
            sent = lay(flat_array)
            assert (sent.dtype, sent.dtype.str) == (dtype, dtype.str)
            expected = look(sent)
            got = back(sent).get()
            for found, writeable, where in ((*there(sent).get(), "there"), (look(got), got.flags.writeable, "back")):
                if not writeable or not is_like(found, expected):
                    wrong.append(f"{dtype} {name} {where}: {found} {writeable}, not {expected}")
            if sent.nbytes > SHARED and not dtype.hasobject and not is_own(got):
                wrong.append(f"{dtype} {name}: cannot be written")
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
                assert got.flags.writeable


def test_every_dtype_as_a_result_of_its_own(local):
    """Made in the task, not just returned by it; above the boundary and below."""
    service = local.service(made)
    for number, dtype in enumerate(DTYPES):
        for size in ("small", "large"):
            for name in LAYOUTS:
                got, expected = service(number, size, name).get(), made(number, size, name)
                assert is_like(look(got), look(expected)), (dtype, size, name)
                assert got.flags.writeable, (dtype, size, name)


def test_arrays_of_no_axes_and_of_no_elements(rr):
    there, back = rr.service(look), rr.service(same)
    for shape in ((), (0,), (3, 0, 2), (1,), (1, 1, 1), (0, 5000, 5000)):
        for dtype in DTYPES:
            array = make(dtype, int(np.prod(shape))).reshape(shape)
            for sent in (array, array.copy(order="F")):
                got = back(sent).get()
                assert is_like(there(sent).get(), look(sent)) and is_like(look(got), look(sent)), (dtype, shape)
                assert type(got) is np.ndarray
                assert got.flags.writeable


def test_arrays_of_many_axes(rr):
    there, back = rr.service(look), rr.service(same)
    for axes in (32, 64):
        for shape in ((1,) * axes, (2,) * 4 + (1,) * (axes - 4), (2,) * 14 + (1,) * (axes - 14)):
            sent = np.arange(np.prod(shape), dtype="f8").reshape(shape)
            assert is_like(there(sent).get(), look(sent)) and is_like(look(back(sent).get()), look(sent)), shape


def test_random_arrays_on_both_sides_of_the_boundary(rr):
    """Any scalar dtype, any few values, repeated until they fill about as much as a copied value may have at most."""
    from hypothesis import HealthCheck, given, settings  # here, since every worker imports this module
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    there, back = rr.service(look), rr.service(same)

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=150)
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
        assert got.flags.writeable

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
        yield "complex", np.ma.array(np.arange(count) * 1j, mask=mask)
        yield "objects", np.ma.array(make(np.dtype("O"), count), mask=mask)
        structured = np.zeros(count, dtype=[("a", "i4"), ("b", ">f8")])
        structured["a"] = np.arange(count)
        fields = np.zeros(count, dtype=[("a", "?"), ("b", "?")])
        fields["b"] = mask
        yield "structured", np.ma.array(structured, mask=fields)


def test_masked_arrays(rr):
    there, back = rr.service(seen_masked), rr.service(same)
    for name, sent in masked_arrays():
        expected = look_masked(sent)
        got = back(sent).get()
        assert is_like(look(got), look(sent)), name
        for found in (
            there(sent).get(),
            seen_masked(got),
            seen_masked(back([sent]).get()[0]),
            seen_masked(rr.put_object(sent).get()),
        ):
            assert found == (expected, [True] * 2), name
        if sent.dtype.kind in "fc":
            assert rr.service(count_of)(sent).get() == sent.count(), name


def test_masked_scalars_and_constants(rr):
    echo = rr.service(same)
    assert echo(np.ma.masked).get() is np.ma.masked
    assert echo([np.ma.masked, 1]).get()[0] is np.ma.masked
    zero = np.ma.array(5.0, mask=False)
    got = echo(zero).get()
    assert (type(got), got.shape, float(got)) == (np.ma.MaskedArray, (), 5.0)


def test_masked_results_are_made_in_the_task(local):
    for count in (10, MANY):
        got = local.service(make_masked)(count).get()
        assert look(got) == look(make_masked(count))


def test_pandas(rr):
    pandas = pytest.importorskip("pandas")
    count = 4200  # of eight bytes just above the boundary, of four below it
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
    echo, sizes = rr.service(same), rr.service(type_and_shape)
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
    changed = rr.service(double_real)(frame).get()
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


def test_objects_that_hold_arrays(rr):
    there, back = rr.service(seen_inside), rr.service(same)
    for dtype in ("f8", ">i4", "M8[s]", "U3", "O", STRUCTURED):
        for count in (24, 24 * 500):
            array = make(np.dtype(dtype), count).reshape(4, -1)
            for sent in (Plain(array, {"a": [array]}), Slotted(array, array[:1, :2]), Linked(array)):
                got = back(sent).get()
                assert type(got) is type(sent)
                assert there(sent).get() == seen_inside(got)
                assert is_like(seen_inside(got)[0], look(array)) and got.array.flags.writeable
    linked = back(Linked(np.ones(MANY))).get()
    assert linked.again[0] is linked.array
    assert linked.me is linked
    slotted = back(Slotted(np.ones(MANY), np.ones(3))).get()
    assert slotted.small.flags.writeable


def test_numpy_scalars(rr):
    echo = rr.service(same)
    names = rr.service(type_and_text)
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


def test_bytes_and_text_are_ordinary_objects(rr):
    """Of any size; a bytearray is the receiver's own."""
    echo, changed = rr.service(same), rr.service(change_bytearray)
    kinds = rr.service(type_and_ends)
    for size in (SHARED - 1, SHARED, SHARED + 1, 3 * SHARED, 2_000_000):
        for value in (b"\0\xff" * size, "x" * size, "é€\U0001f600" * (size // 3), "a\0" * size):
            for got in (echo(value).get(), echo([value, 1]).get()[0], echo({value: value}).get()[value]):
                assert type(got) is type(value)
                assert got == value
            assert kinds(value).get() == (type(value).__name__, len(value), value[:1], value[-1:])
            assert rr.put_object((value,)).get() == (value,)
        own = bytearray(size)
        name, tail, got = changed(own).get()
        assert (name, tail, own) == ("bytearray", b"\0end", bytearray(size))
        assert (len(got), got[0]) == (size + 3, 7)
        got[1] = 9
        got.append(1)
        kept = rr.put_object([own]).get()[0]
        own[0] = 1
        assert kept == bytearray(size)


# ---- futures and what is one object --------------------------------------------------------------------------------------


def test_futures_of_arrays_anywhere_in_an_argument(two):
    """In dicts, lists, objects; large and small; each as one view of its value."""
    make_it = two.service(filled)

    for count in (10, MANY):
        first, second = make_it(count, 1), make_it(count, 2)
        ref = two.put_object(np.full(count, 3.0))
        value = {"a": first, "b": [second, {"c": ref}], "d": Plain(first, {"e": second})}
        two.wait([first, second])
        two.service(totals)(value).wait()
        with Traffic(two) as traffic:
            got = two.service(totals)(value).get()
        assert got == [(number * float(count), True) for number in (1, 2, 3, 1, 2)]
        assert traffic.copied <= LITTLE
        fetched = two.get({"x": [first, (second,)], "y": ref})
        assert [float(array[0]) for array in (fetched["x"][0], fetched["x"][1][0], fetched["y"])] == [1, 2, 3]


def test_one_future_twice_in_an_argument_is_one_array(rr):
    future = rr.service(filled)(MANY, 1)
    assert rr.service(are_one_beside)([future, {"a": future}]).get() is True


def test_what_is_one_object_in_a_value_arrives_as_one(rr):
    """A list, a dict and an object that stand twice, wherever: as pickle does it, with arrays beside them."""
    inner, table, array = [1, [2]], {"a": 1}, np.ones(MANY)

    value = [inner, inner, {"x": inner}, table, table, array]
    assert rr.service(shared_objects)(value).get() == (True, True, True)
    assert shared_objects(rr.service(same)(value).get()) == (True, True, True)
    assert shared_objects(rr.put_object(value).get()) == (True, True, True)
    assert rr.service(are_one)(inner, inner, c=[inner]).get() is True
    assert rr.service(twice(inner))().get()[0] == inner
    first, second = rr.service(twice([1]))().get()
    assert first is second


def test_one_array_twice_in_a_value_is_one_array(rr):
    """And lies in memory once."""
    array, small = np.ones(MANY), np.arange(3)
    shared = rr.service(pairs_are_one)
    together = rr.service(are_one)
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
    assert is_own(got["array"])

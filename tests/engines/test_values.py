"""Values on their way: into a task, out of it, and stored; equal in value, type, dtype and order at the other end."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import math
import pathlib
import types
import uuid

import numpy as np
import pytest
from engines import in_a_segment
from gates import PATIENCE_S, same
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from value_tasks import (
    Colour,
    Count,
    Flags,
    Frozen,
    Items,
    Keeper,
    Level,
    Pair,
    Point,
    Raw,
    Real,
    Table,
    Text,
    add_one,
    all_that_is_given,
    are_one,
    are_the_first,
    change_bytes,
    doubling,
    echoing,
    extend_both,
    giving,
    make_zeros,
    sorted_copy,
    total,
    type_names,
    using,
    write_first,
)

from flame_fast import Runner

LARGE = 300_000


@pytest.fixture
def rr(project, engine):
    """With one worker: each loads NumPy anew."""
    with Runner("values", workers=1, engine=engine) as made:
        yield made


@pytest.fixture
def two(project, engine):
    """With two workers, so that a value may come from one and go to the other."""
    with Runner("values", workers=2, engine=engine) as made:
        yield made


def random_cases(engine, count):
    """Return hypothesis's settings: all engines pack values alike, so all cases for one and a third for each other."""
    cases = count if engine == "local" else count // 3
    return settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def identical(left, right):
    """Equal in type and value all the way down: nan is nan, -0.0 is not 0.0, True is not 1, dicts in their order."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, complex):
        return identical(left.real, right.real) and identical(left.imag, right.imag)
    if isinstance(left, (list, tuple, collections.deque)):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, dict):
        return identical(list(left.items()), list(right.items()))
    return left == right


def ways(rr):
    """Each way a value can travel: there and back, only back (in a closure), and stored."""
    service = rr.service(same)
    return {
        "argument and result": lambda value: service(value).get(),
        "keyword argument": lambda value: service(value=value).get(),
        "inside a list": lambda value: service([value]).get()[0],
        "ref": lambda value: rr.put_object(value).get(),
        "ref as argument": lambda value: service(rr.put_object(value)).get(),
        "future as argument": lambda value: service(service(value)).get(),
    }


# ---- plain values --------------------------------------------------------------------------------------------------------

HUGE = st.integers(min_value=-(2**300), max_value=2**300) | st.sampled_from(
    [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**4000, -(10**4000), 2**31, -1, 0]
)
LEAVES = (
    st.none()
    | st.booleans()
    | HUGE
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too
    | st.binary(max_size=300)
    | st.builds(bytearray, st.binary(max_size=50))
)
KEYS = (
    st.none() | st.booleans() | HUGE | st.text(st.characters(codec=None, exclude_categories=()), max_size=10) | st.binary()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.sets(KEYS, max_size=5)
        | st.frozensets(KEYS, max_size=5)
    ),
    max_leaves=30,
)


def test_plain_values_travel_unchanged(two, engine):
    everything = ways(two)

    @random_cases(engine, 150)
    @given(VALUES, st.sampled_from(sorted(everything)))
    def travels(value, way):
        assert identical(everything[way](value), value)

    travels()


def test_arguments_of_any_number_and_name_travel_unchanged(rr, engine):
    service = rr.service(all_that_is_given)

    @random_cases(engine, 50)
    @given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(max_size=8), VALUES, max_size=3))
    def travel(args, kwargs):
        got_args, got_kwargs = service(*args, **{f"_{name}": value for name, value in kwargs.items()}).get()
        assert identical(got_args, tuple(args))
        assert identical(got_kwargs, {f"_{name}": value for name, value in kwargs.items()})

    travel()


PLAIN = {
    "the largest int64": 2**63 - 1,
    "the smallest int64": -(2**63),
    "above int64": 2**63,
    "below int64": -(2**63) - 1,
    "a googol": 10**100,
    "a negative giant": -(1 << 100_000),
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "nan": math.nan,
    "minus zero": -0.0,
    "the smallest float": 5e-324,
    "a lone surrogate": "a\ud800b",
    "a surrogate that escapes a byte": b"\xff".decode("utf-8", "surrogateescape"),
    "a nul": "a\0b",
    "every plane": "aé€\U0001f600",
    "a long text": "é" * LARGE,
    "empty text": "",
    "bytes": b"\0\xff" * 10,
    "large bytes": b"\0\xff" * LARGE,
    "empty bytes": b"",
    "bytearray": bytearray(b"abc"),
    "large bytearray": bytearray(LARGE),
    "true and one": [True, 1, 1.0, False, 0, 0.0],
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "range": range(2, 10**30, 3),
    "slice": slice(1, None, 2),
    "set of tuples": {(1, 2), (3, "x")},
    "many keys": {number: str(number) for number in range(3000)},
    "order of keys": {"b": 1, "a": 2, 3: None, None: 4},
    "a type": int,
    "a function": math.hypot,
    "datetime": datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    "decimal": decimal.Decimal("1.10"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=5),
    "path": pathlib.PurePosixPath("/a/b"),
    "array": array.array("d", [1.0, 2.0]),
    "deque": collections.deque([1, 2], maxlen=4),
    "counter": collections.Counter("abca"),
    "ordered dict": collections.OrderedDict(b=1, a=2),
    "default dict": collections.defaultdict(list, a=[1]),
    "namespace": types.SimpleNamespace(a=1),
    "exception": [ValueError],
}


def test_every_kind_of_value_travels_unchanged(two):
    for way, travel in ways(two).items():
        for name, value in PLAIN.items():
            assert identical(travel(value), value), f"{name} as {way}"


def test_deep_nesting(rr):
    for depth in (15, 16, 17, 100, 300):
        value = leaf = []
        for _ in range(depth):
            leaf.append([])
            leaf = leaf[0]
        leaf.append((1, {"x": None}))
        got = rr.service(same)(value).get()
        for _ in range(depth):
            assert type(got) is list and len(got) == 1
            got = got[0]
        assert identical(got, [(1, {"x": None})])


def test_shared_and_cyclic_objects(rr):
    cycle = [1]
    cycle.append(cycle)
    got = rr.service(same)(cycle).get()
    assert got[0] == 1
    assert got[1] is got
    mapping = {}
    mapping["self"] = mapping
    got = rr.put_object(mapping).get()
    assert got["self"] is got


def test_bytes_stay_bytes(rr):
    """Flame takes bytes of a certain form for references; here they are never more than bytes."""
    import pickle

    import cloudpickle

    for data in (
        pickle.dumps({"a": 1}),
        cloudpickle.dumps(lambda: 1),
        b"(\x02",
        b"R\0\0\0\0",
        b"\x80\x05N.",
        bytes(range(256)),
    ):
        assert identical(rr.service(same)(data).get(), data)
        assert rr.service(type_names)(data).get() == ["bytes"]


def test_a_bytearray_and_bytes_are_ordinary_objects_that_a_task_may_change(rr):
    for size in (3, LARGE):
        assert rr.service(change_bytes)(bytearray(size)).get() == bytearray(b"\1" + bytes(size - 1) + b"x")
        got = rr.service(same)(bytearray(size)).get()
        got[0] = 7
        assert got[:2] == b"\7\0"


# ---- classes -------------------------------------------------------------------------------------------------------------


def test_subclasses_of_plain_types_keep_their_class(two):
    values = [Count(5), Text("x"), Items([1, Count(2)]), Table(a=1), Raw(b"abc"), Real(1.5), Pair(1, Text("y"))]
    for travel in ways(two).values():
        for value in values:
            got = travel(value)
            assert type(got) is type(value)
            assert got == value
    assert type(two.service(same)(Items([1, Count(2)])).get()[1]) is Count
    noted = Text("x")
    noted.note = "kept"
    assert two.service(same)(noted).get().note == "kept"


def test_a_task_sees_the_class_too(rr):
    assert rr.service(type_names)(Count(5), Text("x"), Items(), True, Level.LOW, Pair(1, 2)).get() == [
        "Count", "Text", "Items", "bool", "Level", "Pair",
    ]  # fmt: skip


def test_enums_stay_what_they_are(rr):
    for value in (Colour.RED, Colour.BLUE, Level.LOW, Flags.A | Flags.B):
        got = rr.service(same)([value]).get()[0]
        assert got is value or (type(got) is Flags and got == value)


def test_dataclasses(two):
    for travel in ways(two).values():
        for value in (Point(1, [Point(2)]), Frozen(3)):
            assert identical(travel(value), value)


def test_classes_made_in_a_function_travel_by_value(rr):
    Local, doubled = doubling()
    got = rr.service(doubled)(Local(4)).get()
    assert type(got) is Local
    assert got == Local(8)


# ---- NumPy ---------------------------------------------------------------------------------------------------------------

BASE = np.arange(24)
STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8"), ("c", "S3"), ("d", "U2", (2,))])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)


def read_only(values):
    made = np.array(values)
    made.flags.writeable = False
    return made


ARRAYS = {
    **{
        f"dtype {kind}": BASE.astype(kind)
        for kind in ("?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d", "g")
    },
    **{f"dtype {kind}": (BASE - 1j).astype(kind) for kind in ("F", "D", "G")},
    "special floats": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "big-endian integers": BASE.astype(">i4"),
    "big-endian floats": BASE.astype(">f8"),
    "big-endian strided": BASE.astype(">i4")[::3],
    "big-endian column": BASE.astype(">f8").reshape(4, 6)[:, 1],
    "datetime64": np.array(["2024-02-29", "NaT", "1969-12-31"], dtype="datetime64[D]"),
    "datetime64 of nanoseconds": BASE.astype("datetime64[ns]"),
    "timedelta64": BASE.astype("timedelta64[ms]"),
    "bytes": np.array([b"a", b"bcd", b""]),
    "text": np.array(["a", "bcd", "€"]),
    "void": np.array([b"abc", b"xyz"], dtype="V3"),
    "structured": np.array([(1, 2.5, b"x", ["a", "bc"]), (3, 4.5, b"yz", ["", "d"])], dtype=STRUCTURED),
    "aligned": np.array([(1, 2.0), (3, 4.0)], dtype=ALIGNED),
    "field of a structured one": np.array([(1, 2.0), (3, 4.0)], dtype=ALIGNED)["b"],
    "record": np.rec.array([(1, "x"), (2, "y")], names="n,s"),
    "object": np.array([None, {"a": [1]}, "text", 10**30, (1, 2)], dtype=object),
    "object of arrays": np.array([np.arange(3), np.arange(4.0)], dtype=object),
    "0-d": np.array(5.5),
    "0-d object": np.array({"a": 1}, dtype=object),
    "empty": np.array([]),
    "empty of three axes": np.empty((3, 0, 2), dtype="i2"),
    "Fortran": np.asfortranarray(BASE.reshape(4, 6)),
    "transposed": BASE.reshape(2, 3, 4).transpose(2, 0, 1),
    "strided": BASE[::3],
    "reversed": BASE[::-1],
    "window": BASE.reshape(4, 6)[1:3, 2:5],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "read-only": read_only([1, 2, 3]),
    "unaligned": np.frombuffer(b"x" + BASE.astype("f8").tobytes(), dtype="f8", offset=1),
    "one axis more": BASE.reshape(1, 24, 1),
    "large": np.arange(float(LARGE)),
    "large Fortran": np.asfortranarray(np.arange(LARGE).reshape(3, -1)),
    "large strided": np.arange(2 * LARGE)[::2],
    "large big-endian": np.arange(LARGE, dtype=">i8"),
    "large structured": np.zeros(LARGE // 10, dtype=STRUCTURED),
    "large object": np.array([str(number) for number in range(5000)], dtype=object),
    "large 2-d": np.arange(LARGE, dtype="f4").reshape(300, -1),
    "large booleans": np.arange(LARGE) % 3 == 0,
}


def same_array(left, right):
    assert type(left) is type(right)
    assert left.dtype == right.dtype, (left.dtype, right.dtype)
    assert left.dtype.isalignedstruct == right.dtype.isalignedstruct
    assert left.shape == right.shape
    if left.dtype == object:
        assert repr(left.tolist()) == repr(right.tolist())
    else:
        assert left.tobytes() == right.tobytes()
    if right.ndim > 1 and right.size:  # the order is kept where there is one
        assert left.flags.f_contiguous or not right.flags.f_contiguous
        assert left.flags.c_contiguous or not right.flags.c_contiguous


def test_every_array_travels_unchanged(two):
    wrong = []
    for way, travel in ways(two).items():
        for name, sent in ARRAYS.items():
            try:
                same_array(travel(sent), sent)
            except AssertionError as error:
                wrong.append(f"{name} as {way}: {error}")
    assert not wrong, "\n".join(wrong)


def test_arrays_arrive_writable_whatever_their_size(rr):
    """Those that were read-only where they come from too."""
    service, maker, identity = rr.service(write_first), rr.service(make_zeros), rr.service(same)
    for name, sent in ARRAYS.items():
        assert service(sent).get() is True, name
        assert service(rr.put_object(sent)).get() is True, name
        assert service(identity(sent)).get() is True, name
        assert write_first(identity(sent).get()), name
    for kind in ("f8", "O", ">i4", "U3", [("a", "i4")]):
        for count in (1, 100, LARGE):
            got = maker(kind, count).get()
            assert (got.size, write_first(got)) == (count, True)


def test_arrays_inside_other_values_are_writable_too(rr):
    sent = {"a": [np.zeros(3)], "b": Point(1, [np.zeros(LARGE)]), "c": np.array([np.zeros(2), None], dtype=object)}

    assert rr.service(add_one)(sent).get() == [1.0] * 3
    assert add_one(rr.service(same)(sent).get()) == [1.0] * 3
    assert add_one(sent) == [1.0] * 3


def test_the_senders_own_array_stays_writable(rr):
    sent = np.zeros(LARGE)
    ref = rr.put_object(sent)
    future = rr.service(same)(sent)
    sent[:] = 1
    assert not ref.get().any()
    assert not future.get().any()
    assert sent.flags.writeable


def test_masked_arrays(rr):
    for sent in (
        np.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=9),
        np.ma.array(np.arange(float(LARGE)), mask=np.arange(LARGE) % 2),
        np.ma.array([1.5, 2.5]),
        np.ma.masked_all((2, 2)),
    ):
        got = rr.service(same)(sent).get()
        assert isinstance(got, np.ma.MaskedArray)
        assert got.dtype == sent.dtype
        assert np.array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(sent))
        assert np.array_equal(got.compressed(), sent.compressed())
        assert got.fill_value == sent.fill_value
        assert rr.service(total)(sent).get() == sent.sum() or sent.sum() is np.ma.masked
        if sent.size and sent.ndim == 1:
            got[0] = 0
            assert got[0] == 0


def test_numpy_scalars_keep_their_type(rr):
    scalars = [
        *(np.int8(-1), np.uint64(2**64 - 1), np.float16(0.1), np.float32(0.1), np.float64(0.1), np.longdouble("0.1")),
        *(np.complex64(1j), np.bool_(True), np.str_("x"), np.bytes_(b"x"), np.float64("nan")),
        *(np.datetime64("NaT"), np.datetime64("2024-02-29"), np.timedelta64(3, "s")),
        *(np.array([(1, 2.0)], dtype=ALIGNED)[0], np.dtype(">i4"), STRUCTURED),
    ]
    for scalar in scalars:
        for got in (rr.service(same)(scalar).get(), rr.service(same)([scalar]).get()[0], rr.put_object(scalar).get()):
            assert type(got) is type(scalar)
            assert repr(got) == repr(scalar)


def test_big_endian_datetimes(rr):
    """NumPy's own pickle makes their dtype native."""
    for sent in (np.array([1, 2, 3], dtype=">M8[s]"), np.array([4, 5], dtype=">m8[ms]"), np.arange(LARGE).astype(">M8[ns]")):
        same_array(rr.service(same)(sent).get(), sent)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_subclasses_of_arrays_keep_their_class(rr):
    for sent in (
        np.matrix([[1, 2], [3, 4]]),
        np.rec.array([(1, "x")], names="n,s"),
        np.memmap("map", "f8", "w+", shape=(5,)),
    ):
        got = rr.service(same)(sent).get()
        assert type(got) is type(sent) or isinstance(sent, np.memmap)
        assert np.array_equal(np.asarray(got), np.asarray(sent))
        assert got.flags.writeable


def test_many_arrays_in_one_value(rr):
    sent = [np.full(number, number) for number in range(500)]
    got = rr.service(same)(sent).get()
    assert all(map(np.array_equal, got, sent))


def test_arrays_that_share_memory(rr):
    base = np.arange(LARGE)
    whole, part = rr.service(same)((base, base[10:20])).get()
    assert np.array_equal(whole, base)
    assert np.array_equal(part, base[10:20])


def test_a_value_stays_valid_as_long_as_it_is_held(rr):
    kept = [rr.service(same)(np.full(LARGE, number)).get() for number in range(10)]
    views = [rr.service(same)({"a": np.full(LARGE, number)}).get()["a"][5:10] for number in range(10)]
    for number in range(50):  # what would be written over them
        rr.service(same)(np.full(LARGE, -number - 1)).get()
    assert all((values == number).all() for number, values in enumerate(kept))
    assert all((values == number).all() for number, values in enumerate(views))


def test_an_instance_can_keep_an_array_it_was_given(rr):
    keeper = rr.service(Keeper())
    keeper.keep(np.ones(LARGE))
    for number in range(50):
        rr.service(same)(np.full(LARGE, -number - 1.0)).get()
    assert keeper.look().get(timeout=PATIENCE_S) == LARGE


def test_random_arrays(rr, engine):
    from hypothesis.extra import numpy as hnp

    service = rr.service(same)
    kinds = hnp.scalar_dtypes() | hnp.array_dtypes(allow_subarrays=True) | hnp.nested_dtypes(max_itemsize=200)

    @random_cases(engine, 100)
    @given(st.data())
    def travels(data):
        shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
        kind = data.draw(kinds)
        assume(not (kind.kind in "mM" and kind.str[0] == ">"))  # see test_big_endian_datetimes
        sent = data.draw(hnp.arrays(kind, shape))
        if shape and data.draw(st.booleans()):
            sent = sent[data.draw(hnp.basic_indices(shape, allow_ellipsis=False, allow_newaxis=True))]
            sent = np.asarray(sent)
        same_array(service(sent).get(), sent)

    travels()


# ---- pandas --------------------------------------------------------------------------------------------------------------


def test_pandas(rr):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": [1, 2, 3],
            "b": ["x", None, "z"],
            "c": pandas.to_datetime(["2024-01-01"] * 3),
            "d": pandas.Categorical(list("xyx")),
        }
    )
    for sent in (frame, frame["a"], frame.set_index(["b", "a"]), pandas.DataFrame(np.ones((LARGE, 2)))):
        got = rr.service(same)(sent).get()
        assert type(got) is type(sent)
        assert got.equals(sent)
        assert rr.service(sorted_copy)(sent).get().equals(sent.sort_index())


def test_what_is_one_object_in_an_argument_stays_one(rr):
    service = rr.service(are_the_first)
    inner = [1]
    assert service([inner, inner, [1]]).get() == [True, True, False]
    assert rr.service(are_one)(inner, inner).get() is True


def test_shared_tuples_do_not_blow_up(rr):
    """Sixteen levels of pairs of the same pair: 65,536 leaves if each were written out."""
    value = ()
    for _ in range(60):
        value = (value, value)
    assert rr.service(len)(value).get() == 2


def test_a_mask_arrives_writable_too(rr):
    array = np.ma.array([1, 2, 3], mask=[True, False, False])
    got = rr.service(same)(array).get()
    got.mask[0] = False
    assert got.tolist() == [1, 2, 3]
    assert array.tolist() == [None, 2, 3]


def test_a_service_that_a_task_returns_works_in_the_driver(rr):
    service = rr.service(same)
    assert rr.service(giving(service))().get()(3).get() == 3


@in_a_segment
def test_what_was_seen_in_a_definition_is_special_in_a_value_all_the_same(rr):
    """Arrays lie in line in a service's body, beside the pickle in a value; global generators go by reference in both."""
    table, generator = np.arange(10_000), np.random.RandomState(7)
    bodies = rr.service(using(table, generator)), rr.service(echoing())
    assert bodies[0]().get()[0] == table.sum()
    before = rr.statistics().shared_bytes
    assert bodies[1]({"table": table}).get()["table"].sum() == table.sum()
    assert rr.statistics().shared_bytes > before
    assert rr.service(np.random.rand)().get() != rr.service(np.random.rand)().get()


def test_values_are_copies_and_arrays_the_receivers_own(rr):
    items, array = [1], np.arange(5)

    future = rr.service(extend_both)(items, array)
    items.append("later")
    array[0] = 9
    first, second = future.get(), future.get()
    assert first[0] == second[0] == [1, 2]
    assert first[0] is not second[0]
    first[1][2] = 8
    assert first[1].tolist() == [0, 7, 8, 3, 4]
    assert second[1].tolist() == [0, 7, 2, 3, 4]
    assert array.tolist() == [9, 1, 2, 3, 4]
    assert items == [1, "later"]
    ref = rr.put_object(array)
    array[0] = 0
    assert ref.get()[0] == 9

"""Arrays that tasks return: allocated in the store, handed over only if nothing else can change them, in used memory."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import numpy as np
import pytest
from array_layouts import LITTLE, MANY, SHARED, Traffic, is_own, look
from gates import add

from flame_fast import Runner


@pytest.fixture
def local(project):
    """One worker: what it has loaded and what it keeps is there for the next call."""
    with Runner("views", workers=1) as runner:
        yield runner


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
    """Return the arrays in a value, in order."""
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
        assert all(is_own(array) for array in got), name
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


# ---- ownership -----------------------------------------------------------------------------------------------------------


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


def test_what_has_another_reference_is_copied(local):
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
        assert all(is_own(array) for array in values), name
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
    assert all(is_own(array) for array in (got.weights, got.rest[0], got.rest[1]["a"]))


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

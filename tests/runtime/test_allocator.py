"""The allocator against a plain model: whatever is put, read, passed on and dropped, nothing overlaps or is lost.

One process plays driver and worker. What an operation takes is measured once, when it is done; from then on the model says
to the byte how much must be in use, as long as any process keeps any of it, and that all of it comes back.
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule
from runtime_harness import Alone

from flame_fast import StoreFullError

LONG = os.environ.get("FLAME_FAST_STORM") == "1"

#: Up to where a value goes into its slot, and into a slab's block; from there on it is an extent of its own.
INLINE, SHARED = 144, 1 << 15
GRANULE = 1 << 14
#: What a bytes object takes in front of itself.
HEAD = 9
#: Slabs that a process goes on owning when nothing is in them: one of each size.
SLABS = 4 << 20

EDGES = sorted(
    {0, 1, INLINE, SHARED, GRANULE, 3 * GRANULE, 1 << 17}
    | {2**exponent * (4 + step) // 4 for exponent in range(7, 21) for step in range(4)}
)
sizes = st.one_of(
    st.builds(
        lambda edge, off, head: max(0, edge + off - head),
        st.sampled_from(EDGES),
        st.integers(-2, 2),
        st.sampled_from([0, HEAD]),
    ),
    st.integers(0, 400),
    st.integers(0, SHARED),
    st.integers(SHARED, 1 << 20),
)
seeds = st.integers(1, 255)


def echo(*values):
    return values


def refuse(*values):
    raise KeyError("refused" * 100)


def make_bytes(nbytes, seed):
    """No stretch of it is like another, or like one of another value."""
    return np.arange(seed, seed + (nbytes // 8 + 1) * 7919, 7919, dtype=np.uint64).tobytes()[:nbytes]


def make_text(nbytes, seed):
    return chr(seed % 90 + 33) * nbytes


def make_array(nbytes, seed):
    return np.frombuffer(make_bytes(nbytes // 8 * 8, seed), dtype=np.int64)


def make_columns(nbytes, seed):
    return np.asfortranarray(make_array(nbytes // 16 * 16, seed).reshape(2, -1))


def make_records(nbytes, seed):
    """Of a dtype that travels by pickle, its buffer out of band."""
    return make_array(nbytes // 16 * 16, seed).view([("a", np.int64), ("b", np.int64)])


def make_parts(nbytes, seed):
    return [make_array(nbytes, seed), make_bytes(nbytes // 3, seed), seed, *[seed + 0.5] * (nbytes // 400)]


def make_many(nbytes, seed):
    """Its block is larger than a slab's, and no larger than that: each value in it is compared after every step."""
    return tuple(range(seed, seed + min(nbytes, 2 * SHARED) // HEAD))


MAKERS = [make_bytes, make_text, make_array, make_columns, make_records, make_parts, make_many]


def arrays_in(value):
    """Return the arrays that lie in the store themselves, in place."""
    if isinstance(value, np.ndarray):
        return [value] if value.nbytes > SHARED else []
    return [array for part in value for array in arrays_in(part)] if isinstance(value, (list, tuple)) else []


def has_arrays(value):
    return any(isinstance(part, (np.ndarray, list, tuple)) for part in value)


def check_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.flags.writeable
        assert np.array_equal(got, expected)
    elif isinstance(expected, (list, tuple)):
        assert [type(part) for part in got] == [type(part) for part in expected]
        if has_arrays(expected):
            for one, other in zip(got, expected, strict=True):
                check_same(one, other)
        else:
            assert got == expected
    else:
        assert got == expected


class Piece:
    """Memory that one operation took. A slot keeps all of it, views and slots with arrays in it at least those."""

    def __init__(self, nbytes):
        self.nbytes = nbytes
        self.least = 0
        self.keepers = set()


class Value:
    """A slot in use: what is in it, the piece it took and the one that each of its arrays lies in."""

    def __init__(self, handle, expected, own, pieces):
        self.handle = handle
        self.expected = expected
        self.own = own
        self.array_pieces = pieces  # of each of the arrays in it
        for piece in {own, *pieces}:
            piece.keepers.add(self)


class View:
    """What reading a value gave, or a part of that."""

    def __init__(self, got, expected, pieces):
        self.got = got
        self.expected = expected
        self.array_pieces = pieces
        for piece in pieces:
            piece.keepers.add(self)


class Queued:
    """A call that has not run."""

    def __init__(self, future, method, expected, arguments, own, detached):
        self.future = future
        self.detached = detached
        self.refuses = method
        self.expected = expected
        self.dependencies = {argument for argument in arguments if isinstance(argument, Value)}
        self.pieces = [piece for argument in arguments for piece in argument.array_pieces]
        self.own = own


class Store(RuleBasedStateMachine):
    values = Bundle("values")
    views = Bundle("views")

    @initialize(limit=st.sampled_from([10 << 20, 1 << 26]))
    def start(self, limit):
        self.alone = Alone(limit)
        self.services = self.alone.service(echo), self.alone.service(refuse)
        self.base = self.alone.in_use()
        self.limit = limit
        self.pieces, self.slots, self.held_views = set(), set(), set()
        self.queued = None
        self.moved = 0

    def bytes_used(self):
        return self.alone.in_use()[1] - self.base[1]

    # ---- the model ---------------------------------------------------------------------------------------------------

    def taken(self, take, expected):
        """Return (what `take` returns, the piece it took); None when the store is full."""
        before = self.alone.in_use()
        try:
            made = take()
        except StoreFullError as error:
            self.check_refusal(error, expected)
            assert self.alone.in_use() == before, "a refused operation took something"
            return None
        return made, self.new_piece(self.alone.in_use()[1] - before[1])

    def new_piece(self, nbytes):
        assert nbytes >= 0
        piece = Piece(nbytes)
        self.pieces.add(piece)
        return piece

    def check_refusal(self, error, expected):
        assert error.limit == self.limit
        asked = sum(array.nbytes for array in arrays_in(expected)) + (1 << 21)
        assert error.free <= 2 * asked, "refused, though there is room"

    def new_value(self, handle, expected, own, pieces):
        own.least = sum(array.nbytes for array, piece in zip(arrays_in(expected), pieces, strict=True) if piece is own)
        assert own.nbytes >= own.least
        value = Value(handle, expected, own, pieces)
        self.slots.add(value)
        return value

    def expect_freed(self, holders, change):
        """Do `change`, after which `holders` hold nothing any more: what no holder keeps must be free, and nothing else."""
        before = self.bytes_used()
        change()
        freed = before - self.bytes_used()
        self.forget(holders, freed)

    def forget(self, holders, freed):
        with_block = []
        for holder in holders:
            for piece in list(self.pieces):
                piece.keepers.discard(holder)
            if isinstance(holder, Value):
                self.slots.discard(holder)
                with_block.append(holder.own)
        gone = {piece for piece in self.pieces if not piece.keepers}
        self.pieces -= gone
        rest = freed - sum(piece.nbytes for piece in gone)
        # A slot that goes takes its block along, though there are views of the arrays beside it.
        partly = [piece for piece in with_block if piece not in gone]
        for piece in partly:
            share = min(rest, piece.nbytes - piece.least)
            piece.nbytes -= share
            rest -= share
        assert rest == 0, f"{rest} bytes too many were freed"

    # ---- what may be done --------------------------------------------------------------------------------------------

    @rule(target=values, maker=st.sampled_from(MAKERS), nbytes=sizes, seed=seeds)
    def put(self, maker, nbytes, seed):
        expected = maker(nbytes, seed)
        made = self.taken(lambda: self.alone.runtime.put(expected), expected)
        if made is None:
            return multiple()
        ref, own = made
        return self.new_value(ref, expected, own, [own] * len(arrays_in(expected)))

    @rule(target=values, view=views)
    def put_again(self, view):
        """Put what lies in the store already: it is passed on, and not copied."""
        made = self.taken(lambda: self.alone.runtime.put(view.got), view.expected)
        if made is None:
            return multiple()
        ref, own = made
        assert own.nbytes <= 2 * max(0, size_beside_arrays(view.expected)) + 3 * GRANULE, "an array was copied"
        return self.new_value(ref, view.expected, own, view.array_pieces)

    @rule(target=views, value=values)
    def read(self, value):
        before = self.bytes_used()
        view = View(value.handle.get(), value.expected, value.array_pieces)
        assert self.bytes_used() == before, "reading took memory of the store"
        self.held_views.add(view)
        return view

    @rule(target=views, view=views, begin=st.integers(0, 10_000), length=st.integers(0, 100_000))
    def cut(self, view, begin, length):
        """Cut a part of an array, which keeps all of the array."""
        arrays = arrays_in(view.got)
        if not arrays or arrays[0].ndim != 1:
            return multiple()
        part, expected = (array[begin : begin + length] for array in (arrays[0], arrays_in(view.expected)[0]))
        cut = View(part, expected, view.array_pieces[:1])
        cut.array_pieces = cut.array_pieces[: len(arrays_in(expected))]
        self.held_views.add(cut)
        return cut

    @rule(value=consumes(values))
    def drop(self, value):
        if value in (self.queued.dependencies if self.queued else ()) and not self.queued.detached:
            self.drop_the_call()
        if value in (self.queued.dependencies if self.queued else ()):
            before = self.bytes_used()
            self.queued.future = None  # its result could not be told from what goes with this value
            value.handle = None
            assert self.bytes_used() == before, "dropping what a queued call needs freed it"
        else:
            self.expect_freed([value], lambda: setattr(value, "handle", None))

    @rule(view=consumes(views))
    def forget_view(self, view):
        self.held_views.discard(view)
        self.expect_freed([view], lambda: setattr(view, "got", None))

    @precondition(lambda self: self.queued is None)
    @rule(
        refuses=st.booleans(),
        arguments=st.lists(st.one_of(values, views), max_size=4),
        plain=st.one_of(st.none(), st.integers(0, 3 * SHARED).map(lambda size: "p" * size)),
        detached=st.booleans(),
    )
    def call(self, refuses, arguments, plain, detached):
        inputs = [argument.handle if isinstance(argument, Value) else argument.got for argument in arguments]
        expected = (*[argument.expected for argument in arguments], plain)
        call = self.alone.detached if detached else self.alone.call
        made = self.taken(lambda: call(self.services[refuses], *inputs, plain), expected)
        if made is None:
            return
        future, own = made
        self.queued = Queued(future, refuses, expected, arguments, own, detached)
        own.keepers.add(self.queued)
        for piece in self.queued.pieces:
            piece.keepers.add(self.queued)

    @precondition(lambda self: self.queued is not None and self.queued.future is not None)
    @rule()
    def drop_the_call(self):
        """Drop the future of the queued call, and with it the call, unless it is detached: then it runs all the same."""
        before = self.bytes_used()
        self.queued.future = None
        if self.queued.detached:
            assert self.bytes_used() == before
            return
        queued, self.queued = self.queued, None
        self.forget([queued], before - self.bytes_used())

    @precondition(lambda self: self.queued is not None)
    @rule(target=values)
    def work(self):
        queued, self.queued = self.queued, None
        before = self.bytes_used()
        self.alone.work()
        change = self.bytes_used() - before
        if queued.future is None:
            self.forget([queued, *(value for value in queued.dependencies if value.handle is None)], -change)
            return multiple()
        error = queued.future.exception()
        own = self.new_piece(0)
        if error is None:
            value = Value(queued.future, queued.expected, own, queued.pieces)
        else:
            if isinstance(error, StoreFullError):
                self.check_refusal(error, queued.expected)
            else:
                assert queued.refuses
                assert repr(error) == repr(KeyError("refused" * 100))
            value = Value(queued.future, None, own, [])
        self.slots.add(value)
        freed = sum(piece.nbytes for piece in self.pieces if piece.keepers == {queued})
        own.nbytes = change + freed  # beyond what it shares with the arguments
        assert own.nbytes >= 0
        self.forget([queued], freed)
        if error is None:
            return value
        queued.future = None
        self.expect_freed([value], lambda: setattr(value, "handle", None))
        return multiple()

    @rule()
    def trim(self):
        before = self.alone.in_use()
        self.alone.supervisor.trim()
        assert self.alone.runtime.statistics()["cached_bytes"] == 0
        assert self.alone.in_use() == before

    # ---- what must always be true ------------------------------------------------------------------------------------

    @invariant()
    def everything_held_is_whole(self):
        for view in self.held_views:
            check_same(view.got, view.expected)
        for value in self.slots:
            if value.handle is not None:
                check_same(value.handle.get(), value.expected)

    @invariant()
    def what_is_in_use_is_what_is_held(self):
        statistics = self.alone.runtime.statistics()
        slots, nbytes = self.alone.in_use()
        queued = self.queued is not None
        assert nbytes - self.base[1] == sum(piece.nbytes for piece in self.pieces)
        assert slots - self.base[0] == len(self.slots) + queued
        assert (statistics["queued"], statistics["waiting"], statistics["running"], statistics["failed"]) == (
            queued,
            0,
            0,
            0,
        )
        assert nbytes <= statistics["peak_bytes"] <= self.limit
        assert statistics["cached_bytes"] <= self.limit // 2
        assert statistics["copied_bytes"] + statistics["shared_bytes"] >= self.moved
        self.moved = statistics["copied_bytes"] + statistics["shared_bytes"]

    def teardown(self):
        try:
            self.alone.check()
            if self.queued is not None:
                self.drop_the_call()
            if self.queued is not None:
                self.work()
            for view in [*self.held_views]:
                self.forget_view(view)
            for value in [*self.slots]:
                self.drop(value)
            assert not self.pieces
            assert self.alone.in_use() == self.base
            self.trim()
            assert self.alone.room() >= self.limit - SLABS
            whole = bytes(self.limit // 2)
            assert self.alone.runtime.put(whole).get() == whole
            self.alone.check()
        finally:
            self.alone.close()
            del self.alone  # and with it its addresses: there is room for some thirty


def size_beside_arrays(value):
    if isinstance(value, (bytes, str)):
        return HEAD + len(value)
    if isinstance(value, np.ndarray):
        return 100 + (0 if value.nbytes > SHARED else value.nbytes)
    if isinstance(value, (list, tuple)):
        return HEAD + sum(map(size_beside_arrays, value))
    return HEAD


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=1000 if LONG else 25,
    stateful_step_count=100 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)

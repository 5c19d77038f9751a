"""Kernels that fill arrays of one dimension with a stream's numbers, each by whole steps of all lanes."""

from __future__ import annotations

import numpy as np
from flame_fast.kernels.jit.cache import compiled, inlined
from flame_fast.kernels.jit.lanes import LANES, ZERO, advance, lanes_of, load_lanes, save_lanes
from flame_fast.kernels.jit.simd import any_below, lanes_below, store_as_elements, unlikely, where_odd
from flame_fast.kernels.jit.transforms import exponentials_of, normals_of, single_uniforms_of, uniforms_of, wide_product

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@compiled()
def stream_of(key: Any, number: Any, domain: Any) -> Any:
    """Return a stream as `stream` does, in another domain."""
    state = np.empty((4, LANES), np.uint64)
    s0, s1, s2, s3 = lanes_of(key, number, domain)
    save_lanes(state, 0, s0, s1, s2, s3)
    return state


@inlined
def _begin(stream):
    """Return a stream's lanes."""
    if stream.shape[0] != 4 or stream.shape[1] != LANES:
        raise ValueError("stream: expected an array of shape (4, 8); take it from rng.stream()")
    return load_lanes(stream, 0)


@inlined
def _unchanged(words):
    return words


@inlined
def _fill(stream, out, transform):
    """Fill an array with one word an element, each vector of words transformed."""
    s0, s1, s2, s3 = _begin(stream)
    whole = out.size - out.size % LANES
    for start in range(0, whole, LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store_as_elements(out, start, transform(words))
    if whole < out.size:
        last = np.empty(LANES, out.dtype)
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store_as_elements(last, 0, transform(words))
        out[whole:] = last[: out.size - whole]
    save_lanes(stream, 0, s0, s1, s2, s3)


@compiled()
def fill_with_words(stream: Any, out: Any) -> None:
    """Fill an array of one dimension with words."""
    _fill(stream, out, _unchanged)


@compiled()
def fill_with_uniforms(stream: Any, out: Any) -> None:
    """Fill an array of one dimension with doubles in [0, 1)."""
    _fill(stream, out, uniforms_of)


@compiled()
def fill_with_single_uniforms(stream: Any, out: Any) -> None:
    """Fill an array of one dimension with singles in [0, 1)."""
    _fill(stream, out, single_uniforms_of)


@compiled()
def fill_with_exponentials(stream: Any, out: Any) -> None:
    """Fill an array of one dimension with exponential numbers of mean 1."""
    _fill(stream, out, exponentials_of)


@compiled()
def fill_with_normals(stream: Any, out: Any) -> None:
    """Fill an array of one dimension with standard normal numbers: two steps of the stream for 16 of them."""
    s0, s1, s2, s3 = _begin(stream)
    whole = out.size - out.size % (2 * LANES)
    for start in range(0, whole, 2 * LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        others, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        first, second = normals_of(words, others)
        store_as_elements(out, start, first)
        store_as_elements(out, start + LANES, second)
    if whole < out.size:
        last = np.empty(2 * LANES, out.dtype)
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        others, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        first, second = normals_of(words, others)
        store_as_elements(last, 0, first)
        store_as_elements(last, LANES, second)
        out[whole:] = last[: out.size - whole]
    save_lanes(stream, 0, s0, s1, s2, s3)


@inlined
def _integers_of(words, low, span, threshold, s0, s1, s2, s3):
    """Return integers from `low` on, and the lanes' states: lanes whose words are refused draw again."""
    upper, lower = wide_product(words, span)
    if span == ZERO:
        upper = words
    while unlikely(any_below(lower, threshold)):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        again, again_lower = wide_product(words, span)
        refused_lanes = lanes_below(lower, threshold)
        upper = where_odd(refused_lanes, again, upper)
        lower = where_odd(refused_lanes, again_lower, lower)
    return upper + low, s0, s1, s2, s3


@compiled()
def fill_with_integers(stream: Any, low: Any, span: Any, out: Any) -> None:
    """Fill an array of one dimension with integers from `low` on, out of a range of `span`; 0 stands for 2**64."""
    s0, s1, s2, s3 = _begin(stream)
    threshold = ZERO if span == ZERO else (ZERO - span) % span
    whole = out.size - out.size % LANES
    for start in range(0, whole, LANES):
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        found, s0, s1, s2, s3 = _integers_of(words, low, span, threshold, s0, s1, s2, s3)
        store_as_elements(out, start, found)
    if whole < out.size:
        last = np.empty(LANES, out.dtype)
        words, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        found, s0, s1, s2, s3 = _integers_of(words, low, span, threshold, s0, s1, s2, s3)
        store_as_elements(last, 0, found)
        out[whole:] = last[: out.size - whole]
    save_lanes(stream, 0, s0, s1, s2, s3)

"""Draws that lower the variance of estimates: antithetic, stratified, and of Latin hypercubes.

    from flame_fast.kernels import variance

    u = variance.stratified(1000, seed=7)  # one uniform number in each thousandth, in order
    part = variance.stratified(100, seed=7, first=300, of=1000)  # the same as u[300:400], in any worker
    x = variance.latin_hypercube(1000, 5, seed=7)  # of each of 5 columns, one in each thousandth

Their functions serve Python and nopython code alike; there, a seed is an integer from 0 to below 2**64 or a key (`rng`), and
one thread draws. What is drawn depends on the seed and the stratum's number alone, to the last bit: not on the slice, on the
number of threads, or on the CPU. They have domains of their own: one seed can serve `sampling` and `rng`, too.

References
----------
.. [1] J. M. Hammersley, K. W. Morton, "A new Monte Carlo technique: antithetic variates", Mathematical Proceedings of the
   Cambridge Philosophical Society 52(3), 1956.
.. [2] M. D. McKay, R. J. Beckman, W. J. Conover, "A comparison of three methods for selecting values of input variables in
   the analysis of output from a computer code", Technometrics 21(2), 1979.
.. [3] P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer, 2004: sections 4.2 to 4.4.
"""

from __future__ import annotations

import numpy as np
from flame_fast.kernels import keys
from flame_fast.kernels.domains import HYPERCUBE, STRATA
from flame_fast.kernels.jit.arguments import whole_number
from flame_fast.kernels.jit.strata import fill, fill_alone
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flame_fast.kernels.keys import Seed
    from numpy.typing import NDArray

__all__ = ["antithetic_normals", "antithetic_uniforms", "latin_hypercube", "stratified"]

#: Strata: of more, a place in a stratum would have too few bits.
MOST_STRATA = 1 << 40

#: The largest uniform double that is a multiple of 2**-53.
LAST = 1.0 - 2.0**-53


def antithetic_normals(draws: Any, out: NDArray[np.float64] | None = None) -> Any:
    """Return the antithetic partners of standard normal draws, -z for each z [1]_ [3]_.

    Parameters
    ----------
    draws : float or array of floats
    out : array of the same shape and dtype, optional
        Where to write them; `draws` itself will do.

    Returns
    -------
    float or array
        `out` if given.

    Raises
    ------
    TypeError
        No floats.
    ValueError
        `out` of another shape.

    Notes
    -----
    The mean of a function at a draw and at its partner has the same expectation as the function, and half its variance or
    less if the function is monotone. A pair is one sample: give `Moments.of` the means of pairs.
    """
    return _written(np.negative, _floats(draws), out)


def antithetic_uniforms(draws: Any, out: NDArray[np.float64] | None = None) -> Any:
    """Return the antithetic partners of uniform draws in [0, 1): 1 - 2**-53 - u for each u.

    Otherwise as `antithetic_normals`.

    Of multiples of 2**-53, which `rng` and `sampling` draw, the partners are such multiples in [0, 1) again, exactly, and
    theirs are the draws; 1 - u would be 1 where u is 0.
    """
    return _written(_mirror, _floats(draws), out)


def stratified(
    n: int, seed: Seed = None, *, first: int = 0, of: int | None = None, out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return uniform draws of which each has a stratum of its own, in the order of the strata [3]_.

    Parameters
    ----------
    n : int
        How many: of the strata from `first` on.
    seed : int, sequence of int, SeedSequence, Key or None
        As of `rng.key`. Slices of one whole have the same seed.
    first : int
        The number of the first stratum.
    of : int, optional
        Strata in all, up to 2**40; by default `first + n`.
    out : float64 array, shape (n,), optional
        Where to write them; contiguous.

    Returns
    -------
    float64 array, shape (n,)
        `out` if given. The draw of stratum i lies above i / of and below (i + 1) / of, even where that is rounded:
        `int(draw * of)` is i.

    Raises
    ------
    TypeError, ValueError
        What is no such number, seed or array; or a slice that ends beyond `of`, or has no seed.

    Notes
    -----
    Uses as many threads as `numba.get_num_threads()` says; safe from several threads; Ctrl-C ends it within a tenth of a
    second.

    Examples
    --------
    >>> from flame_fast.kernels.variance import stratified
    >>> (stratified(5, seed=7) * 5).astype(int)
    array([0, 1, 2, 3, 4])
    """
    count, first, of, key = _slice(n, seed, first, of)
    out = _place((count,), out)
    fill(key, STRATA, False, of, first, out.reshape(-1, 1))
    return out


def latin_hypercube(
    n: int, d: int, seed: Seed = None, *, first: int = 0, of: int | None = None, out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return points in the unit cube, of which each has a stratum of its own in every dimension: a Latin hypercube [2]_.

    Parameters
    ----------
    n, d : int
        Points and dimensions.
    seed, first, of, out
        As of `stratified`; `out` has the shape (n, d). Points `first` to below `first + n` of a hypercube of `of` points.

    Returns
    -------
    float64 array, shape (n, d)
        In column j point i lies in the stratum that a random permutation of the column's own takes i to.

    Raises
    ------
    TypeError, ValueError
        As `stratified`.

    Notes
    -----
    Otherwise as `stratified`. The points of one hypercube are not independent: for a confidence interval, take the moments
    of the estimates that several hypercubes give.

    Examples
    --------
    >>> from flame_fast.kernels.variance import latin_hypercube
    >>> points = latin_hypercube(4, 2, seed=7)
    >>> np.sort((points * 4).astype(int), axis=0).tolist()
    [[0, 0], [1, 1], [2, 2], [3, 3]]
    """
    count, first, of, key = _slice(n, seed, first, of)
    out = _place((count, whole_number("d", d)), out)
    fill(key, HYPERCUBE, True, of, first, out)
    return out


# ---- from Python ---------------------------------------------------------------------------------------------------------


def _mirror(draws: Any, out: Any) -> Any:
    return np.subtract(LAST, draws, out=out)


def _floats(draws: Any) -> Any:
    if isinstance(draws, np.ndarray) and draws.dtype.kind == "f":
        return draws
    if not isinstance(draws, float | np.floating):
        kind = f"an array of {draws.dtype}" if isinstance(draws, np.ndarray) else repr(draws)
        raise TypeError(f"draws: expected a float or an array of floats, got {kind}")
    return draws


def _written(function: Any, draws: Any, out: Any) -> Any:
    if out is not None:
        _check_out(np.shape(draws), out, np.asarray(draws).dtype)
    return function(draws, out=out) if isinstance(draws, np.ndarray) or out is not None else float(function(draws, out=None))


def _check_out(shape: tuple[int, ...], out: Any, dtype: Any) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        got = f"one of {out.dtype}" if isinstance(out, np.ndarray) else repr(out)
        raise TypeError(f"out: expected an array of {dtype}, got {got}")
    if out.shape != shape or not out.flags.writeable:
        got = f"{out.shape}" if out.flags.writeable else "a read-only one"
        raise ValueError(f"out: expected a writable array of shape {shape}, got {got}")


def _place(shape: tuple[int, ...], out: Any) -> NDArray[np.float64]:
    if out is None:
        return np.empty(shape)
    _check_out(shape, out, np.dtype(np.float64))
    if not out.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array, got strides {out.strides}")
    return out


def _slice(n: Any, seed: Seed, first: Any, of: Any) -> tuple[int, int, int, keys.Key]:
    most = MOST_STRATA, "2**40"
    count, first = whole_number("n", n, most), whole_number("first", first, most)
    if seed is None and (first or of is not None):
        raise ValueError("seed: expected one that all slices share, got None")
    of = whole_number("of", first + count if of is None else of, most)
    if first + count > of:
        raise ValueError(f"of: expected at least first + n = {first + count} strata, got {of}")
    return count, first, of, keys.key(seed)


# ---- in nopython code ----------------------------------------------------------------------------------------------------


def _is_floats(kind: Any) -> bool:
    return isinstance(kind, types.Float) or (isinstance(kind, types.Array) and isinstance(kind.dtype, types.Float))


def _is_none(kind: Any) -> bool:
    return kind is None or isinstance(kind, types.NoneType | types.Omitted)


def _antithetic(name: str, draws: Any, out: Any, partner: Any) -> Any:
    if not _is_floats(draws):
        raise TypingError(f"variance.{name}: expected a float or an array of floats, got {draws}")
    if isinstance(draws, types.Float) or _is_none(out):
        if not _is_none(out):
            raise TypingError(f"variance.{name}: expected no out for one number, got {out}")

        def give(draws: Any, out: Any = None) -> Any:
            return partner(draws)

        return give
    if not isinstance(out, types.Array) or (out.dtype, out.ndim) != (draws.dtype, draws.ndim) or not out.mutable:
        raise TypingError(f"variance.{name}: expected out to be a writable array like {draws}, got {out}")

    def write(draws: Any, out: Any = None) -> Any:
        if draws.shape != out.shape:
            raise ValueError("out: expected an array of the shape of the draws")
        out[:] = partner(draws)
        return out

    return write


@register_jitable
def _negative(draws):
    return -draws


@register_jitable
def _mirrored(draws):
    return LAST - draws


@overload(antithetic_normals)
def _antithetic_normals_in_nopython(draws: Any, out: Any = None) -> Any:
    return _antithetic("antithetic_normals", draws, out, _negative)


@overload(antithetic_uniforms)
def _antithetic_uniforms_in_nopython(draws: Any, out: Any = None) -> Any:
    return _antithetic("antithetic_uniforms", draws, out, _mirrored)


def _check_types(name: str, numbers: dict[str, Any], seed: Any, out: Any, dimensions: int) -> None:
    for each, kind in numbers.items():
        number = kind.value if isinstance(kind, types.Omitted) else kind
        if not (isinstance(number, int | types.Integer) or (each == "of" and _is_none(kind))):
            raise TypingError(f"variance.{name}: expected an integer as {each}, got {kind}")
    words = isinstance(seed, types.BaseTuple) and tuple(seed.types) == (types.uint64, types.uint64)
    if not (isinstance(seed, types.Integer) or words):
        raise TypingError(f"variance.{name}: expected an integer or a key as the seed in nopython code, got {seed}")
    contiguous = isinstance(out, types.Array) and out.layout == "C" and out.dtype == types.float64 and out.mutable
    if not (_is_none(out) or (contiguous and out.ndim == dimensions)):
        raise TypingError(f"variance.{name}: expected out to be a writable contiguous float64 array, got {out}")


@register_jitable
def _key_of_integer(seed):
    if seed < 0:
        raise ValueError("seed: expected an integer from 0 to below 2**64")
    return np.uint64(seed), np.uint64(0)


@register_jitable
def _key_of_words(seed):
    return seed[0], seed[1]


@register_jitable
def _of_given(n, first, of):
    if n < 0 or first < 0 or of < first + n or of > MOST_STRATA:
        raise ValueError("of: expected n and first of at least 0, and of from first + n to 2**40")
    return of


@register_jitable
def _of_none(n, first, of):
    return _of_given(n, first, first + n)


@register_jitable
def _given(n, d, out):
    if out.shape[0] != n or out.size != n * d:
        raise ValueError("out: expected an array of n rows")
    return out


@register_jitable
def _made(n, d, out):
    return np.empty((n, d))


@register_jitable
def _made_flat(n, d, out):
    return np.empty(n)


def _parts(seed: Any, of: Any, out: Any, made: Any) -> tuple[Any, Any, Any]:
    key_of = _key_of_integer if isinstance(seed, types.Integer) else _key_of_words
    return key_of, _of_none if _is_none(of) else _of_given, made if _is_none(out) else _given


@overload(stratified)
def _stratified_in_nopython(n: Any, seed: Any, first: Any = 0, of: Any = None, out: Any = None) -> Any:
    _check_types("stratified", {"n": n, "first": first, "of": of}, seed, out, 1)
    key_of, strata_of, place = _parts(seed, of, out, _made_flat)

    def draw(n: Any, seed: Any, first: Any = 0, of: Any = None, out: Any = None) -> Any:
        strata = strata_of(n, first, of)
        placed = place(n, 1, out)
        fill_alone(key_of(seed), STRATA, False, strata, first, placed.reshape(n, 1))
        return placed

    return draw


@overload(latin_hypercube)
def _latin_hypercube_in_nopython(n: Any, d: Any, seed: Any, first: Any = 0, of: Any = None, out: Any = None) -> Any:
    _check_types("latin_hypercube", {"n": n, "d": d, "first": first, "of": of}, seed, out, 2)
    key_of, strata_of, place = _parts(seed, of, out, _made)

    def draw(n: Any, d: Any, seed: Any, first: Any = 0, of: Any = None, out: Any = None) -> Any:
        if d < 0:
            raise ValueError("d: expected an integer of at least 0")
        strata = strata_of(n, first, of)
        placed = place(n, d, out)
        fill_alone(key_of(seed), HYPERCUBE, True, strata, first, placed)
        return placed

    return draw

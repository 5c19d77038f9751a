"""A BitGenerator of NumPy's over one stream of `rng`, without Numba."""

from __future__ import annotations

from flame_fast.kernels.bitgen._native import StreamBitGenerator as StreamBitGenerator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flame_fast.kernels.keys import Seed


def bit_generator(key_or_seed: Seed = None, number: int = 0) -> StreamBitGenerator:
    """Return a BitGenerator with the words of `rng.stream(key, number)`, for `np.random.Generator`.

    Parameters
    ----------
    key_or_seed : Key, int, sequence of int or SeedSequence, optional
        As of `rng.key`. None: 128 bits from the operating system.
    number : int
        From 0 to below 2**64: which of the key's streams. The generator shares its numbers with `rng.stream` of that name.

    Returns
    -------
    StreamBitGenerator
        With `advance(words)` and `jumped(jumps)`, which are exact, `spawn(children)`, whose children have keys of their own,
        and a `state`; it can be pickled and copied.

    Raises
    ------
    TypeError, ValueError
        No seed, or no number from 0 to below 2**64.

    Notes
    -----
    Safe from several threads, as NumPy's own: a lock guards it. It does not load Numba.

    Examples
    --------
    >>> numbers = np.random.Generator(rng.bit_generator(rng.key(7), 3))
    >>> numbers.binomial(10, 0.5) <= 10
    True
    """
    return StreamBitGenerator(key_or_seed, number)

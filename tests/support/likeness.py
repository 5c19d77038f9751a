"""The differences of two values in words, and the outcome of a deed done to a value.

Workers import this module. Types, dtypes, shapes and contents must be the same; floats may differ by as much as the caller
says, by default by nothing. All comparisons are vectorized, so that frames of many rows can be compared often.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import sys
from itertools import chain

import numpy as np

#: Elements of a large value: one byte each exceeds the copy threshold, so all its arrays are shared.
LARGE = 34_000
SIZES = {"tiny": 30, "large": LARGE}

#: Types whose `==` tells whether they are equal.
PLAIN = (str, int, float, np.generic, type(None))


@dataclasses.dataclass(frozen=True)
class Raised:
    """Outcome of a deed that raised."""

    text: str

    @classmethod
    def by(cls, error):
        """Make the outcome of an error, without addresses: they differ from process to process."""
        return cls(re.sub(r"0x[0-9a-f]+", "0x", f"{type(error).__name__}: {error}")[:300])


def attempt(deed, *args):
    """Return the result of a deed, or its error as `Raised`."""
    try:
        return deed(*args)
    except Exception as error:
        return Raised.by(error)


def plain_copy(value):
    """Return what plain pickling makes of a value: the oracle. Its arrays are writable, as the protocol asks for."""
    return pickle.loads(pickle.dumps(value))


def difference(found, expected, tolerance=0.0):
    """Return the first difference as text; empty for none."""
    if isinstance(found, Raised) or isinstance(expected, Raised):
        same = type(found) is type(expected) and found == expected
        return "" if same else f"{_short(found)}, not {_short(expected)}"
    if type(found) is not type(expected):
        return f"{type(found).__name__} {_short(found)}, not {type(expected).__name__} {_short(expected)}"
    for kind, compare in _comparers().items():
        if isinstance(found, kind):
            return compare(found, expected, tolerance)
    if isinstance(found, (float, complex, np.generic)):
        return _arrays(np.asarray(found), np.asarray(expected), tolerance)
    if callable(found) or type(found).__eq__ is object.__eq__:
        return "" if Raised.by(found) == Raised.by(expected) else f"{_short(found)}, not {_short(expected)}"
    return "" if found == expected else f"{_short(found)}, not {_short(expected)}"


def _comparers():
    """Return comparers by type: first those of the libraries loaded, since a matrix may be a dict as well."""
    return {**_pandas(), **_scipy(), np.ndarray: _arrays, dict: _dicts, (list, tuple): _sequences}


def _short(value):
    return re.sub(r"\s+", " ", value.text if isinstance(value, Raised) else repr(value))[:160]


def _arrays(found, expected, tolerance):
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"an array {found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if found.dtype.hasobject:
        return _sequences(found.ravel().tolist(), expected.ravel().tolist(), tolerance)
    if found.dtype.kind in "fc" and tolerance:
        same = np.isclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    elif found.dtype.kind in "fcmM":
        same = (found == expected) | ((found != found) & (expected != expected))
    else:
        same = np.asarray(found == expected)
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0]) if same.ndim else ()
    return f"{found[at]} at {at}, not {expected[at]}, and so {np.count_nonzero(~same)} of {same.size}"


def _sequences(found, expected, tolerance):
    if len(found) != len(expected):
        return f"{len(found)} items, not {len(expected)}"
    kinds = list(map(type, found))
    plain = all(issubclass(kind, PLAIN) or kind.__module__.startswith("pandas._libs") for kind in set(kinds))
    if plain and kinds == list(map(type, expected)) and found == expected:
        return ""
    for at, pair in enumerate(zip(found, expected, strict=True)):
        if different := difference(*pair, tolerance):
            return f"[{at}] {different}"
    return ""


def _dicts(found, expected, tolerance):
    if list(found) != list(expected):
        return f"keys {_short(list(found))}, not {_short(list(expected))}"
    return next((f"[{key!r}] {text}" for key in found if (text := difference(found[key], expected[key], tolerance))), "")


# ---- pandas ----------------------------------------------------------------------------------------------------------


def _pandas():
    if "pandas" not in sys.modules:
        return {}
    import pandas

    return {
        pandas.DataFrame: _frames,
        pandas.Series: _series,
        pandas.Index: _indexes,
        pandas.api.extensions.ExtensionArray: _extension_arrays,
        (type(pandas.NaT), type(pandas.NA)): lambda *_: "",
    }


def _frames(found, expected, tolerance):
    return (
        _indexes(found.columns, expected.columns, tolerance)
        or _indexes(found.index, expected.index, tolerance)
        or difference(found.attrs, expected.attrs)
        or next(
            (
                f"column {name}: {text}"
                for at, name in enumerate(expected.columns)
                if (text := _contents(found.iloc[:, at], expected.iloc[:, at], tolerance))
            ),
            "",
        )
    )


def _series(found, expected, tolerance):
    if (found.name, type(found.name)) != (expected.name, type(expected.name)):
        return f"name {found.name!r}, not {expected.name!r}"
    return _indexes(found.index, expected.index, tolerance) or _contents(found, expected, tolerance)


def _indexes(found, expected, tolerance):
    if type(found) is not type(expected) or list(found.names) != list(expected.names):
        return f"index {_short(found)}, not {_short(expected)}"
    return (
        "" if found.equals(expected) and found.dtype == expected.dtype else f"index {_short(found)}, not {_short(expected)}"
    )


def _contents(found, expected, tolerance):
    """Compare columns or series, without labels."""
    if found.dtype != expected.dtype:
        return f"{found.dtype}, not {expected.dtype}"
    if isinstance(found.dtype, np.dtype) and found.dtype.kind not in "mM":
        return _arrays(found.to_numpy(), expected.to_numpy(), tolerance)
    return _extension_arrays(found.array, expected.array, tolerance)


def _extension_arrays(found, expected, tolerance):
    if found.dtype != expected.dtype or len(found) != len(expected):
        return f"{len(found)} of {found.dtype}, not {len(expected)} of {expected.dtype}"
    return "" if found.equals(expected) else f"{_short(found)}, not {_short(expected)}"


# ---- scipy -----------------------------------------------------------------------------------------------------------


def _scipy():
    if "scipy.sparse" not in sys.modules:
        return {}
    from scipy import sparse

    return {(sparse.sparray, sparse.spmatrix): _sparse}


def _sparse(found, expected, tolerance):
    """Compare representations, not only meanings: order, duplicates and explicit zeros count."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if found.format == "dok":
        return _dicts_of_keys(found, expected, tolerance)
    if found.format == "lil" and {*map(type, [*found.data, *found.rows, *expected.data, *expected.rows])} == {list}:
        lists = [[list(map(len, m.rows)), [*chain(*m.rows)], [*chain(*m.data)]] for m in (found, expected)]
        return difference(*lists, tolerance)
    for name in ("data", "indices", "indptr", "coords", "offsets", "rows"):
        if hasattr(expected, name) and (text := difference(getattr(found, name), getattr(expected, name), tolerance)):
            return f"{name} {text}"
    return ""


def _dicts_of_keys(found, expected, tolerance):
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if list(found.keys()) != list(expected.keys()):
        return "other keys"
    return difference(np.array(list(found.values())), np.array(list(expected.values())), tolerance)

"""Frames, series and indexes of every kind of column, and what can be done to them in place."""

from __future__ import annotations

import functools
import inspect
import operator

import numpy as np
import pandas as pd
import pyarrow as pa
from likeness import LARGE, attempt

ARROW = {
    "arrow whole": pa.int64(),
    "arrow real": pa.float64(),
    "arrow text": pa.string(),
    "arrow time": pa.timestamp("us"),
    "arrow truth": pa.bool_(),
}


def columns(count):
    """Return columns by name, one of each kind; numbers are multiples of a quarter, so that their sums are exact."""
    at = np.arange(count)
    real = (at * 7 % 1000) / 4
    real[::5] = np.nan
    text = pd.array([f"row {number % 100}" for number in at], dtype="str")
    made = {
        "real": real,
        "more": (at[::-1] % 97) / 4,
        "short": (at % 50).astype("f4"),
        "whole": at * 3 % 1001,
        "byte": (at % 100).astype("u1"),
        "truth": at % 3 == 0,
        "complex": at % 9 + 1j,
        "text": text,
        "kind": pd.Categorical.from_codes(at % 3, ["a", "b", "c"]),
        "order": pd.Categorical.from_codes(at % 400, [f"k{number:03}" for number in range(400)], ordered=True),
        "time": pd.date_range("2024-01-01", periods=count, freq="h").as_unit("ns"),
        "zone": pd.date_range("2024-01-01", periods=count, freq="h", tz="Europe/Berlin"),
        "span": pd.to_timedelta(at % 1000, unit="s"),
        "period": pd.period_range("1990-01", periods=12, freq="M").take(at % 12),
        "masked": pd.arrays.IntegerArray(at % 1000, at % 4 == 0),
        "masked real": pd.arrays.FloatingArray(at % 1000 / 4, at % 4 == 0),
        "masked truth": pd.arrays.BooleanArray(at % 2 == 0, at % 4 == 0),
        "interval": pd.arrays.IntervalArray.from_arrays(at % 100 * 1.0, at % 100 + 1.0),
        "sparse": pd.arrays.SparseArray(np.where(at % 3 == 0, at % 1000 / 4, 0.0), fill_value=0.0),
    }
    sources = {"arrow whole": at % 1000, "arrow real": at % 1000 / 4, "arrow text": text, "arrow truth": at % 2 == 0}
    sources["arrow time"] = made["time"].as_unit("us")
    for name, kind in ARROW.items():
        values = pa.array(np.asarray(sources[name]), kind, mask=at % 4 == 0)
        made[name] = pd.arrays.ArrowExtensionArray(pa.chunked_array([values]))
    if count < LARGE:  # no part of it is shared
        made["object"] = np.array([(number, None, "x", 1.5)[number % 4] for number in at], dtype=object)
    return made


#: Columns of a frame with a bit of everything, as users have them.
MIXED = ["real", "more", "whole", "truth", "text", "kind", "order", "time", "zone", "masked"] + [
    "arrow whole",
    "arrow text",
    "arrow time",
]


def subjects(count=0):
    """Return functions by name that each make a subject of a number of rows; fewer kinds of large ones."""
    kinds = ["real", "whole", "truth", "text", "kind", "order", "time", "masked", "sparse"] + ["arrow whole", "arrow text"]
    made = {
        "frame": lambda count: pd.DataFrame({name: value for name, value in columns(fewer(count)).items() if name in MIXED}),
        "frame, one block": lambda count: pd.DataFrame(columns(4 * count)["real"].reshape(count, 4), columns=list("abcd")),
        "frame, Arrow": lambda count: pd.DataFrame({name: columns(fewer(count))[name] for name in ARROW}),
        "frame, by time": lambda count: by_time(fewer(count)),
    }
    for name in kinds if count == LARGE else columns(30):
        made[f"series, {name}"] = lambda count, name=name: pd.Series(columns(count)[name], name=name)
    for name in ("real", "whole", "text", "kind", "time", "zone", "masked", "arrow text"):
        made[f"index, {name}"] = lambda count, name=name: pd.Index(columns(fewer(count))[name], name=name)
    made["index, of two"] = lambda count: pd.MultiIndex.from_arrays(
        [np.arange(fewer(count)), columns(fewer(count))["kind"]], names=["a", "b"]
    )
    return made


def fewer(count):
    """Return a number of rows with which eight-byte numbers are still large.

    Deeds on all columns, or with look-ups, take long.
    """
    return min(count, LARGE // 6)


def by_time(count):
    return pd.DataFrame(columns(count)).set_index("time")[["real", "more", "whole", "kind"]]


def make(name, count):
    return subjects()[name](count)


def same_columns_as(value, *names):
    return [name for name in names if name in value.columns] or list(value.columns[:2])


def condition(value):
    """Return a condition that is True for every other row, of the value's own shape."""
    rows = np.arange(len(value)) % 2 == 0
    return rows if value.ndim == 1 else np.repeat(rows[:, None], value.shape[1], 1)


def filling(value):
    """Return by column a value that is there already."""
    return {name: value[name].dropna().iloc[0] for name in value.columns}


# ---- methods with a parameter `inplace` --------------------------------------------------------------------------------

#: Arguments of each method, a list of (arguments, keywords): of a series, of a frame and of an index.
OF_SERIES = {
    "bfill": [lambda s: ((), {}), lambda s: ((), {"limit": 1})],
    "clip": [lambda s: ((s.iloc[3],), {}), lambda s: ((), {"upper": s.iloc[8]})],
    "drop": [lambda s: (([1, 2],), {})],
    "drop_duplicates": [lambda s: ((), {}), lambda s: ((), {"keep": "last", "ignore_index": True})],
    "dropna": [lambda s: ((), {}), lambda s: ((), {"ignore_index": True})],
    "ffill": [lambda s: ((), {}), lambda s: ((), {"limit": 1})],
    "fillna": [lambda s: ((s.dropna().iloc[0],), {}), lambda s: ((s[::-1].reset_index(drop=True),), {})],
    "interpolate": [lambda s: ((), {}), lambda s: ((), {"limit_direction": "both"})],
    "mask": [
        lambda s: ((condition(s),), {}),
        lambda s: ((condition(s), s.iloc[1]), {}),
        lambda s: ((condition(s), s[::-1]), {}),
    ],
    "rename": [lambda s: (("other",), {}), lambda s: (({0: 99},), {})],
    "rename_axis": [lambda s: (("rows",), {})],
    "replace": [lambda s: ((s.iloc[3], s.iloc[4]), {}), lambda s: (([s.iloc[1], s.iloc[2]], s.iloc[3]), {})],
    "reset_index": [lambda s: ((), {"drop": True})],
    "set_axis": [lambda s: ((np.arange(len(s)) + 1,), {})],
    "sort_index": [lambda s: ((), {"ascending": False})],
    "sort_values": [lambda s: ((), {}), lambda s: ((), {"ascending": False, "kind": "stable", "ignore_index": True})],
    "where": [
        lambda s: ((condition(s),), {}),
        lambda s: ((condition(s), s.iloc[1]), {}),
        lambda s: ((condition(s), s[::-1]), {}),
    ],
}
OF_FRAME = {
    "bfill": [lambda f: ((), {}), lambda f: ((), {"limit": 1})],
    "clip": [lambda f: ((3, 20), {})],
    "drop": [lambda f: (([f.index[0], f.index[2]],), {}), lambda f: ((), {"columns": list(f.columns[:2])})],
    "drop_duplicates": [lambda f: ((), {}), lambda f: ((), {"subset": f.columns[0], "ignore_index": True})],
    "dropna": [lambda f: ((), {}), lambda f: ((), {"axis": 1}), lambda f: ((), {"subset": [f.columns[0]]})],
    "eval": [
        lambda f: ((f"new = `{f.columns[0]}` + 1",), {}),
        lambda f: ((f"`{f.columns[0]}` = `{f.columns[0]}` * 2",), {}),
    ],
    "ffill": [lambda f: ((), {}), lambda f: ((), {"limit": 1})],
    "fillna": [lambda f: ((filling(f),), {}), lambda f: ((f.iloc[::-1].set_axis(f.index),), {})],
    "interpolate": [lambda f: ((), {})],
    "mask": [lambda f: ((condition(f),), {}), lambda f: ((condition(f), f.iloc[::-1].set_axis(f.index)), {})],
    "query": [lambda f: ((f"`{f.columns[0]}` > 20",), {})],
    "rename": [lambda f: ((), {"columns": {f.columns[0]: "new"}}), lambda f: ((), {"index": {f.index[0]: f.index[1]}})],
    "rename_axis": [lambda f: (("rows",), {}), lambda f: ((), {"columns": "across"})],
    "replace": [
        lambda f: ((dict(f.iloc[3].dropna()), 0), {}),
        lambda f: ((1.75, 2.25), {}),
        lambda f: (("row 1", "row 2"), {}),
        lambda f: (("row (.)", r"line \1"), {"regex": True}),
    ],
    "reset_index": [lambda f: ((), {}), lambda f: ((), {"drop": True})],
    "set_index": [lambda f: ((f.columns[0],), {}), lambda f: ((list(f.columns[:2]),), {"append": True})],
    "sort_index": [lambda f: ((), {"ascending": False}), lambda f: ((), {"axis": 1})],
    "sort_values": [
        lambda f: ((f.columns[0],), {}),
        lambda f: ((list(f.columns[:2]),), {"ascending": [True, False], "ignore_index": True}),
    ],
    "where": [lambda f: ((condition(f),), {}), lambda f: ((condition(f), f.iloc[::-1].set_axis(f.index)), {})],
}
OF_INDEX = {
    "rename": [lambda i: ((["x", "y"][: i.nlevels] if i.nlevels > 1 else "x",), {})],
    "set_names": [lambda i: ((["x", "y"][: i.nlevels],), {})],
}
ARGUMENTS = {pd.DataFrame: OF_FRAME, pd.Series: OF_SERIES, pd.Index: OF_INDEX, pd.MultiIndex: OF_INDEX}


def named_in_place(kind):
    """Return every public method of a class that has a parameter `inplace`."""
    public = (name for name in dir(kind) if not name.startswith("_") and inspect.isfunction(getattr(kind, name)))
    return [name for name in public if "inplace" in inspect.signature(getattr(kind, name)).parameters]


def forgotten():
    """Return the methods with a parameter `inplace` that this module has no arguments for."""
    return [
        f"{kind.__name__}.{name}" for kind, known in ARGUMENTS.items() for name in named_in_place(kind) if name not in known
    ]


def methods(kind):
    found = {}
    for name in named_in_place(kind):
        for number, arguments in enumerate(ARGUMENTS[kind].get(name, ())):

            def deed(value, name=name, arguments=arguments):
                positional, keywords = arguments(value)
                return getattr(value, name)(*positional, inplace=True, **keywords)

            found[f"{name}() {number}"] = deed
    return found


def arithmetic(kind):
    """Return deeds of `+=` and its like, with one of the elements, with the value itself, with a number."""
    found = {}
    for name in dir(kind):
        if name.startswith("__i") and hasattr(operator, f"__{name[3:]}") and hasattr(operator, name):
            in_place = getattr(operator, name)
            found[f"{name} a number"] = lambda value, do=in_place: do(value, 2)
            found[f"{name} itself"] = lambda value, do=in_place: do(value, value)
            if kind is pd.Series:
                found[f"{name} an element"] = lambda value, do=in_place: do(value, value.iloc[1])
                found[f"{name} an array"] = lambda value, do=in_place: do(value, value.to_numpy())
            else:
                found[f"{name} a row"] = lambda value, do=in_place: do(value, value.iloc[1])
    return found


# ---- statements --------------------------------------------------------------------------------------------------------


def through(accessor, key, value):
    """Return a deed of `value.loc[key] = ...` and its like; key and value may be functions of the whole."""

    def deed(whole):
        target = getattr(whole, accessor) if accessor else whole
        target[key(whole) if callable(key) else key] = value(whole) if callable(value) else value

    return deed


def write_into(array):
    """Set every other element to the one before it, and write one by itself."""

    def deed(whole):
        target = array(whole)
        target[1] = target[3]
        target[1::2] = target[: len(target) - 1 : 2]

    return deed


def sort_into(array):
    return lambda whole: array(whole).sort()


SERIES = {
    "s[1] = ": through("", 1, lambda s: s.iloc[7]),
    "s[1:4] = ": through("", slice(1, 4), lambda s: s.iloc[7]),
    "s[[1, 2]] = ": through("", [1, 2], lambda s: s.iloc[7:9].array),
    "s[condition] = ": through("", condition, lambda s: s.iloc[7]),
    "s[s.isna()] = ": through("", lambda s: s.isna(), lambda s: s.dropna().iloc[0]),
    "s[1] = None": through("", 1, None),
    "s[new] = ": through("", 10**6, lambda s: s.iloc[7]),
    "s.loc[1] = ": through("loc", 1, lambda s: s.iloc[7]),
    "s.loc[1:4] = ": through("loc", slice(1, 4), lambda s: s.iloc[7:11].array),
    "s.loc[condition] = ": through("loc", condition, lambda s: s.iloc[7]),
    "s.loc[new] = ": through("loc", 10**6, lambda s: s.iloc[7]),
    "s.iloc[1] = ": through("iloc", 1, lambda s: s.iloc[7]),
    "s.iloc[1::2] = ": through("iloc", slice(1, None, 2), lambda s: s.iloc[7]),
    "s.iloc[:] = reversed": through("iloc", slice(None), lambda s: s.iloc[::-1].array),
    "s.at[1] = ": through("at", 1, lambda s: s.iloc[7]),
    "s.iat[1] = ": through("iat", 1, lambda s: s.iloc[7]),
    "s.iloc[1] = text": through("iloc", 1, "other"),
    "s.array[...] = ": write_into(lambda s: s.array),
    "s.values[...] = ": write_into(lambda s: s.values),
    "s.to_numpy()[...] = ": write_into(lambda s: s.to_numpy()),
    "np.asarray(s)[...] = ": write_into(np.asarray),
    "s.array.copy()[...] = ": lambda s: write_into(lambda a: a)(s.array.copy()),
    "s.values.sort()": sort_into(lambda s: s.values),
    "s.index.values[...] = ": write_into(lambda s: s.index.values),
    "s.pop": lambda s: s.pop(2),
    "del s[2]": lambda s: s.__delitem__(2),
    "s.update": lambda s: s.update(s.iloc[3:6].set_axis([0, 1, 2])),
    "s.name = ": lambda s: setattr(s, "name", "other"),
    "s.index = ": lambda s: setattr(s, "index", s.index[::-1]),
    "s.attrs": lambda s: s.attrs.update(a=1),
    "np.add(out=s)": lambda s: np.add(s, s, out=s),
    "np.copyto": lambda s: np.copyto(s.array, s.array[::-1]),
    # Reads by compiled code of its own, which may ask for a writable array.
    "sort_values": lambda s: s.sort_values(),
    "rank": lambda s: s.rank(),
    "unique": lambda s: s.unique(),
    "value_counts": lambda s: s.value_counts(),
    "factorize": lambda s: s.factorize(),
    "duplicated": lambda s: s.duplicated(),
    "isin": lambda s: s.isin(s.iloc[:3]),
    "mode": lambda s: s.mode(),
    "take": lambda s: s.take([3, 1, 2]),
    "shift": lambda s: s.shift(2),
    "diff": lambda s: s.diff(),
    "cumsum": lambda s: s.head(50).cumsum(),  # quadratic in the rows, of text
    "cummax": lambda s: s.head(50).cummax(),
    "rolling": lambda s: s.rolling(3).mean(),
    "ewm": lambda s: s.ewm(2).mean(),
    "groupby": lambda s: s.groupby(np.arange(len(s)) % 5).agg(["first", "count", "max"]),
    "groupby itself": lambda s: s.groupby(s, observed=True).size(),
    "quantile": lambda s: s.quantile([0.25, 0.5]),
    "nlargest": lambda s: s.nlargest(3),
    "searchsorted": lambda s: s.sort_values().dropna().searchsorted(s.iloc[7]),
    "reindex": lambda s: s.reindex([5, 3, 10**6]),
    "concat": lambda s: pd.concat([s, s]),
    "map": lambda s: s.head(50).map(str),
    "cut": lambda s: pd.cut(s, 3),
    "upper": lambda s: s.str.upper(),
    "add_categories": lambda s: s.cat.add_categories(["new"]),
    "hour": lambda s: s.dt.hour,
}


def first(frame):
    return frame.columns[0]


FRAME = {
    "f[a] = b": through("", first, lambda f: f[f.columns[1]]),
    "f[a] = number": through("", first, 7),
    "f[new] = ": through("", "new", lambda f: f[first(f)]),
    "f[[a, b]] = ": through("", lambda f: list(f.columns[:2]), lambda f: f[list(f.columns[1::-1])].to_numpy()),
    "f[condition] = ": through("", condition, 7),
    "f[f > 20] = ": through("", lambda f: f > 20, 20),
    "f[rows] = ": through("", slice(1, 3), lambda f: f.iloc[5:7].to_numpy()),
    "f.loc[0, a] = ": through("loc", lambda f: (f.index[0], first(f)), 7),
    "f.loc[:, a] = ": through("loc", lambda f: (slice(None), first(f)), lambda f: f[f.columns[1]]),
    "f.loc[condition, a] = ": through("loc", lambda f: (np.arange(len(f)) % 2 == 0, first(f)), 7),
    "f.loc[condition] = ": through("loc", lambda f: np.arange(len(f)) % 2 == 0, 7),
    "f.loc[0] = row": through("loc", lambda f: f.index[0], lambda f: f.iloc[3]),
    "f.loc[new] = row": through("loc", lambda f: f.index[-1] + (f.index[-1] - f.index[-2]), lambda f: f.iloc[3]),
    "f.iloc[0, 0] = ": through("iloc", (0, 0), 7),
    "f.iloc[1::2, 0] = ": through("iloc", (slice(1, None, 2), 0), 7),
    "f.iloc[0] = row": through("iloc", 0, lambda f: f.iloc[3]),
    "f.iloc[:, 1] = array": through("iloc", (slice(None), 1), lambda f: f.iloc[::-1, 1].array),
    "f.iloc[[0, 2], [1, 0]] = ": through("iloc", ([0, 2], [1, 0]), 7),
    "f.iloc[:] = reversed": through("iloc", slice(None), lambda f: f.iloc[::-1].to_numpy()),
    "f.at = ": through("at", lambda f: (f.index[0], first(f)), 7),
    "f.iat = ": through("iat", (0, 0), 7),
    "every column's iloc": lambda f: [f.iloc.__setitem__((slice(1, 5), at), f.iloc[7, at]) for at in range(f.shape[1])],
    "every column's iat": lambda f: [f.iat.__setitem__((1, at), f.iat[7, at]) for at in range(f.shape[1])],
    "every column's array": lambda f: [attempt(write_into(lambda f, n=name: f[n].array), f) for name in f.columns],
    "every column's values": lambda f: [attempt(write_into(lambda f, n=name: f[n].values), f) for name in f.columns],
    "f.values[...] = ": write_into(lambda f: f.values),
    "f.to_numpy()[...] = ": write_into(lambda f: f.to_numpy()),
    "f.to_numpy(copy=True)[...] = ": write_into(lambda f: f.to_numpy(copy=True)),
    "np.asarray(f)[...] = ": write_into(np.asarray),
    "f.values.sort()": sort_into(lambda f: f.values),
    "f.index.values[...] = ": write_into(lambda f: f.index.values),
    "f.insert": lambda f: f.insert(1, "new", f[first(f)]),
    "f.isetitem": lambda f: f.isetitem(0, f.iloc[::-1, 0].array),
    "f.pop": lambda f: f.pop(first(f)),
    "del f[a]": lambda f: f.__delitem__(first(f)),
    "f.update": lambda f: f.update(f.iloc[::-1].set_axis(f.index)),
    "f.update of one": lambda f: f.update(f[[first(f)]] * 2),
    "f.columns = ": lambda f: setattr(f, "columns", [f"c{at}" for at in range(f.shape[1])]),
    "f.index = ": lambda f: setattr(f, "index", f.index[::-1]),
    "f.attribute = ": lambda f: setattr(f, first(f), 7),
    "f.attrs": lambda f: f.attrs.update(a=1),
    "f[a][0] = ": lambda f: f[first(f)].__setitem__(0, 7),
    "f[a] += ": lambda f: f.__setitem__(first(f), operator.iadd(f[first(f)], 1)),
    "np.add(out=f)": lambda f: np.add(f, f, out=f),
    "pd.eval(target=f)": lambda f: pd.eval("new = 1 + 2", target=f, inplace=True),
    # Reads by compiled code of its own.
    "sort_values": lambda f: f.sort_values(first(f)),
    "rank": lambda f: f.rank(numeric_only=True),
    "duplicated": lambda f: f.duplicated(),
    "describe": lambda f: f.describe(),
    "sum": lambda f: f.sum(numeric_only=True),
    "corr": lambda f: f.corr(numeric_only=True),
    "rolling": lambda f: f.select_dtypes("number").rolling(3).mean(),
    "groupby": lambda f: f.groupby(np.arange(len(f)) % 5).agg(["first", "count"]),
    "groupby column": lambda f: f.groupby(f.columns[1], observed=True).first(),
    "merge": lambda f: f.head(50).merge(f.head(40), on=list(f.columns[:2])),
    "join": lambda f: f.join(f.add_suffix(" 2")),
    "reindex": lambda f: f.reindex(f.index[::-1]),
    "melt": lambda f: f.head(50).melt(id_vars=first(f)),
    "stack": lambda f: f.head(50).stack(),
    "transpose": lambda f: f.head(50).T,
    "quantile": lambda f: f.quantile(0.5, numeric_only=True),
    "convert_dtypes": lambda f: f.convert_dtypes(),
    "factorize": lambda f: [pd.factorize(f[name]) for name in f.columns],
}

INDEX = {
    "i.values[...] = ": write_into(lambda i: i.values),
    "i.to_numpy()[...] = ": write_into(lambda i: i.to_numpy()),
    "i.array[...] = ": write_into(lambda i: i.array),
    "i.name = ": lambda i: setattr(i, "name", "other"),
    "i.names = ": lambda i: setattr(i, "names", ["x", "y"][: i.nlevels]),
    "i[0] = ": lambda i: i.__setitem__(0, i[1]),
    "get_indexer": lambda i: i.unique().get_indexer_for(i[::-1]),
    "get_loc": lambda i: i.get_loc(i[5]),
    "union": lambda i: i.union(i[::-1]),
    "sort_values": lambda i: i.sort_values(),
    "unique": lambda i: i.unique(),
    "is_monotonic_increasing": lambda i: i.is_monotonic_increasing,
    "join": lambda i: i.unique().join(i.unique()[::2], how="inner"),
}


@functools.cache
def table(kind):
    statements = {pd.DataFrame: FRAME, pd.Series: SERIES}.get(kind, INDEX)
    return {**methods(kind), **(arithmetic(kind) if statements is not INDEX else {}), **statements}


def kind_of(value):
    return next(kind for kind in (pd.DataFrame, pd.Series, pd.MultiIndex, pd.Index) if isinstance(value, kind))


def deeds(name, value):
    return list(table(kind_of(value)))


def perform(name, deed, value):
    """Return a deed's result, and the value after it."""
    return attempt(table(kind_of(value))[deed], value), value

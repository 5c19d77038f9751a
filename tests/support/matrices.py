"""Sparse matrices of every format, and what can be done to them: in place, and by all methods they have."""

from __future__ import annotations

import functools
import operator
import re

import numpy as np
from likeness import LARGE, attempt
from scipy import sparse
from scipy.sparse import csgraph, linalg

FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")
COLUMNS = 20

#: Elements of which both values and indices are large.
ENOUGH = 9_000


def subjects(count=0):
    """Return functions by name that each make a subject of a number of elements.

    Of large ones, only one format comes as a matrix: its class differs from the array's in what operators mean.
    """
    made = {}
    for form in FORMATS:
        for flavour in ("matrix", "array") if count < LARGE or form == "csr" else ("array",):
            made[f"{form}_{flavour}"] = lambda count, form=form, flavour=flavour: two_axes(form, flavour, count)
    for form in ("csr", "coo", "dok"):
        made[f"{form}_array of one axis"] = lambda count, form=form: one_axis(form, count)
    for form in ("csr", "csc"):
        made[f"{form}_array, square"] = lambda count, form=form: square(form, count)
    return made


def make(name, count):
    """Make a matrix of a format.

    Formats that hold Python's objects and no arrays are slow, and the threshold of sharing means nothing to them.
    """
    return subjects()[name](min(count, ENOUGH // 10 if name.startswith(("dok", "lil")) else ENOUGH))


def two_axes(form, flavour, count):
    """Make a matrix with duplicates, explicit zeros and unsorted indices where the format can have them.

    Elements are whole numbers.
    """
    new = getattr(sparse, f"{form}_{flavour}")
    if form == "dia":
        data = np.arange(3.0 * (count // 3)).reshape(3, -1) % 7
        return new((data, [-1, 0, 2]), shape=(COLUMNS, count // 3))
    rows = max(4, count // 3 // 2 * 2)
    random = np.random.default_rng(count)
    values = random.integers(-3, 4, count).astype("f8")
    at = random.integers(0, rows, count), random.integers(0, COLUMNS, count)
    if form == "coo":
        return new((values, at), shape=(rows, COLUMNS))
    if form in ("csr", "csc"):
        lines, across = at if form == "csr" else at[::-1]
        starts = np.searchsorted(np.sort(lines), np.arange((rows if form == "csr" else COLUMNS) + 1))
        return new((values, across, starts), shape=(rows, COLUMNS))
    if form == "bsr":
        base = sparse.csr_array((values, at), shape=(rows, COLUMNS)).tobsr((2, 2))
        return new((base.data, base.indices, base.indptr), shape=base.shape)
    return new(sparse.coo_array((values, at), shape=(rows, COLUMNS)))


def one_axis(form, count):
    random = np.random.default_rng(count)
    values, at = random.integers(1, 4, count).astype("f8"), random.integers(0, 2 * count, count)
    if form == "csr":
        return sparse.csr_array((values, at, [0, count]), shape=(2 * count,))
    made = sparse.coo_array((values, (at,)), shape=(2 * count,))
    return made if form == "coo" else made.asformat(form)


def square(form, count):
    """Make a matrix of three diagonals: a graph that is a chain, and a system that has a solution."""
    size = max(10, count)
    return sparse.diags_array([1.0, 4.0, 2.0], offsets=[-1, 0, 1], shape=(size, size), format=form)


# ---- deeds -----------------------------------------------------------------------------------------------------------


def ones(value):
    """Return a dense array of the matrix's shape; of few enough elements at all sizes."""
    return np.ones(value.shape)


#: Arguments of methods, each a list of them: the other methods take none.
ARGUMENTS = {
    "asformat": [lambda m: ("coo",), lambda m: ("csr",)],
    "astype": [lambda m: ("f4",), lambda m: ("f8", "unsafe", False)],
    "check_format": [lambda m: (True,)],
    "dot": [lambda m: (np.ones(m.shape[-1]),)],
    "fromkeys": [lambda m: ([(0, 0), (1, 1)], 5.0)],
    "get": [lambda m: ((0,) * m.ndim, -1.0)],
    "getcol": [lambda m: (0,)],
    "getrow": [lambda m: (0,)],
    "getrowview": [lambda m: (0,)],
    "maximum": [lambda m: (m.copy(),), lambda m: (0,)],
    "minimum": [lambda m: (m.copy(),), lambda m: (0,)],
    "multiply": [lambda m: (3,), lambda m: (m.copy(),), lambda m: (ones(m),)],
    "pop": [lambda m: (next(iter(m.keys())),)],
    "power": [lambda m: (2,)],
    "reshape": [lambda m: (m.shape[::-1] if m.ndim == 2 else (2, -1),)],
    "resize": [lambda m: tuple(n // 2 for n in m.shape), lambda m: tuple(n + 3 for n in m.shape)],
    "setdefault": [lambda m: ((0,) * m.ndim, 9.0)],
    "setdiag": [lambda m: (7,), lambda m: (np.arange(1.0, min(m.shape) - 1), 1), lambda m: (5, -1)],
    "set_shape": [lambda m: (m.shape[::-1],)],
    "sum": [lambda m: (), lambda m: (0,)],
    "tensordot": [lambda m: (np.ones((m.shape[-1], 2)), 1)],
    "update": [lambda m: ({(0, 0): 2.0},)],
    **{name: [lambda m: (), lambda m: (0,)] for name in ("max", "min", "argmax", "argmin", "nanmax", "nanmin", "mean")},
}

#: Methods that give another value every time, or only an iterator.
LEFT_OUT = {"popitem", "keys", "values", "items"}


def methods(kind):
    """Return deeds: every public method of a class once for each arguments, every property, arithmetic in place."""
    found = {}
    for name in dir(kind):
        if name.startswith("_") or name in LEFT_OUT:
            continue
        if not callable(getattr(kind, name)):
            found[name] = lambda m, name=name: getattr(m, name)
            continue
        for number, arguments in enumerate(ARGUMENTS.get(name, [lambda m: ()])):
            found[f"{name}() {number}"] = lambda m, name=name, arguments=arguments: getattr(m, name)(*arguments(m))
    for name in dir(kind):
        if name.startswith("__i") and hasattr(operator, f"__{name[3:]}") and hasattr(operator, name):
            in_place = getattr(operator, name)
            found[f"{name} a number"] = lambda m, do=in_place: do(m, 3)
            found[f"{name} its like"] = lambda m, do=in_place: do(m, m.copy())
    return found


def sort_badly(m):
    m.has_sorted_indices = False
    m.sort_indices()


def say_canonical(m):
    m.has_canonical_format = False
    m.sum_duplicates()


def assign(*key_and_value):
    *key, value = key_and_value
    key = key[0] if len(key) == 1 else tuple(key)

    def deed(m):
        m[key] = value(m) if callable(value) else value

    return deed


def remove(key):
    def deed(m):
        del m[key]

    return deed


def write(name, value):
    def deed(m):
        array = getattr(m, name)
        array[...] = array[::-1].copy() if value is None else value

    return deed


def add_in_place(name):
    def deed(m):
        array = getattr(m, name)
        array += array.dtype.type(1) if array.dtype != object else [1]

    return deed


#: Deeds that are no method, for every format: one that cannot do it says so, in a task as elsewhere.
STATEMENTS = {
    "m[1, 2] = 5": assign(1, 2, 5.0),
    "m[1, 2] = 0": assign(1, 2, 0.0),
    "m[2] = 4": assign(2, 4.0),
    "m[:, 1] = 4": assign(slice(None), 1, 4.0),
    "m[[1, 2], [3, 4]] = 4": assign([1, 2], [3, 4], [4.0, 5.0]),
    "m[1:3, 2:4] = dense": assign(slice(1, 3), slice(2, 4), np.full((2, 2), 6.0)),
    "m[1:3, 2:4] = sparse": assign(slice(1, 3), slice(2, 4), lambda m: sparse.csr_array(np.eye(2))),
    "m[m > 1] = 8": lambda m: m.__setitem__(m > 1, 8.0),
    "del m[0, 0]": remove((0, 0)),
    "m.data[...] = 2": write("data", 2),
    "m.data[...] turned": write("data", None),
    "m.data += 1": add_in_place("data"),
    "m.data.sort()": lambda m: m.data.sort(),
    "m.indices[...] = 0": write("indices", 0),
    "m.indices[...] turned": write("indices", None),
    "m.indptr[...] turned": write("indptr", None),
    "m.row[...] turned": write("row", None),
    "m.col[...] = 0": write("col", 0),
    "m.coords[0][...] = 0": lambda m: m.coords[0].__setitem__(..., 0),
    "m.offsets += 1": add_in_place("offsets"),
    "m.rows[0].append": lambda m: (m.rows[0].append(99), m.data[0].append(1.0)),
    "m.data.fill through a view": lambda m: m.data.ravel()[1:].fill(3),
    "m.shape = ": lambda m: setattr(m, "shape", m.shape[::-1]),
    "sort what is said to be unsorted": sort_badly,
    "sum what is said to have duplicates": say_canonical,
    "m @ v": lambda m: m @ np.ones(m.shape[-1]),
    "m.T @ m": lambda m: m.T @ m,
    "m[:2]": lambda m: m[:2],
    "m[:, 1]": lambda m: m[:, 1],
    "m != m": lambda m: m != m.copy(),
    "abs": abs,
    "toarray into": lambda m: m.toarray(out=np.ones(m.shape)),
    "vstack": lambda m: sparse.vstack([m, m]),
    "find": sparse.find,
    "tril": sparse.tril,
    "norm": linalg.norm,
}

#: It compares every element with every other.
SLOW = {("coo", "m[m > 1] = 8")}

#: Of square ones: reads by compiled code of its own.
SQUARE = {
    "spsolve": lambda m: linalg.spsolve(m, np.ones(m.shape[0])),
    "splu": lambda m: linalg.splu(m).solve(np.ones(m.shape[0])),
    "spilu": lambda m: linalg.spilu(m).solve(np.ones(m.shape[0])),
    "spsolve_triangular": lambda m: linalg.spsolve_triangular(sparse.tril(m, format="csr"), np.ones(m.shape[0])),
    "cg": lambda m: linalg.cg(m, np.ones(m.shape[0]), maxiter=3)[0],
    "matrix power": lambda m: m**2,
    "connected components": csgraph.connected_components,
    "minimum spanning tree": csgraph.minimum_spanning_tree,
    "minimum spanning tree, overwriting": lambda m: csgraph.minimum_spanning_tree(m, overwrite=True),
    "breadth first": lambda m: csgraph.breadth_first_order(m, 0),
    "depth first": lambda m: csgraph.depth_first_order(m, 0),
    "dijkstra": lambda m: csgraph.dijkstra(m, indices=0),
    "bellman ford": lambda m: csgraph.bellman_ford(m[:50, :50], indices=0),
    "reverse cuthill mckee": csgraph.reverse_cuthill_mckee,
    "bipartite matching": csgraph.maximum_bipartite_matching,
    "full matching": lambda m: csgraph.min_weight_full_bipartite_matching(m),
    "structural rank": csgraph.structural_rank,
    "laplacian": csgraph.laplacian,
    "maximum flow": lambda m: csgraph.maximum_flow(m.astype("i4"), 0, m.shape[0] - 1).flow_value,
    "setdiag": lambda m: m.setdiag(3),
    "m.data[...] = 2": write("data", 2),
}


@functools.cache
def table(name):
    if name.endswith("square"):
        return SQUARE
    return {**methods(getattr(sparse, name.split()[0])), **STATEMENTS}


def deeds(name, value):
    """Return the deeds for which the value has what they write to.

    It may refuse the others, and does so in the same words everywhere.
    """
    wanted = {deed: re.match(r"m\.(\w+)", deed) for deed in table(name)}
    return [
        deed
        for deed, attribute in wanted.items()
        if (attribute is None or hasattr(value, attribute[1])) and (value.format, deed) not in SLOW
    ]


def perform(name, deed, value):
    """Return a deed's result, and the value after it."""
    return attempt(table(name)[deed], value), value

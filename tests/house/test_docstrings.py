"""Docstring examples of the public modules run: doctests, and blocks of code that stand after a blank line."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import textwrap

import pytest

#: The modules whose names users import: the API reference documents them.
PUBLIC = (
    "flame_fast",
    "flame_fast.app",
    "flame_fast.errors",
    "flame_fast.package",
    "flame_fast.kernels",
    "flame_fast.kernels.moments",
    "flame_fast.kernels.montecarlo",
    "flame_fast.kernels.quasi",
    "flame_fast.kernels.rng",
    "flame_fast.kernels.running",
    "flame_fast.kernels.sampling",
    "flame_fast.kernels.variance",
)

#: Blocks of a docstring that are indented and stand after a blank line: code, or a picture.
BLOCK = re.compile(r"\n\n((?:    .*\n|\n)+)")


def public_objects():
    """Yield (name, object) of each public module, class, function and method that has a docstring."""
    for name in PUBLIC:
        module = importlib.import_module(name)
        yield name, module
        for member in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, member)
            if member.startswith("_") or not (inspect.isclass(value) or callable(value)):
                continue
            if getattr(value, "__module__", "").startswith("flame_fast"):
                yield f"{name}.{member}", value
                if inspect.isclass(value):
                    methods = [method for method in vars(value) if not method.startswith("_")]
                    yield from ((f"{name}.{member}.{method}", getattr(value, method)) for method in methods)


def documented():
    """Return {name: docstring}, each docstring under the first of its names."""
    found: dict[str, str] = {}
    for name, value in public_objects():
        text = inspect.cleandoc(value.__doc__) if isinstance(getattr(value, "__doc__", None), str) else ""
        if text and text not in found.values():
            found[name] = text
    return found


def code_of(text: str) -> list[str]:
    """Return the blocks of a docstring that are Python, dedented; a table or a list of parameters is none."""
    blocks = [textwrap.dedent(block).strip("\n") for block in BLOCK.findall(text + "\n")]
    return [block for block in blocks if ">>>" not in block and is_code(block)]


def is_code(block: str) -> bool:
    """Tell whether a block is code.

    A picture does not parse, and a line of prose in a list is a bare name.
    """
    try:
        body = ast.parse(block).body
    except SyntaxError:
        return False
    return not all(isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call) for node in body)


DOCUMENTED = documented()


@pytest.fixture
def names(tmp_path):
    """Return the names that an example leaves to its reader."""
    import numba
    import numpy
    from flame_fast.kernels import quasi, rng, sampling

    import flame_fast
    import flame_fast.package

    (tmp_path / "directory").mkdir()
    return {
        "flame_fast": flame_fast,
        "np": numpy,
        "njit": numba.njit,
        "prange": numba.prange,
        "rng": rng,
        "sampling": sampling,
        "quasi": quasi,
        "sobol": quasi.sobol,
        "bridge": quasi.bridge,
        "brownian_bridge": quasi.brownian_bridge,
        "seed": 7,
        "BLOCK": 4096,
        "directory": tmp_path / "directory",
        "out": tmp_path / "package.tar.gz",
    }


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTED.items() if ">>>" in text or code_of(text)])
def test_examples_in_docstrings_run(name, names):
    for block in code_of(DOCUMENTED[name]):
        exec(compile(block, f"<docstring of {name}>", "exec"), names)
    test = doctest.DocTestParser().get_doctest(DOCUMENTED[name], names, name, None, None)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_examples_are_found():
    """The package's own first example is found; a test that finds no example would pass in silence."""
    assert code_of(DOCUMENTED["flame_fast"]) or ">>>" in DOCUMENTED["flame_fast"]

"""Modules that no worker can import, made as notebooks and plug-in systems make them: from text, in memory."""

from __future__ import annotations

import itertools
import sys
import textwrap
import types

import pytest

_numbers = itertools.count()


def run_cell(module: types.ModuleType, text: str) -> types.ModuleType:
    """Execute text in a module's namespace, as a notebook does with a cell."""
    name = f"<cell {next(_numbers)} of {module.__name__}>"
    exec(compile(textwrap.dedent(text), name, "exec"), vars(module))
    return module


def made_up_module(monkeypatch: pytest.MonkeyPatch, text: str = "", name: str | None = None) -> types.ModuleType:
    """Make a module in `sys.modules` without a file, until the end of the test."""
    module = types.ModuleType(name or f"made_up_{next(_numbers)}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return run_cell(module, text)

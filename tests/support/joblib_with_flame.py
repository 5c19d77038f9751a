"""A plugin of pytest for joblib's own tests: they get this package's backend in the place of joblib's of processes."""

from __future__ import annotations

import json
import os

import joblib._parallel_backends
import joblib.parallel

from flame_fast.faces._joblib import FlameBackend

#: Their names, which joblib's tests compare.
REPLACED = ("LokyBackend", "MultiprocessingBackend")

for name in REPLACED:
    replacement = type(name, (FlameBackend,), {})
    for module in (joblib._parallel_backends, joblib.parallel):
        setattr(module, name, replacement)
    joblib.parallel.BACKENDS[name.removesuffix("Backend").lower()] = replacement


def pytest_configure(config):
    for marker in ("thread_unsafe", "parallel_threads", "no_cover"):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    """Leave out tests by a part of their name, and those of joblib's other backends; keep chosen ones, if some are."""
    left_out, chosen = json.loads(os.environ["JOBLIB_TESTS"])
    kept = [item for item in items if _is_ours(item) and not any(name in item.name for name in left_out)]
    if chosen:
        kept = [item for item in kept if any(name in item.name for name in chosen)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _is_ours(item):
    """Whether a test runs processes, as far as its parameters tell."""
    backend = item.callspec.params.get("backend", "loky") if hasattr(item, "callspec") else "loky"
    return backend in ("loky", "multiprocessing")

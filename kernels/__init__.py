"""The native half of flame_fast: shared memory, tasks and values (`runtime`), and how values are pickled (`pickling`)."""

try:
    from flame_fast.kernels import runtime as runtime
except ImportError as error:
    raise ImportError(
        "the native part of flame_fast (flame_fast.kernels.runtime) is not built for this Python; "
        "run `pip install .` or, in a clone, `pip install -e .` with a C compiler at hand"
    ) from error

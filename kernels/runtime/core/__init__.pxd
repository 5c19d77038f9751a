# The core of the native runtime, header-only: the words of shared memory and the operations on them, without Python objects.
#
# Guarantees: every function is `noexcept nogil`; a process may be killed at any instruction (PROTOCOL.md). Files cimport
# only from lower floors, as `tests/house/test_native_floors.py` checks.

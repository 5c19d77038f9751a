# Status codes of native functions. The Python-aware caller turns them into exceptions.

cdef enum Status:
    DONE = 0
    OUT_OF_MEMORY = -1
    RAISED = -2             # a Python exception is kept by the object that met it
    TOO_MANY = -3
    FAILED = -4             # errno says why

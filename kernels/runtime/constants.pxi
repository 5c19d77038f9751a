# Numbers of the tables that Python code uses by name; `layout.pxd` defines them.
# uses: nothing

from libc.stdint cimport uint32_t
from .core.layout cimport (
    DRIVER_INDEX, NO_METHOD, PROCESS_LIVE, PROCESS_REQUESTED, PROCESS_STARTING, ROLE_DRIVER, ROLE_INSTANCE, ROLE_POOL,
    ROLE_SPARE, ROLE_ZYGOTE, ZYGOTE_INDEX,
)

#: The driver's index in the process table.
DRIVER = DRIVER_INDEX
#: The supervisor's (zygote's) index in the process table.
ZYGOTE = ZYGOTE_INDEX
#: A method's number that makes no sense to call.
UNCALLABLE = <uint32_t> NO_METHOD

class ProcessState:
    """States of an entry of the process table."""

    REQUESTED = PROCESS_REQUESTED
    LIVE = PROCESS_LIVE
    STARTING = PROCESS_STARTING

class Role:
    """Roles of a process of the table."""

    DRIVER = ROLE_DRIVER
    ZYGOTE = ROLE_ZYGOTE
    POOL = ROLE_POOL
    INSTANCE = ROLE_INSTANCE
    SPARE = ROLE_SPARE

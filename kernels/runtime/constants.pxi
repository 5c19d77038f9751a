# Numbers of the tables that Python code knows by name: as `layout.pxd` has them.
# uses: nothing

from libc.stdint cimport uint32_t
from .core.layout cimport (
    DRIVER_INDEX, NO_METHOD, PROCESS_LIVE, PROCESS_REQUESTED, PROCESS_STARTING, ROLE_DRIVER, ROLE_INSTANCE, ROLE_POOL,
    ROLE_ZYGOTE, ZYGOTE_INDEX,
)

DRIVER = DRIVER_INDEX                   #: the driver's index in the process table
ZYGOTE = ZYGOTE_INDEX                   #: the supervisor's
UNCALLABLE = <uint32_t> NO_METHOD       #: as a method's number: a call makes no sense

class ProcessState:
    """States of an entry of the process table."""
    REQUESTED = PROCESS_REQUESTED
    LIVE = PROCESS_LIVE
    STARTING = PROCESS_STARTING

class Role:
    """What a process of the table is for."""
    DRIVER = ROLE_DRIVER
    ZYGOTE = ROLE_ZYGOTE
    POOL = ROLE_POOL
    INSTANCE = ROLE_INSTANCE

"""One process's attachment to a runner's segment of shared memory: submit, wait, serve, supervise.

    driver                                          worker
    submit --- slot: arguments ---> queue (entries) -> claim (READY -> RUNNING)
    get <----- slot: outcome <--------------------- finish (-> DONE/FAILED), queues what became ready
                        supervisor (zygote): recover (the tasks of a dead worker fail, no others)

Guarantees: submitting never blocks; a task runs at most once; the tables alone tell what a dead process left.
Assumes: one supervisor at a time, which recovers a process only after the kernel has reported its end.
The layout of the segment stands in `core/layout.pxd`, the order of the steps of each operation in `PROTOCOL.md`.
"""

cimport cython

import gc
import os
import select
import sys
import time
import weakref
from types import GenericAlias

from flame_fast.errors import FlameError, FlameErrorCode, StoreFullError, TaskTimeoutError, WorkerDiedError

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, unsigned long argument) noexcept
    int PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER

from .core.layout_checks cimport check_layout

check_layout()

def die_with_parent(int signal):
    """Ask the kernel for `signal` when the parent ends. Sound only under a single-threaded parent, as the supervisor is."""
    prctl(PR_SET_PDEATHSIG, signal)

def adopt_orphans():
    """Have this process become the parent of its descendants whose parents end."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)

include "constants.pxi"
include "python_api.pxi"
include "numpy_api.pxi"
include "page_faults.pxi"
include "semaphores.pxi"
include "segment.pxi"
include "views.pxi"
include "array_allocator.pxi"
include "fork.pxi"
include "definition_store.pxi"
include "services.pxi"
include "handle.pxi"
include "reader.pxi"
include "writer.pxi"
include "integer_list.pxi"
include "shared_values.pxi"
include "arrays.pxi"
include "values.pxi"
include "class_layouts.pxi"
include "globals_look.pxi"
include "encode.pxi"
include "decode.pxi"
include "timeouts.pxi"
include "waits.pxi"
include "deadlock.pxi"
include "outcomes.pxi"
include "notifier.pxi"
include "future.pxi"
include "selector.pxi"
include "call_policy.pxi"
include "client.pxi"
include "vectorcall.pxi"
include "map.pxi"
include "worker.pxi"
include "limits.pxi"
include "supervisor.pxi"
include "dump.pxi"

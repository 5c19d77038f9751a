"""How many threads the numeric libraries use in a task; a module by itself, whose import costs a worker half a second."""

from __future__ import annotations

import numba
import threadpoolctl

from flame_fast import ResourceRequirement, Runner
from flame_fast.resources import available_cpus


def thread_limits():
    """Return what Numba and each thread pool would use here; the libraries are loaded with this module."""
    return numba.get_num_threads(), sorted({pool["num_threads"] for pool in threadpoolctl.threadpool_info()})


def test_cpu_sets_the_thread_limits_of_numba_and_blas(project):
    cpus = available_cpus()
    with Runner("threads", workers=1) as rr:
        one = rr.service(thread_limits, resreq=ResourceRequirement(cpu=1))
        all_of_them = rr.service(thread_limits, resreq=ResourceRequirement(cpu=cpus))
        default = rr.service(thread_limits)
        for _ in range(2):  # the worker changes service each time, and its limits with it
            assert one().get() == (1, [1])
            assert all_of_them().get() == (cpus, [cpus])
            assert one().get() == (1, [1])
            assert default().get() == (cpus, [cpus])
    with Runner("threads", workers=2 * cpus) as rr:
        assert rr.service(thread_limits)().get() == (1, [1])


def test_thread_limits_hold_for_libraries_that_the_task_itself_imports(project):
    def limits():
        import numba
        import numpy  # noqa: F401
        import threadpoolctl

        return numba.get_num_threads(), sorted({pool["num_threads"] for pool in threadpoolctl.threadpool_info()})

    with Runner("threads", workers=1) as rr:
        service = rr.service(limits, resreq=ResourceRequirement(cpu=1))
        assert [service().get() for _ in range(2)] == [(1, [1])] * 2


def test_thread_limits_hold_for_a_function_that_travels_with_its_call(project):
    extra = [1]

    def limits():
        return thread_limits(), len(extra)

    with Runner("threads", workers=1) as rr:
        service = rr.service(limits, resreq=ResourceRequirement(cpu=1))
        assert [service().get() for _ in range(2)] == [((1, [1]), 1)] * 2

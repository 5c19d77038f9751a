"""flame_fast and its peers behind one face: start, submit many and collect, one round trip, stop."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tasks import nothing

from flame_fast import Runner

WORKERS = 2


class FlameFast:
    name = "flame_fast"

    def __init__(self):
        self.runner = Runner("bench", workers=WORKERS)
        self.service = self.runner.service(nothing)
        self.one()

    def many(self, count):
        return len(self.runner.get([self.service(i) for i in range(count)]))

    def one(self):
        return self.service(1).get()

    def stop(self):
        self.runner.close()


class Executor:
    name = "ProcessPoolExecutor"

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.pool = ProcessPoolExecutor(WORKERS, mp_context=context)
        self.one()

    def many(self, count):
        return len([future.result() for future in [self.pool.submit(nothing, i) for i in range(count)]])

    def one(self):
        return self.pool.submit(nothing, 1).result()

    def stop(self):
        self.pool.shutdown()


class Pool:
    name = "multiprocessing.Pool"

    def __init__(self):
        self.pool = multiprocessing.get_context("fork").Pool(WORKERS)
        self.one()

    def many(self, count):
        return len([result.get() for result in [self.pool.apply_async(nothing, (i,)) for i in range(count)]])

    def one(self):
        return self.pool.apply(nothing, (1,))

    def stop(self):
        self.pool.terminate()
        self.pool.join()

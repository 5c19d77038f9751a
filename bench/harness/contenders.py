"""flame_fast and its peers behind one face, each in its best mode for what is asked of it.

`submit` and `collect` are calls made one by one, `one` a round trip of a no-op, `call` one of any function, `map` the batch
mode, `put` what makes a value ready to be passed many times, `share` and `chain` what takes such a value.
"""

from __future__ import annotations

import importlib.util
import mmap
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import tasks
from tasks import nothing

from flame_fast import Runner

WORKERS = 2


class Contender:
    #: The package to be installed for it.
    needs = "flame_fast"
    #: Calls in one measurement: enough to hide the clock, few enough for the slow ones.
    calls = 2_000
    #: Items in one measurement of `map`, and the chunk sizes of which the best is searched.
    items = 1_000_000
    chunks = (1_000, 10_000, 50_000, 200_000, 500_000)

    def many(self, count):
        submit = self.submit
        return self.collect([submit(number) for number in range(count)])

    def put(self, value):
        return value

    def share(self, function, stored, count):
        """One chunk per worker: a chunk's pickle holds an object that occurs in it many times only once."""
        return self.map(function, [stored] * count, count // WORKERS)

    def chain(self, functions, stored):
        for function in functions:
            stored = self.call(function, stored)
        return stored

    def reach_all_workers(self, function, argument):
        """Run a call in each worker; it lasts long enough for the others to be reached as well."""
        self.map(function, [argument] * WORKERS, 1)


class FlameFast(Contender):
    name = "flame_fast"
    calls = 100_000
    chunks = (None,)

    def __init__(self):
        self.runner = Runner("bench", workers=WORKERS)
        self.services = {}
        self.submit = self.service(nothing)
        self.collect = self.runner.get
        self.put = self.runner.put_object
        self.one()

    def service(self, function):
        if function not in self.services:
            self.services[function] = self.runner.service(function)
        return self.services[function]

    def one(self):
        return self.submit(1).get()

    def call(self, function, *args):
        return self.service(function)(*args).get()

    def map(self, function, values, chunk=None):
        return list(self.service(function).map(values, chunksize=chunk))

    def share(self, function, stored, count):
        service = self.service(function)
        return self.collect([service(stored) for _ in range(count)])

    def last_of(self, functions, stored):
        """Return the future of a chain's last call."""
        for function in functions:
            stored = self.service(function)(stored)
        return stored

    def chain(self, functions, stored):
        return self.last_of(functions, stored).get()

    def reach_all_workers(self, function, argument):
        self.share(function, argument, WORKERS)

    def stop(self):
        self.runner.close()


class Pool(Contender):
    name = "multiprocessing.Pool"
    needs = "multiprocessing"
    calls = 10_000
    chunks = (None, *Contender.chunks)

    def __init__(self):
        self.pool = multiprocessing.get_context("fork").Pool(WORKERS)
        self.one()

    def submit(self, value):
        return self.pool.apply_async(nothing, (value,))

    def collect(self, results):
        return [result.get() for result in results]

    def one(self):
        return self.pool.apply(nothing, (1,))

    def call(self, function, *args):
        return self.pool.apply(function, args)

    def map(self, function, values, chunk=None):
        return self.pool.map(function, values, chunk)

    def stop(self):
        self.pool.terminate()
        self.pool.join()


class SharedBufferPool(Pool):
    """A user's own zero copy: arrays lie in memory that the workers inherited, and tasks are told to look there."""

    name = "Pool, shared buffer by hand"
    BUFFER_BYTES = 100_000_000

    def __init__(self):
        import numpy  # of no use to the other contenders' drivers

        tasks.inherited = numpy.frombuffer(mmap.mmap(-1, self.BUFFER_BYTES))
        super().__init__()

    def put(self, value):
        tasks.inherited[:] = value

    def call(self, function, *args):
        self.put(*args)
        return self.pool.apply(tasks.of_inherited, (function,))

    def share(self, function, stored, count):
        return self.pool.map(tasks.of_inherited, [function] * count, count // WORKERS)

    def chain(self, functions, stored):
        return [self.pool.apply(tasks.of_inherited, (function,)) for function in functions][-1]


class Executor(Contender):
    name = "ProcessPoolExecutor"
    needs = "concurrent"

    def __init__(self):
        self.pool = self.make_pool()
        self.one()

    def make_pool(self):
        return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("fork"))

    def submit(self, value):
        return self.pool.submit(nothing, value)

    def collect(self, futures):
        return [future.result() for future in futures]

    def one(self):
        return self.pool.submit(nothing, 1).result()

    def call(self, function, *args):
        return self.pool.submit(function, *args).result()

    def map(self, function, values, chunk=1):
        return list(self.pool.map(function, values, chunksize=chunk))

    def stop(self):
        self.pool.shutdown()


class Loky(Executor):
    name = "loky"
    needs = "joblib"

    def make_pool(self):
        from joblib.externals.loky import ProcessPoolExecutor

        return ProcessPoolExecutor(WORKERS)


class Joblib(Contender):
    """A batch mode only. Made anew for each batch: one that is kept would pass an array's first content for ever."""

    name = "joblib.Parallel"
    needs = "joblib"
    items = 40_000
    chunks = ("auto", 500, 5_000, 20_000)

    def map(self, function, values, chunk="auto"):
        from joblib import Parallel, delayed

        return Parallel(n_jobs=WORKERS, batch_size=chunk)(delayed(function)(value) for value in values)

    def call(self, function, *args):
        return self.map(function, args)[0]

    def stop(self):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class Mpire(Contender):
    """With two pools: one that has served `apply` calls `map`'s function wrongly. The idle one has no processes."""

    name = "mpire"
    needs = "mpire"
    items = 50_000
    chunks = (None, 500, 5_000, 25_000)

    def __init__(self):
        self.pool, self.mapping = self.make_pool(), self.make_pool()
        self.one()

    def make_pool(self, shared=None):
        from mpire import WorkerPool

        return WorkerPool(WORKERS, start_method="fork", keep_alive=True, shared_objects=shared)

    def submit(self, value):
        return self.pool.apply_async(nothing, (value,))

    def collect(self, results):
        return [result.get() for result in results]

    def one(self):
        return self.pool.apply(nothing, (1,))

    def call(self, function, *args):
        return self.pool.apply(function, args)

    def map(self, function, values, chunk=None):
        return self.mapping.map(function, values, chunk_size=chunk)

    def share(self, function, stored, count):
        """Workers inherit what is to be shared, so they are started for it."""
        pool = self.make_pool(shared=stored)
        try:
            return pool.map(tasks.of_shared, [function] * count)
        finally:
            pool.terminate()

    def stop(self):
        self.pool.terminate()
        self.mapping.terminate()


class PipeEcho(Contender):
    """No pool but a limit: one byte to a waiting process and back, with nothing on its way but Python's read and write."""

    name = "a byte over two pipes"

    def __init__(self):
        there, back = os.pipe(), os.pipe()
        self.reader, self.writer = back[0], there[1]
        self.ends = there + back
        self.process = multiprocessing.get_context("fork").Process(target=echo, args=(there[0], back[1]), daemon=True)
        self.process.start()

    def one(self):
        os.write(self.writer, b"x")
        return os.read(self.reader, 1)

    def stop(self):
        self.process.kill()
        self.process.join()
        for end in self.ends:
            os.close(end)


def echo(reader, writer):
    while True:
        os.write(writer, os.read(reader, 1))


def installed(*contenders):
    return [contender for contender in contenders if importlib.util.find_spec(contender.needs)]


#: Who takes calls one by one, who takes batches, and who takes arrays.
CALLERS = installed(FlameFast, Pool, Executor, Loky, Mpire)
MAPPERS = installed(FlameFast, Pool, Executor, Loky, Joblib, Mpire)
CARRIERS = installed(FlameFast, SharedBufferPool, Pool, Executor, Loky, Joblib, Mpire)


@contextmanager
def running(contenders):
    """All of them by name. flame_fast starts last, so that pools which fork inherit nothing of it."""
    started = {}
    try:
        for contender in reversed(contenders):
            started[contender.name] = contender()
        yield {contender.name: started[contender.name] for contender in contenders}
    finally:
        for contender in started.values():
            contender.stop()

"""The task table against a plain model: promises, calls of calls, failures, cancels, ordered queues, in any order.

One process plays driver and worker. The model knows of each call what it waits for, what it gives, and how long its slot is
in use.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import CancelledError

from flame_fast.kernels.runtime import serialization
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from runtime_harness import Alone

from flame_fast import FlameError
from flame_fast.engine.spec import CLASS, INSTANCE

LONG = os.environ.get("FLAME_FAST_STORM") == "1"

WAITING, QUEUED, RUNNING, DONE, FAILED = "waiting", "queued", "running", "done", "failed"

#: In the place of the number of a call that failed.
CANCELLED = -1


class Box:
    """Something that only pickle can write; a future in it is found all the same."""

    def __init__(self, *content):
        self.content = content

    def __repr__(self):
        return f"Box{self.content!r}"


def digest(*args, **kwargs):
    """Tell which values arrived, and in which shape."""
    return zlib.crc32(repr((args, kwargs)).encode())


def mix(number, *args, **kwargs):
    return number, digest(*args, **kwargs)


def refuse(number, *args, **kwargs):
    raise LookupError(number)


class Log(list):
    """An instance: what a call gives tells how many came before it."""

    def mix(self, number, *args, **kwargs):
        self.append(number)
        return number, len(self), digest(*args, **kwargs)

    def refuse(self, number, *args, **kwargs):
        self.append(number)
        raise LookupError(number)


class Plain:
    """The functions as methods: for a service with two of them."""

    mix = staticmethod(mix)
    refuse = staticmethod(refuse)


def raised(operation):
    """(type, arguments) of what an operation raises; no traceback, which would hold futures."""
    try:
        operation()
    except Exception as error:
        return type(error), error.args
    return None, ()


def failure(operation):
    """Return the number of the call whose failure an operation raises."""
    kind, args = raised(operation)
    if kind is CancelledError:
        return CANCELLED
    assert kind is LookupError
    return args[0]


class RunQueue:
    """A service of the model, and what was queued on it, in order."""

    def __init__(self, ids, ordered):
        self.ids = ids
        self.ordered = ordered
        self.calls = []
        self.count = 0


class Node:
    """A slot of the model."""

    def __init__(self, number, status, queue=None, refuses=False, shape=None, inputs=()):
        self.number = number
        self.status = status
        self.queue = queue
        self.refuses = refuses
        self.shape = shape  # makes the arguments from what stands for each input
        self.dependencies = inputs  # without repetitions, in the order of the arguments
        self.dependents = []
        self.future = None
        self.detached = False
        self.value = None
        self.errors = set()  # numbers, any of which may be the one that it failed with
        self.failed_at = None

    @property
    def is_finished(self):
        return self.status in (DONE, FAILED)

    def is_unwanted(self):
        """One that has not begun and that nobody holds or waits for, unless it runs anyway: an instance's do."""
        return (
            self.status in (WAITING, QUEUED)
            and not (self.detached or self.queue.ordered or self.future is not None)
            and all(node.is_finished for node in self.dependents)
        )

    def holds_inputs(self):
        """One that has failed still stands on the lists of the inputs that are to come."""
        return not self.is_finished or (self.status == FAILED and any(not node.is_finished for node in self.dependencies))

    def needs_slot(self):
        return self.future is not None or self.holds_inputs() or any(node.holds_inputs() for node in self.dependents)


SHAPES = [
    lambda inputs: (tuple(inputs), {}),
    lambda inputs: ((list(inputs), inputs and inputs[0]), {}),
    lambda inputs: ((), {"first": inputs[:1], "rest": {str(i): value for i, value in enumerate(inputs[1:])}}),
    lambda inputs: ((Box(*inputs), "x" * 1000), {}),
    lambda inputs: ((b"y" * 40_000, [[(value, 1.5)] for value in inputs]), {}),
]


class Table(RuleBasedStateMachine):
    nodes = Bundle("nodes")

    @initialize()
    def start(self):
        self.alone = Alone(1 << 28)
        self.all = []  # nodes that may still be in use
        self.step = 0
        self.created = 0
        methods = ("mix", "refuse")
        self.functions = [RunQueue(self.alone.service(mix), False), RunQueue(self.alone.service(refuse), False)]
        self.limited = RunQueue(self.alone.service(Plain, CLASS, methods, limit=1), False)
        self.instances = [RunQueue(self.alone.service(Log(), INSTANCE, methods), True) for _ in range(2)]
        self.closed = []
        self.base = self.alone.in_use()

    # ---- the model ---------------------------------------------------------------------------------------------------

    def new(self, *args):
        self.created += 1
        node = Node(self.created, *args)
        self.all.append(node)
        return node

    def finish(self, node, error=None):
        if error is None:
            node.status = DONE
        else:
            node.status = FAILED
            node.errors = error
            node.failed_at = self.step
        for dependent in node.dependents:
            if dependent.status != WAITING:
                if dependent.failed_at == self.step and error and dependent.number not in dependent.errors:
                    dependent.errors = dependent.errors | error  # which of its inputs failed first is not modelled
            elif error:
                self.finish(dependent, error)
            elif all(inner.status == DONE for inner in dependent.dependencies):
                dependent.status = QUEUED
        for inner in node.dependencies if error else ():
            if inner.is_unwanted():
                self.finish(inner, {CANCELLED})

    def run_queue(self, queue):
        """Run what can run; whether there was anything."""
        ran = False
        for node in list(queue.calls):
            if node.status == WAITING:
                if queue.ordered:
                    break
                continue
            queue.calls.remove(node)
            if node.status != QUEUED:
                continue
            ran = True
            queue.count += 1
            if node.refuses:
                self.finish(node, {node.number})
                continue
            args, kwargs = node.shape([inner.value for inner in node.dependencies])
            node.value = (node.number, digest(*args, **kwargs))
            if queue.ordered:
                node.value = (node.number, queue.count, node.value[1])
            self.finish(node)
        return ran

    def queues(self):
        return [*self.functions, self.limited, *self.instances, *self.closed]

    # ---- what may be done --------------------------------------------------------------------------------------------

    @rule(target=nodes)
    def promise(self):
        node = self.new(RUNNING)
        node.future = self.alone.runtime.promise()
        return node

    @rule(target=nodes, value=st.one_of(st.integers(), st.binary(max_size=300), st.just(b"z" * 50_000)))
    def put(self, value):
        node = self.new(DONE)
        node.value = value
        node.future = self.alone.runtime.put(value)
        return node

    @rule(node=nodes, value=st.one_of(st.integers(), st.binary(max_size=300)), fails=st.booleans())
    def fulfil(self, node, value, fails):
        if node.status != RUNNING:
            return
        self.step += 1
        if fails:
            self.alone.runtime.fulfil(node.future, None, serialization.dump_error(LookupError(node.number)))
            self.finish(node, {node.number})
        else:
            self.alone.runtime.fulfil(node.future, value)
            node.value = value
            self.finish(node)

    @rule(
        target=nodes,
        where=st.sampled_from(["mix", "refuse", "limited", "first", "second"]),
        refuses=st.booleans(),
        shape=st.sampled_from(SHAPES),
        given=st.lists(nodes, max_size=5),
        again=st.booleans(),
        detached=st.booleans(),
    )
    def call(self, where, refuses, shape, given, again, detached):
        self.step += 1
        if where in ("mix", "refuse"):
            refuses = where == "refuse"
            queue, method = self.functions[refuses], 0
        else:
            queue = self.limited if where == "limited" else self.instances[where == "second"]
            method = int(refuses)
        arguments = given + given[:1] if again else given
        inputs = list(dict.fromkeys(arguments))
        places = [inputs.index(node) for node in arguments]
        node = self.new(WAITING, queue, refuses, lambda values: shape([values[place] for place in places]), inputs)
        args, kwargs = shape([node.future for node in arguments])
        call = self.alone.detached if detached else self.alone.call
        node.detached = detached
        node.future = call(queue.ids, node.number, *args, method=method, **kwargs)
        failed = next((inner for inner in inputs if inner.status == FAILED), None)
        for inner in inputs:
            inner.dependents.append(node)
        if failed is not None:
            self.finish(node, failed.errors)
            return node
        if all(inner.status == DONE for inner in inputs):
            node.status = QUEUED
        queue.calls.append(node)
        return node

    @rule()
    def work(self):
        self.step += 1
        self.alone.work()
        while sum(self.run_queue(queue) for queue in self.queues()):
            pass

    @rule(node=consumes(nodes))
    def drop(self, node):
        if node.status == RUNNING:
            self.fulfil(node, 0, False)  # no other process could
        self.step += 1
        node.future = None
        if node.is_unwanted():
            self.finish(node, {CANCELLED})

    @rule(node=nodes)
    def cancel(self, node):
        if node.queue is None:
            return
        begun = node.status not in (WAITING, QUEUED)
        cancelled = node.future.cancel()
        assert cancelled == node.future.cancelled()
        if begun:
            assert cancelled <= (CANCELLED in node.errors)
            return
        assert cancelled
        self.step += 1
        self.finish(node, {CANCELLED})

    @rule(which=st.integers(0, 1))
    def replace_an_instance(self, which):
        """Its calls go on; the next one has a queue of its own, which may be a queue used before."""
        old = self.instances[which]
        self.alone.runtime.close_service(*old.ids[:2])
        assert raised(lambda: self.alone.call(old.ids, 0))[0] is FlameError
        self.closed = [queue for queue in [*self.closed, old] if queue.calls]
        self.instances[which] = RunQueue(self.alone.service(Log(), INSTANCE, ("mix", "refuse")), True)

    @rule(chosen=st.lists(nodes, min_size=1, max_size=6))
    def select(self, chosen):
        selector = self.alone.runtime.selector([node.future for node in chosen])
        finished = [position for position, node in enumerate(chosen) if node.is_finished]
        if finished:
            assert selector.select(0) == finished
        else:
            assert raised(lambda: selector.select(0))[0] is TimeoutError

    @rule(chosen=st.lists(nodes, max_size=6))
    def get_many(self, chosen):
        futures = [node.future for node in chosen]
        bad = next((node for node in chosen if node.status != DONE), None)
        if bad is None:
            assert self.alone.runtime.get_many(futures) == [node.value for node in chosen]
        elif bad.status == FAILED:
            assert failure(lambda: self.alone.runtime.get_many(futures, 0)) in bad.errors
        else:
            assert raised(lambda: self.alone.runtime.get_many(futures, 0))[0] is TimeoutError

    # ---- what must always be true ------------------------------------------------------------------------------------

    @invariant()
    def every_future_is_what_the_model_says(self):
        for node in self.all:
            if node.future is None:
                continue
            assert node.future.done() == node.is_finished
            if node.status == DONE:
                assert node.future.get(0) == node.value
            elif node.status == FAILED:
                found = failure(lambda future=node.future: future.get(0))
                assert found in node.errors
                node.errors = {found}

    @invariant()
    def every_slot_in_use_is_needed(self):
        self.all = [node for node in self.all if node.needs_slot()]
        statistics = self.alone.runtime.statistics()
        for status in (WAITING, QUEUED, RUNNING, DONE, FAILED):
            assert statistics[status] == sum(node.status == status for node in self.all), status
        if not self.all and not self.closed:
            assert self.alone.in_use()[0] == self.base[0]

    def teardown(self):
        try:
            self.alone.check()
            for node in self.all:
                self.fulfil(node, 0, False)
            self.work()
            for node in self.all:
                node.future = None
            for queue in self.instances:
                self.alone.runtime.close_service(*queue.ids[:2])
            # The same services as at first, in place of those closed since.
            self.alone.runtime.reap_services()
            for _ in range(2):
                self.alone.service(Log(), INSTANCE, ("mix", "refuse"))
            assert self.alone.in_use() == self.base
            self.alone.check()
        finally:
            self.alone.close()
            del self.alone  # and with it its addresses: there is room for some thirty


TestTable = Table.TestCase
TestTable.settings = settings(
    max_examples=2000 if LONG else 60,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)

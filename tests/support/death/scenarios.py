"""What a process is killed at: submitting, storing, reading, dropping, running, finishing calls, in every form that differs.

Each scenario is a generator: it prepares, yields what the process to be stepped does, and goes on after its death, when the
rest has been settled and everything queued has run, to look at what became of it. What it holds goes with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flame_fast.kernels.runtime import CallPolicy, serialization
from scene import ARRAY, DEADLINE_S, GROUP, KB, LARGE, Log, MarkingHost, begun, echo
from stepping import mark

from flame_fast.engine.spec import INSTANCE


class Scenario(NamedTuple):
    generator: Callable
    #: Whether the process looks itself at what it has got, up to a third mark.
    looks_itself: bool = False


SCENARIOS: dict[str, Scenario] = {}

LIMITS = CallPolicy(timeout=1000, deadline=1000, retries=2, after_death=True)


def scenario(generator):
    SCENARIOS[generator.__name__] = Scenario(generator)
    return generator


def stepped(operation, prepare, look):
    """Return the life of a submitter: `operation` takes what `prepare` made, `look` what `operation` returned."""

    def life(warm):
        if warm:
            operation(prepare())
        prepared = prepare()
        mark()
        kept = operation(prepared)
        mark()
        look(kept)
        mark()

    return life


def producer(name, operation, prepare=lambda scene: None, look=lambda scene, kept: None):
    def generator(scene):
        yield stepped(*(functools.partial(part, scene) for part in (operation, prepare, look)))

    SCENARIOS[name] = Scenario(generator, looks_itself=True)


def fail(scene, promise):
    scene.runtime.fulfil(promise, None, serialization.dump_error(KeyError("failed")))


def given_away(scene, size):
    """Return a list with the last reference to a value, for the process that takes it out."""
    return [scene.runtime.put(size)]


def unfinished_inputs(scene):
    return [scene.runtime.promise(), scene.call(scene.echo, KB), scene.runtime.put(ARRAY)]


def promise_with_dependents_of_a_call(scene):
    """Make a call that waits, and calls that depend on it."""
    promise = scene.runtime.promise()
    first = scene.call(scene.echo, promise, KB)
    calls = [scene.call(scene.echo, first, KB), scene.call(scene.echo, [first, promise]), scene.call(scene.log, 0, first)]
    return first, promise, calls, scene.call(scene.echo, calls)


def failed_input(scene):
    failed = scene.runtime.promise()
    fail(scene, failed)
    return [scene.runtime.promise(), failed, scene.runtime.put(KB)]


def promise_with_dependents(scene):
    first, second = scene.runtime.promise(), scene.runtime.promise()
    calls = [scene.call(scene.echo, first, KB), scene.call(scene.echo, [second, first]), scene.call(scene.log, 0, first)]
    return first, second, calls, scene.call(scene.echo, calls)


def of_an_array(scene):
    return [scene.runtime.put(ARRAY).get()]


def tree(scene):
    calls = [scene.call(scene.echo, KB) for _ in range(3)]
    return [scene.call(scene.echo, *calls, scene.call(scene.echo, calls, ARRAY))]


def failing_input(scene):
    return [scene.runtime.promise(), scene.call(scene.failing, 1), scene.runtime.put(KB), scene.runtime.promise()]


def is_value(expected):
    return lambda _, ref: np.testing.assert_equal(ref.get(), expected)


def can_be_fulfilled(scene, promise):
    scene.runtime.fulfil(promise, KB)
    assert promise.get(0) == KB


def almost_empty_slab(scene):
    """Make a full slab of kilobytes the current one; leave only arguments of queued calls in the one before."""
    calls = [scene.call(scene.echo, KB) for _ in range(GROUP // 4)]
    refs = [scene.runtime.put(KB) for _ in range(2 * GROUP - len(calls))]
    del refs[: GROUP - len(calls)]
    return calls, refs


def almost_empty_group(scene):
    """Make the same of slots: of calls whose futures are gone."""
    for _ in range(GROUP // 4):
        scene.call(scene.echo, 1)
    refs = [scene.runtime.put(1) for _ in range(2 * GROUP - GROUP // 4)]
    del refs[: GROUP - GROUP // 4]
    return refs


producer("submits_inline", lambda scene, _: scene.call(scene.echo, 1))
producer("submits_a_block", lambda scene, _: scene.call(scene.echo, KB))
producer("submits_an_array", lambda scene, _: scene.call(scene.echo, ARRAY))
producer("submits_a_view", lambda scene, view: scene.call(scene.echo, view, view[0]), of_an_array)
producer("submits_many_values", lambda scene, _: scene.call(scene.echo, *[KB] * 40))
producer("submits_with_limits", lambda scene, _: scene.call_by(LIMITS, scene.echo, KB))
producer("submits_with_inputs", lambda scene, inputs: scene.call(scene.echo, *inputs, inputs), unfinished_inputs)
producer("submits_with_a_failed_input", lambda scene, inputs: scene.call(scene.echo, *inputs), failed_input)
producer("submits_with_a_failing_input", lambda scene, inputs: scene.call(scene.echo, *inputs), failing_input)
producer(
    "submits_with_many_inputs",
    lambda scene, inputs: scene.call(scene.echo, *inputs),
    lambda scene: [scene.runtime.promise() for _ in range(66)],
)
producer("submits_in_order", lambda scene, _: scene.call(scene.log, 0, KB))
producer("submits_in_order_with_inputs", lambda scene, inputs: scene.call(scene.log, 0, inputs), unfinished_inputs)
producer("submits_to_a_limited_service", lambda scene, _: scene.call(scene.limited, 0, KB))
producer("puts_inline", lambda scene, _: scene.runtime.put(1), look=is_value(1))
producer("puts_a_block", lambda scene, _: scene.runtime.put(KB), look=is_value(KB))
producer("puts_among_freed_blocks", lambda scene, _: scene.runtime.put(KB), almost_empty_slab, is_value(KB))
producer("puts_among_freed_slots", lambda scene, _: scene.runtime.put(1), almost_empty_group, is_value(1))
producer("puts_long_bytes", lambda scene, _: scene.runtime.put(LARGE), look=is_value(LARGE))
producer("puts_arrays", lambda scene, _: scene.runtime.put([ARRAY, KB, ARRAY + 1]), look=is_value([ARRAY, KB, ARRAY + 1]))
producer("reads_a_view", lambda scene, refs: refs[0].get(), lambda scene: given_away(scene, ARRAY))
producer("drops_inline", lambda scene, refs: refs.clear(), lambda scene: given_away(scene, 1))
producer("drops_a_block", lambda scene, refs: refs.clear(), lambda scene: given_away(scene, KB))
producer("drops_arrays", lambda scene, refs: refs.clear(), lambda scene: given_away(scene, [ARRAY, KB, ARRAY + 1]))
producer("drops_a_view", lambda scene, views: views.clear(), of_an_array)
producer("drops_a_queued_call", lambda scene, calls: calls.clear(), lambda scene: [scene.call(scene.echo, ARRAY)])
producer("drops_a_waiting_tree", lambda scene, calls: calls.clear(), tree)
producer("cancels_a_queued_call", lambda scene, calls: calls[0].cancel(), lambda scene: [scene.call(scene.echo, ARRAY)])
producer("cancels_with_dependents", lambda scene, made: made[0].cancel(), promise_with_dependents_of_a_call)
producer("cancels_what_waits_for_the_unwanted", lambda scene, calls: calls[0].cancel(), tree)
producer("promises", lambda scene, _: scene.runtime.promise(), look=can_be_fulfilled)
producer("fulfils", lambda scene, made: scene.runtime.fulfil(made[0], KB), promise_with_dependents)
producer("fails_a_promise", lambda scene, made: fail(scene, made[0]), promise_with_dependents)
producer("trims", lambda scene, _: scene.supervisor.trim(), lambda scene: given_away(scene, ARRAY).clear())
producer("makes_a_service", lambda scene, _: scene.service(echo))
producer("makes_an_instance", lambda scene, _: scene.service(Log(), INSTANCE, ("note",)))


def given_back_before(scene):
    """Make the dependencies of a call that is about to fail.

    The last one's slot has this process's tag, with the next number.
    """
    kept = scene.runtime.put(KB)
    first, second = scene.runtime.promise(), scene.runtime.promise()
    failed = scene.call(scene.echo, first, kept)
    fail(scene, first)
    waiting = scene.call(scene.echo, second, kept)
    scene.runtime.release_seq -= 2
    return second, waiting, failed, kept


producer("gives_back_by_a_number_that_came_round", lambda scene, made: fail(scene, made[0]), given_back_before)


def serving(scene, *, bearing=False):
    def life(_):
        if bearing:
            scene.runtime.install_array_allocator()
        scene.runtime.serve(MarkingHost(scene.runtime))

    return life


def dependents_of(scene, future, value):
    """Submit calls that depend on one, numbered from 10 on."""
    low = scene.call(scene.count, 11, [future, future])
    return {
        10: (scene.call(scene.count, 10, future), (value,)),
        11: (low, ([value, value],)),
        12: (scene.call(scene.count, 12, low, future), (([value, value],), value)),
    }


def completion(name, service, value, result=None, **options):
    """Step a worker from the end of the user's function until it has found its next task, twice."""
    result = value if result is None else result

    def generator(scene):
        future = scene.call(getattr(scene, service), 1, value)
        futures = {1: (future, result), **dependents_of(scene, future, result)}
        del future
        scene.detached(scene.ending)
        yield serving(scene, **options)
        scene.check_outcomes(futures)

    SCENARIOS[name] = Scenario(generator)


completion("finishes_inline", "returning", 1)
completion("finishes_with_a_block", "returning", KB)
completion("finishes_with_long_bytes", "returning", LARGE)
completion("finishes_with_the_array_it_got", "returning", ARRAY)
completion("finishes_with_an_array", "making", "array", ARRAY)
completion("finishes_with_an_array_born_in_place", "making", "array", ARRAY, bearing=True)
completion("finishes_with_arrays", "making", "arrays", (ARRAY, [np.arange(6000.0)], KB, "x" * 50_000), bearing=True)


@scenario
def finishes_a_dropped_call(scene):
    scene.detached(scene.returning, 1, ARRAY)
    scene.detached(scene.ending)
    yield serving(scene)


@scenario
def finishes_what_is_watched(scene):
    future = scene.call(scene.returning, 1, 2)
    selector = scene.runtime.selector([future])
    scene.detached(scene.ending)
    yield serving(scene)
    assert selector.select(DEADLINE_S / 3) == [0]
    scene.check_outcomes({1: (future, 2)})


@scenario
def finishes_with_dependencies_of_its_own(scene):
    inputs = [scene.runtime.put(ARRAY), scene.runtime.put(KB), scene.runtime.put(LARGE)]
    future = scene.call(scene.returning, 1, inputs)
    del inputs
    scene.detached(scene.ending)
    yield serving(scene)
    scene.check_outcomes({1: (future, [ARRAY, KB, LARGE])})


@scenario
def finishes_with_arguments_of_every_kind(scene):
    future = scene.call(scene.returning, 1, [ARRAY, KB, LARGE, [KB] * 40])
    scene.detached(scene.ending)
    yield serving(scene)
    scene.check_outcomes({1: (future, [ARRAY, KB, LARGE, [KB] * 40])})


@scenario
def empties_groups_of_the_driver(scene):
    """Make the task's arguments and its slot the last in use of the driver's slab and group of slots."""
    around = [scene.runtime.put(KB) for _ in range(130)]
    middle = len(around) // 2
    around.insert(middle, scene.call(scene.returning, 1, KB))
    around += [scene.runtime.put(KB) for _ in range(130)]
    around.append(scene.detached(scene.ending))
    del around
    yield serving(scene)


@scenario
def fails_with_dependents(scene):
    """Fail at once a dependent that waits for another call too; the dependent must not start without that."""
    pending = scene.runtime.promise()
    queued = scene.call(scene.echo, ARRAY, pending)
    failed = scene.call(scene.failing, 1)
    error = KeyError("failed")
    futures = {
        1: (failed, error),
        10: (scene.call(scene.count, 10, failed), error),
        11: (scene.call(scene.count, 11, pending, failed), error),
        12: (scene.call(scene.count, 12, failed, pending), error),
    }
    futures[16] = (scene.call(scene.count, 16, queued, failed), error)
    futures[13] = (scene.call(scene.count, 13, futures[11][0], futures[10][0]), error)
    futures[14] = (scene.call(scene.log, 14, failed, method=0), error)
    behind = scene.call(scene.log, 15, 5)
    del failed
    scene.detached(scene.ending)
    yield serving(scene)
    scene.check_outcomes({**futures, 15: (behind, 5)})
    assert not any(begun[number] for number in [10, 11, 12, 13, 14, 16]), "a call ran without its inputs"
    scene.runtime.fulfil(pending, None)


@scenario
def claims_and_begins(scene):
    """Step the claiming and beginning of the next task: the one before is over."""
    scene.detached(scene.ending)
    first, second = scene.call(scene.count, 1, ARRAY), scene.call(scene.count, 2, KB)
    third = scene.call(scene.count, 3, first, second)
    futures = {1: (first, (ARRAY,)), 2: (second, (KB,)), 3: (third, ((ARRAY,), (KB,)))}
    del first, second, third
    scene.detached(scene.ending)
    yield serving(scene)
    scene.check_outcomes(futures)


@scenario
def serves_a_limited_service(scene):
    scene.detached(scene.ending)
    futures = {number: (scene.call(scene.limited, number, KB), (KB,)) for number in (1, 2, 3)}
    futures[4] = (scene.call(scene.limited, 4, futures[3][0]), ((KB,),))
    scene.detached(scene.ending, futures[4][0])
    yield serving(scene)
    scene.check_outcomes(futures)


@scenario
def starts_an_instance(scene):
    """Request an instance's process: that process, or the one that is requested next, runs the instance."""
    service = scene.service(Log(), INSTANCE, ("note",))

    def life(_):
        mark()
        scene.runtime.start_instance(service[0])
        mark()

    yield life
    workers = scene.fork_requested()
    future = scene.call(service, 1, 2)
    scene.work()
    assert future.get(DEADLINE_S / 3) == 2
    del future
    scene.runtime.close_service(*service[:2])
    assert [scene.recover_process(worker) for worker in workers] == [0] * len(workers)


@scenario
def is_tried_again(scene):
    """Step a worker from the first attempt's failure to the second attempt."""
    errors = scene.runtime.put((KeyError,))
    future = scene.call_by(CallPolicy(retries=2, after_death=True, errors=errors), scene.flaky, 1, KB)
    del errors
    behind = scene.call(scene.echo, future)
    scene.detached(scene.ending)
    yield serving(scene)
    scene.check_outcomes({1: (future, KB)}, attempts=3)
    assert scene.outcome(behind) == (KB,)

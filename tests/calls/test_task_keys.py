"""Keys of tasks: each call of a service with a seed has its own, by its number, whoever runs it and however often."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import os
import pickle
import signal
import threading
from functools import partial

import numpy as np
import pytest
from flame_fast.kernels import task_key
from flame_fast.kernels.keys import Key, key
from gates import Gate, run_script

from flame_fast import FlameError, Runner, SessionContext, WorkerDiedError

SEED = 7


def keys(*numbers, seed=SEED):
    return [key(seed, number) for number in numbers]


def draw(*_, **__):
    return task_key()


def draw_or_fail(item):
    if item < 0:
        raise ValueError(item)
    return task_key()


def key_or_error(*_):
    try:
        return task_key()
    except RuntimeError as error:
        return str(error)


def made(name):
    workers = {"one": 1, "two": 2, "four": 4}.get(name)
    return Runner("keys", workers=workers, engine="inline" if workers is None else "local")


@pytest.fixture(params=["one", "inline"])
def runner(request, project):
    with made(request.param) as runner:
        yield runner


@pytest.fixture(params=["one", "two", "four", "inline"])
def any_runner(request, project):
    with made(request.param) as runner:
        yield runner


@pytest.fixture
def pair(project):
    with made("two") as runner:
        yield runner


# ---- numbers -----------------------------------------------------------------------------------------------------------


def test_calls_have_the_keys_of_their_numbers(any_runner):
    service = any_runner.service(draw, seed=SEED)
    futures = [service(number, name=number) for number in range(40)]
    assert any_runner.get(futures) == keys(*range(40))


def test_what_travels_by_pickle_or_in_blocks_has_numbers_too(runner):
    offset = np.arange(100_000)
    service = runner.service(draw, seed=SEED)
    closure = runner.service(lambda item: (task_key(), item + offset[1]), seed=SEED)
    arguments = [complex(1), offset, b"x" * 120, "x" * 140, {1, 2}, service(), runner.put_object(offset), range(3)]
    assert runner.get([service(argument) for argument in arguments]) == keys(*range(1, 9))
    assert runner.get([closure(1), closure(2)]) == [(key(SEED, 0), 2), (key(SEED, 1), 3)]


@pytest.mark.parametrize("chunksize", [None, 3])
def test_items_of_a_map_have_numbers_in_their_order(any_runner, chunksize):
    service = any_runner.service(draw, seed=SEED)
    assert service().get() == key(SEED, 0)
    assert list(service.map(range(50), chunksize=chunksize)) == keys(*range(1, 51))
    assert list(service.starmap([(1, 2)] * 20, chunksize=chunksize)) == keys(*range(51, 71))
    assert list(service.map(map(str, range(9)), [None] * 5, chunksize=chunksize)) == keys(*range(71, 76))
    assert list(service.map([])) == []
    assert service().get() == key(SEED, 71 + 2**32)  # nobody could count them


@pytest.mark.parametrize("chunksize", [None, 1, 64])
def test_calls_beside_an_unfinished_map_do_not_depend_on_how_far_it_is(runner, chunksize):
    service = runner.service(draw, seed=SEED)
    counted, uncounted = service.map(range(300), chunksize=chunksize), service.map(iter(range(300)), chunksize=chunksize)
    assert [next(counted), next(uncounted)] == keys(0, 300)
    assert service().get() == key(SEED, 300 + 2**32)
    assert list(counted) == keys(*range(1, 300))
    assert list(uncounted) == keys(*range(301, 600))


@pytest.mark.parametrize("chunksize", [None, 7])
def test_items_beyond_those_announced_share_no_numbers(runner, chunksize):
    service = runner.service(draw, seed=SEED)
    results = service.map(Growing(range(12)), chunksize=chunksize)
    beside = service()
    assert len(set(found := list(results))) == 12
    assert found[:5] == keys(*range(5))
    assert beside.get() not in found
    assert service().get() not in found


class Growing(list):
    """Has more items than it says, as a list to which others are added during the map."""

    def __len__(self):
        return 5


def test_items_that_fail_have_numbers(runner):
    service = runner.service(draw_or_fail, seed=SEED)
    found = list(service.map([0, -1, 2, -1, "x", 5], return_exceptions=True, chunksize=4))
    assert [found[0], found[2], found[5]] == keys(0, 2, 5)
    assert {type(found[1]), type(found[3]), type(found[4])} == {ValueError, TypeError}
    pairs = list(service.starmap([(1,), 2, (3,)], return_exceptions=True, chunksize=3))  # one is no tuple: it runs nothing
    assert [pairs[0], pairs[2]] == keys(6, 8)


def test_unordered_results_are_those_of_their_items(runner):
    service = runner.service(lambda item: (item, task_key()), seed=SEED)
    assert sorted(service.map(range(30), ordered=False)) == list(enumerate(keys(*range(30))))


class Refuses:
    def __reduce__(self):
        raise OSError("not this one")


def test_a_call_that_cannot_be_made_takes_no_number(runner):
    service = runner.service(draw, seed=SEED)
    for _ in range(2):
        with pytest.raises(TypeError, match="not this one"):
            service(Refuses())
    assert service().get() == key(SEED, 0)


class Sampler:
    def __init__(self):
        self.made_with = key_or_error()

    def draw(self):
        return task_key()

    def again(self):
        return task_key()

    def how_made(self):
        return self.made_with

    def __call__(self):
        return task_key()


@pytest.mark.parametrize("made", [Sampler, Sampler()], ids=["class", "instance"])
def test_methods_share_the_numbers_of_their_service(runner, made):
    service = runner.service(made, seed=SEED)
    itself = service if isinstance(made, Sampler) else service.again  # a class service has no call of its own
    futures = [service.draw(), service.again(), itself(), service.draw(), service.call("again")]
    assert runner.get(futures) == keys(*range(5))
    assert list(service.draw.starmap([()] * 6, chunksize=4)) == keys(*range(5, 11))
    assert "no call of a service with a seed" in service.how_made().get()


def test_views_share_the_numbers_of_their_service(runner):
    service = runner.service(draw, seed=SEED)
    view = service.options(retries=1)
    assert runner.get([service(), view(), service.options(priority="urgent")(), view(), service()]) == keys(*range(5))
    assert list(view.map(range(8))) == keys(*range(5, 13))
    assert sorted(view.map(iter(range(8)), ordered=False)) == sorted(keys(*range(13, 21)))
    assert service().get() == key(SEED, 13 + 2**32)
    with pytest.raises(TypeError, match="argument"):
        list(runner.service(draw_or_fail, seed=SEED).options(retries=1).starmap([(1,), (1, 2)]))


def test_services_count_by_themselves(runner):
    first, second = runner.service(draw, seed=SEED), runner.service(draw, seed=SEED)
    other = runner.service(draw, seed=[SEED, 1])
    assert runner.get([first(), second(), second(), other()]) == [*keys(0, 0, 1), key(SEED, 1, 0)]


def test_a_seed_is_whatever_makes_a_key(pair):
    for seed in (0, 2**128 - 1, [1, 2, 3], (4,), np.int64(5), key(9, 9), np.random.SeedSequence(11), np.arange(1, 4)):
        service = pair.service(draw, seed=seed)
        assert pair.get([service(), service()]) == [key(key(seed), 0), key(key(seed), 1)]


def test_a_bad_seed_is_refused_in_one_line(pair):
    bad = [
        (-1, ValueError),
        (2**128, ValueError),
        ([], ValueError),
        (1.5, TypeError),
        ("7", TypeError),
        ([1, None], TypeError),
    ]
    for seed, error in bad:
        with pytest.raises(error, match=r"seed: expected") as raised:
            pair.service(draw, seed=seed)
        assert "\n" not in str(raised.value)


class Named:
    _session_context = SessionContext(session_id="named", application_name="keys")

    def draw(self):
        return task_key()


def test_a_named_session_has_one_seed(pair):
    named = Named()
    service = pair.service(named, seed=SEED)
    assert pair.service(named, seed=key(SEED)) is service
    for seed in (8, None):
        with pytest.raises(FlameError, match="another seed"):
            pair.service(named, seed=seed)
    assert service.draw().get() == key(SEED, 0)


# ---- whoever runs it, however often ------------------------------------------------------------------------------------


def seen(path, *, fails):
    """Note the key of this attempt; end it unless it is the last one of three."""
    with open(path, "a") as file:
        print(*task_key(), file=file)
    with open(path) as file:
        attempts = file.readlines()
    if len(attempts) < 3:
        fails()
    return attempts


def kill_this():
    os.kill(os.getpid(), signal.SIGKILL)


def raise_this():
    raise ConnectionError


@pytest.mark.parametrize("fails", [raise_this, kill_this])
def test_retries_have_the_key_of_the_first_attempt(runner, fails):
    if fails is kill_this and runner.service(os.getpid)().get() == os.getpid():
        pytest.skip("tasks of the inline engine run in this process")
    service = runner.service(partial(seen, fails=fails), seed=SEED)
    view = service.options(retries=2, retry_on=(WorkerDiedError, ConnectionError))
    for number in range(2):
        low, high = key(SEED, number)
        assert view(os.path.abspath(f"attempts-{number}")).get() == [f"{low} {high}\n"] * 3


def die_or_draw(item):
    if item == 3:
        kill_this()
    return task_key()


def test_a_killed_worker_changes_no_other_calls_key(pair):
    service = pair.service(die_or_draw, seed=SEED)
    futures = [service(number) for number in range(12)]
    assert [future.get() for number, future in enumerate(futures) if number != 3] == keys(*(set(range(12)) - {3}))
    with pytest.raises(WorkerDiedError, match="die_or_draw"):
        futures[3].get()
    assert service(0).get() == key(SEED, 12)


def test_a_death_names_the_calls_arguments_and_not_its_number(pair):
    error = pair.service(die_or_draw, seed=SEED)(3).exception()
    plain = pair.service(die_or_draw)(3).exception()
    assert isinstance(error, WorkerDiedError)
    assert error.call == plain.call


def test_order_of_execution_does_not_matter(pair):
    with Gate() as gate:
        service = pair.service(lambda wait: (wait and wait.wait(), task_key())[1], seed=SEED)
        held = service(gate)
        gate.entered()
        assert pair.get([service(None) for _ in range(5)]) == keys(*range(1, 6))
        gate.open()
        assert held.get() == key(SEED, 0)


# ---- contexts ----------------------------------------------------------------------------------------------------------


def test_within_a_call_it_stays_the_same(runner):
    same, different = runner.service(lambda: (task_key() == task_key(), key(task_key(), 1) == task_key()), seed=SEED)().get()
    assert same
    assert not different


def test_calls_without_a_seed_have_none(runner):
    seeded, plain = runner.service(draw, seed=SEED), runner.service(key_or_error)
    for _ in range(3):
        seeded().get()
        assert "rr.service(fn, seed=...)" in plain().get()
        assert list(plain.map([1, 2])) == [plain().get()] * 2


def test_outside_of_tasks_there_is_none(runner):
    runner.service(draw, seed=SEED)().get()
    with pytest.raises(RuntimeError, match=r"task_key: .*rr\.service\(fn, seed=\.\.\.\)") as raised:
        task_key()
    assert "\n" not in str(raised.value)


def test_the_error_arrives_as_it_was_raised(runner):
    with pytest.raises(RuntimeError) as raised:
        runner.service(draw)().get()
    assert type(raised.value) is RuntimeError
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def nest(seed):
    """Return the outer key before and after, what calls without a seed have inside, and those with one."""
    before = task_key()
    with Runner("inner") as inner:
        plain, seeded = inner.service(key_or_error), inner.service(draw, seed=seed)
        none = [plain().get(), *plain.map([1, 2])]
        own = [*inner.get([seeded(), seeded()]), *seeded.map([1, 2])]
        from_key = inner.service(draw, seed=before)().get()
    return before, none, own, from_key, task_key()


def test_tasks_inside_of_tasks_have_their_own(runner):
    service = runner.service(nest, seed=SEED)
    futures = [service(100 + number) for number in range(4)]
    for number, future in enumerate(futures):
        before, none, own, from_key, after = future.get()
        assert before == after == key(SEED, number)
        assert all("no call of a service with a seed" in text for text in none)
        assert own == keys(0, 1, 2, 3, seed=100 + number)
        assert from_key == key(SEED, number, 0)


def call_there(service):
    return service().get()


def test_a_service_with_a_seed_gives_no_numbers_in_a_task(runner):
    service = runner.service(draw, seed=SEED)
    for seed in (None, 1):
        with pytest.raises(RuntimeError, match=r"service 'draw' has a seed.*seed=task_key\(\)"):
            runner.service(call_there, seed=seed)(service).get()
    with pytest.raises(RuntimeError, match="has a seed"):
        runner.service(lambda service: list(service.map([1])))(service).get()
    assert service().get() == key(SEED, 0)


def test_copies_in_the_driver_share_the_numbers(runner):
    service = runner.service(draw, seed=SEED)
    copies = [copy.copy(service), pickle.loads(pickle.dumps(service))]
    assert runner.get([service(), copies[0](), copies[1](), service()]) == keys(0, 1, 2, 3)


async def draw_together(group):
    before = task_key()
    await asyncio.sleep(0)
    inner = await asyncio.gather(*(asyncio.to_thread(task_key), later(), asyncio.create_task(later())))
    return before, task_key(), *inner, group


async def later():
    await asyncio.sleep(0.001)
    return task_key()


@pytest.mark.parametrize("concurrency", [1, 8])
def test_coroutines_have_the_key_of_their_call(runner, concurrency):
    service = runner.service(draw_together, seed=SEED, concurrency=concurrency)
    futures = [service(number) for number in range(30)]
    assert runner.get(futures) == [(key(SEED, number),) * 5 + (number,) for number in range(30)]
    assert list(service.map(range(9))) == [(key(SEED, 30 + number),) * 5 + (number,) for number in range(9)]
    assert "no call" in runner.service(key_or_error)().get()


class Mixed:
    async def coroutine(self):
        before = task_key()
        await asyncio.sleep(0)
        return before, task_key()

    def plain(self):
        return task_key(), task_key()


def test_methods_that_run_beside_coroutines_have_theirs(runner):
    service = runner.service(Mixed(), seed=SEED, concurrency=4)
    futures = [(service.plain if number % 3 else service.coroutine)() for number in range(20)]
    assert runner.get(futures) == [(key(SEED, number),) * 2 for number in range(20)]


def in_generators():
    def plain():
        yield task_key()
        yield task_key()

    async def asynchronous():
        yield task_key()
        await asyncio.sleep(0)
        yield task_key()

    async def collect():
        return [found async for found in asynchronous()]

    return list(plain()) + asyncio.run(collect())


def test_generators_of_a_task_have_its_key(runner):
    assert runner.service(in_generators, seed=SEED)().get() == keys(0) * 4


def in_threads():
    found = []
    context = contextvars.copy_context()
    for target in (lambda: found.append(key_or_error()), lambda: found.append(context.run(task_key))):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    return found


def test_threads_of_a_task_have_its_key_in_a_copy_of_its_context(runner):
    bare, copied = runner.service(in_threads, seed=SEED)().get()
    assert "pass the key to threads" in bare
    assert copied == key(SEED, 0)


class DrawsOnTheWay:
    """Asks for the key while the worker reads it, and while it writes it."""

    def __init__(self, found=None):
        self.found = found

    def __reduce__(self):
        return _arrived, (key_or_error(), self.found)


def _arrived(sent, found):
    return [sent, key_or_error(), found]


def test_what_arrives_and_leaves_with_a_call_is_the_calls(runner):
    (_, on_arrival, _), (on_leaving, _, _) = runner.service(lambda seen: (seen, DrawsOnTheWay()), seed=SEED)(
        DrawsOnTheWay()
    ).get()
    assert on_arrival == on_leaving == key(SEED, 0)


def test_a_key_is_a_seed(runner):
    found = runner.service(lambda: (type(task_key()), key(task_key(), 3)), seed=SEED)().get()
    assert found == (Key, key(SEED, 0, 3))


def test_nothing_is_imported_for_those_who_need_no_keys(project):
    script = """
        import sys
        from flame_fast import Runner
        def loaded():
            return [name for name in sys.modules if name.endswith((".task_keys", "kernels.keys"))]
        if __name__ == "__main__":
            with Runner("none", workers=1) as rr:
                print(rr.service(loaded)().get(), loaded())
    """
    assert run_script(project, script) == "[] []\n"

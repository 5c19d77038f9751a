"""Global generators travel by reference, a user's own by value: what two workers draw, and what warns."""

from __future__ import annotations

import functools
import os
import random
import warnings

import gates
import numpy as np
import pytest
from gates import PATIENCE_S, meet, new_module, run_script, same, start_workers

from flame_fast import Runner

#: Names as scripts have them: (import, an expression that draws a number).
NAMES = {
    "random.random": ("from random import random as draw", "draw()"),
    "random.uniform": ("from random import uniform as draw", "draw(0, 1)"),
    "random.getrandbits": ("from random import getrandbits as draw", "draw(60)"),
    "random.shuffle": ("from random import shuffle as draw", "(lambda x: (draw(x), tuple(x))[1])(list(range(99)))"),
    "random's instance": ("from random import _inst as draw", "draw.random()"),
    "numpy.random.rand": ("from numpy.random import rand as draw", "float(draw())"),
    "numpy.random.normal": ("from numpy.random import normal as draw", "float(draw(size=1)[0])"),
    "numpy.random's instance": ("from numpy.random.mtrand import _rand as draw", "float(draw.rand())"),
    "scipy.stats.norm": ("from scipy.stats import norm as draw", "float(draw.rvs())"),
    "scipy.stats.norm.rvs": ("from scipy.stats import norm\ndraw = norm.rvs", "float(draw())"),
    "frozen scipy.stats.norm": ("from scipy.stats import norm\ndraw = norm(1, 2)", "float(draw.rvs())"),
    "numpy's module": ("import numpy as draw", "float(draw.random.random())"),
}

#: Each makes a function `task(directory, number)` that draws thrice when two workers have met; the name travels by it.
POSITIONS = {
    "global": """
def task(directory, number):
    return meet(directory, 2, number), [DRAW for _ in range(3)]
""",
    "default": """
def task(directory, number, draw=draw):
    return meet(directory, 2, number), [DRAW for _ in range(3)]
""",
    "closure": """
def make(draw):
    def task(directory, number):
        return meet(directory, 2, number), [DRAW for _ in range(3)]
    return task
task = make(draw)
""",
    "partial": """
def partial_task(draw, directory, number):
    return meet(directory, 2, number), [DRAW for _ in range(3)]
task = functools.partial(partial_task, draw)
""",
    "object": """
class Sampler:
    def __init__(self, draw):
        self.draw = draw
    def sample(self, directory, number):
        draw = self.draw
        return meet(directory, 2, number), [DRAW for _ in range(3)]
task = Sampler(draw).sample
""",
    "class attribute": """
class Holder:
    draw = [draw]
def task(directory, number):
    draw = Holder.draw[0]
    return meet(directory, 2, number), [DRAW for _ in range(3)]
""",
    "argument": """
def task_of(draw, directory, number):
    return meet(directory, 2, number), [DRAW for _ in range(3)]
task = None
""",
}


@pytest.fixture
def two(project):
    """Yield a Runner whose two workers have started."""
    with Runner("generators", workers=2) as rr:
        start_workers(rr, project / "started")
        yield rr


def define_task(define, name, position):
    text, expression = NAMES[name]
    module = define(f"import functools\nfrom gates import meet\n{text}\n{POSITIONS[position].replace('DRAW', expression)}")
    return module, getattr(module, "task_of", module.task)


def draws_of(rr, service, *args, where="meeting"):
    """Two rounds of three draws in each of two workers: a list for each round and worker."""
    rounds = []
    for number in range(2):
        directory = os.path.abspath(f"{where}-{number}")
        calls = rr.get([service(*args, directory, place) for place in range(2)], timeout=PATIENCE_S)
        assert len(dict(calls)) == 2
        rounds += [draws for _, draws in calls]
    return rounds


def all_different(rounds):
    drawn = [draw for draws in rounds for draw in draws]
    return len(set(drawn)) == len(drawn)


# ---- the global ones -------------------------------------------------------------------------------------------------


#: Positions that each name is tried in.
TRIED = 3


def test_a_global_generator_is_the_workers_own(two, define):
    """Two workers draw different numbers, and so do successive calls, however the name got there.

    Each name is in some positions, drawn anew for each run of the tests, and each position has some of the names.
    """
    order = random.sample(list(POSITIONS), len(POSITIONS))
    pairs = [(name, order[(TRIED * i + j) % len(order)]) for i, name in enumerate(NAMES) for j in range(TRIED)]
    random.seed(1)
    np.random.seed(1)
    alike = []
    for number, (name, position) in enumerate(pairs):
        module, task = define_task(define, name, position)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            args = [module.draw] if position == "argument" else []
            rounds = draws_of(two, two.service(task), *args, where=f"meeting-{number}")
        if not all_different(rounds):
            alike.append((name, position))
    assert not alike


def test_functions_of_a_global_generator_as_services(two):
    """As many draws, of two workers and the driver, with the driver's state set as it would be copied."""
    for function in (random.random, np.random.rand, random.normalvariate, np.random.standard_normal):
        random.seed(1)
        np.random.seed(1)
        service = two.service(function)
        drawn = [float(each) for each in two.get([service() for _ in range(200)], timeout=PATIENCE_S)]
        drawn += [float(function()) for _ in range(10)]
        assert len(set(drawn)) == 210, function


def test_numbers_of_one_runner_are_not_those_of_the_next(project):
    drawn = []
    for _ in range(2):
        with Runner("again", workers=1) as rr:
            service = rr.service(random.random)
            drawn += [service().get(PATIENCE_S) for _ in range(3)]
    assert len(set(drawn)) == 6


def test_a_global_generator_as_a_result_is_the_drivers_own(two):
    """By reference, both ways: no copy of the worker's state comes."""
    got = two.service(lambda: [random.random, random._inst, np.random.rand])().get(PATIENCE_S)
    assert got[0].__self__ is random._inst
    assert got[1] is random._inst
    assert got[2].__self__ is np.random.mtrand._rand
    assert two.service(same)([random._inst]).get(PATIENCE_S)[0] is random._inst


def test_an_instance_that_holds_a_global_generator_uses_its_process_own(project):
    class Sampler:
        def __init__(self):
            self.draw = random.random

        def sample(self):
            return self.draw()

    random.seed(3)
    with Runner("instances", workers=1) as rr:
        samplers = [rr.service(Sampler()) for _ in range(2)]
        drawn = [sampler.sample().get(PATIENCE_S) for sampler in samplers for _ in range(3)]
    random.seed(3)
    drawn += [random.random() for _ in range(3)]
    assert len(set(drawn)) == 9


def test_a_task_that_seeds_a_global_generator_gets_what_it_asked_for(project):
    def work(draw=random.random):
        random.seed(5)
        np.random.seed(5)
        return draw(), float(np.random.rand())

    state, numpy_state = random.getstate(), np.random.get_state()
    expected = work()
    random.setstate(state)
    np.random.set_state(numpy_state)
    with Runner("seeded", workers=1) as rr:
        service = rr.service(work)
        assert [service().get(PATIENCE_S) for _ in range(2)] == [expected] * 2
    assert random.getstate() == state


def test_names_of_a_script_and_a_seed_of_its_own(project):
    """A script that seeds the global generators: its workers never run that line, and draw different numbers."""
    out = run_script(
        project,
        """
        import random, numpy as np
        from random import random as draw
        from numpy.random import rand
        from flame_fast import Runner
        random.seed(42); np.random.seed(42)
        def work(number, rand=rand):
            return draw(), float(rand())
        with Runner("script", workers=2) as rr:
            drawn = rr.get([rr.service(work)(number) for number in range(50)], timeout=20)
        drawn.append((draw(), float(rand())))
        print(len({first for first, _ in drawn}), len({second for _, second in drawn}))
        """,
    )
    assert out == "51 51\n"


# ---- a user's own ----------------------------------------------------------------------------------------------------

OWN = {
    "numpy.random.Generator": (lambda: np.random.default_rng(7), lambda rng: float(rng.random())),
    "numpy.random.RandomState": (lambda: np.random.RandomState(7), lambda rng: float(rng.rand())),
    "random.Random": (lambda: random.Random(7), lambda rng: rng.random()),
}


def draws_after(make, draw, skipped=0, count=3):
    rng = make()
    return [draw(rng) for _ in range(skipped + count)][skipped:]


def test_a_generator_of_the_user_is_a_value(two):
    """As an argument, in a container and as a result, its state is copied; no warning, since that was asked for."""
    for kind, (make, draw) in OWN.items():
        rng = make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            service = two.service(lambda given, draw: [draw(given) for _ in range(3)])
            assert [service(rng, draw).get(PATIENCE_S) for _ in range(2)] == [draws_after(make, draw)] * 2, kind
            draw(rng)
            assert service(rng, draw).get(PATIENCE_S) == draws_after(make, draw, skipped=1), kind
            got = two.service(same)({"rng": rng}).get(PATIENCE_S)["rng"]
        assert type(got) is type(rng)
        assert [draw(got) for _ in range(3)] == draws_after(make, draw, skipped=1) == [draw(rng) for _ in range(3)], kind


def warnings_of(work, name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(each.message) for each in caught if issubclass(each.category, UserWarning) and name in str(each.message)]


def test_a_generator_in_a_closure_that_comes_twice_warns_once(two):
    """Every call starts from the same state: seldom what was meant."""
    for kind in OWN:
        check_a_generator_in_a_closure(two, kind)


def check_a_generator_in_a_closure(rr, kind):
    make, draw = OWN[kind]
    rng_of_the_user = make()
    service = rr.service(lambda: [draw(rng_of_the_user) for _ in range(3)])
    results = []
    assert warnings_of(lambda: results.append(service().get(PATIENCE_S)), "rng_of_the_user") == []
    told = warnings_of(lambda: results.extend(service().get(PATIENCE_S) for _ in range(5)), "rng_of_the_user")
    assert len(told) == 1, (kind, told)
    assert results == [draws_after(make, draw)] * 6, kind


def test_a_generator_among_the_globals_that_is_used_twice_warns_once(two, define):
    for kind in OWN:
        check_a_generator_among_the_globals(two, define, kind)


def check_a_generator_among_the_globals(rr, define, kind):
    make, draw = OWN[kind]
    module = define("def work(): return draw_of(RNG_OF_MODULE)")
    module.RNG_OF_MODULE, module.draw_of = make(), draw

    def work():
        service = rr.service(module.work)
        results.extend(rr.get([service() for _ in range(5)], timeout=PATIENCE_S))

    results = []
    told = warnings_of(work, "RNG_OF_MODULE")
    assert len(told) == 1, (kind, told)
    assert results[0] in draws_after(make, draw), kind


def test_a_generator_used_by_one_call_warns_not(two, define):
    module = define("import random\nRNG_OF_MODULE = random.Random(7)\ndef work(): return RNG_OF_MODULE.random()")
    assert warnings_of(lambda: two.service(module.work)().get(PATIENCE_S), "RNG_OF_MODULE") == []


def test_a_generator_made_anew_for_each_call_warns_not(two):
    results = []

    def work():
        for seed in range(3):
            rng = np.random.default_rng(seed)
            results.append(two.service(functools.partial(lambda rng: float(rng.random()), rng))().get(PATIENCE_S))

    assert warnings_of(work, "rng") == []
    assert results == [float(np.random.default_rng(seed).random()) for seed in range(3)]


def test_a_generator_of_a_scripts_global_warns_with_its_name(project):
    done = run_script(
        project,
        """
        import numpy as np
        from flame_fast import Runner
        rng = np.random.default_rng(7)
        def work():
            return float(rng.random())
        with Runner("script", workers=2) as rr:
            service = rr.service(work)
            print(len(rr.get([service() for _ in range(4)], timeout=20)))
        """,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "4\n")
    (line,) = [line for line in done.stderr.splitlines() if "UserWarning:" in line]
    assert "rng" in line


# ---- modules that seed -----------------------------------------------------------------------------------------------

SEEDING = """
import os, random
import numpy as np
{seed}
def work(directory, number):
    from gates import meet
    return meet(directory, 2, number), [{draw} for _ in range(3)]
"""
SEEDS = {
    "numpy": ("np.random.seed(42)", "float(np.random.random())"),
    "random": ("random.seed(42)", "random.random()"),
    "both": ("np.random.seed(42); random.seed(42)", "(random.random(), float(np.random.random()))"),
}


@pytest.mark.parametrize("kind", SEEDS)
def test_a_module_that_seeds_at_its_import_makes_no_workers_alike(project, monkeypatch, kind):
    seed, draw = SEEDS[kind]
    module = new_module(monkeypatch, project, SEEDING.format(seed=seed, draw=draw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Runner("seeding", workers=2) as rr:
            rounds = draws_of(rr, rr.service(module.work))
    first = module.np.random.RandomState(42).random_sample()
    assert all_different(rounds), rounds
    assert first not in [draw for draws in rounds for draw in draws]


def test_a_module_that_seeds_at_its_import_warns_once(project, tmp_path):
    """However many workers import it: one warning, which names the module."""
    (project / "seeding_module.py").write_text(SEEDING.format(seed="np.random.seed(42)", draw="float(np.random.random())"))
    done = run_script(
        project,
        f"""
        import sys
        sys.path.append({os.path.dirname(gates.__file__)!r})
        import seeding_module
        from flame_fast import Runner
        with Runner("seeding", workers=2) as rr:
            service = rr.service(seeding_module.work)
            for number in range(2):
                calls = [service({str(tmp_path)!r} + f"/{{number}}", place) for place in range(2)]
                print(len(dict(rr.get(calls, timeout=20))))
        """,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2\n2\n"), done.stderr
    told = [line for line in done.stderr.splitlines() if "UserWarning:" in line]
    assert len(told) == 1, done.stderr
    assert "seeding_module" in done.stderr


def test_meetings_are_of_two_workers(two):
    """Of the tests here: `draws_of` does see two processes."""
    calls = [two.service(meet)(os.path.abspath("meeting"), 2, number) for number in range(2)]
    assert len(set(two.get(calls, timeout=PATIENCE_S))) == 2

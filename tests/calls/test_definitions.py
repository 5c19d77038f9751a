"""What scripts, notebooks and made-up modules define: sent once, told apart by identity and version, never overwritten."""

from __future__ import annotations

import enum
import gc
import os
import random
import threading
from pathlib import Path

import pytest
from definition_matrix import run_matrix
from gates import PATIENCE_S, run_script, same, start_workers
from modules_in_memory import run_cell

from flame_fast import Runner, WorkerDiedError

MODES = ["script", "-c", "-m", "notebook", "pytest module", "made-up module"]
#: Of kinds and the positions that they can have; see `definitions/checks.py`.
COMBINATIONS = 863
#: Of a definition that it would be a waste to send twice.
LARGE = 1_000_000


@pytest.fixture
def rr(project):
    """With one worker, so that all calls meet its state."""
    with Runner("definitions", workers=1) as runner:
        yield runner


def call(rr, function, *args):
    return rr.service(function)(*args).get(PATIENCE_S)


# ---- every kind, everywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_definition_travels_in_every_position(mode, project, tmp_path):
    """A script tries every combination.

    The other modes differ from it in how a definition's module is found, not in a combination: each draws some, with every
    kind and every position among them.
    """
    draw = "" if mode == "script" else str(random.getrandbits(32))
    lines, there = run_matrix(mode, project, tmp_path / "output", draw)
    failing = [f"{line['kind']} as {line['position']}: {line['outcome']}" for line in lines if line["outcome"] != "ok"]
    assert not failing, f"{len(failing)} of {len(lines)}, draw {draw}:\n" + "\n".join(failing)
    assert len({(line["kind"], line["position"]) for line in lines}) == len(lines)
    assert there["count"] == COMBINATIONS
    assert draw or len(lines) == COMBINATIONS
    assert {line["kind"] for line in lines} == set(there["kinds"])
    assert {line["position"] for line in lines} == set(there["positions"])


# ---- the driver's classes are the driver's ---------------------------------------------------------------------------

MODEL = """
class Model:
    limit = 1
    registry = []
    count = 0

    def __init__(self, number=0):
        self.number = number

    def __eq__(self, other):
        return type(other) is Model and other.number == self.number

    def version(self):
        return "first"

def make(number):
    return Model(number)

def version_of(model):
    return model.version()

def is_model(value):
    return isinstance(value, Model)

def bump(model=None):
    Model.count += 1
    return Model.count

def count():
    return Model.count

def limit():
    return Model.limit
"""


def test_a_value_is_of_the_drivers_class(rr, define):
    module = define(MODEL)
    for got in (call(rr, module.make, 3), call(rr, same, module.Model(3)), rr.put_object(module.Model(3)).get()):
        assert type(got) is module.Model
        assert got == module.Model(3)


def test_an_arriving_value_writes_nothing_to_the_drivers_class(rr, define):
    """Neither what the class had when it was sent, nor what it had in the worker."""
    module = define(MODEL + "def change(): Model.limit, Model.extra = 99, 1; Model.registry.append(1); return Model(1)")
    make, change = rr.service(module.make), rr.service(module.change)
    registry = module.Model.registry
    module.Model.limit = 7
    registry.append("driver's")
    for service, args in ((make, (1,)), (change, ()), (rr.service(same), (module.Model(),))):
        assert type(service(*args).get(PATIENCE_S)) is module.Model
        assert module.Model.limit == 7
        assert module.Model.registry is registry
        assert registry == ["driver's"]
        assert not hasattr(module.Model, "extra")


def test_an_arriving_value_writes_nothing_to_the_workers_class(rr, define):
    module = define(MODEL)
    bump = rr.service(module.bump)
    assert [bump(module.Model(number)).get(PATIENCE_S) for number in range(4)] == [1, 2, 3, 4]
    assert call(rr, same, module.Model(5)) == module.Model(5)
    assert bump().get(PATIENCE_S) == 5
    assert module.Model.count == 0


def test_services_of_one_worker_share_its_classes(rr, define):
    """As they would share those of an imported module."""
    module = define(MODEL)
    assert call(rr, module.bump) == 1
    assert call(rr, module.count) == 1
    assert call(rr, module.bump, module.Model()) == 2


def test_a_changed_data_attribute_is_seen_by_later_services_not_by_later_calls(rr, define):
    module = define(MODEL)
    limit = rr.service(module.limit)
    of_value = rr.service(lambda model: model.limit)
    assert (limit().get(PATIENCE_S), of_value(module.Model()).get(PATIENCE_S)) == (1, 1)
    module.Model.limit = 7
    assert (limit().get(PATIENCE_S), of_value(module.Model()).get(PATIENCE_S)) == (1, 1)
    assert call(rr, module.limit) == 7


def test_a_counter_of_the_driver_makes_no_new_version(rr, define):
    """A class that counts its instances, as many do: the worker's state would begin anew with each."""
    module = define(MODEL + "class Counted(Model):\n    made = 0\n    def __init__(self): Counted.made += 1\n")
    count = rr.service(lambda value: value.seen_in_worker())
    run_cell(
        module,
        """
        def seen_in_worker(self):
            type(self).seen = getattr(type(self), "seen", 0) + 1
            return type(self).seen
        Counted.seen_in_worker = seen_in_worker
        """,
    )
    assert [count(module.Counted()).get(PATIENCE_S) for _ in range(4)] == [1, 2, 3, 4]
    assert module.Counted.made == 4


def test_init_subclass_and_metaclasses_do_not_run_again_in_the_driver(rr, define):
    module = define(
        """
        made = []
        class Meta(type):
            def __new__(meta, name, bases, namespace):
                made.append(("new", name))
                return super().__new__(meta, name, bases, namespace)
            def __init__(cls, *args):
                made.append(("init", cls.__name__))
                super().__init__(*args)
        class Field:
            def __set_name__(self, owner, name):
                made.append(("set_name", name))
        class Base(metaclass=Meta):
            field = Field()
            def __init_subclass__(cls):
                made.append(("init_subclass", cls.__name__))
        def noted(cls):
            made.append(("decorator", cls.__name__))
            return cls
        @noted
        class Plugin(Base):
            pass
        def make():
            return Plugin()
        """
    )
    before = list(module.made)
    for got in (call(rr, module.make), call(rr, same, module.Plugin()), call(rr, same, module.Plugin)):
        assert module.Plugin in (got, type(got))
    assert module.made == before


def test_an_attribute_of_a_member_is_not_overwritten(rr, define):
    module = define(
        """
        import enum
        class Planet(enum.Enum):
            EARTH = 1
            def __init__(self, number):
                self.visits = []
        def visit(planet):
            planet.visits.append("worker")
            return planet, len(planet.visits)
        """
    )
    visits = module.Planet.EARTH.visits
    visits.append("driver")
    service = rr.service(module.visit)
    counted = []
    for _ in range(3):
        planet, count = service(module.Planet.EARTH).get(PATIENCE_S)
        assert planet is module.Planet.EARTH
        counted.append(count - counted[0] if counted else count)
    assert counted[1:] == [1, 2]
    assert module.Planet.EARTH.visits is visits
    assert visits == ["driver"]


def test_a_class_made_in_a_task_is_one_class_in_the_driver(rr):
    def local_values():
        class Local:
            def __init__(self, number):
                self.number = number

            def same(self, other):
                return isinstance(other, Local)

        return Local(1), Local(2), Local

    first, second, cls = call(rr, local_values)
    assert type(first) is type(second) is cls
    assert first.same(second)
    assert call(rr, lambda one, two: one.same(two), first, second)


def test_an_instances_own_class_stays_the_drivers(rr, define):
    """Services out of instances and classes: in processes of their own, and in the pool's."""
    module = define(
        MODEL + "Model.copied = lambda self: Model(self.number)\nModel.check = lambda self, other: self == other"
    )
    for service in (rr.service(module.Model(4)), rr.service(module.Model)):
        got = service.copied().get(PATIENCE_S)
        assert type(got) is module.Model
        assert service.check(got).get(PATIENCE_S) is True
        assert service.check(module.Model(77)).get(PATIENCE_S) is False


# ---- versions --------------------------------------------------------------------------------------------------------

SECOND = """
class Model:
    limit = 2

    def __init__(self, number=0):
        self.number = number

    def version(self):
        return "second"
"""


def test_a_class_defined_again_is_a_new_version(rr, define):
    module = define(MODEL)
    old_class, old_value = module.Model, module.Model(1)
    version_of, make = rr.service(module.version_of), rr.service(module.make)
    assert version_of(old_value).get(PATIENCE_S) == "first"
    run_cell(module, SECOND)
    assert version_of(module.Model(1)).get(PATIENCE_S) == "second"
    assert version_of(old_value).get(PATIENCE_S) == "first"
    assert type(call(rr, same, old_value)) is old_class
    assert type(call(rr, same, module.Model(1))) is module.Model
    assert type(make(1).get(PATIENCE_S)) is old_class, "globals are those at service()"
    assert type(call(rr, module.make, 1)) is module.Model
    assert call(rr, module.is_model, module.Model(1)) is True
    assert call(rr, module.is_model, old_value) is False


def test_a_value_made_under_an_old_version_keeps_it_when_it_arrives_late(rr, define):
    """Though nobody in the driver holds the old class any more."""
    module = define(MODEL)
    future = rr.service(module.make)(1)
    future.wait(PATIENCE_S)
    run_cell(module, SECOND)
    gc.collect()
    got = future.get(PATIENCE_S)
    assert got.version() == "first"
    assert not isinstance(got, module.Model)
    assert call(rr, module.version_of, got) == "first"


def test_a_function_defined_again_is_a_new_version(rr, define):
    module = define("def helper(): return 'first'\ndef work(): return helper()")
    first, first_helper = rr.service(module.work), module.helper
    assert first().get(PATIENCE_S) == "first"
    run_cell(module, "def helper(): return 'second'")
    second = rr.service(module.work)
    assert [service().get(PATIENCE_S) for service in (first, second, first, second)] == ["first", "second"] * 2
    got = call(rr, same, [first_helper, module.helper])
    assert got[0] is first_helper
    assert got[1] is module.helper


def test_a_patched_method_is_a_new_version(rr, define):
    module = define(MODEL)
    early = module.Model(1)
    version_of = rr.service(module.version_of)
    assert version_of(early).get(PATIENCE_S) == "first"
    module.Model.version = lambda self: "patched"
    assert version_of(module.Model(1)).get(PATIENCE_S) == "patched"
    assert version_of(early).get(PATIENCE_S) == "patched", "in the driver it is patched, too"
    got = call(rr, same, early)
    assert type(got) is module.Model
    assert got.version() == "patched"


def test_a_value_that_a_worker_keeps_keeps_its_version(rr, define):
    module = define(
        MODEL
        + """
class Keeper:
    kept = None
    def keep(self, model):
        self.kept = model
    def version(self):
        return self.kept.version()
"""
    )
    keeper = rr.service(module.Keeper())
    keeper.keep(module.Model(1)).get(PATIENCE_S)
    run_cell(module, SECOND)
    assert keeper.version().get(PATIENCE_S) == "first"
    keeper.keep(module.Model(1)).get(PATIENCE_S)
    assert keeper.version().get(PATIENCE_S) == "second"


def test_a_method_added_to_a_base_class_is_a_new_version(rr, define):
    module = define(MODEL + "class Sub(Model): pass\ndef added(value): return value.added()")
    assert call(rr, module.version_of, module.Sub(1)) == "first"
    module.Model.added = lambda self: f"added to {type(self).__name__}"
    assert rr.service(module.added)(module.Sub(1)).get(PATIENCE_S) == "added to Sub"


def test_a_decorator_applied_later_is_a_new_version(rr, define):
    """The undecorated function goes on to exist beside the one of its name."""
    module = define(
        """
        import functools
        def work(number):
            return number + 1
        def use(number):
            return work(number)
        def doubled(function):
            @functools.wraps(function)
            def wrapper(number):
                return 2 * function(number)
            return wrapper
        """
    )
    undecorated, before = module.work, rr.service(module.use)
    assert (before(1).get(PATIENCE_S), call(rr, module.work, 1)) == (2, 2)
    run_cell(module, "work = doubled(work)")
    assert (before(1).get(PATIENCE_S), call(rr, module.use, 1), call(rr, module.work, 1)) == (2, 4, 4)
    got = call(rr, same, [undecorated, module.work])
    assert got[0] is undecorated
    assert got[1] is module.work
    run_cell(module, "work = functools.lru_cache(work)")
    assert call(rr, same, [module.work])[0] is module.work
    assert call(rr, module.use, 1) == 4


def test_a_decorator_applied_later_to_a_class_is_a_new_version(rr, define):
    module = define("class Point:\n    x: int = 5\ndef show(point): return repr(point)")
    assert "object at" in call(rr, module.show, module.Point())
    run_cell(module, "import dataclasses\nPoint = dataclasses.dataclass(Point)")
    assert call(rr, module.show, module.Point(3)) == "Point(x=3)"
    assert call(rr, same, module.Point(3)) == module.Point(3)


def test_two_services_with_different_versions_of_one_name_take_turns(rr, define):
    module = define("SCALE = 1\n" + MODEL + "def show(value): return SCALE, is_model(value), version_of(Model())")
    old, old_value = rr.service(module.show), module.Model()
    run_cell(module, "SCALE = 2\n" + SECOND)
    new, new_value = rr.service(module.show), module.Model()
    for _ in range(3):
        assert old(old_value).get(PATIENCE_S) == (1, True, "first")
        assert new(new_value).get(PATIENCE_S) == (2, True, "second")
        assert new(old_value).get(PATIENCE_S) == (2, False, "second")
        assert old(new_value).get(PATIENCE_S) == (1, False, "first")


def test_an_enum_defined_again_is_a_new_version(rr, define):
    text = "import enum\nclass Colour(enum.Enum):\n    RED = {value!r}\ndef value_of(colour): return colour.value"
    module = define(text.format(value=1))
    old = module.Colour.RED
    assert call(rr, same, [old])[0] is old
    run_cell(module, text.format(value="second"))
    assert call(rr, same, [module.Colour.RED, old]) == [module.Colour.RED, old]
    assert call(rr, module.value_of, module.Colour.RED) == "second"
    assert rr.service(module.value_of)(old).get(PATIENCE_S) == 1


def test_modules_whose_definitions_have_the_same_names_are_told_apart(rr, define):
    one, two = define(MODEL), define(SECOND)
    values = [one.Model(1), two.Model(1)]
    assert [type(each) for each in call(rr, same, values)] == [one.Model, two.Model]
    assert call(rr, lambda values: [each.version() for each in values], values) == ["first", "second"]


def test_a_script_reloaded_under_its_name_is_a_new_version(rr, define):
    """`sys.modules` has another module of the name then; the old one's values are still of its classes."""
    old = define(MODEL, name="reloaded_by_hand")
    assert call(rr, old.version_of, old.Model()) == "first"
    new = define(MODEL.replace('"first"', '"again"'), name="reloaded_by_hand")
    assert call(rr, new.version_of, new.Model()) == "again"
    assert type(call(rr, same, new.Model())) is new.Model
    assert type(call(rr, same, old.Model())) is old.Model
    assert call(rr, old.version_of, old.Model()) == "first"


# ---- sent once -------------------------------------------------------------------------------------------------------

HEAVY = f"""
class Heavy:
    TABLE = bytes({LARGE})
    def __init__(self, number=0):
        self.number = number
    def size(self):
        return len(self.TABLE)

class Other(Heavy):
    pass

def make(number):
    return Heavy(number)

def size_of(heavy):
    return heavy.size()
"""


def moved_bytes(rr, work) -> int:
    """How much work copies or shares, and leaves in the store."""
    before = rr.statistics()
    work()
    after = rr.statistics()
    return after.copied_bytes + after.shared_bytes + after.bytes - before.copied_bytes - before.shared_bytes - before.bytes


def test_a_definition_is_sent_once(rr, define):
    module = define(HEAVY)
    make, size_of = rr.service(module.make), rr.service(module.size_of)

    def work():
        for number in range(20):
            assert type(make(number).get(PATIENCE_S)) is module.Heavy
            assert size_of(module.Heavy(number)).get(PATIENCE_S) == LARGE
            module.Heavy.made = number  # a data attribute: no new version

    assert moved_bytes(rr, work) < 8 * LARGE


def test_a_definition_is_sent_once_for_all_services(rr, define):
    module = define(HEAVY)

    def work():
        for _ in range(10):
            assert call(rr, module.size_of, module.Heavy()) == LARGE
            assert call(rr, lambda value: value.size(), module.Other()) == LARGE

    assert moved_bytes(rr, work) < 8 * LARGE


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_redefinitions_cost_no_memory(rr, define):
    """Old versions that nobody holds go, in the driver, in the worker and in the store; each is 100 kB here."""
    module = define()
    pid = call(rr, os.getpid)

    def redefine(times: int) -> None:
        for number in range(times):
            run_cell(
                module,
                f"""
                class Model:
                    def version(self):
                        return {number}
                    def table(self):
                        return {"x" * 100_000!r}
                def work(model):
                    return model.version(), Model()
                """,
            )
            service = rr.service(module.work)
            version, got = service(module.Model()).get(PATIENCE_S)
            assert (version, type(got)) == (number, module.Model)
            service.close()

    redefine(40)
    gc.collect()
    before = rr.statistics().bytes, resident_bytes(), resident_bytes(pid)
    redefine(150)
    gc.collect()
    after = rr.statistics().bytes, resident_bytes(), resident_bytes(pid)
    grown = [late - early for early, late in zip(before, after, strict=True)]
    assert all(each < 7_000_000 for each in grown), f"of 15 MB that went by: store, driver, worker have {grown} bytes more"


# ---- everybody who needs them has them -------------------------------------------------------------------------------


def test_all_workers_have_the_definitions(project, define, tmp_path):
    module = define(MODEL)
    from gates import meet

    with Runner("definitions", workers=2) as rr:
        start_workers(rr, tmp_path / "first")
        module.meet = meet
        run_cell(module, "def both(model, *args): return meet(*args), model.version(), isinstance(model, Model)")
        service = rr.service(module.both)
        calls = [service(module.Model(), str(tmp_path / "second"), 2, number) for number in range(2)]
        results = rr.get(calls, timeout=PATIENCE_S)
        assert len({pid for pid, *_ in results}) == 2
        assert [rest for _, *rest in results] == [["first", True]] * 2


def test_a_new_worker_has_the_definitions(rr, define):
    module = define(MODEL + "import os\ndef die(model): os._exit(1)")
    version_of = rr.service(module.version_of)
    assert version_of(module.Model()).get(PATIENCE_S) == "first"
    with pytest.raises(WorkerDiedError):
        rr.service(module.die)(module.Model()).get(PATIENCE_S)
    assert version_of(module.Model()).get(PATIENCE_S) == "first"
    assert type(rr.service(module.make)(1).get(PATIENCE_S)) is module.Model


def test_a_second_runner_has_the_definitions(project, define):
    module = define(MODEL)
    for name in ("first", "second"):
        with Runner(name, workers=1) as rr:
            assert call(rr, module.version_of, module.Model()) == "first"
            assert type(call(rr, module.make, 1)) is module.Model


def test_two_runners_at_once_have_the_definitions(project, define):
    module = define(MODEL)
    with Runner("one", workers=1) as one, Runner("two", workers=1) as two:
        future = one.service(module.make)(3)
        assert two.service(module.is_model)(future).get(PATIENCE_S) is True
        assert type(future.get(PATIENCE_S)) is module.Model


def test_a_value_goes_from_task_to_task_and_stays_of_its_class(project, define):
    module = define(MODEL)
    with Runner("chain", workers=2) as rr:
        make, is_model = rr.service(module.make), rr.service(module.is_model)
        assert rr.get([is_model(make(number)) for number in range(20)], timeout=PATIENCE_S) == [True] * 20
        assert list(is_model.map([module.Model(number) for number in range(100)])) == [True] * 100
        assert {type(model) for model in make.map(range(100))} == {module.Model}
        assert is_model(rr.put_object(module.Model(1))).get(PATIENCE_S) is True


def test_threads_that_send_a_definition_first_at_the_same_time(project, define):
    module = define(MODEL + "def check(model): return is_model(model), version_of(model), Model(7)")
    with Runner("threads", workers=2) as rr:
        start, results = threading.Barrier(8), []

        def send():
            start.wait(PATIENCE_S)
            results.append(call(rr, module.check, module.Model()))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert [each[:2] for each in results] == [(True, "first")] * 8
    assert {type(each[2]) for each in results} == {module.Model}


def test_definitions_that_refer_to_each_other(rr, define):
    module = define(
        """
        class Node:
            def __init__(self, depth):
                self.child = Leaf(self) if depth == 0 else Node(depth - 1)
            def depth(self):
                return measure(self)
        class Leaf:
            def __init__(self, parent):
                self.parent = parent
            Parent = Node
        Node.Child = Leaf
        def measure(node):
            return 0 if isinstance(node, Leaf) else 1 + measure(node.child)
        measure.of = Node
        Node.instance = Node(1)
        """
    )
    assert call(rr, module.measure, module.Node(3)) == 4
    got = call(rr, lambda node: (node, node.depth(), node.Child.Parent, node.instance.depth()), module.Node(2))
    assert type(got[0]) is module.Node
    assert got[1:] == (3, module.Node, 2)


def test_a_value_got_stays_usable_after_the_runners_end(project, define):
    module = define(MODEL)
    with Runner("ended", workers=1) as rr:
        got, function = call(rr, lambda: (module.Model(3), lambda value: module.version_of(value)))
    assert type(got) is module.Model
    assert function(got) == "first"


def test_a_class_of_a_module_the_worker_can_import_is_still_that_modules(rr):
    """Nothing changes for these: they go by name."""
    from process_events import Victim

    assert type(call(rr, same, Victim())) is Victim
    assert call(rr, lambda value, cls: type(value) is cls, Victim(), Victim) is True
    assert call(rr, same, [enum.Enum])[0] is enum.Enum


def test_a_nested_runner_of_a_task_has_the_definitions(project):
    """There the worker is the one who sends them."""
    out = run_script(
        project,
        """
        from flame_fast import Runner
        class Model:
            def __init__(self, number):
                self.number = number
        def make(model):
            return Model(model.number + 1)
        def outer(number):
            with Runner("nested") as rr:
                got = rr.service(make)(Model(number)).get()
                return got, type(got) is Model
        with Runner("nested", workers=1) as rr:
            got, inside = rr.service(outer)(3).get()
            print(type(got) is Model, inside, got.number)
        """,
    )
    assert out == "True True 4\n"


# ---- tables keyed by what a class has made ---------------------------------------------------------------------------

KEYED = """
import dataclasses, enum

class Planet(enum.Enum):
    EARTH = 1
    MARS = 2

    def label(self):
        return LABELS[self]

    def opposite(self):
        return type(self).OPPOSITES[self]

LABELS = {Planet.EARTH: "ours", Planet.MARS: "red"}
Planet.MARS.distances = {Planet.EARTH: 0.5}
Planet.OPPOSITES = {Planet.EARTH: Planet.MARS}

@dataclasses.dataclass(frozen=True)
class Point:
    x: int

    def name(self):
        return NAMES[self, 0], self in KNOWN

    def neighbour(self):
        return NEIGHBOURS.table[self]

class Neighbours:
    def __init__(self):
        self.table = {}

NAMES = {(Point(1), 0): "one"}
KNOWN = [{Point(1)}, {Point(2)}][0]
NEIGHBOURS = Neighbours()
NEIGHBOURS.table[Point(1)] = Point(2)

def remembering(method):
    seen = {}
    def wrapper(self):
        if self not in seen:
            seen[self] = method(self)
        return seen[self], len(seen)
    return wrapper

class Word:
    def __init__(self, text):
        self.text = text

    def __hash__(self):
        return hash(self.text)

    def __eq__(self, other):
        return self.text == other.text

    @remembering
    def length(self):
        return len(self.text)

WORDS = [Word("one").length()]
ASKED = {
    "label": lambda: Planet.MARS.label(),
    "distance": lambda: Planet.MARS.distances[Planet.EARTH],
    "opposite": lambda: Planet.EARTH.opposite() is Planet.MARS,
    "name": lambda: Point(1).name(),
    "neighbour": lambda: Point(1).neighbour() == Point(2),
    "length": lambda: Word("one").length(),
}

"""
ANSWERS = {"label": "red", "distance": 0.5, "opposite": True, "name": ("one", True), "neighbour": True, "length": (3, 1)}


def test_a_table_keyed_by_instances_of_the_class_that_uses_it(rr, define):
    """It is hashed as it is built, and the class needs the table to be whole; each question comes first to its module."""
    for what, answer in ANSWERS.items():
        assert call(rr, define(KEYED).ASKED[what]) == answer, what


def test_a_table_keyed_by_instances_comes_with_a_value(rr, define):
    module = define(KEYED)
    ask = rr.service(lambda *values: (values[0].label(), values[1].name(), values[2].length()))
    assert ask(module.Planet.MARS, module.Point(1), module.Word("one")).get(PATIENCE_S) == ("red", ("one", True), (3, 1))


def test_definitions_that_lead_on_and_on(rr, define):
    """Further than pickles may be nested."""
    functions = "".join(f"def f{n}(): return f{n + 1}()\n" for n in range(300)) + "def f300(): return C0().follow(0)\n"
    classes = "".join(f"class C{n}:\n    def follow(self, k): return C{n + 1}().follow(k + 1)\n" for n in range(300))
    module = define(functions + classes + "class C300:\n    def follow(self, k): return k\n")
    assert call(rr, module.f0) == 300
    follow = rr.service(lambda value: value.follow(1))
    assert follow(module.C0()).get(PATIENCE_S) == 301


# ---- functions as arguments ------------------------------------------------------------------------------------------

GLOBALS = """
FACTOR = 1
TABLE = [0]
SEEN = []

def factor():
    return FACTOR

def table():
    return TABLE

def see(number):
    SEEN.append(number)
    return list(SEEN)

def see_too(number):
    SEEN.append(number)
    return list(SEEN)
"""


@pytest.fixture
def apply(rr):
    service = rr.service(lambda function, *args: function(*args))
    return lambda function, *args: service(function, *args).get(PATIENCE_S)


def test_a_function_as_an_argument_has_the_globals_of_that_moment(apply, define):
    module = define(GLOBALS)
    for number in range(3):
        module.FACTOR = number
        run_cell(module, "nameless = lambda: FACTOR")
        assert apply(module.nameless) == apply(module.factor) == number


def test_a_global_at_the_address_of_the_one_before_is_another(apply, define):
    module = define(GLOBALS)
    for number in range(5):
        module.TABLE = None  # its memory is taken by the next
        module.TABLE = [number]
        assert apply(module.table) == [number]


def test_functions_as_arguments_share_the_workers_globals(apply, define):
    """Also where the driver's have changed since the first came."""
    module = define(GLOBALS)
    assert (apply(module.see, 1), apply(module.see_too, 2), apply(module.see, 3)) == ([1], [1, 2], [1, 2, 3])
    module.SEEN = [0]
    assert (apply(module.see, 1), apply(module.see_too, 2), apply(module.see, 3)) == ([0, 1], [0, 1, 2], [0, 1, 2, 3])


def test_a_function_as_an_argument_has_what_was_registered_with_it(apply, define):
    module = define("import functools\n@functools.singledispatch\ndef kind(value): return 'some'\n")
    assert apply(module.kind, 1) == "some"
    module.kind.register(int, lambda value: "whole")
    assert apply(module.kind, 1) == "whole"


def test_a_function_as_an_argument_calls_what_is_there_at_that_moment(apply, define):
    """However far behind it: functions defined again, classes with a method patched."""
    module = define(
        """
        def far(): return "far"
        class Model:
            def version(self): return "model"
        def middle(n=3): return far(), Model().version(), n and middle(n - 1)[:2]
        def near(): return middle()
        """
    )
    asked = [apply(module.near), apply(module.middle)]
    run_cell(module, "def far(): return 'other'")
    asked += [apply(module.near), apply(module.middle), apply(module.near)]
    module.Model.version = lambda self: "patched"
    asked += [apply(module.near), apply(module.middle)]
    assert [each[:2] for each in asked] == [("far", "model")] * 2 + [("other", "model")] * 3 + [("other", "patched")] * 2
    assert all(each[2] == each[:2] for each in asked)


def test_a_function_as_an_argument_is_sent_once_while_nothing_changes(rr, apply, define):
    module = define("def far(): return 1\ndef near(): return far()\ndef nearby(): return far()\n")
    apply(module.near), apply(module.nearby)
    run_cell(module, "def far(): return 2")
    assert [apply(module.near), apply(module.nearby)] == [2, 2]
    before = rr.statistics().definitions
    assert [apply(function) for function in [module.near, module.nearby] * 3] == [2] * 6
    assert rr.statistics().definitions == before


def test_a_class_that_came_with_values_has_the_globals_of_the_latest_service(rr, define):
    """A generic service does not use the class itself; a service that was made before keeps the globals that it had."""
    module = define(
        """
        import types
        SIGMA = 5
        SETTINGS = types.SimpleNamespace(scale=1)
        def factor():
            return SIGMA * SETTINGS.scale
        class Model:
            calls = 0
            def price(self):
                Model.calls += 1
                return SIGMA * factor(), Model.calls
        def price(model):
            return model.price()
        def is_model(model):
            return isinstance(model, Model), model.price()[0]
        """
    )
    before, own = rr.service(module.price), rr.service(module.is_model)
    assert [before(module.Model()).get(PATIENCE_S) for _ in range(2)] == [(25, 1), (25, 2)]
    assert own(module.Model()).get(PATIENCE_S) == (True, 25)
    module.SIGMA = 3
    after = rr.service(module.price)
    assert after(module.Model()).get(PATIENCE_S)[0] == 9
    assert own(module.Model()).get(PATIENCE_S) == (True, 25)
    assert before(module.Model()).get(PATIENCE_S)[0] == 25
    module.SETTINGS.scale = 2
    assert rr.service(module.price)(module.Model()).get(PATIENCE_S)[0] == 18
    run_cell(module, "def factor(): return 10 * SIGMA")
    assert rr.service(module.price)(module.Model()).get(PATIENCE_S)[0] == 90
    assert after(module.Model()).get(PATIENCE_S)[0] == 9
    assert type(rr.service(same)(module.Model()).get(PATIENCE_S)) is module.Model

"""A program that looks at its own module from within tasks: each must find there what an imported module has."""

import copy
import dataclasses
import doctest
import enum
import importlib
import inspect
import json
import multiprocessing
import os
import pickle
import sys
import typing
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

from flame_fast import Runner

PATIENCE_S = 30
FACTOR = 3
COUNTER = 0
MODE = os.environ["MAIN_MODE"]


class Model:
    """A class of the program."""

    shared: "typing.ClassVar[list[Other]]" = []

    def __init__(self, number: int, other: "Other | None" = None):
        self.number = number
        self.other = other

    def __eq__(self, other):
        return type(other) is Model and vars(other) == vars(self)

    def advanced(self) -> "Model":
        return Model(advance(self.number), self.other)  # the line of Model.advanced


@dataclasses.dataclass
class Other:
    owner: "Model"
    names: "list[str]" = dataclasses.field(default_factory=list)


class Colour(enum.Enum):
    RED = 1


class Trouble(Exception):
    pass


def advance(number: "int") -> "int":
    """Add the factor.

    >>> advance(4)
    7
    >>> Model(1).advanced().number
    4
    """
    return number + FACTOR  # the line of advance


def advance_model(model: Model) -> "Model":
    return model.advanced()


def count() -> int:
    global COUNTER
    COUNTER += 1
    return COUNTER


def fail() -> None:
    raise Trouble("on purpose")  # the line of fail


def own_module():
    return importlib.import_module(__name__)


# ---- tasks: each returns whether it found what it should -------------------------------------------------------------


def task_name():
    return (__name__, own_module().__name__)


def task_file():
    return getattr(own_module(), "__file__", None)


def task_module_of_definitions():
    return [sys.modules[each.__module__] is own_module() for each in (Model, advance, Colour, Other)]


def task_definitions_of_the_module():
    module = own_module()
    return [module.Model is Model, module.advance is advance, module.Colour is Colour, module.FACTOR == FACTOR]


def task_import_main():
    import __main__

    return __name__ != "__main__" or (__main__ is own_module() and __main__.Model is Model)


def task_globals_are_the_modules():
    before = count()
    return count() == before + 1 == COUNTER == own_module().COUNTER


def task_pickle():
    model = Model(3, Other(Model(4), ["a"]))
    got = pickle.loads(pickle.dumps(model))
    return [got == model, type(got) is Model, type(got.other) is Other, pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED]


def task_pickle_of_definitions():
    return [pickle.loads(pickle.dumps(each)) is each for each in (Model, advance, Colour, Other, Model.advanced)]


def task_deepcopy():
    model = Model(3, Other(Model(4)))
    return [copy.deepcopy(model) == model, copy.deepcopy(model) is not model]


def task_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(advance, range(4))


def task_executor():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        got = executor.submit(advance_model, Model(1)).result()
    return [type(got) is Model, got.number]


def task_type_hints():
    hints = typing.get_type_hints(Model)
    return [
        hints == {"shared": typing.ClassVar[list[Other]]},
        typing.get_type_hints(Other) == {"owner": Model, "names": list[str]},
        typing.get_type_hints(advance_model) == {"model": Model, "return": Model},
        typing.get_type_hints(Model.advanced) == {"return": Model},
        inspect.signature(advance, eval_str=True).return_annotation is int,
    ]


def task_source_of_functions():
    return ["# the line of advance\n" in inspect.getsource(advance), "# the line of Mo" in inspect.getsource(Model.advanced)]


def task_source_of_classes():
    """Of a notebook's and of `-c` the standard library does not find them in a driver, either."""
    return MODE in ("notebook", "-c", "made-up module") or inspect.getsource(Model).startswith("class Model:\n")


def task_getmodule():
    return [inspect.getmodule(advance) is own_module(), inspect.getmodule(Model) is own_module()]


def task_doctest_of_a_function():
    (test,) = doctest.DocTestFinder(recurse=False).find(advance, "advance", globs=globals())
    result = doctest.DocTestRunner().run(test)
    return (result.attempted, result.failed)


def task_doctest_of_the_module():
    advance(Model(1).number)
    result = doctest.testmod(own_module())
    return (result.attempted, result.failed)


def task_mock():
    with mock.patch(f"{__name__}.advance", lambda number: 99):
        return Model(1).advanced().number


#: What tasks with a result of their own have to return; the others return True, or a list of it.
EXPECTED = {
    "task_name": (__name__, __name__),
    "task_file": globals().get("__file__"),
    "task_pool": [3, 4, 5, 6],
    "task_executor": [True, 4],
    "task_doctest_of_a_function": (2, 0),
    "task_doctest_of_the_module": (2, 0),
    "task_mock": 99,
}


# ---- checks with a part in the driver --------------------------------------------------------------------------------


def read_pickle(path):
    with open(path, "rb") as file:
        return pickle.load(file), Model


def write_pickle(path, model):
    with open(path, "wb") as file:
        pickle.dump([model, Model, Colour.RED], file)


def check_unpickles_the_drivers_file(rr):
    with open("by_driver.pickle", "wb") as file:
        pickle.dump(Model(3), file)
    got, cls = rr.service(read_pickle)("by_driver.pickle").get(PATIENCE_S)
    return type(got) is cls is Model and got == Model(3)


def check_pickles_for_the_driver(rr):
    rr.service(write_pickle)("by_worker.pickle", Model(4)).get(PATIENCE_S)
    with open("by_worker.pickle", "rb") as file:
        model, cls, colour = pickle.load(file)
    return type(model) is cls is Model and model == Model(4) and colour is Colour.RED


def check_a_traceback_shows_the_line(rr):
    try:
        rr.service(fail)().get(PATIENCE_S)
    except Trouble as error:
        return "# the line of fail" in str(error.__cause__) or str(error.__cause__)
    return "nothing was raised"


def check_the_drivers_module_stays(rr):
    """Nothing that tasks did to their module is in the driver's."""
    return COUNTER == 0 and own_module().Model is Model and rr.service(count)().get(PATIENCE_S) >= 1


def outcome_of(function, *args):
    try:
        return function(*args)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:400]


def is_right(name, got):
    if name in EXPECTED:
        return got == EXPECTED[name]
    return got is True or (isinstance(got, list) and got != [] and all(each is True for each in got))


def main():
    """Write a JSON object: what each task and check that has gone wrong returned, and how many there were."""
    names = sorted(name for name in globals() if name.startswith(("task_", "check_")))
    found = {}
    with Runner("main", workers=1) as rr:
        for name in names:
            function = globals()[name]
            if name.startswith("task_"):
                found[name] = outcome_of(lambda function=function: rr.service(function)().get(PATIENCE_S))
            else:
                found[name] = outcome_of(function, rr)
    wrong = {name: repr(got) for name, got in found.items() if not is_right(name, got)}
    with open(os.environ["MAIN_OUTPUT"], "w") as output:
        json.dump({"count": len(names), "wrong": wrong}, output)

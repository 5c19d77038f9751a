"""Every estimator of scikit-learn, made as its own tests make it, with data that it takes, and uses of it."""

from __future__ import annotations

import contextlib
import inspect
import unittest
import warnings

import numpy as np
from likeness import attempt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.utils import discovery, get_tags
from sklearn.utils._test_common.instance_generator import _construct_instances
from sklearn.utils.estimator_checks import _enforce_estimator_tags_X, _enforce_estimator_tags_y

#: Rows and columns. Arrays above 32 KiB: none; the data and results with its rows; results with its columns.
SHAPES = {"tiny": (30, 4), "large": (500, 9), "wide": (24, 4200)}

#: Estimators whose coefficients or sums are to be large too; others take seconds or hours with so many columns.
WIDE = {
    "BernoulliNB",
    "Birch",
    "ComplementNB",
    "ElasticNet",
    "GaussianNB",
    "IncrementalPCA",
    "Lasso",
    "LinearRegression",
    "LinearSVC",
    "LogisticRegression",
    "MaxAbsScaler",
    "MinMaxScaler",
    "MiniBatchKMeans",
    "MLPRegressor",
    "MultinomialNB",
    "Perceptron",
    "Ridge",
    "SGDClassifier",
    "SGDOneClassSVM",
    "SGDRegressor",
    "StandardScaler",
    "TruncatedSVD",
}

#: Fewer steps, where the default takes seconds.
QUICKER = {
    "DictionaryLearning": {"max_iter": 1},
    "LatentDirichletAllocation": {"max_iter": 1},
    "TSNE": {"max_iter": 250},
    "MeanShift": {"max_iter": 5},
}


def instances(size):
    """Yield (name, unfitted estimator) of all that are tried with data of a size."""
    made = []
    for name, kind in discovery.all_estimators():
        if size == "wide" and name not in WIDE:
            continue
        try:
            made += [(name, instance) for instance in _construct_instances(kind)]
        except unittest.SkipTest:
            assert kind is FrozenEstimator, f"say in `estimators` how {name} is made"
            made.append((name, FrozenEstimator(LinearRegression().fit(*numbers(size)))))
    return [(name, prepared(name, instance, SHAPES[size])) for name, instance in made]


def prepared(name, estimator, shape):
    """Seed an estimator wherever it takes a seed, and limit its steps to those needed."""
    if name != "FrozenEstimator":
        seeds = [key for key in estimator.get_params() if key.rpartition("__")[2] == "random_state"]
        estimator.set_params(**dict.fromkeys(seeds, 0), **QUICKER.get(name, {}))
    if name == "SparseCoder":
        estimator.set_params(dictionary=np.random.default_rng(1).normal(size=(5, shape[1])))
    return estimator


def numbers(size):
    rows, columns = SHAPES[size]
    target = np.arange(rows) % 3
    points = np.random.default_rng(rows).normal(size=(rows, columns))
    points[:, :3] += 2 * np.eye(3)[target]
    return points, target


def data(name, estimator, size):
    """Return (X, y) to fit an estimator with; y is `None` if it takes none."""
    points, target = numbers(size)
    tags = get_tags(estimator).input_tags
    takes = list(inspect.signature(estimator.fit).parameters)
    if name == "MultiLabelBinarizer":
        return [(int(number), 3 + int(number) % 2) for number in target], None
    if takes[0] == "y":
        return target, None
    if tags.string and not tags.two_d_array:
        return [" ".join(f"word{int(4 * value)}" for value in row) for row in points], target
    if tags.dict:
        return [{f"key{at}": float(value) for at, value in enumerate(row[:5])} for row in points], target
    return _enforce_estimator_tags_X(estimator, points), _enforce_estimator_tags_y(estimator, target)


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(0)
        yield


def takes_target(function):
    return "y" in list(inspect.signature(function).parameters)[1:] or "Y" in inspect.signature(function).parameters


def fit(estimator, X, y):
    """Fit an estimator in place; return it and its data, as results of one task."""
    with quiet():
        estimator.fit(X, y) if takes_target(estimator.fit) else estimator.fit(X)
    return estimator, X, y


READS = [
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "score_samples",
    "apply",
    "decision_path",
    "kneighbors",
    "kneighbors_graph",
    "radius_neighbors_graph",
    "mahalanobis",
]


def read(estimator, X, y):
    """Return the results of all its methods by name; the error of a method that fails."""
    said = {}
    for name in READS:
        if hasattr(estimator, name):
            said[name] = attempt(getattr(estimator, name), X)
    if "transform" in said and hasattr(estimator, "inverse_transform"):
        said["inverse_transform"] = attempt(estimator.inverse_transform, said["transform"])
    if hasattr(estimator, "score"):
        said["score"] = attempt(estimator.score, *((X, y) if takes_target(estimator.score) else (X,)))
    return said


def more(estimator, X, y):
    """Fit an estimator further, as an online learner does."""
    keywords = {"classes": np.unique(y)} if "classes" in inspect.signature(estimator.partial_fit).parameters else {}
    estimator.partial_fit(*((X, y) if takes_target(estimator.partial_fit) else (X,)), **keywords)


def use(estimator, X, y):
    """Use a fitted estimator in every way, one step after the other; return the results by name.

    At last its parameters that control copies of the data are set to `False`: then it writes to the data, which return.
    """
    said = {}

    def say(step, function, *args):
        np.random.seed(0)
        said[step] = attempt(function, *args)

    with quiet():
        parameters = estimator.get_params(deep=False)
        say("read", read, estimator, X, y)
        say("clone", lambda: clone(estimator).get_params(deep=False).keys() == parameters.keys())
        say("set_params", lambda: estimator.set_params(**parameters) is estimator)
        if hasattr(estimator, "partial_fit"):
            say("partial_fit", more, estimator, X, y)
            say("read after partial_fit", read, estimator, X, y)
        if "warm_start" in parameters:
            say("warm_start", lambda: fit(estimator.set_params(warm_start=True), X, y) and None)
            say("read after warm_start", read, estimator, X, y)
        if copying := [name for name in parameters if name.lower() in ("copy", "copy_x")]:
            estimator.set_params(**dict.fromkeys(copying, False))
            say("read without copies", read, estimator, X, y)
            say("fit without copies", lambda: fit(clone(estimator), X, y) and None)
    return said, X, y

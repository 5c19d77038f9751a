"""A grid search of scikit-learn on a Runner's workers, through joblib: no line of the search itself changes.

`flame_fast.joblib.register()` makes the backend known, and `parallel_config` selects it for what scikit-learn runs with
`n_jobs`. The table of samples is stored once; each fit reads that one copy. Run it as `python examples/grid_search.py`.
"""

import sys
import time

import flame_fast.joblib

try:
    from joblib import parallel_config
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC
except ImportError as error:
    sys.exit(f"grid_search.py: {error}; install it with `pip install scikit-learn`")

SAMPLES = 400
GRID = {"C": [0.1, 1, 10], "gamma": [1e-4, 1e-3, 1e-2]}


def main() -> None:
    """Search on all cores and in this process, and compare what they find."""
    digits = load_digits()
    images, labels = digits.data[:SAMPLES], digits.target[:SAMPLES]

    flame_fast.joblib.register()
    start = time.perf_counter()
    with parallel_config("flame_fast", n_jobs=2):
        found = GridSearchCV(SVC(), GRID, cv=2).fit(images, labels)
    seconds = time.perf_counter() - start
    alone = GridSearchCV(SVC(), GRID, cv=2, n_jobs=1).fit(images, labels)

    for params, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True):
        print(f"C = {params['C']:<4} gamma = {params['gamma']:<6}: {score:.1%} of the digits are right")
    assert found.best_params_ == alone.best_params_
    assert (found.cv_results_["mean_test_score"] == alone.cv_results_["mean_test_score"]).all()
    print(f"Best of {len(found.cv_results_['params'])} in {seconds:.2f} s: {found.best_params_}.")


if __name__ == "__main__":
    main()

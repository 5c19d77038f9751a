"""The Flame article's programs ("Running Monte Carlo Pi with Flame Runner"), with one import line changed.

The second listing lacks the colon of its `for` line in print; it has it here.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """\
from flame_fast import Runner
def test_fn():
    return 42

"""

GET = """\
with Runner("test") as rr:
    results = rr.service(test_fn)
    outputs = rr.get(results)
    print(outputs)
"""

SELECT = """\
with Runner("test") as rr:
    results = rr.service(test_fn)

    for result in rr.select(results):
        print(result.get())
"""

PI_MODULE = """\
import numpy as np

def estimate_batch(num_samples: int) -> int:
    x = np.random.rand(num_samples)
    y = np.random.rand(num_samples)
    inside_circle = np.sum(x*x + y*y <= 1.0)
    return int(inside_circle)
"""

PI_MAIN = """\
from flame_fast import Runner
from pi import estimate_batch
import math

num_batches = 10
samples_per_batch = 1_000_000
total_samples = num_batches * samples_per_batch

# Create a `pi-estimation` application in Flame cluster,
# and then execute `estimate_batch` remotely.
with Runner("pi-estimation") as rr:
    estimator = rr.service(estimate_batch)
    results = [estimator(samples_per_batch) for _ in range(num_batches)]
    insides = rr.get(results)

pi_estimate = 4.0 * sum(insides) / total_samples
error = abs(pi_estimate - math.pi)
"""


def run(project, text):
    (project / "main.py").write_text(text)
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, timeout=60, cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("listing", "printed"), [(GET, "[42]\n"), (SELECT, "42\n")], ids=["get", "select"])
def test_a_service_stands_for_one_call_of_its_function(project, listing, printed):
    assert run(project, HEAD + listing) == printed


def test_pi(project):
    """Five standard deviations of the estimate are 0.0026."""
    (project / "pi.py").write_text(PI_MODULE)
    assert float(run(project, PI_MAIN + "print(error)\n")) < 0.0026

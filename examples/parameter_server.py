"""Linear regression with a parameter server: one process holds the weights, and the workers push gradients to it.

The server is an object: its service runs its calls one at a time, in a process of its own. Each worker has a shard of the
data, pulls the weights as they are now, and pushes its gradient, without waiting for the others: the service itself is an
argument of their task. Run it as `python examples/parameter_server.py`.
"""

import numpy as np
from numpy.typing import NDArray

from flame_fast import Runner, RunnerService

Floats = NDArray[np.float64]

TRUE_WEIGHTS = np.array([2.0, -1.0, 0.5, 3.0, -2.5, 0.0, 1.5, -0.5])
SAMPLES = 80_000
SHARDS = 8
PUSHES = 30


class ParameterServer:
    """The weights, and the one method that changes them."""

    def __init__(self, size: int, learning_rate: float) -> None:
        self.weights = np.zeros(size)
        self.learning_rate = learning_rate
        self.steps = 0

    def pull(self) -> Floats:
        """Return the weights as they are now."""
        return self.weights

    def push(self, gradient: Floats) -> float:
        """Take one step against a gradient; return its length."""
        step = self.learning_rate * gradient
        self.weights = self.weights - step
        self.steps += 1
        return float(np.linalg.norm(step))

    def taken(self) -> int:
        """Return how many steps that were so far."""
        return self.steps


def train(server: RunnerService, inputs: Floats, targets: Floats) -> tuple[float, float]:
    """Push gradients of half the mean squared error on one shard, in a worker; return the first and the last step's length.

    The weights that it pulls have the other workers' steps in them.
    """
    lengths = []
    for _ in range(PUSHES):
        weights = server.pull().get()
        lengths.append(server.push(inputs.T @ (inputs @ weights - targets) / len(targets)))
    return lengths[0].get(), lengths[-1].get()


def make_data() -> tuple[Floats, Floats]:
    """Make inputs of shape (SAMPLES, 8), and their targets under `TRUE_WEIGHTS` with a little noise."""
    rng = np.random.default_rng(seed=2024)
    inputs = rng.standard_normal((SAMPLES, len(TRUE_WEIGHTS)))
    return inputs, inputs @ TRUE_WEIGHTS + 0.01 * rng.standard_normal(SAMPLES)


def main() -> None:
    """Train, show how the steps shrink, and check the weights against the true ones."""
    inputs, targets = (np.array_split(part, SHARDS) for part in make_data())

    with Runner("parameter-server") as rr:
        server = rr.service(ParameterServer(len(TRUE_WEIGHTS), learning_rate=0.1))
        trainer = rr.service(train)
        shards = [trainer(server, *shard) for shard in zip(inputs, targets, strict=True)]
        for number, shard in enumerate(rr.select(shards), 1):  # each as it completes
            first, last = shard.get()
            print(f"{number} of {SHARDS} shards done: steps of length {first:.1e} to {last:.1e}")
        learned, steps = rr.get((server.pull(), server.taken()))

    error = float(np.abs(learned - TRUE_WEIGHTS).max())
    assert steps == SHARDS * PUSHES
    assert error < 1e-3, error
    print(f"Learned {len(learned)} weights in {steps} steps; the largest error is {error:.6f}.")


if __name__ == "__main__":
    main()

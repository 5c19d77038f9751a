"""Linear regression with a parameter server: one process holds the weights, the workers compute gradients.

The driver stores the data once, in shards, with `put_object`; every task that names a shard reads that one copy. A round is
a small graph of futures: pull the weights, compute a gradient per shard, push them all. The server's calls run in the order
they were made, so each pull sees the push before it, and the driver submits every round without waiting.
"""

import numpy as np
from numpy.typing import NDArray

from flame_fast import Runner

Floats = NDArray[np.float64]

TRUE_WEIGHTS = np.array([2.0, -1.0, 0.5, 3.0, -2.5, 0.0, 1.5, -0.5])
SAMPLES = 80_000
SHARDS = 8
ROUNDS = 30


class ParameterServer:
    """The weights, and the one method that changes them."""

    def __init__(self, size: int, learning_rate: float) -> None:
        self.weights = np.zeros(size)
        self.learning_rate = learning_rate
        self.rounds = 0

    def pull(self) -> Floats:
        """Return the weights as they are now."""
        return self.weights

    def push(self, gradients: list[Floats]) -> tuple[int, float]:
        """Take one step against the mean of `gradients`; return how many steps that makes, and its length."""
        step = self.learning_rate * np.mean(gradients, axis=0)
        self.weights = self.weights - step
        self.rounds += 1
        return self.rounds, float(np.linalg.norm(step))


def shard_gradient(weights: Floats, shard: tuple[Floats, Floats]) -> Floats:
    """Return the gradient of half the mean squared error of `weights` on one shard of inputs and targets."""
    inputs, targets = shard
    return inputs.T @ (inputs @ weights - targets) / len(targets)


def make_data() -> tuple[Floats, Floats]:
    """Make inputs of shape (SAMPLES, 8), and their targets under `TRUE_WEIGHTS` with a little noise."""
    rng = np.random.default_rng(seed=2024)
    inputs = rng.standard_normal((SAMPLES, len(TRUE_WEIGHTS)))
    return inputs, inputs @ TRUE_WEIGHTS + 0.01 * rng.standard_normal(SAMPLES)


def main() -> None:
    """Train, show how the steps shrink, and check the weights against the true ones."""
    inputs, targets = (np.array_split(part, SHARDS) for part in make_data())

    with Runner("parameter-server") as rr:
        server = rr.service(ParameterServer(len(TRUE_WEIGHTS), learning_rate=0.5))
        gradient = rr.service(shard_gradient)
        shards = [rr.put_object(shard) for shard in zip(inputs, targets, strict=True)]

        pushes = []
        for _ in range(ROUNDS):
            weights = server.pull()
            pushes.append(server.push([gradient(weights, shard) for shard in shards]))

        for push in rr.select(pushes):  # each round as it completes
            number, length = push.get()
            if number % 5 == 0:
                print(f"round {number:2}: step of length {length:.1e}")

        learned = server.pull().get()

    error = float(np.abs(learned - TRUE_WEIGHTS).max())
    assert error < 1e-3, error
    print(f"Learned {len(learned)} weights in {ROUNDS} rounds; the largest error is {error:.6f}.")


if __name__ == "__main__":
    main()

"""The picture of an estimate of pi: points in and outside the quarter circle, and the running estimate in its error band.

The figure is made without pyplot: no window, no display, no state of the whole process.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Arc

#: Kinds of file.
ENDINGS = (".pdf", ".png", ".svg")

COLOURS = ("#b0532d", "#1f5f8b")

#: Points that are drawn: a sample like those that were counted.
POINTS = 2_000

#: Standard errors to each side of the estimate that make a band of 95 %.
BAND = 1.96


def draw(path: str, insides: list[int], samples_per_batch: int) -> None:
    """Draw the picture.

    Parameters
    ----------
    path : str
        The file; its ending gives its kind.
    insides : list of int
        Points inside the quarter circle, of each batch.
    samples_per_batch : int
        Points of a batch.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    points, running = figure.subplots(1, 2)

    x, y = np.random.default_rng(seed=1).random((2, POINTS))
    inside = x * x + y * y <= 1
    for colour, chosen in zip(COLOURS, (~inside, inside), strict=True):
        points.scatter(x[chosen], y[chosen], s=4, color=colour, linewidth=0)
    points.add_patch(Arc((0, 0), 2, 2, theta1=0, theta2=90, color="0.15"))
    points.set_aspect("equal")
    points.set_xlim(0, 1)
    points.set_ylim(0, 1)
    points.set_title(f"{POINTS:,} points like those counted: {4 * inside.mean():.3f}", fontsize=11)

    counts = samples_per_batch * np.arange(1, len(insides) + 1)
    estimates = 4 * np.cumsum(insides) / counts
    errors = BAND * np.sqrt(estimates * (4 - estimates) / counts)
    running.fill_between(counts, estimates - errors, estimates + errors, color=COLOURS[1], alpha=0.2, linewidth=0)
    running.plot(counts, estimates, ".-", color=COLOURS[1], label="estimate, and its band of 95 %")
    running.axhline(math.pi, color="0.15", linewidth=1, linestyle="--", label=r"$\pi$")
    running.set_xlabel("number of points")
    running.set_title(f"Running estimate: {estimates[-1]:.6f}", fontsize=11)
    running.legend(edgecolor="none")
    figure.savefig(path, dpi=150)

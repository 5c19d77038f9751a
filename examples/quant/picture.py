"""Pictures of a simulation's convergence: estimates in error bands, and errors against the number of samples.

Figures are made without pyplot: no window, no display, no state of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from convergence import Convergence
from flame_fast.kernels.moments import Moments
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from moments import BAND, Floats, controlled, plain

#: Kinds of file.
ENDINGS = (".pdf", ".png", ".svg")

COLOURS = ("#b0532d", "#1f5f8b")


class Curve(NamedTuple):
    """An estimate for more and more samples.

    Attributes
    ----------
    label : str
    counts : float64 array, shape (n,)
        Samples.
    values, errors : float64 array, shape (n,)
        The estimate and its standard error.
    known : tuple of str and float, optional
        The name of a value to compare with, and that value.
    """

    label: str
    counts: Floats
    values: Floats
    errors: Floats
    known: tuple[str, float] | None


def curves_of(
    running: list[Moments], quantity: int, expected: Floats, known: tuple[str, float] | None
) -> tuple[Curve, Curve]:
    """Return the curves of a quantity without variance reduction and with it.

    Both are over the number of paths: a pair of them is two.
    """
    pairs = np.array([float(moments.count) for moments in running])
    values, errors = np.array([plain(moments) for moments in running])[:, :, quantity].T
    reduced_values, reduced_errors = np.array([controlled(moments, expected) for moments in running])[:, :, quantity].T
    return (
        Curve("plain: one path of each pair", pairs, values, errors, known),
        Curve("antithetic with control variate", 2 * pairs, reduced_values, reduced_errors, known),
    )


def draw_convergence(path: str, title: str, quantity: str, unit: str, samples: str, curves: tuple[Curve, Curve]) -> None:
    """Draw the picture.

    Parameters
    ----------
    path : str
        The file; its ending gives its kind.
    title, quantity, unit, samples : str
        What is estimated, in which unit, and what is counted.
    curves : two Curves
        Each has a panel for its estimates; their standard errors share one.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    panels = figure.subplot_mosaic([["first", "errors"], ["second", "errors"]])
    limits = min(curve.counts[0] for curve in curves) / 1.2, max(curve.counts[-1] for curve in curves) * 1.2
    for name, curve, colour in zip(("first", "second"), curves, COLOURS, strict=True):
        _draw_estimates(panels[name], curve, colour)
        panels[name].set_ylabel(f"{quantity} ({unit})")
    panels["first"].set_title("Estimates and their 95 % confidence bands", fontsize=11)
    panels["first"].tick_params(labelbottom=False)
    _draw_errors(panels["errors"], curves)
    panels["errors"].set_ylabel(f"standard error ({unit})")
    panels["errors"].set_title(f"Standard error of the {quantity}", fontsize=11)
    for name, axes in panels.items():
        axes.set_xscale("log")
        axes.set_xlim(limits)
        _finish(axes, samples if name != "first" else None)
    figure.savefig(path, dpi=150)


def _finish(axes: Axes, samples: str | None) -> None:
    """Add grid and legend, and what is counted, if that is said here."""
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", edgecolor="none", framealpha=0.8)
    if samples:
        axes.set_xlabel(f"number of {samples}, n")


def _draw_estimates(axes: Axes, curve: Curve, colour: str) -> None:
    low, high = curve.values - BAND * curve.errors, curve.values + BAND * curve.errors
    axes.fill_between(curve.counts, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(curve.counts, curve.values, color=colour, linewidth=1.4, label=curve.label)
    if curve.known:
        axes.axhline(curve.known[1], color="0.15", linewidth=1, linestyle="--", label=curve.known[0])


def _scale_errors(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_errors(axes: Axes, curves: tuple[Curve, Curve]) -> None:
    _scale_errors(axes)
    for curve, colour in zip(curves, COLOURS, strict=True):
        axes.plot(curve.counts, curve.errors, color=colour, linewidth=1.6, label=curve.label)
    for curve in curves:
        if not curve.errors.all():  # no error is left to decrease
            continue
        scale = np.exp(np.log(curve.errors * np.sqrt(curve.counts)).mean())
        label = r"falling as $1/\sqrt{n}$" if curve is curves[-1] else None
        axes.plot(curve.counts, scale / np.sqrt(curve.counts), color="0.15", linewidth=1, linestyle=":", label=label)


def draw_errors(path: str, title: str, unit: str, samples: str, panels: Mapping[str, Sequence[Convergence]]) -> None:
    """Draw the errors of some ways of simulation, and the lines of least squares through them.

    Parameters
    ----------
    path : str
        The file; its ending gives its kind.
    title, unit, samples : str
        What is estimated, in which unit, and what is counted.
    panels : mapping of str to two Convergences
        Panels by their titles. They share both axes.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle(title, fontsize=13)
    [row] = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (name, ways) in zip(row, panels.items(), strict=True):
        axes.set_xscale("log", base=2)
        _scale_errors(axes)
        for way, colour in zip(ways, COLOURS, strict=True):
            slope, offset = way.fit()
            rate = r"{:.2f} \pm {:.2f}".format(*way.rate())
            axes.plot(way.counts, way.errors, color=colour, marker="o", linestyle="", label=way.label)
            line = np.exp(offset) * way.counts**slope
            axes.plot(way.counts, line, color=colour, linewidth=1.2, label=rf"falling as $n^{{{rate}}}$")
        axes.set_title(name, fontsize=11)
        _finish(axes, samples)
    row[0].set_ylabel(f"standard error of one estimate ({unit})")
    figure.savefig(path, dpi=150)

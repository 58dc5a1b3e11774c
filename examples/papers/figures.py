"""What the recipes' figures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .claims import Numbers, interval

# Okabe and Ito's colours: distinct with any colour vision.
COLOURS = ["#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"]
BARS = [COLOURS[k] for k in (2, 5, 3, 4)]


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curve(axes, runs: Sequence[Numbers], name: str, colour: str, label: str, **style) -> None:
    """The mean over seeds of a curve over epochs in %, and a band from least to largest."""
    values = 100 * np.array([[number[0] for number in run[f"curves/{name}"]] for run in runs])
    epochs = np.arange(1, values.shape[1] + 1)
    axes.plot(epochs, values.mean(0), color=colour, label=label, **style)
    axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def draw_bars(axes, runs: Sequence[Numbers], rows: dict[str, list[str]]) -> None:
    """Groups of bars in %, one colour a row, with the interval that a verdict has, and each seed.

    Args:
        rows: label of each row of bars, and the names of its numbers, one a group.
    """
    width = 0.8 / len(rows)
    for k, (label, names) in enumerate(rows.items()):
        numbers = [[run[name] for run in runs] for name in names]
        seeds = 100 * np.array([[x[0] for x in each] for each in numbers])
        ends = 100 * np.array([interval(each, [[0.0]] * len(runs)) for each in numbers]).T
        at = np.arange(len(names)) + width * (k - (len(rows) - 1) / 2)
        axes.bar(at, seeds.mean(1), 0.95 * width, color=BARS[k], label=label)
        axes.vlines(at, *ends, color="0.35")
        if len(runs) > 1:
            axes.plot(at, seeds, "_", color="black", ms=5)
    axes.axhline(0, color="black", lw=0.8)


def bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)

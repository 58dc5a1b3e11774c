"""What the recipes' figures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .claims import Numbers

# Okabe and Ito's colours: distinct with any colour vision.
COLOURS = ["#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"]


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curve(axes, runs: Sequence[Numbers], name: str, colour: str, label: str, **style) -> None:
    """The mean over seeds of a curve over epochs, with a band from the least to the largest."""
    values = np.array([[number[0] for number in run[f"curves/{name}"]] for run in runs])
    epochs = np.arange(1, values.shape[1] + 1)
    axes.plot(epochs, values.mean(0), color=colour, label=label, **style)
    axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)


def bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)

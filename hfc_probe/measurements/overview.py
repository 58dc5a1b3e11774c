"""One figure of an audit: example images, accuracy by radius, the heatmap, the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC, new_figure, show_image, styled
from ..core.intervals import percent
from ..ground.errors import InputError
from .fourier_heatmap.result import heatmap_axes
from .kernel_spectra import profile_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data.samples import Samples


def overview_figure(results: Sequence[Any], samples: Samples | None, title: str) -> Figure:
    """What the tool shows, on one page: examples of LFC and HFC, accuracy, heatmap, kernels.

    Args:
        results: results of one model; of each kind the first is drawn.
        samples: the images looked at; the first is shown filtered. None leaves the row out.
        title: printed on top.

    Raises:
        InputError: none of the results has a panel here.
    """
    kinds = {result.name: result for result in reversed(list(results))}
    accuracy = kinds.get("frequency_accuracy")
    panels = [n for n in ("frequency_accuracy", "fourier_heatmap", "kernel_spectra") if n in kinds]
    if not panels:
        raise InputError(f"overview: expected results to draw, got {sorted(kinds) or 'none'}")
    with styled():
        examples = samples is not None and accuracy is not None
        figure = new_figure(4.6 * len(panels), 4.1 + (3.9 if examples else 0))
        figure.suptitle(title, fontsize=13)
        bottom: Any = figure
        if samples is not None and accuracy is not None:
            parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1), hspace=0.03)
            _example_axes(parts[0], accuracy, samples)
            bottom = parts[1]
        for axes, name in zip(np.ravel(bottom.subplots(1, len(panels))), panels, strict=True):
            if name == "frequency_accuracy":
                kinds[name].draw(axes)
                fed = fourier.rescale_note(kinds[name].settings["rescale"], "\n")
                axes.set_title(f"Accuracy by frequency{fed}")
            elif name == "fourier_heatmap":
                heatmap_axes(axes, kinds[name])
            else:
                profile_axes(axes, kinds[name])
                axes.set_title(f"Kernels of {kinds[name].layer or 'the model'}")
    return figure


def _example_axes(figure: Any, accuracy: Any, samples: Samples) -> None:
    """One image, its LFC and its HFC per radius, with the accuracy under each."""
    arrays = accuracy.arrays()
    image = samples.pixels(slice(0, 1))
    radii = [float(r) for r in accuracy.radii][:5]
    settings = accuracy.settings
    # As they are: rescaled, an HFC on grey would show less.
    _, *parts = fourier.components(image, radii, closed=settings["closed"], units=settings["units"])
    grid: Any = figure.subplots(2, 1 + len(radii))
    for row in grid:
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_visible(False)
    show_image(grid[0][0], image)
    grid[0][0].set_title(f"original\n{percent(float(arrays['original']))}", fontsize=10)
    for k, view in enumerate(parts):
        row, column = k % 2, k // 2
        show_image(grid[row][column + 1], view.images + 0.5 * row)
        rate = percent(float(arrays[view.part][column]))
        grid[row][column + 1].set_title(
            f"{view.part.upper()}, r = {view.radius:g}\n{rate}",
            fontsize=10,
            color=(LFC, HFC)[row],
        )
    grid[1][0].text(
        0.5,
        0.5,
        f"accuracy on\n{accuracy.samples} images\n\nHFC is drawn\non grey and fed\n"
        f"with {accuracy.background}\nbackground" + (",\nrescaled" if settings["rescale"] else ""),
        ha="center",
        va="center",
        fontsize=9,
        color=CLEAN,
    )

"""Pictures of two runs to the same scales, and the difference of their heatmaps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.drawing import map_extent, new_figure, png, styled
from ..core.intervals import square_and_add

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..core.result import Result

logger = logging.getLogger(__name__)
# Blue, white, vermilion, as in the tab.
_COLOURS = ("#08335c", "#0072b2", "#6db3d9", "#f7f7f7", "#eda67a", "#d55e00", "#6e2f00")


def drawn(first: Path, second: Path, *, difference: bool) -> tuple[bytes, bytes, bytes] | None:
    """PNG files of two saved results, drawn to the same scales, and of B − A if they are heatmaps.

    Args:
        difference: whether B − A means anything.

    Returns:
        None if one of the files cannot be drawn any more, as a stranger's may not.
    """
    from ..measurements.loading import load

    try:
        one, two = load(first), load(second)
        figures = one.figure(), two.figure()
        share(*figures)
        return png(figures[0]), png(figures[1]), _gap(one, two) if difference else b""
    except Exception:
        logger.debug("%s and %s are not drawn", first, second, exc_info=True)
        return None


def share(one: Figure, two: Figure) -> None:
    """Give two figures of the same make the same limits and colour scales, panel by panel."""
    if len(one.axes) != len(two.axes):
        return
    for pair in zip(one.axes, two.axes, strict=True):
        if any(axes.get_label() == "<colorbar>" for axes in pair):
            continue
        pictures = [axes.images for axes in pair]
        if any(pictures):
            for maps in zip(*pictures, strict=False):
                if all(map_.get_array().ndim == 2 for map_ in maps):  # colours have no scale
                    low, high = zip(*(map_.get_clim() for map_ in maps), strict=True)
                    for map_ in maps:
                        map_.set_clim(min(low), max(high))
            continue
        for name in "xy":
            if _words(pair[0], name) == _words(pair[1], name):
                _widen(name, *pair)


def _words(axes: Axes, name: str) -> list[str]:
    """What stands at the ticks if it is words; bars of other things share no axis."""
    from matplotlib.ticker import FixedFormatter

    axis = axes.xaxis if name == "x" else axes.yaxis
    formatter = axis.get_major_formatter()
    return list(formatter.seq) if isinstance(formatter, FixedFormatter) else []


def _widen(name: str, *pair: Axes) -> None:
    limits = [getattr(axes, f"get_{name}lim")() for axes in pair]
    low = min(min(one) for one in limits)
    high = max(max(one) for one in limits)
    for axes, (start, end) in zip(pair, limits, strict=True):
        getattr(axes, f"set_{name}lim")((low, high) if start < end else (high, low))


def _gap(one: Result, two: Result) -> bytes:
    """B − A of two heatmaps, grey in cells whose 95 % interval of it includes 0; else nothing."""
    maps: list[dict[str, Any]] = [result.arrays() for result in (one, two)]
    if not all({"error", "lower", "upper"} <= map_.keys() for map_ in maps):
        return b""
    axes_of = [result.axes().get("error", {}).get("axes", []) for result in (one, two)]
    if axes_of[0] != axes_of[1] or len(axes_of[0]) != 2:
        return b""
    (a, b), values = maps, maps[1]["error"] - maps[0]["error"]
    low, high = square_and_add(
        *(b["error"], b["lower"], b["upper"]), *(a["error"], a["lower"], a["upper"])
    )
    clear = (low > 0) | (high < 0)
    most = float(np.nanmax(np.abs(values), initial=1e-6))
    i, j = (np.asarray(axis["values"]) for axis in axes_of[0])
    with styled():
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("difference", _COLOURS)
        figure = new_figure(6, 4.8)
        panel = figure.subplots()
        picture = panel.imshow(
            np.where(clear, values, np.nan),
            cmap=colours.with_extremes(bad="#808080"),
            vmin=-most,
            vmax=most,
            extent=map_extent(i, j),
            interpolation="nearest",
        )
        panel.set_xlabel("j, horizontal (cycles/image)")
        panel.set_ylabel("i, vertical (cycles/image)")
        panel.set_title(f"B − A; grey: no clear difference ({clear.mean():.0%} of cells differ)")
        bar = figure.colorbar(picture, ax=panel, shrink=0.92, pad=0.02)
        bar.set_label(f"difference of {one.axes()['error'].get('unit', 'error')}")
        return png(figure)

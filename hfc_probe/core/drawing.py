"""Matplotlib words for all figures: fit for a talk, safe for colour-blind eyes, DC in the middle.

Figures are made without pyplot, so that nothing of the caller's plotting state changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours: distinct with any colour vision.
LFC, HFC, CLEAN = "#0072B2", "#D55E00", "#444444"


_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "black",
    "axes.labelcolor": "black",
    "savefig.facecolor": "white",
}


@contextmanager
def styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # figures look the same whatever style the caller chose
        matplotlib.rcParams.update(_STYLE)
        yield


def radius_axis(axes: Axes, radii: Iterable[float], unit: str) -> None:
    """Name an axis of radii, with a tick at each and a label at those that have room for one."""
    known = sorted({float(r) for r in radii if np.isfinite(r)})
    axes.set_xlabel(f"radius r ({unit})")
    figure: Any = axes.figure
    grid = axes.get_subplotspec()
    inches = figure.bbox.width / figure.dpi  # of a part of a figure, too
    inches *= grid.get_position(figure).width if grid else axes.get_position().width
    extent = (known[-1] - known[0]) if known else 0.0
    labels: list[str] = []
    end = -np.inf
    for radius in known:
        text = f"{radius:g}"
        middle = (radius - known[0]) / (extent or 1) * 0.9 * inches
        half = 0.055 * len(text)  # inches, at the size of tick labels
        labels.append(text if middle - half > end else "")
        end = middle + half + 0.05 if labels[-1] else end
    axes.set_xticks(known, labels)


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    # A notebook shows it as it is; IPython itself draws only figures of pyplot.
    figure._repr_png_ = partial(png, figure)  # type: ignore[attr-defined]
    return figure


def map_extent(i: NDArray[Any], j: NDArray[Any]) -> tuple[float, float, float, float]:
    """Edges of a map whose cells are at frequencies i and j, evenly spaced."""
    down = (i[1] - i[0]) / 2 if len(i) > 1 else 0.5
    along = (j[1] - j[0]) / 2 if len(j) > 1 else 0.5
    return (j[0] - along, j[-1] + along, i[-1] + down, i[0] - down)


def show_image(axes: Axes, image: torch.Tensor) -> None:
    pixels = image[0].clamp(0, 1).permute(1, 2, 0).float().numpy()
    if pixels.shape[-1] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    import io

    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def show_pixels(axes: Axes, pixels: NDArray[Any]) -> None:
    """An image ``(C, H, W)`` in [0, 1] without ticks; other than three channels as grey."""
    picture = np.moveaxis(np.clip(pixels, 0, 1), 0, -1)
    if picture.shape[-1] == 3:
        axes.imshow(picture, interpolation="nearest")
    else:
        axes.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(axes)


def bare(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def spectrum_axes(axes: Axes, power: NDArray[Any], title: str, label: str) -> None:
    """A power spectrum in decades with DC in the middle."""
    rows, columns = power.shape
    extent = (
        -(columns // 2) - 0.5,
        columns - columns // 2 - 0.5,
        rows - rows // 2 - 0.5,
        -(rows // 2) - 0.5,
    )
    picture = axes.imshow(decades(power), cmap="magma", extent=extent, interpolation="nearest")
    axes.set_xlabel("j, horizontal (cycles/image)")
    axes.set_ylabel("i, vertical (cycles/image)")
    axes.set_title(title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label(label)


def tile(tiles: NDArray[Any], columns: int | None = None) -> NDArray[np.uint8]:
    """``(N, h, w, c)`` with values from 0 to 255 as one picture, about square unless told."""
    count, height, width, depth = tiles.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    zoom = max(1, 32 // max(height, width))
    tiles = np.kron(np.nan_to_num(tiles), np.ones((1, zoom, zoom, 1)))
    gap = max(1, zoom // 4)
    high, wide = height * zoom + gap, width * zoom + gap
    out = np.full((rows * high + gap, columns * wide + gap, depth), 255.0)
    for k, tile in enumerate(tiles):
        top, left = gap + (k // columns) * high, gap + (k % columns) * wide
        out[top : top + high - gap, left : left + wide - gap] = tile
    picture = out.clip(0, 255).astype(np.uint8)
    return picture[..., 0] if depth == 1 else picture


def image_tiles(images: NDArray[Any], columns: int) -> NDArray[np.uint8]:
    """Images ``(N, C, H, W)`` in [0, 1] side by side; other than three channels as grey."""
    shown = images if images.shape[1] == 3 else images.mean(1, keepdims=True)
    return tile(255 * np.moveaxis(shown, 1, -1), columns)


def coloured(values: NDArray[Any], cmap: str) -> NDArray[np.uint8]:
    """Values in [0, 1] as colours, one more axis of three; NaN is white."""
    from matplotlib import colormaps

    pixels = np.asarray(colormaps[cmap](values, bytes=True))[..., :3]
    return np.where(np.isnan(values)[..., None], np.uint8(255), pixels)


def map_pixels(
    values: NDArray[Any], ends: tuple[float, float] | None = None, cmap: str = "viridis"
) -> NDArray[np.uint8]:
    """A map ``(H, W)`` as a picture for TensorBoard, without axes: a square for each cell.

    Args:
        ends: values of the darkest and the brightest colour; None: as they occur.
    """
    low, high = ends or (float(np.nanmin(values)), float(np.nanmax(values)))
    zoom = max(1, 256 // max(values.shape))
    picture = coloured((values - low) / ((high - low) or 1.0), cmap)
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def decades(values: NDArray[Any], most: float = np.inf) -> NDArray[np.float64]:
    """log10 of values, those of 0 and those too far below the largest at the lower end."""
    positive = values[values > 0]
    floor = float(positive.min()) if len(positive) else 1.0
    floor = max(floor, float(np.max(values)) / 10**most)
    return np.asarray(np.log10(np.maximum(values, floor)))

"""matplotlib figures of results: fit for a talk, safe for colour-blind eyes, DC in the middle.

Figures are made without pyplot, so that nothing of the caller's plotting state changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import fourier
from .errors import InputError
from .proportions import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .measurements.base import Result
    from .measurements.fourier_sensitivity import FourierSensitivityResult
    from .measurements.frequency_accuracy import FrequencyAccuracyResult
    from .measurements.heatmap_result import FourierHeatmapResult
    from .measurements.kernel_spectra import KernelSpectraResult
    from .samples import Samples

# Okabe and Ito's colours: told apart with any colour vision.
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
_KERNELS_SHOWN = 64


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # figures look the same whatever style the caller chose
        matplotlib.rcParams.update(_STYLE)
        yield


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def accuracy_figure(result: FrequencyAccuracyResult) -> Figure:
    """Accuracy on LFC and HFC against radius, with intervals as bands."""
    with _styled():
        figure = _new_figure(6.4, 4.2)
        accuracy_axes(figure.subplots(), result)
    return figure


def accuracy_axes(axes: Axes, result: FrequencyAccuracyResult) -> None:
    arrays = result.arrays()
    radii = result.radii
    hfc = f"HFC, d > r ({result.background} background)"
    fed = fourier.rescale_note(result.settings["rescale"], "\n")
    for name, colour, style, label in (
        ("lfc", LFC, "-", "LFC, d ≤ r"),
        ("hfc", HFC, "--", hfc),
    ):
        if not result.settings["closed"]:
            label = label.replace("≤", "<").replace(">", "≥")
        axes.fill_between(
            radii, arrays[f"{name}_lower"], arrays[f"{name}_upper"], color=colour, alpha=0.18, lw=0
        )
        axes.plot(radii, arrays[name], style, marker="o", color=colour, label=label)
    clean = float(arrays["original"])
    axes.axhline(clean, color=CLEAN, lw=1.2, ls=":")
    axes.annotate(
        f"original {percent(clean)}",
        (1, clean),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=CLEAN,
        fontsize=9,
    )
    cycles = result.settings["units"] == "cycles"
    axes.set_xlabel("radius r (cycles/image)" if cycles else "radius r (× Nyquist)")
    axes.set_xticks(radii)
    top = "" if result.topk[0] == 1 else f"top-{result.topk[0]} "
    axes.set_ylabel(f"{top}accuracy")
    axes.set_ylim(0, 1.08)
    axes.set_title(f"Accuracy by frequency ({result.samples} images, 95 % intervals){fed}")
    axes.legend(frameon=False, fontsize=9, loc="best")


def heatmap_figure(result: FourierHeatmapResult) -> Figure:
    """The error map with DC in the middle, and the error against distance from DC."""
    with _styled():
        figure = _new_figure(10.4, 4.7)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        heatmap_axes(left, result)
        _radial_axes(right, result)
        figure.supxlabel(
            f"{result.passes:,} forward passes; {result.made_by()}", fontsize=9, color=CLEAN
        )
    return figure


def heatmap_axes(axes: Axes, result: FourierHeatmapResult) -> None:
    i, j = result.frequencies()
    error = result.arrays()["error"]
    is_error = result.quantity == "error"
    picture = axes.imshow(
        error,
        cmap="viridis",
        vmin=0 if is_error else None,
        vmax=1 if is_error else None,
        extent=_extent(i, j),
        interpolation="nearest",
    )
    axes.set_xlabel("j, horizontal (cycles/image)")
    axes.set_ylabel("i, vertical (cycles/image)")
    what = "Error" if is_error else result.unit.capitalize()
    axes.set_title(f"{what} under Fourier noise, norm {result.norm:.1f}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.92, pad=0.02)
    clean = float(result.arrays()["clean_error"])
    bar.set_label(f"{result.unit} (no noise: {clean:.2f})")
    low, high = picture.get_clim()
    if low <= clean <= high:
        bar.ax.axhline(clean, color="white", lw=2)
    if result.unsafe:
        cells = [(a, b) for i_, j_ in result.unsafe for a, b in ((i_, j_), (-i_, -j_))]
        inside = [(a, b) for a, b in cells if i[0] <= a <= i[-1] and j[0] <= b <= j[-1]]
        size = 60 * (20 / max(len(i), 8)) ** 2
        axes.scatter(
            [b for _, b in inside],
            [a for a, _ in inside],
            s=size,
            marker="s",
            facecolors="none",
            edgecolors=HFC,
            linewidths=1.6,
        )


def _extent(i: NDArray[Any], j: NDArray[Any]) -> tuple[float, float, float, float]:
    """Edges of a map whose cells are at frequencies i and j, evenly spaced."""
    down = (i[1] - i[0]) / 2 if len(i) > 1 else 0.5
    along = (j[1] - j[0]) / 2 if len(j) > 1 else 0.5
    return (j[0] - along, j[-1] + along, i[-1] + down, i[0] - down)


def _radial_axes(axes: Axes, result: FourierHeatmapResult) -> None:
    arrays = result.arrays()
    i, j = result.frequencies()
    distance = np.sqrt(i[:, None] ** 2 + j[None, :] ** 2)
    error = arrays["error"]
    if result.rings:
        radius, mean = arrays["radius"], arrays["radial_error"]
        half = [mean - arrays["radial_lower"], arrays["radial_upper"] - mean]
        axes.errorbar(
            radius,
            mean,
            np.maximum(half, 0),
            color=LFC,
            lw=2,
            elinewidth=1.2,
            capsize=2.5,
            marker="o",
            ms=4,
            label="mean over ring (95 % interval)",
        )
    else:
        axes.scatter(
            distance.ravel(), error.ravel(), s=5, color=CLEAN, alpha=0.25, lw=0, rasterized=True
        )
        ring = np.floor(distance + 0.5).astype(int).ravel()
        known = ~np.isnan(error.ravel())
        count = np.bincount(ring[known], minlength=ring.max() + 1)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(ring[known], error.ravel()[known], ring.max() + 1) / count
        full = np.flatnonzero(count)
        axes.plot(full, mean[full], color=LFC, lw=2.2, label="mean over ring")
    clean = [float(arrays[f"clean_error{part}"]) for part in ("", "_lower", "_upper")]
    if np.isfinite(clean[1]):
        axes.axhspan(clean[1], clean[2], color=HFC, alpha=0.18, lw=0)
    label = "no noise (95 % interval)" if np.isfinite(clean[1]) else "no noise"
    axes.axhline(clean[0], color=HFC, ls="--", label=label)
    axes.set_xlim(0, max(float(distance.max()), 1.0))
    if result.quantity == "error":
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("distance from DC (cycles/image)")
    axes.set_ylabel(result.unit)
    low, high = int(arrays["count"].min()), int(arrays["count"].max())
    each = f"{low}" if low == high else f"{low} to {high}"
    axes.set_title(f"By frequency ({each} of {result.samples} images each)")
    axes.legend(frameon=False, fontsize=9)


def sensitivity_figure(result: FourierSensitivityResult) -> Figure:
    """The gradient's spectrum with DC in the middle, and its profile over rings."""
    from matplotlib.colors import LogNorm

    with _styled():
        figure = _new_figure(10.4, 4.4)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        i, j = result.frequencies()
        top = float(result.sensitivity.max())
        positive = result.sensitivity[result.sensitivity > 0]
        bottom = max(float(positive.min()), top / 1e4) if len(positive) else 1e-3
        scale = LogNorm(bottom, max(top, 1.01 * bottom))
        picture = left.imshow(
            np.maximum(result.sensitivity, bottom),
            cmap="viridis",
            norm=scale,
            extent=_extent(i, j),
            interpolation="nearest",
        )
        left.set_xlabel("j, horizontal (cycles/image)")
        left.set_ylabel("i, vertical (cycles/image)")
        channels = {"rms": "RMS over", "mean": "of the mean over"}[result.settings["channels"]]
        left.set_title(f"Fourier sensitivity, {channels} channels ({result.samples} images)")
        for side in ("top", "right"):
            left.spines[side].set_visible(True)
        bar = figure.colorbar(picture, ax=left, shrink=0.92, pad=0.02)
        bar.set_label("mean |F(∇ₓ loss)| (loss per unit L2 norm)")
        arrays = result.arrays()
        right.plot(arrays["radius"], arrays["radial_profile"], color=LFC, lw=2.2)
        right.set_xlim(0, float(arrays["radius"].max()))
        right.set_ylim(bottom=0)
        right.set_xlabel("distance from DC (cycles/image)")
        right.set_ylabel("mean over ring (loss per unit L2 norm)")
        right.set_title(f"By frequency; centred at {result.centroid():.1f} cycles/image")
    return figure


def kernel_figure(result: KernelSpectraResult) -> Figure:
    """The kernels and their spectra as grids, and the mean radial profile."""
    shown = min(_KERNELS_SHOWN, len(result.kernels))
    rest = len(result.kernels) - shown
    with _styled():
        figure = _new_figure(12.6, 4.4)
        first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        few = f" (first {shown} of {shown + rest})" if rest else ""
        pixels = kernel_tiles(result.kernels[:shown])
        first.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        kind = "colour: R, G, B weights" if pixels.ndim == 3 else "mean over channels"
        first.set_title(f"Kernels of {result.layer or 'the model'}{few}")
        first.set_xlabel(f"{kind}; grey is 0, each scaled by itself", fontsize=9)
        second.imshow(spectrum_tiles(result.spectra[:shown]), interpolation="nearest")
        second.set_title("Their power spectra")
        second.set_xlabel("DC in the middle, ±0.5 cycles/pixel; each scaled by itself", fontsize=9)
        for axes in (first, second):
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_visible(False)
        _profile_axes(third, result)
    return figure


def _profile_axes(axes: Axes, result: KernelSpectraResult) -> None:
    arrays = result.arrays()
    x, profile = arrays["radial_frequency"], arrays["radial_profile"]
    alive = profile[~np.isnan(result.smoothness)]
    if len(alive):
        alive = alive / alive.max(1, keepdims=True)
        low, high = np.percentile(alive, (10, 90), axis=0)
        axes.fill_between(x, low, high, color=LFC, alpha=0.18, lw=0, label="10 to 90 % of kernels")
        axes.plot(x, alive.mean(0), color=LFC, lw=2.2, label="mean over kernels")
    axes.axvline(0.25, color=CLEAN, ls=":", lw=1.2)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("frequency (cycles/pixel)")
    axes.set_ylabel("power, relative to each kernel's peak")
    mean = result.scalars().get(f"{result.section}/smoothness_mean")
    axes.set_title(
        "All kernels are zero" if mean is None else f"Radial profile; mean smoothness {mean:.2f}"
    )
    if len(alive):
        axes.legend(frameon=False, fontsize=9)


def kernel_tiles(kernels: NDArray[Any]) -> NDArray[np.uint8]:
    """Kernels side by side: colour where there are three channels, else the channels' mean.

    Args:
        kernels: ``(N, C, kh, kw)``.

    Returns:
        ``(H, W, 3)`` or ``(H, W)`` uint8; 128 is weight 0, each kernel scaled by itself.
    """
    tiles = kernels if kernels.shape[1] == 3 else kernels.mean(1, keepdims=True)
    peak = np.abs(tiles).max((1, 2, 3), keepdims=True)
    grey = 128 + 127 * tiles / np.where(peak > 0, peak, 1)
    return _grid(np.moveaxis(grey, 1, -1))


def spectrum_tiles(spectra: NDArray[Any]) -> NDArray[np.uint8]:
    """Power spectra ``(N, S, S)`` side by side, each scaled by its own peak, DC in the middle.

    Returns:
        ``(H, W, 3)`` uint8 in the magma map.
    """
    from matplotlib import colormaps

    power = np.nan_to_num(spectra)
    peak = power.max((1, 2), keepdims=True)
    tiles = colormaps["magma"](power / np.where(peak > 0, peak, 1), bytes=True)
    return _grid(np.asarray(tiles)[..., :3])


def _grid(tiles: NDArray[Any]) -> NDArray[np.uint8]:
    """``(N, h, w, c)`` with values from 0 to 255 as one picture, about square, enlarged."""
    count, height, width, depth = tiles.shape
    columns = int(np.ceil(np.sqrt(count)))
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


def scalars_figure(result: Result) -> Figure:
    """A result's numbers as bars, with those 95 % intervals that it has."""
    scalars, intervals = result.scalars(), result.intervals()
    with _styled():
        figure = _new_figure(7, 1.4 + 0.4 * max(len(scalars), 1))
        axes = figure.add_subplot()
        for k, (tag, value) in enumerate(scalars.items()):
            axes.barh(k, value, color=LFC)
            low, high = intervals.get(tag, (value, value))
            axes.plot([low, high], [k, k], color="black", linewidth=1.5)
        axes.set_yticks(range(len(scalars)), list(scalars))
        axes.invert_yaxis()
        axes.set_xlabel("value (95 % interval)" if intervals else "value")
        axes.set_title(result.name.replace("_", " ").capitalize())
    return figure


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
    with _styled():
        examples = samples is not None and accuracy is not None
        figure = _new_figure(4.6 * len(panels), 4.1 + (3.9 if examples else 0))
        figure.suptitle(title, fontsize=13)
        bottom: Any = figure
        if samples is not None and accuracy is not None:
            parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1), hspace=0.03)
            _example_axes(parts[0], accuracy, samples)
            bottom = parts[1]
        for axes, name in zip(np.ravel(bottom.subplots(1, len(panels))), panels, strict=True):
            if name == "frequency_accuracy":
                accuracy_axes(axes, kinds[name])
                fed = fourier.rescale_note(kinds[name].settings["rescale"], "\n")
                axes.set_title(f"Accuracy by frequency{fed}")
            elif name == "fourier_heatmap":
                heatmap_axes(axes, kinds[name])
            else:
                _profile_axes(axes, kinds[name])
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
    _show(grid[0][0], image)
    grid[0][0].set_title(f"original\n{percent(float(arrays['original']))}", fontsize=10)
    for k, view in enumerate(parts):
        row, column = k % 2, k // 2
        _show(grid[row][column + 1], view.images + 0.5 * row)
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


def _show(axes: Axes, image: torch.Tensor) -> None:
    pixels = image[0].clamp(0, 1).permute(1, 2, 0).float().numpy()
    if pixels.shape[-1] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    import io

    buffer = io.BytesIO()
    with _styled():
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()

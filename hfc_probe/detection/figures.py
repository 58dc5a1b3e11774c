"""Figures of a detection audit: AP by radius, AP by image, and the images that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC, new_figure, styled
from .coco import DetectionDataset
from .evaluation import METRICS
from .variants import ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours without the grey; matched boxes take them by category.
_BOXES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_SIZES = {
    "AP": "all objects",
    "AP_small": "small (< 32² px)",
    "AP_medium": "medium",
    "AP_large": "large (> 96² px)",
}
_LABELLED = 12  # boxes with a name in one picture; more cover each other


def draw_by_radius(figure: Any, result: Any) -> None:
    """AP of LFC and HFC against radius, overall and by size; bars for a single radius."""
    if len(result.radii) == 1:
        _bars(figure.subplots(), result)
    else:
        panels: Any = figure.subplots(1, 4, sharey=True, width_ratios=(1.5, 1, 1, 1))
        for axes, metric in zip(panels, _SIZES, strict=True):
            _curves(axes, result, metric)
        panels[0].set_ylabel("average precision (%)")
        panels[0].legend(frameon=False, fontsize=9, loc="best")
        panels[0].set_ylim(0, _top(result))
    figure.suptitle(
        f"Average precision by frequency ({result.samples} images, "
        f"HFC on {result.background} background{fourier.rescale_note(result.rescale)})",
        fontsize=12,
    )


def _top(result: Any) -> float:
    """Upper end of the AP axis, with room for a legend."""
    columns = [METRICS.index(m) for m in _SIZES]
    values = np.stack([v[columns] for v in result.metrics.values()])
    bounds = np.stack([v[columns, 1] for v in result.intervals_of.values()])
    values = np.fmax(values, bounds)
    return max(5.0, 118 * float(np.nanmax(values, initial=0.0)))


def _curves(axes: Axes, result: Any, metric: str) -> None:
    arrays, radii, column = result.arrays(), np.asarray(result.radii), METRICS.index(metric)
    for part, colour, style, sign in (("lfc", LFC, "-", "≤"), ("hfc", HFC, "--", ">")):
        if not result.settings["closed"]:
            sign = {"≤": "<", ">": "≥"}[sign]
        values = 100 * arrays[part][:, column]
        low, high = (100 * arrays[f"{part}_{bound}"][:, column] for bound in ("lower", "upper"))
        axes.fill_between(radii, low, high, color=colour, alpha=0.18, lw=0)
        label = f"{part.upper()}, d {sign} r"
        axes.plot(radii, values, style, marker="o", ms=5, color=colour, label=label)
    original = 100 * float(arrays["original"][column])
    known = np.isfinite(original)
    if known:
        bounds = [100 * float(arrays[f"original_{b}"][column]) for b in ("lower", "upper")]
        axes.axhspan(*bounds, color=CLEAN, alpha=0.1, lw=0)
        axes.axhline(original, color=CLEAN, lw=1.2, ls=":", label="original")
    axes.set_title(
        f"{_SIZES[metric]}\n" + (f"original {original:.1f} %" if known else "no objects")
    )
    axes.set_xlabel(f"radius r ({result.unit})")
    axes.set_xticks(radii[np.isfinite(radii)])


def _bars(axes: Axes, result: Any) -> None:
    columns = [METRICS.index(m) for m in _SIZES]
    colours = dict(zip(result.variants, (CLEAN, LFC, HFC), strict=True))
    for k, (name, colour) in enumerate(colours.items()):
        values = 100 * result.metrics[name][columns]
        places = np.arange(len(columns)) + 0.27 * (k - 1)
        axes.bar(places, np.nan_to_num(values), 0.25, color=colour, label=result.label(name))
        for m, (x, value) in enumerate(zip(places, values, strict=True)):
            above = value
            low, high = 100 * result.intervals_of[name][columns[m]]
            if np.isfinite(low):
                (line,) = axes.plot([x, x], [low, high], color="black", lw=1.4)
                if name == ORIGINAL and m == 0:
                    line.set_label("95 % interval")
                above = max(value, high)
            text = f"{value:.1f}" if np.isfinite(value) else "–"
            axes.annotate(
                text,
                (x, np.nan_to_num(above)),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    axes.set_xticks(np.arange(len(columns)), [_SIZES[m].replace(" (", "\n(") for m in _SIZES])
    axes.set_ylabel("average precision (%)")
    axes.set_ylim(0, _top(result))
    axes.legend(frameon=False, fontsize=9, title=f"r in {result.unit}", title_fontsize=9)
    axes.tick_params(axis="x", length=0)


def scatter_figure(result: Any, variant: str) -> Figure:
    """AP of each image alone, original against a variant; gains and drops in colour."""
    base, other = 100 * result.images_ap[ORIGINAL], 100 * result.images_ap[variant]
    gains, drops = result.changes(variant, "gain"), result.changes(variant, "drop")
    margin, floor = 100 * result.settings["margin"], 100 * result.settings["floor"]
    kinds = np.zeros(len(base), dtype=int)
    kinds[gains.images], kinds[drops.images] = 1, 2
    with styled():
        figure = new_figure(5.6, 6.3)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=CLEAN, lw=1)
        for kind, colour, marker, label in (
            (0, CLEAN, ".", "neither"),
            (1, LFC, "^", "better"),
            (2, HFC, "v", "worse"),
        ):
            chosen = kinds == kind
            known = chosen & np.isfinite(base)
            size = 14 if kind else 20
            axes.scatter(
                base[known],
                other[known],
                s=size,
                marker=marker,
                color=colour,
                alpha=0.65,
                lw=0,
                rasterized=len(base) > 1000,
                label=f"{label} ({int(known.sum())})",
            )
        axes.axvline(floor, color=CLEAN, lw=0.8, ls=":")
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_aspect("equal")
        axes.set_xlabel("AP of the image, original (%)")
        axes.set_ylabel(f"AP of the image, {result.label(variant)} (%)")
        unit = "cycles/image" if result.settings["units"] == "cycles" else "× Nyquist"
        axes.set_title(
            f"{int(np.isfinite(base).sum())} images; {len(gains.images_any)} with any gain, "
            f"{len(drops.images_any)} with any drop\n(r in {unit}; margin {margin:g}, "
            f"floor {floor:g} %)",
            fontsize=10,
        )
        figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def examples_figure(
    result: Any,
    dataset: DetectionDataset,
    variant: str,
    positions: Sequence[int],
) -> Figure:
    """Original and variant side by side, matched boxes in colour, missed objects dashed.

    Args:
        positions: in ``result.image_ids``, one row each.

    Source: Wang et al., CVPR 2020, Figures 8 and 9.
    """
    images = [dataset.load(result.image_ids[k]).float() for k in positions]
    heights = [min(1.6, max(0.5, image.shape[1] / image.shape[2])) for image in images]
    with styled():
        figure = new_figure(9.6, 4.6 * sum(heights) + 0.62 * len(heights) + 0.5)
        grid: Any = figure.subplots(len(images), 2, squeeze=False, height_ratios=heights)
        for row, position, image in zip(grid, positions, images, strict=True):
            radius = result.radii[(result.variants.index(variant) - 1) % len(result.radii)]
            # As they are: a rescaled HFC on grey would leave the range.
            _, low, high = fourier.components(
                image,
                (radius,),
                closed=result.settings["closed"],
                units=result.settings["units"],
                background=0.5,
            )
            for axes, name, pixels in (
                (row[0], ORIGINAL, image),
                (row[1], variant, (low if variant.startswith("lfc") else high).images),
            ):
                _example(axes, result, position, name, pixels)
        figure.supxlabel(
            "solid: found (IoU ≥ 0.5), with class and score; dashed: missed; false above: "
            "detections that match nothing\nand score at least as high as the last one that does",
            fontsize=8.5,
        )
    return figure


def _example(axes: Axes, result: Any, position: int, variant: str, pixels: Any) -> None:
    import matplotlib.patheffects as effects
    from matplotlib.patches import Rectangle

    shown = pixels.clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(shown if shown.shape[-1] == 3 else shown.mean(-1), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    image_id = result.image_ids[position]
    found = result.predictions[variant].get(image_id)
    mine = [k for k, o in enumerate(result.objects) if o["image_id"] == image_id]
    categories = sorted({result.objects[k]["category_id"] for k in mine})
    mine.sort(key=lambda k: -result.objects[k]["area"])
    outline: list[Any] = [effects.withStroke(linewidth=3.2, foreground="black", alpha=0.55)]
    for rank, k in enumerate(mine):
        target = result.objects[k]
        match = int(result.match[variant][k])
        hit = match >= 0 and found is not None
        colour = _BOXES[categories.index(target["category_id"]) % len(_BOXES)]
        x, y, width, height = found.boxes[match] if hit and found is not None else target["bbox"]
        box = Rectangle(
            (x, y),
            width,
            height,
            fill=False,
            lw=1.8 if hit else 1.4,
            edgecolor=colour if hit else "white",
            ls="-" if hit else (0, (4, 3)),
        )
        box.set_path_effects(outline)
        axes.add_patch(box)
        if hit and rank < _LABELLED:
            name = result.truth.categories[target["category_id"]]
            axes.annotate(
                f"{name} {result.score[variant][k]:.2f}",
                (x, y),
                xytext=(2, -2),
                textcoords="offset points",
                va="top",
                fontsize=7.5,
                color="black",
                annotation_clip=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
            )
    hits = int((result.match[variant][mine] >= 0).sum())
    ap = 100 * result.images_ap[variant][position]
    change = ""
    if variant != ORIGINAL:
        change = f" ({ap - 100 * result.images_ap[ORIGINAL][position]:+.1f})".replace("-", "−")
    title = f"{result.label(variant)}: AP {ap:.1f} %{change}, {hits} of {len(mine)} found"
    scores = result.score[variant][mine]
    if hits and found is not None:  # what stands above the last hit is what lowers AP
        false = int((found.scores >= np.nanmin(scores)).sum()) - hits
        title += f", {max(false, 0)} false above"
    axes.set_title(f"image {image_id}, {title}" if variant == ORIGINAL else title, fontsize=9)


__all__ = ["draw_by_radius", "examples_figure", "scatter_figure"]

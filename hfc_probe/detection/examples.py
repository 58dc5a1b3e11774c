"""Pictures of single images: what is found, falsely found and missed, original beside variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import fourier
from ..core.drawing import new_figure, show_pixels, styled
from .coco import DetectionDataset
from .doubts import corners, ious
from .matching import scenes
from .variants import ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FOUND, _FALSE, _MISSED = "#009E73", "#D55E00", "white"  # Okabe and Ito's green and vermilion
_LABELLED = 12  # boxes of a kind with a name in one picture; more cover each other
_WIDTH = 9.6


def examples_figure(
    result: Any, dataset: DetectionDataset, variant: str, positions: Sequence[int]
) -> Figure:
    """Original and variant side by side at the result's score threshold.

    Args:
        positions: in ``result.image_ids``, one row each.

    Source: Wang et al., CVPR 2020, Figures 8 and 9.
    """
    images = [dataset.load(result.image_ids[k]).float() for k in positions]
    heights = [min(1.6, max(0.5, image.shape[1] / image.shape[2])) for image in images]
    with styled():
        figure = new_figure(_WIDTH, 4.6 * sum(heights) + 0.62 * len(heights) + 0.5)
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
            f"detections of score ≥ {result.threshold:.2f}, {result.threshold_reason}\n"
            "green: found, with score and IoU; orange: false; dashed: missed",
            fontsize=8.5,
        )
    return figure


def _example(axes: Axes, result: Any, position: int, variant: str, pixels: Any) -> None:
    show_pixels(axes, pixels.numpy())
    image_id = result.image_ids[position]
    mine = [k for k, o in enumerate(result.objects) if o["image_id"] == image_id]
    mine.sort(key=lambda k: -result.objects[k]["area"])
    found = result.predictions[variant].get(image_id)
    hits: list[int] = []  # detections that match
    missed = []
    size = (pixels.shape[2], pixels.shape[1])
    categories = result.truth.categories
    for k in mine:
        target = result.objects[k]
        if not result.score[variant][k] >= result.threshold:
            missed.append(target)
            continue
        match = int(result.match[variant][k])
        box = found.boxes[match]
        both = (corners(np.array([b], dtype=np.float64)) for b in (box, target["bbox"]))
        overlap = float(ious(*both)[0, 0])
        text = f"{categories[target['category_id']]} {found.scores[match]:.2f}, IoU {overlap:.2f}"
        _box(axes, box, size, _FOUND, text if len(hits) < _LABELLED else "")
        hits.append(match)
    for rank, target in enumerate(missed):
        name = categories[target["category_id"]] if rank < _LABELLED else ""
        _box(axes, target["bbox"], size, _MISSED, name, dashed=True)
    false = _false(result, variant, image_id, hits)
    for rank, k in enumerate(false):
        name = categories[int(found.labels[k])]
        text = f"{name} {found.scores[k]:.2f}" if rank < _LABELLED else ""
        _box(axes, found.boxes[k], size, _FALSE, text)
    ap = 100 * result.images_ap[variant][position]
    change = ""
    if variant != ORIGINAL:
        change = f" ({ap - 100 * result.images_ap[ORIGINAL][position]:+.1f})".replace("-", "−")
    title = (
        f"{result.label(variant)}: AP {ap:.1f} %{change}, {len(hits)} of {len(mine)} found, "
        f"{len(false)} false"
    )
    axes.set_title(f"image {image_id}, {title}" if variant == ORIGINAL else title, fontsize=9)


def _false(result: Any, variant: str, image_id: Any, hits: list[int]) -> list[int]:
    """Detections from the threshold on that are wrong, best first."""
    found = result.predictions[variant]
    (scene,) = scenes(result.truth, [image_id], found, iou_type=result.iou_type)
    wrong = scene.rows[(scene.scores >= result.threshold) & ~scene.ignored]
    return [k for k in wrong.tolist() if k not in hits]


def _box(
    axes: Axes,
    box: Any,
    size: tuple[int, int],
    colour: str,
    text: str,
    *,
    dashed: bool = False,
) -> None:
    """A box within the frame; its name above it, or inside at its foot if there is no room.

    That of a missed object stands in the other corner: what hides it is named at the first.
    """
    import matplotlib.patheffects as effects
    from matplotlib.patches import Rectangle

    edge = 0.004 * max(size)
    x0, y0 = max(box[0], edge), max(box[1], edge)
    x1, y1 = min(box[0] + box[2], size[0] - edge), min(box[1] + box[3], size[1] - edge)
    patch = Rectangle(
        (x0, y0),
        max(x1 - x0, 0.0),
        max(y1 - y0, 0.0),
        fill=False,
        lw=1.4 if dashed else 1.8,
        edgecolor=colour,
        ls=(0, (4, 3)) if dashed else "-",
    )
    patch.set_path_effects([effects.withStroke(linewidth=3.2, foreground="black", alpha=0.55)])
    axes.add_patch(patch)
    if not text:
        return
    above = y0 > 0.05 * size[1]
    left = min(max(x0, 0.0), 0.75 * size[0])
    place = (max(x1, 0.2 * size[0]), y1) if dashed else (left, y0 if above else y1)
    axes.annotate(
        text,
        (place[0], min(place[1], 0.99 * size[1])),
        xytext=(-1 if dashed else 1, 1),
        textcoords="offset points",
        va="bottom",
        ha="right" if dashed else "left",
        fontsize=7,
        color="black",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )

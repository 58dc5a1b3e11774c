"""Radii placed where a detector's answer changes: ``radii="auto"``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import fourier
from ..ground.errors import InputError
from .coco import Detections, GroundTruth, ImageId, IouType
from .scoring import scorer
from .variants import variant_names

MOST = 12
LOOKED = 16  # images of the first look
_START = 3  # radii before the first bisection
_CLOSEST = 1.06  # ratio of neighbours that are not parted further

Scores = tuple[float, float]  # mean AP on LFC and on HFC


def place(
    score: Callable[[Sequence[float]], list[Scores]],
    lowest: float,
    top: float,
    *,
    whole: bool,
    most: int = MOST,
) -> tuple[float, ...]:
    """Radii between two, by bisection where the scores of two neighbours differ most.

    Distances are logarithmic, and LFC and HFC count alike: the larger difference decides, of equal
    ones the wider gap.

    Args:
        score: of some radii.
        lowest, top: neighbours of the first and the last radius, not among the radii.
        whole: whether radii are whole numbers.

    >>> place(lambda radii: [(float(r >= 20), 0.0) for r in radii], 1, 200, whole=True, most=6)
    (4, 14, 19, 23, 27, 53)
    """

    def between(a: float, b: float, share: float = 0.5) -> float:
        middle = a ** (1 - share) * b**share
        return round(middle) if whole else float(f"{middle:.3g}")

    start = [between(lowest, top, k / (_START + 1)) for k in range(1, _START + 1)]
    radii = sorted({r for r in start if lowest < r < top})
    ends = [lowest, *radii, top]
    found = dict(zip(ends, score(ends), strict=True))
    while len(radii) < most:
        known = sorted(found)
        gaps = []
        for a, b in pairwise(known):
            change = max(abs(x - y) for x, y in zip(found[a], found[b], strict=True))
            if a < between(a, b) < b and b / a >= _CLOSEST:
                gaps.append((change, math.log(b / a), between(a, b)))
        if not gaps:
            break
        middle = max(gaps)[2]
        found[middle] = score([middle])[0]
        radii = sorted([*radii, middle])
    return tuple(radii)


def placed(
    truth: GroundTruth,
    images: Mapping[ImageId, Tensor],
    show: Callable[[ImageId, Sequence[float]], Mapping[str, Detections]],
    *,
    units: fourier.Units,
    max_dets: int,
    iou_type: IouType,
) -> tuple[float, ...]:
    """The radii of an audit, from a first look at a few images with objects.

    Args:
        show: what the detector finds in an image, by variant.

    Raises:
        InputError: no image.
    """
    if not images:
        raise InputError(
            'radii: expected an image with an annotated object for "auto", got none; give numbers'
        )
    value = scorer(truth, list(images), "AP", max_dets=max_dets, iou_type=iou_type)

    def score(radii: Sequence[float]) -> list[Scores]:
        names = variant_names(radii)[1:]
        by_image = []
        for image_id in images:
            found = show(image_id, radii)
            by_image.append([value(image_id, found[name]) for name in names])
        means = np.mean(by_image, axis=0)
        return [(float(means[k]), float(means[len(radii) + k])) for k in range(len(radii))]

    top = max(fourier.corner(*image.shape[-2:], units=units) for image in images.values())
    cycles = units == "cycles"
    lowest, top = (1.0, float(math.ceil(top))) if cycles else (1 / 128, top)
    return place(score, lowest, top, whole=cycles)


def known_radii(folder: str | os.PathLike[str] | None) -> tuple[float, ...] | None:
    """Those that an earlier run placed, if it finished an image."""
    for part in sorted(Path(folder).glob("part-*.jsonl")) if folder is not None else ():
        try:
            with part.open("rb") as file:
                head = json.loads(file.readline())
            if head.get("placed"):
                return tuple(head["radii"])
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue  # damaged, as the store will see
    return None


__all__ = ["LOOKED", "MOST", "known_radii", "place", "placed"]

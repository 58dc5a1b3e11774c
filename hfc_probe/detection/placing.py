"""Radii placed where a detector's answer changes: ``radii="auto"``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import fourier
from ..ground.errors import InputError
from .audit import DetectionAudit, Detector, detect_variants, order, read_batch
from .coco import DetectionDataset, GroundTruth, ImageId
from .pictures import BrokenImageError
from .result import DetectionAuditResult
from .scoring import scored_images, scorer

MOST = 12
_LOOKED = 16  # images of the first look
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
    audit: DetectionAudit,
    run: Detector,
    dataset: DetectionDataset,
    image_ids: Sequence[ImageId],
    *,
    device: torch.device,
    background: Tensor | None,
) -> tuple[float, ...]:
    """The radii of an audit, from a first look at a few of its images.

    Raises:
        InputError: no image with an object that can be read.
    """
    truth = dataset.truth
    chosen = scored_images(truth, image_ids)
    if len(chosen) > _LOOKED:
        chosen = sorted(random.Random(audit.seed).sample(chosen, _LOOKED), key=order)
    images = {i: image for i in chosen for image in read_batch(dataset, [i])
              if not isinstance(image, BrokenImageError)}  # fmt: skip
    if not images:
        raise InputError(
            'radii: expected an image with an annotated object for "auto", got none; give numbers'
        )
    value = scorer(truth, list(images), "AP", max_dets=audit.most_dets, iou_type=audit.iou_type)

    def score(radii: Sequence[float]) -> list[Scores]:
        some = dataclasses.replace(audit, radii=tuple(radii))
        by_image = []
        for image_id, image in images.items():
            found = detect_variants(run, [image_id], [image], device, some, background)[image_id]
            assert not isinstance(found, BrokenImageError)
            by_image.append([value(image_id, found[name]) for name in some.variants[1:]])
        means = np.mean(by_image, axis=0)
        return [(float(means[k]), float(means[len(radii) + k])) for k in range(len(radii))]

    top = max(fourier.corner(*image.shape[-2:], units=audit.units) for image in images.values())
    cycles = audit.units == "cycles"
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


class PlacedAudit(DetectionAudit):
    """An audit whose radii were placed; its result says so."""

    def fingerprint(self, *given: Any) -> dict[str, Any]:
        return {**super().fingerprint(*given), "placed": True}

    def evaluate(
        self, truth: GroundTruth, predictions: Any, **options: Any
    ) -> DetectionAuditResult:
        result = super().evaluate(truth, predictions, **options)
        count = min(_LOOKED, len(scored_images(truth, result.image_ids)))
        note = (
            f"the {len(self.variants) // 2} radii were placed where AP changes on {count} of the "
            'images (radii="auto")'
        )
        settings = {**result.settings, "placed": True}
        return dataclasses.replace(result, settings=settings, notes=(*result.notes, note))


__all__ = ["MOST", "PlacedAudit", "known_radii", "place", "placed"]

"""Precision, recall, F1 and the confusion matrix at one score threshold and IoU 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId, IouType
from .matching import OVERLAP, scenes
from .resampling import percentile_interval


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """What one variant's detections above a threshold are.

    Attributes:
        threshold: the least score that counts.
        confusion: ``(K + 1, K + 1)`` counts, categories by rising id: true class by detected
            class. The last row holds false detections, the last column missed objects.
        by_image: ``(I, 3)`` right detections, detections and objects of each image.
    """

    threshold: float
    confusion: NDArray[np.int64]
    by_image: NDArray[np.int64]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Right detections, detections and objects."""
        right, shown, objects = self.by_image.sum(0).tolist()
        return right, shown, objects

    @property
    def precision(self) -> float:
        """Share of detections that are right; NaN if there are none."""
        right, shown, _ = self.counts
        return right / shown if shown else float("nan")

    @property
    def recall(self) -> float:
        """Share of objects that are found; NaN if there are none."""
        right, _, objects = self.counts
        return right / objects if objects else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing is found."""
        return float(_f1(self.by_image.sum(0)))

    def f1_interval(self, weights: NDArray[np.float64]) -> tuple[float, float]:
        """95 % bootstrap interval of F1 at this threshold.

        Args:
            weights: ``(B, I)`` how often each image is drawn, such as
                :func:`hfc_probe.detection.resampling.bootstrap_weights` gives.
        """
        ((low, high),) = percentile_interval(_f1(weights @ self.by_image)[:, None])
        return float(low), float(high)


def _f1(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Of right detections, detections and objects ``(…, 3)``; NaN if there are none."""
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * counts[..., 0] / (counts[..., 1] + counts[..., 2]))


def operating_point(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    threshold: float,
    iou_type: IouType = "bbox",
) -> OperatingPoint:
    """Match detections to objects, best score first: of their own class, then of any other."""
    categories = sorted(truth.categories)
    nothing = len(categories)
    confusion = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    by_image = []
    for scene in scenes(truth, image_ids, found, iou_type=iou_type):
        shown = scene.scores >= threshold
        true = np.searchsorted(categories, scene.categories)
        seen = np.searchsorted(categories, scene.labels)
        match = np.where(shown, scene.match, -1)
        by_image.append(((match >= 0).sum(), (shown & ~scene.ignored).sum(), len(true)))
        free = ~np.isin(np.arange(len(true)), match)
        for k in np.flatnonzero(shown & (match < 0) & ~scene.ignored).tolist():
            near = np.flatnonzero(free & (scene.overlap[k] >= OVERLAP))
            if len(near):
                match[k] = near[scene.overlap[k, near].argmax()]
                free[match[k]] = False
            else:
                confusion[nothing, seen[k]] += 1
        met = match >= 0
        np.add.at(confusion, (true[match[met]], seen[met]), 1)
        confusion[:, nothing] += np.bincount(true[free], minlength=nothing + 1)
    return OperatingPoint(threshold, confusion, np.array(by_image, dtype=np.int64))


def best_threshold(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    iou_type: IouType = "bbox",
) -> float | None:
    """The score from which on F1 is largest; None if no detection is right."""
    objects, pairs = 0, [np.zeros((0, 2))]
    for scene in scenes(truth, image_ids, found, iou_type=iou_type):
        objects += len(scene.categories)
        pairs.append(np.stack([scene.scores, scene.match >= 0], 1)[~scene.ignored])
    scores, right = np.concatenate(pairs).T
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) < 0, True)  # of the detections of one score
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + objects)
    return float(scores[order][np.where(last, f1, -1).argmax()])

"""Precision, recall, F1 and the confusion matrix at one score threshold and IoU 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId
from .doubts import corners, ious
from .errors_by_kind import in_crowd

_OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """What one variant's detections above a threshold are.

    Attributes:
        threshold: the least score that counts.
        confusion: ``(K + 1, K + 1)`` counts, categories by rising id: true class by detected
            class. The last row holds false detections, the last column missed objects.
    """

    threshold: float
    confusion: NDArray[np.int64]

    @property
    def precision(self) -> float:
        """Share of detections that are right; NaN if there are none."""
        return self._share(self.confusion[:, :-1].sum())

    @property
    def recall(self) -> float:
        """Share of objects that are found; NaN if there are none."""
        return self._share(self.confusion[:-1].sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing is found."""
        return self._share((self.confusion[:, :-1].sum() + self.confusion[:-1].sum()) / 2)

    def _share(self, of: float) -> float:
        return float(np.trace(self.confusion) / of) if of else float("nan")


def operating_point(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    threshold: float,
) -> OperatingPoint:
    """Match detections to objects, best score first: of their own class, then of any other.

    What lies in a crowd of its class does not count, as in COCO.
    """
    categories = sorted(truth.categories)
    place = {category: k for k, category in enumerate(categories)}
    nothing = len(categories)
    confusion = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    annotations: dict[ImageId, list[dict[str, Any]]] = {i: [] for i in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)
    for image_id, here in annotations.items():
        targets = [a for a in here if not a["iscrowd"]]
        true = np.array([place[t["category_id"]] for t in targets], dtype=np.int64)
        free = np.ones(len(targets), dtype=bool)
        detections = found.get(image_id)
        if detections is not None:
            order = np.argsort(-detections.scores, kind="stable")
            known = np.isin(detections.labels, categories) & (detections.scores >= threshold)
            order = order[known[order]]
            boxes, labels = corners(detections.boxes[order]), detections.labels[order]
            seen = np.array([place[k] for k in labels.tolist()], dtype=np.int64)
            aims = np.array([t["bbox"] for t in targets], dtype=np.float64).reshape(-1, 4)
            overlap = ious(boxes, corners(aims))
            left = np.ones(len(boxes), dtype=bool)
            for same in (True, False):
                allowed = overlap * ((seen[:, None] == true) == same)
                for k in np.flatnonzero(left).tolist() if len(targets) else ():
                    best = int((allowed[k] * free).argmax())
                    if free[best] and allowed[k, best] >= _OVERLAP:
                        confusion[true[best], seen[k]] += 1
                        left[k] = free[best] = False
            left &= ~in_crowd(boxes, labels, [a for a in here if a["iscrowd"]])
            confusion[nothing] += np.bincount(seen[left], minlength=nothing + 1)
        confusion[:, nothing] += np.bincount(true[free], minlength=nothing + 1)
    return OperatingPoint(threshold, confusion)

"""Which detections are right at IoU 0.5: one rule for errors by kind, F1, confusions and pictures.

As in COCO, detections of categories that the annotations do not have do not exist, and what lies in
a crowd of its own class is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId
from .doubts import corners, ious

OVERLAP = 0.5


class Scene(NamedTuple):
    """One image's n detections of known categories, best first, against its m objects.

    Attributes:
        categories: ``(m,)`` of the objects, crowds left out.
        rows: ``(n,)`` positions among the detections as the detector gave them.
        scores, labels: ``(n,)``.
        overlap: ``(n, m)`` IoU.
        match: ``(n,)`` the object that a detection is right about; −1: none.
        ignored: ``(n,)`` right about none, and half within a crowd of its class.
    """

    categories: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    overlap: NDArray[np.float64]
    match: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def scenes(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    most: int | None = None,
) -> Iterator[Scene]:
    """Match detections to objects of their class, best score first, image by image.

    Args:
        most: detections per image that count, best first; None for all.
    """
    annotations: dict[ImageId, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
    for image_id, here in annotations.items():
        objects = [a for a in here if not a["iscrowd"]]
        categories = np.array([a["category_id"] for a in objects], dtype=np.int64)
        boxes, scores, labels = found.get(image_id, nothing)
        rows = np.argsort(-scores, kind="stable")
        rows = rows[np.isin(labels[rows], list(truth.categories))][:most]
        boxes, scores, labels = corners(boxes[rows]), scores[rows], labels[rows]
        overlap = ious(boxes, _corners_of(objects))
        free = overlap * (labels[:, None] == categories)
        match = np.full(len(rows), -1)
        for k in range(len(rows) if objects else 0):
            best = int(free[k].argmax())
            if free[k, best] >= OVERLAP:
                match[k] = best
                free[:, best] = 0
        ignored = (match < 0) & _in_crowd(boxes, labels, [a for a in here if a["iscrowd"]])
        yield Scene(categories, rows, scores, labels, overlap, match, ignored)


def _in_crowd(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], crowds: list[dict[str, Any]]
) -> NDArray[np.bool_]:
    """Whether half of a box lies within a crowd of its class."""
    within = np.zeros(len(boxes), dtype=bool)
    for crowd, (x0, y0, x1, y1) in zip(crowds, _corners_of(crowds), strict=True):
        width = np.clip(np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0), 0, None)
        height = np.clip(np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0), 0, None)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        within |= (labels == crowd["category_id"]) & (width * height > OVERLAP * area)
    return within


def _corners_of(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
    return corners(boxes.reshape(-1, 4))

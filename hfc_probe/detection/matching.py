"""Which detections are right at IoU 0.5: one rule for errors by kind, F1, confusions and pictures.

As in COCO, detections of categories that the annotations do not have do not exist, and what lies in
a crowd of its own class is neither right nor wrong. As in LVIS, nor do those of categories that
nobody looked for in an image; where not all objects of one were annotated, no further one is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId, IouType, is_federated
from .doubts import corners, ious
from .overlap import Overlap, is_ignored, pick

OVERLAP = 0.5


class Scene(NamedTuple):
    """One image's n detections of known categories, best first, against its m objects.

    Attributes:
        categories: ``(m,)`` of the objects, crowds left out.
        rows: ``(n,)`` positions among the detections as the detector gave them.
        scores, labels: ``(n,)``.
        overlap: ``(n, m)`` IoU.
        match: ``(n,)`` the object that a detection is right about; −1: none.
        ignored: ``(n,)`` right about none, and half within a crowd of its class, or of a class
            whose objects were not all annotated.
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
    iou_type: IouType = "bbox",
) -> Iterator[Scene]:
    """Match detections to objects of their class, best score first, image by image.

    Args:
        most: detections per image that count, best first; None for all.
        iou_type: what is compared.
    """
    compare = None if iou_type == "bbox" else Overlap(truth, iou_type)
    annotations: dict[ImageId, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
    for image_id, here in annotations.items():
        ignored_here = [a for a in here if is_ignored(a, iou_type)]
        objects = [a for a in here if not is_ignored(a, iou_type)]
        categories = np.array([a["category_id"] for a in objects], dtype=np.int64)
        one = found.get(image_id, nothing)
        boxes, scores, labels = one[:3]
        rows = np.argsort(-scores, kind="stable")
        rows = rows[np.isin(labels[rows], list(truth.categories))][:most]
        image, loose = truth.images[image_id], ()
        if is_federated(image):
            looked_for = {a["category_id"] for a in here} | set(image["neg_category_ids"] or ())
            rows = rows[np.isin(labels[rows], list(looked_for))]
            loose = image.get("not_exhaustive_category_ids") or ()
        boxes, scores, labels = corners(boxes[rows]), scores[rows], labels[rows]
        if compare is None:
            overlap, within = ious(boxes, _corners_of(objects)), _inside(boxes, ignored_here)
        else:
            shapes = pick(compare.shapes(one), rows) if len(rows) else ()
            overlap = compare.between(shapes, objects)
            within = compare.between(shapes, ignored_here)
        free = overlap * (labels[:, None] == categories)
        match = np.full(len(rows), -1)
        for k in range(len(rows) if objects else 0):
            best = int(free[k].argmax())
            if free[k, best] >= OVERLAP:
                match[k] = best
                free[:, best] = 0
        kinds = np.array([a["category_id"] for a in ignored_here], dtype=np.int64)
        own = (within > OVERLAP) & (labels[:, None] == kinds)
        ignored = (match < 0) & (own.any(1) | np.isin(labels, list(loose)))
        yield Scene(categories, rows, scores, labels, overlap, match, ignored)


def _inside(boxes: NDArray[np.float64], crowds: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Share of each box that lies within each crowd ``(n, m)``."""
    areas = _corners_of(crowds)
    low = np.maximum(boxes[:, None, :2], areas[:, :2])
    shared = np.clip(np.minimum(boxes[:, None, 2:], areas[:, 2:]) - low, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    share: NDArray[np.float64] = np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)
    return share


def _corners_of(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
    return corners(boxes.reshape(-1, 4))

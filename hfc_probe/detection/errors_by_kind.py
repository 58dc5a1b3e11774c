"""Errors by kind: what each kind of mistake costs in AP at IoU 0.5, on every variant.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
§2.2 and §2.3. As in COCO, classes without objects have no AP, and detections within a crowd are
neither right nor wrong; the authors' package counts both. Without those, counts and costs equal the
package's (tidecv 1.0.1) to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId
from .doubts import corners, ious
from .evaluation import interpolated

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
_CLASS, _PLACE, _BOTH, _AGAIN, _BACKGROUND, _MISSED = range(len(KINDS))
_RIGHT, _IGNORED = -1, -2
_OVERLAP, _TOUCH = 0.5, 0.1  # the paper's t_f and t_b


@dataclass(frozen=True, eq=False)
class Errors:
    """Mistakes of one variant, in the order of :data:`KINDS`.

    Attributes:
        counts: ``(6,)`` detections, or missed objects, of each kind.
        cost: ``(6,)`` AP at IoU 0.5 that mending this kind alone would bring, in [0, 1].
        ap50: without mending.
    """

    counts: NDArray[np.int64]
    cost: NDArray[np.float64]
    ap50: float


@dataclass(eq=False)
class _Rows:
    """Detections of all images, and what became of them."""

    score: list[float]
    label: list[int]
    kind: list[int]
    mended: list[int]  # category that it is right in once mended; −1: it is taken away


def errors_of(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    *,
    max_dets: int = 100,
) -> Errors:
    """Sort every mistake into a kind, and mend one kind at a time.

    Args:
        max_dets: detections per image that count, best first.
    """
    annotations: dict[ImageId, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)
    rows = _Rows([], [], [], [])
    objects: dict[int, int] = {}
    missed: dict[int, int] = {}
    for image_id, here in annotations.items():
        targets = [a for a in here if not a["iscrowd"]]
        for target in targets:
            objects[target["category_id"]] = objects.get(target["category_id"], 0) + 1
        unmet = _image(rows, found.get(image_id), targets, here, max_dets)
        for category in unmet:
            missed[category] = missed.get(category, 0) + 1
    kind = np.array(rows.kind, dtype=np.int64)
    counts = np.array([int((kind == k).sum()) for k in range(_MISSED)] + [sum(missed.values())])
    ap50 = _mended_ap(rows, objects, None)
    cost = [_mended_ap(rows, objects, k) for k in range(_MISSED)]
    cost.append(_mended_ap(rows, {k: n - missed.get(k, 0) for k, n in objects.items()}, None))
    return Errors(counts, np.maximum(np.array(cost) - ap50, 0), ap50)


def _image(
    rows: _Rows,
    found: Detections | None,
    targets: list[dict[str, Any]],
    all_here: list[dict[str, Any]],
    max_dets: int,
) -> list[int]:
    """Sort one image's detections; returns the categories of objects that no mending finds."""
    categories = np.array([t["category_id"] for t in targets], dtype=np.int64)
    if found is None or not len(found.scores):
        return [t["category_id"] for t in targets]
    order = np.argsort(-found.scores, kind="stable")[:max_dets]
    boxes, labels, scores = corners(found.boxes[order]), found.labels[order], found.scores[order]
    placed = corners(np.array([t["bbox"] for t in targets], dtype=np.float64).reshape(-1, 4))
    overlap = ious(boxes, placed)
    same = labels[:, None] == categories
    own, other = overlap * same, overlap * ~same
    free, user = own.copy(), np.full(len(targets), -1)
    kind = np.full(len(boxes), _BACKGROUND)
    for k in range(len(boxes) if len(targets) else 0):
        best = int(free[k].argmax())
        if free[k, best] >= _OVERLAP:
            kind[k], user[best] = _RIGHT, k
            free[:, best] = 0
    inside = _in_crowd(boxes, labels, [a for a in all_here if a["iscrowd"]])
    kind[(kind != _RIGHT) & inside] = _IGNORED
    mended = np.full(len(boxes), -1)
    usable: dict[int, int] = {}  # object by the best-scored mistake that, mended, would find it
    for k in np.flatnonzero(kind == _BACKGROUND).tolist() if len(targets) else ():
        target = -1
        near, wrong = int(own[k].argmax()), int(other[k].argmax())
        if _TOUCH <= own[k, near] <= _OVERLAP:
            kind[k], target = _PLACE, near
        elif other[k, wrong] >= _OVERLAP:
            kind[k], target = _CLASS, wrong
        elif (own[k] * (user >= 0)).max() >= _OVERLAP:
            kind[k] = _AGAIN
        elif overlap[k].max() > _TOUCH:
            kind[k] = _BOTH
        if target >= 0 and user[target] < 0 and target not in usable:
            usable[target] = k
            mended[k] = categories[target]
    rows.score.extend(scores.tolist())
    rows.label.extend(labels.tolist())
    rows.kind.extend(kind.tolist())
    rows.mended.extend(mended.tolist())
    unmet = [t for t in range(len(targets)) if user[t] < 0 and t not in usable]
    return [targets[t]["category_id"] for t in unmet]


def _in_crowd(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], crowds: list[dict[str, Any]]
) -> NDArray[np.bool_]:
    """Whether half of a box lies within a crowd of its class."""
    within = np.zeros(len(boxes), dtype=bool)
    for crowd in crowds:
        x0, y0, x1, y1 = corners(np.array([crowd["bbox"]], dtype=np.float64))[0]
        width = np.clip(np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0), 0, None)
        height = np.clip(np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0), 0, None)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        within |= (labels == crowd["category_id"]) & (width * height > _OVERLAP * area)
    return within


def _mended_ap(rows: _Rows, objects: Mapping[int, int], mend: int | None) -> float:
    """Mean AP at IoU 0.5 over classes with objects, one kind of mistake being mended."""
    score, label = np.array(rows.score), np.array(rows.label, dtype=np.int64)
    kind, mended = np.array(rows.kind, dtype=np.int64), np.array(rows.mended, dtype=np.int64)
    right, counts = kind == _RIGHT, kind != _IGNORED
    if mend is not None:
        chosen = kind == mend
        label = np.where(chosen, mended, label)
        right |= chosen & (mended >= 0)
        counts &= ~chosen | (mended >= 0)
    order = np.argsort(-score, kind="stable")
    order = order[counts[order]]
    total = []
    for category, count in objects.items():
        hits = right[order][label[order] == category]
        if not count or not hits.any():
            total.append(0.0)  # also a class whose objects are all missed, as the authors' package
            continue
        met = np.cumsum(hits)[None].astype(np.float64)
        shown = np.arange(1.0, len(hits) + 1)[None]
        total.append(float(interpolated(met, shown, count)[0]))
    return float(np.mean(total)) if total else float("nan")

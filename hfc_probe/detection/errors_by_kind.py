"""Errors by kind: what each kind of mistake costs in AP at IoU 0.5, on every variant.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
§2.2 and §2.3. As in COCO, classes without objects have no AP, and detections within a crowd are
neither right nor wrong; the authors' package counts both. Without those, counts and costs equal the
package's (tidecv 1.0.1) to the last digit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId, IouType
from .evaluation import interpolated
from .matching import OVERLAP, Scene, scenes

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
_CLASS, _PLACE, _BOTH, _AGAIN, _BACKGROUND, _MISSED = range(len(KINDS))
_RIGHT, _IGNORED = -1, -2
_TOUCH = 0.1  # the paper's t_b


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
    iou_type: IouType = "bbox",
) -> Errors:
    """Sort every mistake into a kind, and mend one kind at a time.

    Args:
        max_dets: detections per image that count, best first.
    """
    rows = _Rows([], [], [], [])
    objects, missed = Counter[int](), Counter[int]()
    for scene in scenes(truth, image_ids, found, max_dets, iou_type=iou_type):
        objects.update(scene.categories.tolist())
        missed.update(_image(rows, scene))
    kind = np.array(rows.kind, dtype=np.int64)
    counts = np.array([int((kind == k).sum()) for k in range(_MISSED)] + [sum(missed.values())])
    ap50 = _mended_ap(rows, objects, None)
    cost = [_mended_ap(rows, objects, k) for k in range(_MISSED)]
    cost.append(_mended_ap(rows, {k: n - missed.get(k, 0) for k, n in objects.items()}, None))
    return Errors(counts, np.maximum(np.array(cost) - ap50, 0), ap50)


def _image(rows: _Rows, scene: Scene) -> list[int]:
    """Sort one image's detections; returns the categories of objects that no mending finds."""
    categories, overlap, match = scene.categories, scene.overlap, scene.match
    same = scene.labels[:, None] == categories
    own, other = overlap * same, overlap * ~same
    met = np.isin(np.arange(len(categories)), match)
    kind = np.select([match >= 0, scene.ignored], [_RIGHT, _IGNORED], _BACKGROUND)
    mended = np.full(len(match), -1)
    usable: dict[int, int] = {}  # object by the best-scored mistake that, mended, would find it
    for k in np.flatnonzero(kind == _BACKGROUND).tolist() if len(categories) else ():
        target = -1
        near, wrong = int(own[k].argmax()), int(other[k].argmax())
        if _TOUCH <= own[k, near] <= OVERLAP:
            kind[k], target = _PLACE, near
        elif other[k, wrong] >= OVERLAP:
            kind[k], target = _CLASS, wrong
        elif (own[k] * met).max() >= OVERLAP:
            kind[k] = _AGAIN
        elif overlap[k].max() > _TOUCH:
            kind[k] = _BOTH
        if target >= 0 and not met[target] and target not in usable:
            usable[target] = k
            mended[k] = categories[target]
    rows.score.extend(scene.scores.tolist())
    rows.label.extend(scene.labels.tolist())
    rows.kind.extend(kind.tolist())
    rows.mended.extend(mended.tolist())
    return [int(c) for t, c in enumerate(categories) if not met[t] and t not in usable]


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

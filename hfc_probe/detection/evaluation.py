"""Average precision as COCOeval computes it: of a data set, a class, an image, an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assignment import AREAS, IOU, Assignment, assign
from .coco import Detections, GroundTruth, ImageId, IouType
from .overlap import is_ignored

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
GROUPS = {"APr": "r", "APc": "c", "APf": "f"}  # LVIS's rare, common and frequent categories
RECALL = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """Detections of one class in all images that count at any threshold, by falling score.

    Attributes:
        image: ``(D,)`` position of each detection's image.
        hit: ``(T, D)`` matched with an object, per IoU threshold.
        counts: ``(T, D)`` neither matched with a crowd nor otherwise ignored.
        objects: ``(I,)`` objects per image, crowds left out.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One variant's detections against the ground truth. NaN is undefined: no object there.

    Attributes:
        metrics: ``(6,)`` in [0, 1], in the order of :data:`METRICS`.
        recalls: average recall, in the order of :func:`recall_names`.
        classes: ``(K,)`` AP per category, categories by rising id.
        images: ``(I,)`` AP of each image alone.
        match: ``(G,)`` per object, which of its image's detections matched it at IoU 0.5;
            −1 for none.
        score: ``(G,)`` that detection's score; NaN for none.
        by_class: matches of each category, for resampling.
        by_size: the same of small, medium and large objects alone.
        groups: AP of rare, common and frequent categories, in the order of :data:`GROUPS`;
            None if the annotations do not say which are which.
    """

    metrics: NDArray[np.float64]
    recalls: NDArray[np.float64]
    classes: NDArray[np.float64]
    images: NDArray[np.float64]
    match: NDArray[np.int64]
    score: NDArray[np.float64]
    by_class: tuple[ClassMatches, ...]
    by_size: tuple[tuple[ClassMatches, ...], ...]
    groups: NDArray[np.float64] | None = None


def objects_in(
    truth: GroundTruth, image_ids: Sequence[ImageId], iou_type: IouType = "bbox"
) -> list[dict[str, Any]]:
    """The annotated objects in some images, ignored ones left out, image by image."""
    by_image: dict[ImageId, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in by_image and not is_ignored(annotation, iou_type):
            by_image[annotation["image_id"]].append(annotation)
    return [annotation for found in by_image.values() for annotation in found]


def recall_names(max_dets: int) -> tuple[str, ...]:
    """COCO's names of average recall with 1, 10 and all detections per image and class.

    >>> recall_names(100), recall_names(20)
    (('AR1', 'AR10', 'AR100'), ('AR1', 'AR10', 'AR20'))
    """
    return tuple(f"AR{most}" for most in (*(n for n in (1, 10) if n < max_dets), max_dets))


def evaluate(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    detections: Mapping[ImageId, Detections],
    *,
    max_dets: int = 100,
    iou_type: IouType = "bbox",
) -> Evaluation:
    """AP of detections in some images, to the last digit what pycocotools' COCOeval gives.

    If there are objects and no detections AP is 0.

    Args:
        image_ids: sorted; objects and detections in other images do not count.
        max_dets: detections per image and class that count, best first.
        iou_type: what is compared: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
    """
    found = assign(truth, image_ids, detections, max_dets=max_dets, iou_type=iou_type)
    classes, count = len(truth.categories), len(image_ids)
    limits = [int(name[2:]) for name in recall_names(max_dets)]
    # As COCOeval.accumulate leaves them: -1 if there is no object.
    precision = -np.ones((len(IOU), len(RECALL), classes, len(AREAS)))
    recall = -np.ones((len(IOU), classes, len(limits)))
    starts = np.searchsorted(found.category, np.arange(classes + 1))
    by_area: list[list[ClassMatches]] = [[] for _ in AREAS]
    for k in range(classes):
        rows = np.arange(starts[k], starts[k + 1])
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        mine = found.of[:, 0] == k
        for area in range(len(AREAS)):
            objects = np.bincount(found.of[mine & found.sought[area], 1], minlength=count)
            hit, counts = found.hit[area][:, rows], found.counts[area][:, rows]
            kept = counts.any(0)  # COCO keeps the others, and they change nothing
            by_area[area].append(
                ClassMatches(found.image[rows[kept]], hit[:, kept], counts[:, kept], objects)
            )
            total = int(objects.sum())
            if total:
                precision[:, :, k, area] = _precision(hit, counts, total)
                if area == 0:
                    for m, most in enumerate(limits):
                        recall[:, k, m] = hit[:, found.rank[rows] < most].sum(1) / total
    metrics = [_mean(precision[..., 0]), _mean(precision[:1, ..., 0]),
               _mean(precision[5:6, ..., 0])]  # fmt: skip
    metrics += [_mean(precision[..., area]) for area in (1, 2, 3)]
    groups = None
    if truth.frequency:
        kinds = [truth.frequency.get(k) for k in sorted(truth.categories)]
        members = [[k for k, kind in enumerate(kinds) if kind == of] for of in GROUPS.values()]
        # Axes in the order of LVIS's package, as the order of a sum is part of its last bit.
        groups = np.array([_mean(precision[:, :, one, [0]]) for one in members])

    position = {id(a): k for k, a in enumerate(found.annotations)}
    matched = np.full(len(found.annotations), -1)
    met = np.flatnonzero(found.target >= 0)
    matched[found.target[met]] = met
    here = [position[id(a)] for a in objects_in(truth, image_ids, iou_type)]
    which = matched[np.array(here, dtype=np.int64)]
    if not len(found.score):
        match, score = which, np.full(len(which), np.nan)
    else:
        match = np.where(which >= 0, found.row[which], -1)
        score = np.where(which >= 0, found.score[which], np.nan)
    return Evaluation(
        np.array(metrics),
        np.array([_mean(recall[..., m]) for m in range(len(limits))]),
        np.array([_mean(precision[:, :, k, 0]) for k in range(classes)]),
        _image_precisions(found, count),
        match,
        score,
        tuple(by_area[0]),
        tuple(tuple(one) for one in by_area[1:]),
        groups,
    )


def _precision(
    hit: NDArray[np.bool_], counts: NDArray[np.bool_], objects: int
) -> NDArray[np.float64]:
    """Interpolated precision ``(T, R)`` of ranked detections ``(T, D)``."""
    right = np.cumsum(hit, axis=1).astype(np.float64)
    wrong = np.cumsum(counts & ~hit, axis=1).astype(np.float64)
    precision = right / (wrong + right + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    out = np.zeros((len(IOU), len(RECALL)))
    for t, (row, level) in enumerate(zip(envelope, right / objects, strict=True)):
        first = np.searchsorted(level, RECALL, side="left")
        reached = first < len(row)
        out[t, reached] = row[first[reached]]
    return out


def image_precisions(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    detections: Mapping[ImageId, Detections],
    *,
    max_dets: int = 100,
    iou_type: IouType = "bbox",
) -> NDArray[np.float64]:
    """AP of each image alone ``(I,)``, as :func:`evaluate` gives it."""
    found = assign(truth, image_ids, detections, max_dets=max_dets, iou_type=iou_type)
    return _image_precisions(found, len(image_ids))


def _image_precisions(found: Assignment, count: int) -> NDArray[np.float64]:
    """AP of each image alone: the mean over its classes ``(I,)``."""
    total, classes = np.zeros(count), np.zeros(count)
    sought = found.of[found.sought[0]]
    pairs, objects = np.unique(sought[:, 0] * count + sought[:, 1], return_counts=True)
    np.add.at(classes, pairs % count, 1)
    keys = found.category * count + found.image
    low, high = (np.searchsorted(keys, pairs, side=side) for side in ("left", "right"))
    values, size = np.zeros(len(pairs)), high - low
    for many in np.unique(size[size > 0]):
        (chosen,) = np.nonzero(size == many)
        rows = low[chosen, None] + np.arange(many)
        right, shown = (
            np.cumsum(of[0][:, rows], axis=2, dtype=np.float64).reshape(-1, many)
            for of in (found.hit, found.counts)
        )
        each = interpolated(right, shown, np.tile(objects[chosen], len(IOU))[:, None])
        values[chosen] = np.ascontiguousarray(each.reshape(len(IOU), -1).T).mean(1)
    np.add.at(total, pairs % count, values)
    with np.errstate(invalid="ignore"):
        return total / np.where(classes > 0, classes, np.nan)


def _mean(precision: NDArray[Any]) -> float:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else float("nan")


def interpolated(
    found: NDArray[np.float64], shown: NDArray[np.float64], objects: Any
) -> NDArray[np.float64]:
    """101-point interpolated AP of ranked detections.

    Args:
        found, shown: ``(rows, D)`` true positives and counted detections up to each rank.
        objects: how many there are to be found, a number or ``(rows, 1)``.

    Returns:
        ``(rows,)``.
    """
    precision = found / (shown + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # A recall level takes the envelope where recall first reaches it: each rank answers for
    # the levels that it is the first to reach.
    reached = np.searchsorted(RECALL, found / objects, side="right")
    new = np.diff(reached, axis=1, prepend=0)
    total: NDArray[np.float64] = (envelope * new).sum(1) / len(RECALL)
    return total

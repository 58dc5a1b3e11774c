"""COCO's greedy assignment of detections to objects, of all classes and images at once.

The rule is COCOeval.evaluateImg's: best score first, a detection takes the free object that it
overlaps most, an ignored one only if no other will do, a crowd as often as need be; of equal
overlaps the last. It is applied to the k-th detection of every class in every image in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId, IouType, is_federated
from .overlap import Overlap, is_ignored, pick

IOU = np.linspace(0.5, 0.95, 10)
AREAS = ((0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2))  # all, small, medium, large
_THRESHOLDS = np.minimum(IOU, 1 - 1e-10)


@dataclass(frozen=True, eq=False)
class Assignment:
    """N detections of known classes, by class, image and falling score; M objects likewise.

    Attributes:
        category, image: ``(N,)`` positions among sorted categories and in ``image_ids``.
        score: ``(N,)``.
        rank: ``(N,)`` within class and image, from 0.
        row: ``(N,)`` position among its image's detections as the detector gave them.
        hit: ``(A, T, N)`` right about an object, by area range and IoU threshold.
        counts: ``(A, T, N)`` neither right about an ignored object nor of another size.
        target: ``(N,)`` at IoU 0.5, position of the object among those of all sizes; −1: none.
        annotations: the M objects, ignored ones too.
        of: ``(M, 2)`` class and image of each object.
        sought: ``(A, M)`` whether an object is to be found.
    """

    category: NDArray[np.int64]
    image: NDArray[np.int64]
    score: NDArray[np.float64]
    rank: NDArray[np.int64]
    row: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    target: NDArray[np.int64]
    annotations: tuple[Mapping[str, Any], ...]
    of: NDArray[np.int64]
    sought: NDArray[np.bool_]


def assign(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    *,
    max_dets: int,
    iou_type: IouType = "bbox",
) -> Assignment:
    """Assign detections in some images to objects.

    Args:
        image_ids: sorted; objects and detections in other images do not count.
        max_dets: detections per image and class that count, best first; under LVIS's protocol,
            per image.

    LVIS's protocol (Gupta et al., CVPR 2019, §3.2) is that of images whose entries name the
    categories looked for.
    """
    overlap = Overlap(truth, iou_type)
    position = {image_id: k for k, image_id in enumerate(image_ids)}
    ids = np.array(sorted(truth.categories), dtype=np.int64)

    here = [a for a in truth.annotations if a["image_id"] in position]
    of = np.array([(a["category_id"], position[a["image_id"]]) for a in here], dtype=np.int64)
    of = of.reshape(-1, 2)
    of[:, 0] = np.searchsorted(ids, of[:, 0])
    order = np.lexsort((of[:, 1], of[:, 0]))
    of, annotations = of[order], tuple(here[k] for k in order)
    area = np.array([a["area"] for a in annotations])
    ignored = np.array([is_ignored(a, iou_type) for a in annotations], dtype=bool)
    sought = np.array([~ignored & (area >= low) & (area <= high) for low, high in AREAS])
    if iou_type == "keypoints":
        sought[1] = False  # COCO has no small persons with keypoints
    crowd = np.array([bool(a["iscrowd"]) for a in annotations], dtype=bool)

    category, image, score, row, shapes, areas = _rows(overlap, image_ids, found, ids)
    loose = np.zeros(len(score), dtype=bool)
    if any(is_federated(truth.images[i]) for i in image_ids):
        kept = _looked_for(truth, image_ids, ids[category], image, score, max_dets, of, ids)
        kept = kept[areas[kept] > 0]  # as LVIS's package does
        category, image, score, row, areas = (c[kept] for c in (category, image, score, row, areas))
        loose = _listed(truth, image_ids, "not_exhaustive_category_ids", ids[category], image)
    order = np.lexsort((-score, image, category))
    key = (category * max(len(image_ids), 1) + image)[order]
    start = np.r_[True, key[1:] != key[:-1]] if len(key) else np.zeros(0, dtype=bool)
    rank = np.arange(len(key)) - np.maximum.accumulate(np.where(start, np.arange(len(key)), 0))
    order, key, rank = order[rank < max_dets], key[rank < max_dets], rank[rank < max_dets]

    target = np.full((len(AREAS), len(IOU), len(order)), -1)
    keys, first, many = np.unique(
        of[:, 0] * max(len(image_ids), 1) + of[:, 1], return_index=True, return_counts=True
    )
    low, high = np.searchsorted(key, keys), np.searchsorted(key, keys, side="right")
    pairs = np.stack([low, high - low, first, many], axis=1)[high > low]
    of_boxes = _box_ious(overlap, shapes, annotations, of[:, 1]) if iou_type == "bbox" else None
    for bucket in _buckets(pairs):
        size, most = bucket[:, 3].max(), bucket[:, 1].max()
        slots = np.minimum(np.arange(size), bucket[:, 3:] - 1) + bucket[:, 2:3]
        there = np.arange(most) < bucket[:, 1:2]
        places = bucket[:, :1] + np.minimum(np.arange(most), bucket[:, 1:2] - 1)
        if of_boxes is not None:
            chosen = order[places]
            ious = of_boxes(image[chosen], row[chosen], slots)
            ious[~(there[:, :, None] & (np.arange(size) < bucket[:, 3:])[:, None])] = -1.0
        else:
            ious = np.full((len(bucket), most, size), -1.0)
            for k, (begin, count, at, objects) in enumerate(bucket.tolist()):
                chosen = order[begin : begin + count]
                mine = pick(shapes[image[chosen[0]]], row[chosen])
                ious[k, :count, :objects] = overlap.between(mine, annotations[at : at + objects])
        for a in range(len(AREAS)):
            best = _greedy(ious, bucket[:, 1], sought[a][slots], crowd[slots])
            best = np.where(best >= 0, best + bucket[:, 2, None, None], -1)
            target[a][:, places[there]] = best.transpose(1, 0, 2)[:, there]

    # COCOeval keeps a match by the object's id and reads 0 as none.
    numbered = np.array([a["id"] != 0 for a in annotations], dtype=bool)
    met = target >= 0
    known = np.append(numbered, False)[target]
    right = known & met
    sized = np.array([(areas >= low) & (areas <= high) & ~loose for low, high in AREAS])[:, order]
    wanted = np.stack([np.append(s, False)[t] for s, t in zip(sought, target, strict=True)])
    counts = np.where(met, wanted, True) & (right | sized[:, None])
    return Assignment(
        category[order], image[order], score[order], rank, row[order],
        right & counts, counts, target[0, 0], annotations, of, sought,
    )  # fmt: skip


def _rows(
    overlap: Overlap,
    image_ids: Sequence[ImageId],
    found: Mapping[ImageId, Detections],
    ids: NDArray[np.int64],
) -> tuple[Any, ...]:
    """Detections of known classes as columns, and the shapes of each image's detections."""
    parts: list[list[NDArray[Any]]] = [[np.zeros(0, dtype=np.int64)] * 3 + [np.zeros(0)] * 2]
    shapes: list[Any] = []
    for k, image_id in enumerate(image_ids):
        shapes.append(())
        if image_id in found and len(found[image_id].scores):
            here = found[image_id]
            shapes[k] = overlap.shapes(here)
            count = len(here.scores)
            parts.append([
                here.labels, np.full(count, k), np.arange(count), here.scores,
                overlap.areas(shapes[k]),
            ])  # fmt: skip
    label, image, row, score, areas = (np.concatenate(c) for c in zip(*parts, strict=True))
    known = np.isin(label, ids)
    image, row, score, areas = (column[known] for column in (image, row, score, areas))
    return np.searchsorted(ids, label[known]), image, score, row, shapes, areas


def _box_ious(
    overlap: Overlap,
    shapes: Sequence[Any],
    annotations: Sequence[Mapping[str, Any]],
    owner: NDArray[np.int64],
) -> Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
    """A look-up of IoU by images and rows ``(P, D)`` and objects ``(P, G)``, ``(P, D, G)``.

    Pycocotools compares all boxes of an image with all of its objects in one call, which is faster
    than a call for each class.

    Args:
        shapes: boxes of each image.
        owner: ``(M,)`` image of each object.
    """
    of_image = np.argsort(owner, kind="stable")
    many = np.bincount(owner, minlength=len(shapes))
    end = np.cumsum(many)
    local = np.zeros(len(owner), dtype=np.int64)
    local[of_image] = np.arange(len(owner)) - np.repeat(end - many, many)
    parts = [
        overlap.between(shapes[k], [annotations[i] for i in of_image[last - count : last].tolist()])
        for k, (last, count) in enumerate(zip(end.tolist(), many.tolist(), strict=True))
    ]
    start = np.cumsum([0, *(part.size for part in parts[:-1])])
    values = np.concatenate([np.zeros(0), *(part.ravel() for part in parts)])
    return lambda image, row, slots: np.asarray(
        values[(start[image] + row * many[image])[:, :, None] + local[slots][:, None]]
    )


def _listed(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    key: str,
    label: NDArray[np.int64],
    image: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which detections are of a category in a list of their image's entry."""
    lists = [frozenset(truth.images[i].get(key) or ()) for i in image_ids]
    pairs = zip(label.tolist(), image.tolist(), strict=True)
    return np.array([one in lists[k] for one, k in pairs], dtype=bool)


def _looked_for(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    label: NDArray[np.int64],
    image: NDArray[np.int64],
    score: NDArray[np.float64],
    most: int,
    of: NDArray[np.int64],
    ids: NDArray[np.int64],
) -> NDArray[np.int64]:
    """LVIS's choice: an image's best detections, of categories that were looked for in it."""
    order = np.lexsort((-score, image))
    start = np.searchsorted(image[order], image[order])
    best = np.zeros(len(score), dtype=bool)
    best[order[np.arange(len(order)) - start < most]] = True
    there = {(int(ids[k]), int(i)) for k, i in of}
    pairs = zip(label.tolist(), image.tolist(), strict=True)
    present = np.array([pair in there for pair in pairs], dtype=bool)
    return np.flatnonzero(
        best & (present | _listed(truth, image_ids, "neg_category_ids", label, image))
    )


def _buckets(pairs: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Pairs of class and image with about as many objects, most detections first."""
    size = np.ceil(np.log2(np.maximum(pairs[:, 3], 1))).astype(int)
    for value in np.unique(size):
        chosen = pairs[size == value]
        chosen = chosen[np.argsort(-chosen[:, 1], kind="stable")]
        step = max(1, 2_000_000 // int(chosen[:, 1].max() * chosen[:, 3].max()))
        for k in range(0, len(chosen), step):
            yield chosen[k : k + step]


def _greedy(
    ious: NDArray[np.float64],
    many: NDArray[np.int64],
    sought: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Which object each detection takes ``(P, T, D)``; −1 for none.

    Args:
        ious: ``(P, D, G)``; negative where a pair has no such detection or object.
        many: ``(P,)`` detections, falling.
        sought, crowd: ``(P, G)`` objects that are not ignored, that may be taken again.
    """
    pairs, most, size = ious.shape
    best = np.full((pairs, len(IOU), most), -1)
    taken = np.zeros((pairs, len(IOU), size), dtype=bool)
    others = not sought.all()
    for k in range(most):
        n = int(np.searchsorted(-many, -k))  # pairs with more than k detections
        value = ious[:n, k, None]
        free = (value >= _THRESHOLDS[:, None]) & (~taken[:n] | crowd[:n, None])
        chosen = _last_best(value, free & sought[:n, None])
        if others:
            second = _last_best(value, free & ~sought[:n, None])
            chosen = np.where(chosen >= 0, chosen, second)
        best[:n, :, k] = chosen
        pair, threshold = np.nonzero(chosen >= 0)
        taken[pair, threshold, chosen[pair, threshold]] = True
    return best


def _last_best(value: NDArray[np.float64], free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last position of the largest value among the free; −1 if none is free."""
    masked = np.where(free, value, -1.0)[..., ::-1]
    return np.where(free.any(-1), value.shape[-1] - 1 - masked.argmax(-1), -1)

"""One number per image for what a detector finds in it: AP, recall, or the overlap of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId, IouType
from .evaluation import image_precisions
from .matching import scenes
from .overlap import is_ignored

ImageScoreKind = Literal["AP", "recall", "IoU"]
KINDS: tuple[ImageScoreKind, ...] = ("AP", "recall", "IoU")


def scored_images(
    truth: GroundTruth, image_ids: Iterable[ImageId], iou_type: IouType = "bbox"
) -> list[ImageId]:
    """Those of some images that show an object: no score is defined on others."""
    shown = {a["image_id"] for a in truth.annotations if not is_ignored(a, iou_type)}
    return [image_id for image_id in image_ids if image_id in shown]


def scorer(
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    kind: ImageScoreKind,
    *,
    threshold: float = 0.0,
    max_dets: int = 100,
    iou_type: IouType = "bbox",
) -> Callable[[ImageId, Detections], float]:
    """A function of an image and its detections, in [0, 1].

    Args:
        kind: ``"AP"``: of the image alone, as COCOeval gives it. ``"recall"``: share of objects
            found at IoU 0.5. ``"IoU"``: mean over objects of the IoU with the detection that
            finds them, 0 for a missed one.
        threshold: the least score that counts, for recall and IoU.
        max_dets: detections that count, per class for AP, best first.
        iou_type: what AP compares; recall and IoU are of boxes.
    """
    alone = {image_id: _alone(truth, image_id, found) for image_id, found in
             _by_image(truth, image_ids).items()}  # fmt: skip

    def average_precision(image_id: ImageId, found: Detections) -> float:
        one = {image_id: found}
        return float(
            image_precisions(
                alone[image_id], [image_id], one, max_dets=max_dets, iou_type=iou_type
            )[0]
        )

    def of_objects(image_id: ImageId, found: Detections) -> float:
        kept = found.scores >= threshold
        found = _rows(found, kept)
        (scene,) = scenes(alone[image_id], [image_id], {image_id: found}, max_dets)
        right = scene.match >= 0
        if kind == "recall":
            return float(right.sum() / len(scene.categories))
        return float(scene.overlap[right, scene.match[right]].sum() / len(scene.categories))

    return average_precision if kind == "AP" else of_objects


def _rows(found: Detections, kept: NDArray[np.bool_]) -> Detections:
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _by_image(
    truth: GroundTruth, image_ids: Sequence[ImageId]
) -> dict[ImageId, list[dict[str, Any]]]:
    out: dict[ImageId, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in out:
            out[annotation["image_id"]].append(annotation)
    return out


def _alone(truth: GroundTruth, image_id: ImageId, found: list[dict[str, Any]]) -> GroundTruth:
    """One image's part of the annotations, with the classes of its objects alone."""
    ids = {a["category_id"] for a in found if not a["iscrowd"]}
    categories = {k: name for k, name in truth.categories.items() if k in ids}
    kept = tuple(a for a in found if a["category_id"] in ids)
    return GroundTruth({image_id: truth.images[image_id]}, categories, kept)

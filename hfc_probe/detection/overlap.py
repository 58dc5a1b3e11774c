"""How much a detection and an object agree: IoU of boxes, IoU of masks, OKS of keypoints.

Boxes and masks are compared by pycocotools' own code, keypoints by its formula, so that all are
equal to its numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ground.errors import InputError
from .coco import Detections, GroundTruth, IouType
from .masks import mask_tools

MOST: dict[IouType, int] = {"bbox": 100, "segm": 100, "keypoints": 20}  # COCO's maxDets
OF: dict[IouType, str] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
# COCO's, of the 17 keypoints of a person.
_SIGMAS = np.array(
    [.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]
) / 10.0  # fmt: skip


def is_ignored(annotation: Mapping[str, Any], iou_type: IouType) -> bool:
    """Whether an object is neither to be found nor a mistake: a crowd, or without keypoints."""
    if iou_type == "keypoints" and not annotation.get("num_keypoints"):
        return True
    return bool(annotation["iscrowd"])


class Overlap:
    """Agreement of detections with objects, and the detections' areas.

    Args:
        truth: whose ``segmentation`` or ``keypoints`` are needed.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.

    Raises:
        InputError: pycocotools is not installed.
    """

    def __init__(self, truth: GroundTruth, iou_type: IouType = "bbox") -> None:
        self._truth, self._type = truth, iou_type
        self._mask = mask_tools()

    def shapes(self, found: Detections) -> Any:
        """What of one image's detections is compared, one entry each.

        Raises:
            InputError: detections without masks or keypoints.
        """
        shapes = {"bbox": found.boxes, "segm": found.masks, "keypoints": found.keypoints}[
            self._type
        ]
        if shapes is None:
            raise InputError(
                f'iou_type: expected detections with {OF[self._type]} for "{self._type}", got '
                'boxes alone; use iou_type="bbox" or a detector that returns them'
            )
        return shapes

    def areas(self, shapes: Any) -> NDArray[np.float64]:
        """Of detections, as COCO's results format has them."""
        if self._type == "bbox":
            return np.asarray(shapes[:, 2] * shapes[:, 3])
        if self._type == "segm":
            # One by one: with NumPy 2, pycocotools takes no list of more than 255.
            return np.array([self._mask.area(mask) for mask in shapes], dtype=np.float64)
        extent = shapes[:, :, :2].max(1, initial=-np.inf) - shapes[:, :, :2].min(1, initial=np.inf)
        return np.asarray(extent[:, 0] * extent[:, 1])

    def between(self, shapes: Any, annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Agreement ``(n, m)`` in [0, 1]; with a crowd, the share of the detection within it.

        Raises:
            InputError: objects without a mask or the 17 keypoints of COCO, masks of another size.
        """
        if not len(shapes) or not annotations:
            return np.zeros((len(shapes), len(annotations)))
        if self._type == "keypoints":
            return np.stack([self._oks(shapes, a) for a in annotations], axis=1)
        crowd = [int(a["iscrowd"]) for a in annotations]
        if self._type == "bbox":
            objects = np.array([a["bbox"] for a in annotations], dtype=np.float64)
            return np.asarray(self._mask.iou(np.ascontiguousarray(shapes), objects, crowd))
        masks = [*map(self._object, annotations)]
        sizes = {tuple(mask["size"]) for mask in (*shapes, *masks)}
        if len(sizes) > 1:  # pycocotools would take them as apart
            raise InputError(
                "masks: expected detected masks of the size of the annotated ones, got "
                f"(height, width) of {' and '.join(map(str, sorted(sizes)))} for image "
                f"{annotations[0]['image_id']}; give masks at the size of the original image"
            )
        return np.asarray(self._mask.iou(list(shapes), masks, crowd))

    def _object(self, annotation: Mapping[str, Any]) -> Any:
        """An object's mask as compressed RLE; polygons are drawn once."""
        known = self._truth.drawn.get(annotation["id"])
        if known is not None:
            return known
        image = self._truth.images[annotation["image_id"]]
        given, size = annotation.get("segmentation"), (image.get("height"), image.get("width"))
        try:
            if isinstance(given, Mapping) and isinstance(given["counts"], (str, bytes)):
                mask = given
            elif isinstance(given, Mapping):
                mask = self._mask.frPyObjects(given, *given["size"])
            else:
                mask = self._mask.merge(self._mask.frPyObjects(given, *size))
        except Exception as error:  # pycocotools raises bare ones
            raise InputError(
                "annotations: expected a segmentation of polygons or RLE, and the image's height "
                f"and width, got none that can be drawn for annotation {annotation['id']}; use "
                'iou_type="bbox"'
            ) from error
        self._truth.drawn[annotation["id"]] = mask
        return mask

    def _oks(self, shapes: NDArray[np.float64], annotation: Mapping[str, Any]) -> Any:
        """Object keypoint similarity ``(n,)``, in the very order of COCOeval.computeOks."""
        given = np.array(annotation.get("keypoints") or (), dtype=np.float64).reshape(-1, 3)
        if given.shape != (len(_SIGMAS), 3) or shapes.shape[1:] != given.shape:
            raise InputError(
                f"keypoints: expected COCO's {len(_SIGMAS)} keypoints of a person, got "
                f"{len(given)} annotated and {shapes.shape[1]} detected; OKS is defined for those "
                "alone"
            )
        visible = given[:, 2] > 0
        x, y = shapes[..., 0], shapes[..., 1]
        if visible.any():
            dx, dy = x - given[:, 0], y - given[:, 1]
        else:  # how far outside the doubled box
            x0, y0, width, height = annotation["bbox"]
            left, right = x0 - width, x0 + width * 2
            top, bottom = y0 - height, y0 + height * 2
            dx = np.maximum(0, left - x) + np.maximum(0, x - right)
            dy = np.maximum(0, top - y) + np.maximum(0, y - bottom)
        errors = (dx**2 + dy**2) / (_SIGMAS * 2) ** 2 / (annotation["area"] + np.spacing(1)) / 2
        kept = errors[:, visible] if visible.any() else errors
        # Row by row: the order of a sum is part of its last bit.
        return np.array([np.sum(np.exp(-row)) / len(row) for row in kept])


def pick(shapes: Any, rows: NDArray[np.int64]) -> Any:
    """Some of one image's shapes, see :meth:`Overlap.shapes`."""
    return shapes[rows] if isinstance(shapes, np.ndarray) else [shapes[k] for k in rows.tolist()]

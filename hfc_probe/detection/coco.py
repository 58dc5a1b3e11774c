"""COCO ground truth, images and detections, keyed by dataset ids and never by position.

Long because annotations and results are two halves of one file format.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ground.errors import InputError, named
from ..ground.hashing import file_digest
from .formats import read_folder
from .masks import Rle, encoded, mask_tools, plain_rle
from .pictures import is_turned, read_picture

ImageId = int | str
IouType = Literal["bbox", "segm", "keypoints"]  # what is compared with the annotations
IOU_TYPES: tuple[IouType, ...] = get_args(IouType)
# Of COCO's ids from 1 to 90, those that its 80 categories leave out; an adapter's class of no name.
_CATEGORIES, _UNUSED = 80, frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, -1})
# What entries of the wrong kind, size or depth raise.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


class Detections(NamedTuple):
    """Detections in one image, in the order in which the detector gave them.

    Attributes:
        boxes: ``(n, 4)`` x, y, width, height in pixels of the original image.
        scores: ``(n,)``.
        labels: ``(n,)`` category ids.
        masks: COCO's compressed RLE of each, ``{"size": [height, width], "counts": text}``.
        keypoints: ``(n, K, 3)`` x, y in pixels and visibility.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: tuple[Rle, ...] | None = None
    keypoints: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """COCO annotations, checked.

    Attributes:
        images: by id: ``file_name``, ``height``, ``width`` and what else the file has.
        categories: names by category id.
        annotations: with ``id``, ``image_id``, ``category_id``, ``bbox`` (x, y, width,
            height), ``area``, ``iscrowd`` and, if the file has them, ``segmentation``,
            ``keypoints`` and ``num_keypoints``; nothing else is kept.
        notes: what was missing and how it was filled in.
        frequency: of LVIS's categories, ``"r"`` rare, ``"c"`` common or ``"f"`` frequent.
        drawn: masks of annotations by id, as far as they were needed.
    """

    images: dict[ImageId, dict[str, Any]]
    categories: dict[int, str]
    annotations: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    frequency: Mapping[int, str] = field(default_factory=dict)
    drawn: dict[int, Rle] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def read(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],
        images: str | os.PathLike[str] | None = None,
    ) -> GroundTruth:
        """From a COCO JSON file (or what was read from one), YOLO, Pascal VOC or FiftyOne.

        Args:
            source: a file or folder, see :func:`hfc_probe.detection.formats.read_folder`.
            images: folder of the images, whose sizes YOLO and FiftyOne need.

        Raises:
            InputError: no such file, of no known form, ids that are repeated or unknown.
        """
        if isinstance(source, Mapping):
            return _checked(source, "annotations")
        path = Path(source)
        content = read_folder(path, None if images is None else Path(images))
        if content is not None:
            truth = _checked(content, path.name)
            return replace(truth, notes=(*content["notes"], *truth.notes))
        if (path / "labels.json").is_file():  # FiftyOne's export in COCO's form
            path /= "labels.json"
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            raise InputError(
                "annotations: expected a COCO JSON file, YOLO's data.yaml, a folder of Pascal VOC "
                f"or FiftyOne, got {path} ({what})"
            )
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(
                f"annotations: expected a COCO JSON file, got {path.name}, which cannot be read "
                f"as JSON ({_short(error)})"
            ) from error
        return _checked(content, path.name)


def _checked(content: Any, name: str) -> GroundTruth:
    wanted = ("images", "annotations", "categories")
    missing = [k for k in wanted if not isinstance(content, Mapping) or k not in content]
    if missing or not all(isinstance(content[k], Sequence) for k in wanted):
        found = named(list(content)) if isinstance(content, Mapping) else "a list"
        raise InputError(
            f"annotations: expected COCO's lists of images, annotations and categories in {name}, "
            f"got {found or 'nothing'}; a test set without annotations cannot be audited"
        )
    if any(isinstance(a, Mapping) and "segments_info" in a for a in content["annotations"][:1]):
        raise InputError(
            f"annotations: expected boxes of objects in {name}, got panoptic segments; use the "
            "instances file of the same images"
        )
    try:
        images = {image_id_of(image["id"]): _image(image) for image in content["images"]}
        categories = {_whole(c["id"]): str(c.get("name", c["id"])) for c in content["categories"]}
        frequency = {_whole(c["id"]): c.get("frequency") for c in content["categories"]}
        notes: Counter[str] = Counter()
        annotations = tuple(_annotation(a, notes) for a in content["annotations"])
    except MALFORMED as error:
        raise InputError(
            f"annotations: expected COCO's fields (id, image_id, category_id, bbox of four "
            f"numbers, sizes in whole pixels) in {name}, got an entry without them "
            f"({_short(error)})"
        ) from error
    if not images or not categories:
        what = "images" if not images else "categories"
        raise InputError(f"annotations: expected at least one entry of {what} in {name}, got none")
    if len({isinstance(image_id, str) for image_id in images}) > 1:
        raise InputError(f"annotations: expected image ids of one kind in {name}, got both")
    for what, count, unique in (
        ("image", len(content["images"]), len(images)),
        ("category", len(content["categories"]), len(categories)),
        ("annotation", len(annotations), len({a["id"] for a in annotations})),
    ):
        if unique != count:
            raise InputError(
                f"annotations: expected each {what} id once in {name}, got {count - unique} "
                "repeated; renumber them"
            )
    for key, known in (("image_id", images), ("category_id", categories)):
        unknown = sorted({a[key] for a in annotations if a[key] not in known}, key=str)
        if unknown:
            raise InputError(
                f"annotations: expected each {key} in {name} among its own "
                f"{'images' if key == 'image_id' else 'categories'}, got {named(unknown)}"
            )
    lines = [f"{text} ({count} annotations)" for text, count in notes.items()]
    if any(map(is_federated, images.values())):
        lines.append(
            "the annotations are LVIS's and evaluated as LVIS does: in each image only the "
            "categories looked for count, and max_dets are the detections of all classes together "
            "(LVIS takes 300)"
        )
    if any(a["id"] == 0 for a in annotations):
        lines.append(
            "pycocotools counts a match with the annotation of id 0 as a miss, and AP here equals "
            "pycocotools' AP; number the annotations from 1"
        )
    frequency = frequency if any(map(is_federated, images.values())) else {}
    return GroundTruth(images, categories, annotations, tuple(lines), frequency)


def _annotation(raw: Mapping[str, Any], notes: Counter[str]) -> dict[str, Any]:
    x, y, width, height = (float(v) for v in raw["bbox"])
    if not all(math.isfinite(v) for v in (x, y, width, height)):
        raise ValueError(f"bbox {raw['bbox']}")
    area, crowd = raw.get("area"), raw.get("iscrowd")
    if area is None:
        notes["area is missing and the box's area is used"] += 1
    if crowd is None:
        notes["iscrowd is missing and taken as 0"] += 1
    return {
        "id": _whole(raw["id"]),
        "image_id": image_id_of(raw["image_id"]),
        "category_id": _whole(raw["category_id"]),
        "bbox": [x, y, width, height],
        "area": float(width * height if area is None else area),
        "iscrowd": _whole(crowd or 0),
        **{k: raw[k] for k in ("segmentation", "keypoints", "num_keypoints") if raw.get(k)},
    }


def is_federated(image: Mapping[str, Any]) -> bool:
    """Whether an image's entry names, as LVIS's, the categories that were looked for in it."""
    return "neg_category_ids" in image


def _image(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An image's entry with sizes as whole numbers, and LVIS's URL as its file's name."""
    image = dict(raw)
    for key in ("width", "height"):
        if image.get(key) is None:
            image.pop(key, None)
            continue
        size = float(image[key])
        if size < 1 or size != int(size):
            raise ValueError(f"{key} {image[key]!r}")
        image[key] = int(size)
    if "file_name" not in image and isinstance(image.get("coco_url"), str):
        image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    return image


def image_id_of(value: Any) -> ImageId:
    """An image id as read from JSON; raises TypeError for what is none."""
    if isinstance(value, bool) or not isinstance(value, (Integral, str)):
        raise TypeError(f"an image id is a whole number or text, not {type(value).__name__}")
    return value  # type: ignore[return-value]


def _whole(value: Any) -> int:
    """A whole number that fits an array; raises like ``int``."""
    number = int(value)
    if abs(number) >= 2**63:
        raise OverflowError("a number of more than 64 bits")
    return number


def _short(error: Exception) -> str:
    """An error in one line, whatever the file made it quote."""
    return f"{type(error).__name__}: {' '.join(ascii(str(error))[1:-1].split())[:200]}"


class DetectionDataset(Protocol):
    """What an audit reads: ground truth, and images by id."""

    @property
    def truth(self) -> GroundTruth:
        """The annotations."""

    def load(self, image_id: ImageId) -> Tensor:
        """The image as float ``(C, H, W)`` in pixel space; raises :class:`BrokenImageError`."""


class CocoImages:
    """A folder of images with COCO annotations.

    Args:
        images: the folder that ``file_name`` is relative to.
        annotations: a COCO JSON file, or its content; of YOLO, Pascal VOC or FiftyOne as
            :meth:`GroundTruth.read` takes them.

    Raises:
        InputError: no such folder, annotations that are not COCO's.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | Mapping[str, Any] | GroundTruth,
    ) -> None:
        self.folder = Path(images)
        if not self.folder.is_dir():
            raise InputError(f"images: expected a folder of images, got {self.folder}")
        self.truth: GroundTruth = (
            annotations
            if isinstance(annotations, GroundTruth)
            else GroundTruth.read(annotations, self.folder)
        )
        names = [image.get("file_name") for image in self.truth.images.values()]
        if not all(isinstance(name, str) for name in names):
            raise InputError("annotations: expected a file_name for every image, got some without")

    def __len__(self) -> int:
        return len(self.truth.images)

    def digest(self, image_id: ImageId) -> str:
        """Of the image's file; empty if it cannot be read."""
        return file_digest(self._path(image_id))

    def turned(self, image_id: ImageId) -> bool:
        """Whether an image that can be read is turned upright."""
        return is_turned(self._path(image_id))

    def _path(self, image_id: ImageId) -> Path:
        path: Path = self.folder / self.truth.images[image_id]["file_name"]
        beside = self.folder / path.name  # LVIS names the split, which may be the folder itself
        return beside if not path.exists() and beside.exists() else path

    def load(self, image_id: ImageId) -> Tensor:
        """The image as RGB float32 ``(3, H, W)`` in [0, 1].

        See :func:`hfc_probe.detection.pictures.read_picture`.

        Raises:
            BrokenImageError: the file is missing, truncated, no image, or of another size than
                annotated.
        """
        entry = self.truth.images[image_id]
        path = self._path(image_id)
        size = entry.get("width"), entry.get("height")
        return read_picture(path, f"{path.name} (id {image_id})", size)


def detections_from(output: Any, count: int, iou_type: IouType = "bbox") -> list[Detections]:
    """What a detector returned for ``count`` images, checked.

    Args:
        output: a list with one entry per image: a mapping with ``boxes`` ``(n, 4)`` (x0, y0,
            x1, y1 in original pixels), ``scores`` ``(n,)`` and ``labels`` ``(n,)`` (category
            ids); or those three as a tuple.
        iou_type: ``"segm"`` needs ``masks`` as well, as :func:`hfc_probe.detection.masks.encoded`
            takes them, ``"keypoints"`` ``keypoints`` ``(n, K, 3)``; other keys are ignored.

    Raises:
        InputError: another number of entries, other shapes, NaN.
    """
    if not isinstance(output, Sequence) or len(output) != count:
        size = len(output) if isinstance(output, Sequence) else type(output).__name__
        raise InputError(
            f"detector: expected a list of {count} entries, one per image, got {size}; is the "
            "model in evaluation mode?"
        )
    return [_one_image(entry, iou_type) for entry in output]


def check_categories(found: Detections, truth: GroundTruth, shown: str) -> None:
    """Refuse detections of categories that the annotations do not have.

    Args:
        shown: what the detector was shown.

    Raises:
        InputError: such a category, but for those of COCO's ids that nothing is called by.
    """
    unused = _UNUSED if len(truth.categories) == _CATEGORIES else frozenset()
    unknown = sorted({int(k) for k in found.labels} - truth.categories.keys() - unused)
    if unknown:
        raise InputError(
            "detector: expected category ids of the annotations "
            f"({named(sorted(truth.categories))}), got {named(unknown)} on {shown}; map the "
            "detector's classes to category ids, or pass ignore_unknown=True (--ignore-unknown) to "
            "leave such detections out"
        )


def _one_image(entry: Any, iou_type: IouType) -> Detections:
    names = ("boxes", "scores", "labels")
    if isinstance(entry, Mapping) and all(name in entry for name in names):
        parts = [entry[name] for name in names]
    elif isinstance(entry, (tuple, list)) and len(entry) >= 3:
        parts = list(entry[:3])
    else:
        got = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise InputError(
            "detector: expected a mapping with boxes, scores and labels per image (or a tuple of "
            f"the three), got {got}"
        )
    boxes, scores, labels = (
        (part if isinstance(part, Tensor) else torch.as_tensor(part, device="cpu")).detach().cpu()
        for part in parts
    )
    n = scores.numel()
    if n == 0 and boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (n, 4) or scores.shape != (n,) or labels.shape != (n,):
        raise InputError(
            "detector: expected boxes (n, 4), scores (n,) and labels (n,), got "
            f"{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if not bool(boxes.isfinite().all() and scores.isfinite().all()):
        raise InputError(
            "detector: expected finite boxes and scores, got NaN or infinity; look for diverged "
            "training"
        )
    # Width and height in the boxes' own precision, as every COCO exporter takes them.
    sizes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    found = Detections(
        sizes.numpy().astype(np.float64),
        scores.numpy().astype(np.float64),
        labels.numpy().astype(np.int64),
    )
    if iou_type == "bbox":
        return found
    key = "masks" if iou_type == "segm" else "keypoints"
    if not isinstance(entry, Mapping) or key not in entry:
        raise InputError(
            f"detector: expected {key} beside the boxes for {iou_type} AP, got none; use "
            'iou_type="bbox" or a detector that returns them'
        )
    if iou_type == "segm":
        return found._replace(masks=encoded(entry[key], n))
    points = torch.as_tensor(entry[key]).detach().cpu().to(torch.float64).numpy()
    if n == 0 and points.size == 0 and points.ndim != 3:
        points = points.reshape(0, 17, 3)
    if points.ndim != 3 or points.shape[::2] != (n, 3) or not np.isfinite(points).all():
        raise InputError(
            f"detector: expected finite keypoints (n, K, 3), one per box ({n}), got {points.shape}"
        )
    return found._replace(keypoints=points)


def to_results(detections: Mapping[ImageId, Detections]) -> list[dict[str, Any]]:
    """Detections by image as COCO's results format.

    Masks or keypoints take the place of boxes, as pycocotools takes the area of a detection from
    its box if there is one.
    """
    return [
        {"image_id": image_id, "category_id": label, **shape, "score": score}
        for image_id, found in detections.items()
        for shape, score, label in zip(
            _shapes(found), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def _shapes(found: Detections) -> list[dict[str, Any]]:
    if found.masks is not None:
        return [{"segmentation": mask} for mask in found.masks]
    if found.keypoints is not None:
        return [{"keypoints": points.ravel().tolist()} for points in found.keypoints]
    return [{"bbox": box} for box in found.boxes.tolist()]


def from_results(
    results: str | os.PathLike[str] | Sequence[Mapping[str, Any]], truth: GroundTruth
) -> dict[ImageId, Detections]:
    """Detections by image from COCO's results format, in the order of the file.

    Raises:
        InputError: not such a list, or image ids that the annotations do not have.
    """
    if isinstance(results, (str, os.PathLike)):
        path = Path(results)
        try:
            entries: Any = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"results: expected a COCO results file, got {path} ({_short(error)})"
            ) from error
    else:
        entries = results
    rows: dict[ImageId, list[tuple[Any, ...]]] = {}
    try:
        for r in entries:
            mask = plain_rle(r["segmentation"]) if r.get("segmentation") else None
            points = np.array(r.get("keypoints") or [], dtype=np.float64).reshape(-1, 3)
            row = (_box(r, mask, points), float(r["score"]), _whole(r["category_id"]), mask, points)
            rows.setdefault(image_id_of(r["image_id"]), []).append(row)
    except MALFORMED as error:
        raise InputError(
            "results: expected a list of image_id, category_id, bbox and score, got an entry "
            f"without them ({_short(error)})"
        ) from error
    unknown = [image_id for image_id in rows if image_id not in truth.images]
    if unknown:
        raise InputError(
            f"results: expected image ids of the annotations, got {named(unknown)}; are these the "
            "detections of another split?"
        )
    return {image_id: _packed(found) for image_id, found in rows.items()}


def _box(entry: Mapping[str, Any], mask: Rle | None, points: NDArray[np.float64]) -> list[float]:
    """Given, or that of the mask or the keypoints."""
    if "bbox" in entry or (mask is None and not len(points)):
        x, y, width, height = (float(v) for v in entry["bbox"])
        return [x, y, width, height]
    if mask is not None:
        return [float(v) for v in mask_tools().toBbox(mask)]
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return [*low.tolist(), *(high - low).tolist()]


def _packed(rows: list[tuple[Any, ...]]) -> Detections:
    boxes, scores, labels, masks, points = zip(*rows, strict=True)
    return Detections(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(scores, dtype=np.float64),
        np.array(labels, dtype=np.int64),
        None if None in masks else masks,
        np.stack(points) if all(map(len, points)) else None,
    )

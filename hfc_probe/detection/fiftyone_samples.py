"""An audit image by image as FiftyOne imports it, and what comes back from there.

The files are FiftyOne's own, ``samples.json`` and ``metadata.json``; the package is not needed. In
it, ``fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)`` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ground.errors import InputError
from ..ground.files import write_atomically
from .formats import image_size
from .matching import Scene, scenes
from .overlap import is_ignored

_COUNTS = ("tp", "fp", "fn")


def write_samples(result: Any, directory: Path) -> list[Path]:
    """Write a sample for each image.

    Fields: ``AP_<variant>``, that of the image alone, and ``<variant>_tp``, ``_fp``, ``_fn`` at
    ``result.threshold`` and IoU 0.5. ``ground_truth`` holds the objects, each with ``tp`` or ``fn``
    by variant; a field for each variant holds its detections from that score on, with ``eval``
    (``tp``, ``fp``, or neither within a crowd) and ``eval_iou``. A dot in a name becomes ``_``.

    Returns:
        The files.

    Raises:
        InputError: a directory that cannot be written.
    """
    folder = getattr(result.dataset, "folder", None)
    samples: dict[Any, dict[str, Any]] = {}
    for image_id in result.image_ids:
        image = result.truth.images[image_id]
        file = Path(image.get("file_name") or str(image_id))
        file = file if folder is None else (folder / file).resolve()
        width, height = image.get("width"), image.get("height")
        size = (width, height) if width and height else image_size(file)
        samples[image_id] = {
            "filepath": str(file),
            "tags": [],
            "image_id": image_id,
            "metadata": size and {"_cls": "ImageMetadata", "width": size[0], "height": size[1]},
            "ground_truth": {"_cls": "Detections", "detections": []},
        }
    objects: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in samples}
    for annotation in result.truth.annotations:
        sample = samples.get(annotation["image_id"])
        if sample is None or not sample["metadata"]:
            continue
        crowd = is_ignored(annotation, result.iou_type)
        one = _detection(result, sample, annotation["category_id"], annotation["bbox"])
        sample["ground_truth"]["detections"].append({**one, "iscrowd": crowd})
        if not crowd:
            objects[annotation["image_id"]].append(sample["ground_truth"]["detections"][-1])
    for name in result.variants:
        field, found = name.replace(".", "_"), result.predictions[name]
        by_image = result.operating_point(name).by_image
        every = scenes(result.truth, result.image_ids, found, iou_type=result.iou_type)
        for k, (image_id, scene) in enumerate(zip(result.image_ids, every, strict=True)):
            sample = samples[image_id]
            right, shown, count = (int(v) for v in by_image[k])
            counts = zip(_COUNTS, (right, shown - right, count - right), strict=True)
            sample |= {f"{field}_{what}": number for what, number in counts}
            ap = float(result.images_ap[name][k])
            sample[f"AP_{field}"] = ap if np.isfinite(ap) else None
            if not sample["metadata"]:
                continue
            for one in objects[image_id]:
                one[field] = "fn"
            rows = _found(result, sample, scene, found.get(image_id), objects[image_id], field)
            sample[field] = {"_cls": "Detections", "detections": list(rows)}
    text = {"samples": list(samples.values())}
    info = {"media_type": "image", "info": {"threshold": result.threshold, "made by": "hfc_probe"}}
    return [
        write_atomically(directory / name, json.dumps(content, allow_nan=False).encode())
        for name, content in (("samples.json", text), ("metadata.json", info))
    ]


def _found(
    result: Any,
    sample: Mapping[str, Any],
    scene: Scene,
    found: Any,
    objects: Sequence[dict[str, Any]],
    field: str,
) -> Iterator[dict[str, Any]]:
    for k in np.flatnonzero(scene.scores >= result.threshold).tolist():
        one = _detection(result, sample, int(scene.labels[k]), found.boxes[scene.rows[k]])
        one["confidence"] = float(scene.scores[k])
        match = int(scene.match[k])
        if match >= 0:
            objects[match][field] = "tp"
            one |= {"eval": "tp", "eval_iou": float(scene.overlap[k, match])}
        elif not scene.ignored[k]:
            one["eval"] = "fp"
        yield one


def _detection(
    result: Any, sample: Mapping[str, Any], category: int, box: Sequence[float]
) -> dict[str, Any]:
    width, height = sample["metadata"]["width"], sample["metadata"]["height"]
    x, y, w, h = (float(v) for v in box)
    label = result.truth.categories[category]
    shares = [x / width, y / height, w / width, h / height]
    return {"_cls": "Detection", "label": label, "bounding_box": shares}


def read_samples(directory: Path) -> dict[str, dict[str, Any]]:
    """Numbers, words and tags of each image, by the name of its file.

    Args:
        directory: what :func:`write_samples` wrote, or FiftyOne's export of it, with what was
            tagged there.

    Raises:
        InputError: no such export.
    """
    file = Path(directory) / "samples.json"
    try:
        samples = json.loads(file.read_bytes())["samples"]
        return {
            Path(sample["filepath"]).name: {
                name: value
                for name, value in sample.items()
                if isinstance(value, (bool, int, float, str)) and name != "filepath"
            }
            | {"tags": list(sample.get("tags") or ())}
            for sample in samples
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"directory: expected an export of FiftyOne with samples.json, got {directory} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); export it as "
            "fiftyone.types.FiftyOneDataset"
        ) from error


__all__ = ["read_samples", "write_samples"]

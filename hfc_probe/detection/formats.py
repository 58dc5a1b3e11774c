"""Annotations that are not COCO's, as COCO's content: YOLO, Pascal VOC and FiftyOne.

Each is recognised by its files. Images keep their numbers if all of their names are numbers, as in
COCO; otherwise the names, without the ending, are the ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..ground.errors import InputError, named

_PICTURES = {".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
Entry = tuple[str, tuple[float, float] | None, list[dict[str, Any]]]


def read_folder(path: Path, images: Path | None) -> dict[str, Any] | None:
    """COCO's content of a folder or file that is recognised; None if it is none of these.

    Args:
        path: ``data.yaml`` or its folder (YOLO), a folder of XML files or VOC's with
            ``Annotations/``, FiftyOne's export (``samples.json``, or ``labels.json`` of its image
            detection format); COCO's ``labels.json`` in a folder is read by the caller.
        images: folder of the images, where known.

    Raises:
        InputError: such annotations that cannot be read.
    """
    for reader in (_yolo, _voc, _fiftyone):
        try:
            content = reader(path, images)
        except (OSError, ValueError, KeyError, TypeError, SyntaxError, AttributeError) as error:
            raise InputError(
                f"annotations: expected {reader.__name__[1:].upper()} annotations in {path}, got "
                f"an entry that cannot be read ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]})"
            ) from error
        if content is not None:
            return content
    return None


def _content(
    entries: Iterable[Entry], names: Sequence[str], first: int, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """COCO's content of images with boxes whose category is a position in ``names``."""
    found = list(entries)
    stems = [Path(name).stem for name, *_ in found]
    if len(set(stems)) < len(stems):
        stems = [name for name, *_ in found]
    ids: list[Any] = stems
    if all(re.fullmatch(r"\d{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        ids = numbers if len(set(numbers)) == len(numbers) else stems  # 7 and 007
    content: dict[str, Any] = {
        "images": [], "annotations": [], "notes": list(notes),
        "categories": [{"id": k + first, "name": name} for k, name in enumerate(names)],
    }  # fmt: skip
    for image_id, (name, size, boxes) in zip(ids, found, strict=True):
        image = {"id": image_id, "file_name": name}
        if size is not None:
            image |= {"width": size[0], "height": size[1]}
        content["images"].append(image)
        for box in boxes:
            number = len(content["annotations"]) + 1
            area = box["bbox"][2] * box["bbox"][3]
            category = box.pop("position") + first
            content["annotations"].append(
                {"id": number, "image_id": image_id, "category_id": category, "area": area,
                 "iscrowd": 0, **box}
            )  # fmt: skip
    return content


def image_size(path: Path) -> tuple[float, float] | None:
    """Width and height as a viewer shows a picture; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (file.height, file.width) if turned else (file.width, file.height)
    except Exception:  # the audit says what is wrong when its turn comes
        return None


# --- YOLO ------------------------------------------------------------------------------------


def _yolo(path: Path, images: Path | None) -> dict[str, Any] | None:
    """``data.yaml`` and, beside the images, ``labels/`` of one text file per image."""
    file = path
    if path.is_dir():
        file = next((path / n for n in ("data.yaml", "dataset.yaml") if (path / n).is_file()), path)
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return None
    given = _yaml_keys(file.read_text(encoding="utf-8"))
    names = given.get("names") or []
    by_class = dict(names if isinstance(names, Mapping) else enumerate(names))
    if not by_class:
        raise ValueError("names of the classes are missing")
    if sorted(by_class) != list(range(len(by_class))):
        raise ValueError(f"names of classes {named(list(by_class))}, not from 0 on")
    listed = [by_class[k] for k in range(len(by_class))]
    posed = "kpt_shape" in given
    if images is None:
        root = file.parent / str(given.get("path") or ".")
        root = root if root.is_dir() else file.parent
        images = root / str(given.get("val") or given.get("train") or "images")
    if not images.is_dir():
        raise ValueError(f"no folder of images {images}")
    parts = list(images.resolve().parts)
    if "images" not in parts:
        raise ValueError(f"labels/ stands beside a folder images/, which is not in {images}")
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = Path(*parts)
    if not labels.is_dir():
        raise ValueError(f"no folder of labels {labels}")

    repeated: list[str] = []

    def entries() -> Iterator[Entry]:
        for picture in sorted(images.rglob("*")):
            if picture.suffix.lower() not in _PICTURES:
                continue
            name = picture.relative_to(images)
            size, text = image_size(picture), labels / name.with_suffix(".txt")
            read = text.read_text("utf-8-sig").splitlines() if text.is_file() and size else []
            width, height = size or (1.0, 1.0)
            boxes: dict[bytes, dict[str, Any]] = {}
            for line in filter(str.strip, read):
                box = _yolo_box(line, width, height, len(listed), posed=posed)
                # As ultralytics: the same numbers in single precision, keypoints left out.
                key = np.array(line.split()[: 5 if posed else None], dtype=np.float32).tobytes()
                if boxes.setdefault(key, box) is not box:
                    repeated.append(name.as_posix())
            yield name.as_posix(), size, list(boxes.values())

    content = _content(entries(), [str(name) for name in listed], 0)
    if repeated:
        content["notes"].append(
            f"{len(repeated)} lines that repeat another of the same labels file count once, as in "
            f"ultralytics ({named(sorted(set(repeated)))})"
        )
    return content


def _yolo_box(
    line: str, width: float, height: float, classes: int, *, posed: bool
) -> dict[str, Any]:
    """A class and a box (keypoints after it are left out), or a polygon, in shares of the image."""
    kind, *numbers = (float(v) for v in line.split())
    numbers = numbers[:4] if posed else numbers
    if not 0 <= kind < classes or len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
        raise ValueError(f"{line!r} is no class of {classes} with x, y, width, height")
    if len(numbers) == 4:
        x, y, w, h = numbers
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"position": int(kind), "bbox": box}
    xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
    ring = [v for pair in zip(xs, ys, strict=True) for v in pair]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    area = abs(sum(xs[k - 1] * ys[k] - xs[k] * ys[k - 1] for k in range(len(xs)))) / 2
    return {"position": int(kind), "bbox": box, "area": area, "segmentation": [ring]}


def _yaml_keys(text: str) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(read, dict):
        raise ValueError("no keys")
    return read


# --- Pascal VOC ------------------------------------------------------------------------------


def _voc(path: Path, images: Path | None) -> dict[str, Any] | None:
    """A folder of XML files, one per image, or that holds them in ``Annotations/``."""
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = sorted(folder.glob("*.xml")) if folder.is_dir() else []
    if not files:
        return None
    read: list[tuple[str, tuple[float, float] | None, list[tuple[str, dict[str, Any]]]]] = []
    difficult = 0
    for file in files:
        root = ElementTree.parse(file).getroot()
        objects = []
        for item in root.iter("object"):
            left, top, right, bottom = (
                float(_text(item, f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
            )
            # Counted from 1, the last pixel included.
            box: dict[str, Any] = {"bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1]}
            if (item.findtext("difficult") or "0").strip() == "1":
                box["iscrowd"] = 1
                difficult += 1
            objects.append((_text(item, "name"), box))
        name = root.findtext("filename") or f"{file.stem}.jpg"
        size = None
        if root.find("size/width") is not None:
            size = (float(_text(root, "size/width")), float(_text(root, "size/height")))
        read.append((name.strip(), size, objects))
    names = sorted({name for *_, objects in read for name, _ in objects})
    notes = ["categories are numbered from 1 in the order of the alphabet"]
    if difficult:
        notes.append(f"{difficult} difficult objects count as crowds, neither found nor missed")
    return _content(
        (
            (name, size, [{"position": names.index(kind), **box} for kind, box in objects])
            for name, size, objects in read
        ),
        names,
        1,
        notes,
    )


def _text(item: ElementTree.Element, tag: str) -> str:
    text = item.findtext(tag)
    if text is None or not text.strip():
        raise ValueError(f"<{tag}> is missing")
    return text.strip()


# --- FiftyOne --------------------------------------------------------------------------------


def _fiftyone(path: Path, images: Path | None) -> dict[str, Any] | None:
    """FiftyOne's own export, or its image detection format."""
    if path.is_dir():
        path = next(
            (path / n for n in ("samples.json", "labels.json") if (path / n).is_file()), path
        )
    if path.suffix != ".json" or not path.is_file():
        return None
    with path.open("rb") as file:  # COCO files are large: only what looks like FiftyOne's is read
        start = file.read(1 << 16)
    if path.name != "samples.json" and b'"labels"' not in start and b'"samples"' not in start:
        return None
    content = json.loads(path.read_bytes())
    if not isinstance(content, Mapping) or "images" in content:
        return None
    folder = images or path.parent / "data"
    if isinstance(content.get("samples"), list):
        truth = _truth_field(content["samples"])
        rows = [
            (s["filepath"], _sample_size(s), ((s.get(truth) or {}).get("detections") or []))
            for s in content["samples"]
        ]
    elif isinstance(content.get("labels"), Mapping):
        on_disk = {p.stem: p.name for p in folder.iterdir()} if folder.is_dir() else {}
        rows = [(on_disk.get(k, k), None, v or []) for k, v in content["labels"].items()]
    else:
        return None
    known = content.get("classes") or []
    names = [str(n) for n in known] or sorted(
        {str(d["label"]) for *_, found in rows for d in found}
    )

    def entries() -> Iterator[Entry]:
        for name, size, found in rows:
            file_name = Path(str(name)).name
            size = size or image_size(folder / file_name)
            if found and size is None:
                raise ValueError(f"the size of {file_name} is not known; name the images' folder")
            width, height = size or (1.0, 1.0)
            boxes = []
            for one in found:
                x, y, w, h = (float(v) for v in one["bounding_box"])
                label = one["label"]
                position = label if known and isinstance(label, int) else names.index(str(label))
                boxes.append({"position": position, "iscrowd": int(bool(one.get("iscrowd"))),
                              "bbox": [x * width, y * height, w * width, h * height]})  # fmt: skip
            yield file_name, size, boxes

    return _content(entries(), names, 0, ["categories are FiftyOne's classes, numbered from 0"])


def _sample_size(sample: Mapping[str, Any]) -> tuple[float, float] | None:
    metadata = sample.get("metadata") or {}
    width, height = metadata.get("width"), metadata.get("height")
    return (float(width), float(height)) if width and height else None


def _truth_field(samples: Sequence[Mapping[str, Any]]) -> str:
    """The field of detections without confidences, in any sample: the ground truth."""
    sure: dict[str, bool] = {}
    for sample in samples:
        for name, value in sample.items():
            if isinstance(value, Mapping) and value.get("_cls") == "Detections":
                found = value.get("detections") or []
                alone = all(d.get("confidence") is None for d in found)
                sure[name] = sure.get(name, True) and alone
    names = sorted((name for name in sure if sure[name]), key=lambda k: k != "ground_truth")
    if len(names) > 1 and names[0] != "ground_truth":
        raise ValueError(f"the fields {named(names)} could all be the truth; call it ground_truth")
    if sure and not names:
        raise ValueError(f"the fields {named(list(sure))} hold detections with confidences only")
    return names[0] if names else ""

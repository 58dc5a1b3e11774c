"""Detectors and the images to audit them on: FastestDet on COCO, and a planted one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms

from hfc_probe import InputError
from hfc_probe.detection import CocoImages, GroundTruth
from hfc_probe.detection.detectors import from_onnx


class Scene(NamedTuple):
    detector: Any
    images: Any


def load(dataset: str, root: Path, setting, seed: int) -> Scene:
    """The detector of `setting.detector`, and images whose objects are known."""
    if setting.detector == "planted":
        return Scene(find_shapes, PlantedShapes(48, seed))
    file, folder = root / "detector" / "fastestdet.onnx", root / "coco"
    if not file.is_file() or dataset != "coco":
        raise InputError(
            f"--data: expected detector/fastestdet.onnx and coco/ in {root}, got none or "
            f"--dataset {dataset}; pass their folder with --data"
        )
    images = CocoImages(folder / "val2017", folder / "instances_val2017.json")
    ids = torch.tensor(sorted(images.truth.categories))

    def decode(outputs: list[np.ndarray], height: int, width: int) -> dict[str, Tensor]:
        return decode_fastestdet(outputs, height, width, ids)

    return Scene(from_onnx(file, decode, prepare=prepare), images)


def prepare(image: Tensor) -> Tensor:
    """`(1, 3, 352, 352)`, BGR."""
    image = interpolate(image[None], size=(352, 352), mode="bilinear", align_corners=False)
    return image[:, [2, 1, 0]]


def decode_fastestdet(
    outputs: list[np.ndarray], height: int, width: int, ids: Tensor
) -> dict[str, Tensor]:
    """Boxes, scores and category ids: objectness, four box numbers and 80 scores per cell."""
    found = torch.as_tensor(outputs[0]).reshape(85, -1)
    y, x = torch.meshgrid(torch.arange(22), torch.arange(22), indexing="ij")
    best, label = found[5:].max(0)
    scores = found[0] ** 0.6 * best**0.4
    centre = (found[1:3].tanh() + torch.stack([x.flatten(), y.flatten()])) / 22
    size = found[3:5].sigmoid()
    scale = torch.tensor([width, height, width, height])
    boxes = torch.cat([centre - size / 2, centre + size / 2]).T * scale
    kept = scores > 0.001
    boxes, scores, label = boxes[kept], scores[kept], label[kept]
    kept = batched_nms(boxes, scores, label, 0.45)
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": ids[label[kept]]}


# Bright and dark bumps lie below 8 cycles per image of 96 pixels, checkers of four pixels a
# period at 24 cycles along either axis.
_SIDE, _CELL = 96, 24
_SHAPES = {1: "bright", 2: "dark", 3: "checker"}
_AT = (torch.arange(_CELL) - (_CELL - 1) / 2) / _CELL
_WINDOW = torch.exp(-18 * (_AT[:, None] ** 2 + _AT[None] ** 2))
_WAVE = torch.cos(math.pi * torch.arange(_CELL) / 2 + math.pi / 4) * math.sqrt(2)
_CHECKER = _WINDOW * _WAVE[:, None] * _WAVE[None]


class PlantedShapes:
    """Grey images with a shape in some cells of a grid of four by four."""

    def __init__(self, count: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.pictures, annotations = {}, []
        for image_id in range(1, count + 1):
            picture = 0.5 + 0.02 * torch.randn(3, _SIDE, _SIDE, generator=random)
            for cell in torch.randperm(16, generator=random)[:4].tolist():
                kind = int(torch.randint(1, 4, (), generator=random))
                y, x = (_CELL * k for k in divmod(cell, 4))
                shape = _CHECKER if kind == 3 else _WINDOW * (3 - 2 * kind)
                picture[:, y : y + _CELL, x : x + _CELL] += 0.4 * shape
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": kind,
                    "bbox": [x, y, _CELL, _CELL], "area": _CELL**2, "iscrowd": 0,
                })  # fmt: skip
            self.pictures[image_id] = picture.clamp(0, 1)
        self.truth = GroundTruth.read({
            "images": [{"id": k, "height": _SIDE, "width": _SIDE} for k in self.pictures],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in _SHAPES.items()],
        })  # fmt: skip

    def load(self, image_id: int) -> Tensor:
        return self.pictures[image_id]


def find_shapes(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Correlates each cell with each shape; finds what is at least half as strong as planted."""
    bump = _WINDOW - _WINDOW.mean()
    filters = torch.stack([bump, -bump, _CHECKER])
    out = []
    for image in images:
        cells = image.mean(0).unfold(0, _CELL, _CELL).unfold(1, _CELL, _CELL)
        score = torch.einsum("yxij,kij->yxk", cells, filters) / filters.square().sum((1, 2)) / 0.4
        y, x, kind = (score > 0.5).nonzero().T
        corner = _CELL * torch.stack([x, y], 1)
        boxes = torch.cat([corner, corner + _CELL], 1).float()
        out.append({"boxes": boxes, "scores": score[y, x, kind].clamp(max=1), "labels": kind + 1})
    return out

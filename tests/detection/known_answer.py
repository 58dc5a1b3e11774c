"""A detector whose answer is known: blobs live below 12 cycles per image, checkers above.

Blobs are Gaussian bumps (spectrum within about 8 cycles), checkers a 4-pixel pattern (45
cycles) under a smooth window. A detector trained on both must lose checkers on LFC(12) and
blobs on HFC(12), whatever else it does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hfc_probe.detection import GroundTruth

SIZE = 128
BLOB, CHECKER = 3, 8  # category ids that are no positions, as in COCO


class PlantedShapes:
    """Images ``(3, 128, 128)`` with one to three shapes; a data set that an audit can read."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pictures: dict[int, Tensor] = {}
        self.targets: dict[int, dict[str, Tensor]] = {}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for k in range(count):
            image_id = 1000 + 7 * k
            picture, boxes, labels = _draw(generator)
            self.pictures[image_id] = picture
            self.targets[image_id] = {"boxes": boxes, "labels": labels}
            images.append(
                {"id": image_id, "file_name": f"{image_id}.png", "height": SIZE, "width": SIZE}
            )
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
                x0, y0, x1, y1 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        self.content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": BLOB, "name": "blob"}, {"id": CHECKER, "name": "checker"}],
        }
        self.truth = GroundTruth.read(self.content)
        self.loads: list[Any] = []

    def load(self, image_id: Any) -> Tensor:
        self.loads.append(image_id)
        return self.pictures[image_id]


def _draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=generator))

    picture = torch.full((3, SIZE, SIZE), uniform(0.4, 0.6))
    picture += 0.02 * torch.randn(picture.shape, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(int(uniform(1, 3.999))):
        side = round(uniform(28, 48))
        left, top = (round(uniform(0, SIZE - side)) for _ in range(2))
        box = [left, top, left + side, top + side]
        if any(_overlap(box, other) for other in boxes):
            continue
        label = BLOB if uniform(0, 1) < 0.5 else CHECKER
        u, v = (x - left - side / 2) / side, (y - top - side / 2) / side
        if label == BLOB:
            shape = 0.35 * math.copysign(1, uniform(-1, 1)) * torch.exp(-(u**2 + v**2) * 18)
        else:
            inside = (u.abs() < 0.5) & (v.abs() < 0.5)
            window = torch.cos(math.pi * u).clamp(0) ** 0.5 * torch.cos(math.pi * v).clamp(0) ** 0.5
            shape = 0.35 * torch.cos(math.pi * x / 2) * torch.cos(math.pi * y / 2) * window * inside
        picture = picture + shape
        boxes.append([float(b) for b in box])
        labels.append(label)
    return picture.clamp(0, 1), torch.tensor(boxes), torch.tensor(labels)


def _overlap(a: list[float], b: list[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def build() -> nn.Module:
    """A torchvision RetinaNet on a small ResNet with GroupNorm."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    # One block a stage and no fourth stage: a third of the work of a ResNet-18.
    body = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=lambda width: nn.GroupNorm(16, width))
    levels = {"layer2": "0", "layer3": "1"}
    backbone = BackboneWithFPN(body, levels, [128, 256], 64, extra_blocks=LastLevelMaxPool())
    anchors = AnchorGenerator(((24, 32), (40, 48), (64, 80)), ((1.0,),) * 3)
    return RetinaNet(
        backbone,
        num_classes=CHECKER + 1,
        anchor_generator=anchors,
        min_size=SIZE,
        max_size=SIZE,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )


def train(data: PlantedShapes, *, steps: int, batch: int = 4, seed: int = 0) -> nn.Module:
    """Train on all images, in well under a minute on two cores."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    image_ids = list(data.pictures)
    model.train()
    order: list[int] = []
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(image_ids)).tolist()
        chosen = [image_ids[order.pop()] for _ in range(batch)]
        losses = model([data.pictures[i] for i in chosen], [data.targets[i] for i in chosen])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model

"""FastestDet, a small detector really trained on COCO, on onnxruntime; see ../shared/data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms

from tests.conftest import DATA

SIDE, CELLS = 352, 22
FILE = DATA / "detector" / "fastestdet.onnx"


def needs_detector():
    """Skip the test that calls it, unless the detector can run."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if not FILE.is_file():
        pytest.skip(f"no detector in {FILE.parent}")


def session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(FILE), options, providers=["CPUExecutionProvider"])


def prepare(image, side=SIDE):
    """``(1, 3, side, side)``, BGR."""
    resized = interpolate(image[None], size=(side, side), mode="bilinear", align_corners=False)
    return resized[:, [2, 1, 0]]


def decode(output, height, width, category_ids, threshold=0.001):
    """Boxes, scores and category ids from ``(85, 22, 22)``."""
    found = torch.as_tensor(np.asarray(output)).reshape(85, -1)
    y, x = (v.flatten() for v in torch.meshgrid(*2 * [torch.arange(CELLS)], indexing="ij"))
    best, label = found[5:].max(0)
    scores = found[0] ** 0.6 * best**0.4
    centre = torch.stack([found[1].tanh() + x, found[2].tanh() + y], 1) / CELLS
    size = found[3:5].sigmoid().T
    scale = torch.tensor([width, height, width, height])
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1) * scale
    kept = scores > threshold
    boxes, scores, label = boxes[kept], scores[kept], label[kept]
    kept = batched_nms(boxes, scores, label, 0.45)
    ids = torch.as_tensor(category_ids)[label[kept]]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": ids}


class FastestDet:
    """The detector as a user writes it down."""

    def __init__(self, truth, threshold=0.001):
        self.category_ids = sorted(truth.categories)
        self.threshold = threshold
        self.session = session()

    def __call__(self, images):
        return [self.one(image) for image in images]

    def one(self, image):
        (output,) = self.session.run(None, {self.input: prepare(image).numpy()})
        return decode(output[0], *image.shape[1:], self.category_ids, self.threshold)

    @property
    def input(self):
        return self.session.get_inputs()[0].name

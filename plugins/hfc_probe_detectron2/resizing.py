"""The original image behind a mapper's, and the mapper's resizing for signed floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from PIL import Image
from torch import Tensor

from hfc_probe.ground.errors import InputError


def unresized(entry: Mapping[str, Any]) -> Tensor:
    """The image as it was before the mapper resized it, ``(C, H, W)`` from 0 to 255.

    Raises:
        InputError: the mapper did something else than reading and resizing.
    """
    given = entry["image"].cpu().numpy()
    for form in ("BGR", "RGB") if "file_name" in entry else ():
        pixels = read_image(entry["file_name"], form)
        resize = T.ResizeTransform(*pixels.shape[:2], *given.shape[1:])
        if np.array_equal(resize.apply_image(pixels).transpose(2, 0, 1), given):
            return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
    raise InputError(
        "mapper: expected one that reads a file and resizes it, as detectron2's for tests, to "
        "filter the original image, got other pixels; filter what the mapper gives by "
        'settings=DetectionAudit(at="input")'
    )


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """As Pillow resizes 8 bits, but signed and without rounding.

    detectron2's own resizes floats without a low-pass, so that a variant that equals the original
    would be fed other pixels.
    """
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in image.float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(planes)).to(image.device)

"""Instance masks as COCO's run-length encoding (RLE), which takes a hundredth of their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ground.errors import InputError

Rle = Mapping[str, Any]  # {"size": [height, width], "counts": text}


def mask_tools() -> Any:
    """Pycocotools' module of masks.

    Raises:
        InputError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "detection: average precision needs pycocotools; pip install 'hfc_probe[detection]'"
        ) from error
    return mask


def encoded(masks: Any, count: int) -> tuple[Rle, ...]:
    """A detector's masks of one image.

    Args:
        masks: ``(n, H, W)`` or, as torchvision's, ``(n, 1, H, W)``, bool or in [0, 1] (a pixel
            above 0.5 belongs to the object), at the image's size; or a list of COCO's RLE.
        count: of the image's boxes.

    Raises:
        InputError: something else.
    """
    if isinstance(masks, Sequence) and all(isinstance(m, Mapping) for m in masks):
        found = tuple(plain_rle(mask) for mask in masks)
        shape: Any = f"{len(found)} RLE"
    else:
        pixels = masks if isinstance(masks, Tensor) else torch.as_tensor(masks, device="cpu")
        shape = tuple(pixels.shape)
        if pixels.dim() == 4 and pixels.shape[1] == 1:
            pixels = pixels[:, 0]
        found = ()
        if pixels.dim() == 3:
            tools = mask_tools()
            # One at a time: a hundred masks of a photograph as bytes are 30 MB.
            found = tuple(
                plain_rle(tools.encode(np.asfortranarray((one > 0.5).cpu().numpy(), np.uint8)))
                for one in pixels.detach()
            )
    if len(found) != count:
        raise InputError(
            f"detector: expected masks (n, H, W) or (n, 1, H, W), n being {count} as of the boxes, "
            f"got {shape}"
        )
    return found


def plain_rle(mask: Rle) -> Rle:
    """Compressed RLE with text for JSON."""
    counts = mask["counts"]
    if isinstance(counts, list):
        counts = mask_tools().frPyObjects(dict(mask), *mask["size"])["counts"]
    text = counts.decode() if isinstance(counts, bytes) else str(counts)
    return {"size": [int(side) for side in mask["size"]], "counts": text}

"""Whether a detector sees the sign of an image: adapters that go through 8 bits clip it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .coco import Detections, detections_from


def sign_doubt(detect: Callable[[list[Tensor]], Sequence[Any]], image: Tensor) -> str | None:
    """A sentence if the detector's answer to a signed image is that to its clipped copy.

    The image is fed without its mean, as HFC(0): signed, clipped to [0, 1], and wrapped round as
    a conversion to 8 bits does. An answer of a network that sees other pixels is another one.

    Args:
        detect: maps a list of images to a list of detections.
        image: ``(C, H, W)`` in [0, 1].
    """
    signed = image - image.mean((-2, -1), keepdim=True)
    eight = (255 * signed).to(torch.int64) % 256
    shown = {"": signed, "clips": signed.clamp(0, 1), "wraps": eight.to(image.dtype) / 255}
    answers = {name: detections_from(detect([fed]), 1)[0] for name, fed in shown.items()}
    signed_answer = answers.pop("")
    if not len(signed_answer.scores):
        return None
    for how, answer in answers.items():
        if _equal(signed_answer, answer):
            return (
                f"the detector finds exactly the same in a signed image as in one that {how} at 0 "
                "and 1, and HFC on zero background are signed; feed it floats instead of 8 bits, "
                'or use hfc_background="mean"'
            )
    return None


def _equal(one: Detections, other: Detections) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))

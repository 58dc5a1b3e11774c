"""The logits among what a model returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ground.errors import InputError


def first_output(output: Any, count: int, targets: Tensor) -> Any:
    """What a model returns, or the logits among it; a tuple's first unless others fit as well."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    for key in ("logits", "out"):  # of transformers, and of torchvision's segmentation
        if isinstance(output, Mapping) and key in output:
            return output[key]
    if isinstance(output, (tuple, list)) and output:
        _check_first(output, count, int(targets.max()) + 1)
        return output[0]
    return output


def tensor_among(output: Any, count: int) -> Tensor:
    """The tensor that a score compares, of any shape, among what a model returns.

    Raises:
        InputError: none, or several that could be it.
    """
    found = first_output(output, count, torch.zeros(1, dtype=torch.long, device="cpu"))
    if not isinstance(found, Tensor):
        raise InputError(f"model: expected a tensor to score, got {described(found)}")
    return found


def look_like_probabilities(outputs: Tensor) -> bool:
    """Whether outputs ``(N, K)`` lie in [0, 1] and sum to 1 by row or are on both sides of 0.5.

    Logits that all do are hardly met.
    """
    low, high = (float(bound) for bound in outputs.aminmax())
    if not 0 <= low <= high <= 1:
        return False
    split = outputs.numel() >= 16 and low < 0.5 < high
    return split or bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


def described(output: Any) -> str:
    """What a model returned in place of a tensor, and the ``predict=`` that would return it."""
    if not isinstance(output, Mapping) or not output:
        return f"{type(output).__name__}; pass predict=lambda model, images: … that returns it"
    first, *others = output
    which = f"; if it is not {first!r}, write the one that it is" if others else ""
    return (
        f"{type(output).__name__} with {', '.join(map(repr, output))}; pass predict="
        f"lambda model, images: model(images)[{first!r}] that returns it{which}"
    )


def _check_first(outputs: Sequence[Any], count: int, needed: int) -> None:
    """Refuse a tuple in which not the first tensor may be the logits: (features, logits), say.

    Features have more columns than there are classes, or as few as happen to be enough for the
    labels seen. So the first passes if no other of another width is possible, or if it is the
    narrowest possible and the labels use more than half of its columns.
    """
    widths = {
        place: one.shape[1]
        for place, one in enumerate(outputs)
        if isinstance(one, Tensor) and one.dim() == 2 and len(one) == count
        if one.is_floating_point() and one.shape[1] >= max(2, needed)
    }
    if not widths or set(widths.values()) == {widths.get(0)}:
        return
    likely = min(widths, key=lambda place: widths[place])
    if likely == 0 and needed > widths[0] / 2:
        return
    shapes = ", ".join(
        str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in outputs
    )
    raise InputError(
        f"model: expected one tensor of logits, got {len(outputs)} outputs ({shapes}), and labels "
        f"up to {needed - 1} do not tell which are the logits; pass "
        f"predict=lambda model, images: model(images)[{likely}], if it is number {likely}"
    )

"""The images and the labels in a batch of whatever form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ground.errors import InputError

_IMAGE_KEYS = ("pixel_values", "images", "image", "inputs", "input", "img", "x", "data")
_TARGET_KEYS = ("labels", "label", "targets", "target", "y", "cls", "class", "fine_label")


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and targets of one batch, as plain tensors on the CPU.

    Raises:
        InputError: another form of batch, images or labels.
    """
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Mapping):
        parts = [unpack(one) for one in batch]  # DALI's: a mapping for each of its pipelines
        return torch.cat([images for images, _ in parts]), torch.cat([one for _, one in parts])
    if isinstance(batch, Mapping):
        image_key = next((k for k in _IMAGE_KEYS if k in batch), None)
        target_key = next((k for k in _TARGET_KEYS if k in batch), None)
        if image_key is None or target_key is None:
            raise InputError(
                f"data: expected a batch with one of the keys {', '.join(_IMAGE_KEYS[:3])}, … and "
                f"one of {', '.join(_TARGET_KEYS[:3])}, …, got {', '.join(map(str, batch))}"
            )
        images, targets = batch[image_key], batch[target_key]
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        images, targets = batch[0], batch[1]
    else:
        raise InputError(
            "data: expected batches as (images, targets) or a mapping, got "
            f"{type(batch).__name__}"
            f"{f' of length {len(batch)}' if isinstance(batch, (tuple, list)) else ''}"
            "; give labels with the images, plain tensors as Samples(images, targets)"
        )
    if not isinstance(images, Tensor) or images.dim() not in (4, 5):
        what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(
            f"data: expected batches of images (N, C, H, W) or (N, C, T, H, W), got {what}"
        )
    labels = plain_targets(targets)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if channels_last(images):
        raise InputError(
            f"data: expected images of shape (N, C, H, W), got {tuple(images.shape)} with the "
            "channels last; permute them in the transform or the collate function"
        )
    if labels.shape != images.shape[:1]:
        cure = "soft or one-hot labels need .argmax(1), "
        cure = cure if labels.dim() == 2 else ""
        raise InputError(
            f"data: expected {images.shape[0]} class indices with {images.shape[0]} images, got "
            f"targets of shape {tuple(labels.shape)}; {cure}masks and targets of other tasks "
            "ImageScore(targets=…) on Samples(images, torch.arange(N))"
        )
    return plain_tensor(images), labels


def rival_labels(batch: Any) -> Iterator[str]:
    """The sentence on further fields of a batch that could be its labels as well."""
    if not isinstance(batch, (tuple, list)) or not all(isinstance(b, Tensor) for b in batch[:2]):
        return
    rivals = [
        str(k)
        for k, other in enumerate(batch[2:], 2)
        if isinstance(other, Tensor)
        and other.shape == batch[1].shape
        and not other.is_floating_point()
    ]
    if rivals:
        yield (
            f"Batches have {len(batch)} fields; field 1 is taken for the labels, and field "
            f"{', '.join(rivals)} looks like labels too. If that is wrong, pass a loader of "
            "(images, labels)."
        )


def channels_last(images: Tensor) -> bool:
    """Whether images are ``(N, H, W, C)``, as NumPy and TensorFlow keep them."""
    shape = images.shape
    return len(shape) == 4 and shape[3] in (1, 3) and min(shape[1:3]) >= 8


def plain_tensor(value: Tensor) -> Tensor:
    """A tensor on the CPU without a history and without what a subclass adds.

    Raises:
        InputError: a tensor without values.
    """
    if value.is_meta:
        raise InputError("data: expected tensors with values, got one on the meta device")
    return value.detach().as_subclass(Tensor).cpu()


def plain_targets(targets: Any) -> Tensor:
    """Labels as a plain tensor; those among others in a mapping too.

    Raises:
        InputError: names, None, or anything else that is no number.
    """
    if isinstance(targets, Mapping):
        key = next((k for k in _TARGET_KEYS if k in targets), None)
        if key is None:
            raise InputError(
                "labels: expected class indices, or a mapping with one of the keys "
                f"{', '.join(_TARGET_KEYS[:3])}, …, got {', '.join(map(str, targets)) or 'none'}"
            )
        targets = targets[key]
    if isinstance(targets, Tensor):
        return plain_tensor(targets)
    try:
        return plain_tensor(torch.as_tensor(targets, device="cpu"))
    except Exception:
        first = targets
        if isinstance(targets, (list, tuple)) and targets:
            first = next((t for t in targets if not isinstance(t, (int, float))), targets[0])
        what = repr(first) if isinstance(first, str) else type(first).__name__
        raise InputError(
            f"labels: expected whole class indices from 0, got {what}; map names to indices in "
            "the data set, and leave out images without a label"
        ) from None

"""How a published model's images are resized and normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..data.samples import PixelSpace
from .model_files import processor


@dataclass(frozen=True)
class Preprocessing:
    """What a model's publisher does to an image.

    Attributes:
        pixels: the normalisation; None if none is published.
        size: side of the square that the model is given.
        crop: share of the resized image's shorter side that is kept; None: the whole image is
            resized to the square, whatever its aspect.
        interpolation: ``bilinear``, ``bicubic``, ….
        always: whether images of one size are resized as well: it was saved with these weights.
    """

    pixels: PixelSpace | None = None
    size: int = 224
    crop: float | None = 0.875  # as torchvision and most others do
    interpolation: str = "bilinear"
    always: bool = False


def preprocessing(spec: str, model: nn.Module) -> Preprocessing:
    """What torchvision, timm or transformers publishes with a model; defaults for one's own."""
    kind, _, name = spec.partition(":")
    if kind == "torchvision":
        return _of_torchvision(name)
    if kind == "timm":
        return _of_timm(getattr(model, "pretrained_cfg", None) or {})
    if kind == "hf":
        return _of_transformers(processor(name))
    return Preprocessing()


def _of_torchvision(name: str) -> Preprocessing:
    from torchvision import models

    published: Any = models.get_model_weights(name)["DEFAULT"].transforms()
    size, resized = int(published.crop_size[0]), int(published.resize_size[0])
    pixels = PixelSpace(tuple(published.mean), tuple(published.std))
    return Preprocessing(pixels, size, size / resized, published.interpolation.value)


def _of_timm(config: Mapping[str, Any]) -> Preprocessing:
    if not config.get("mean") or not config.get("input_size"):
        return Preprocessing(PixelSpace.imagenet())
    squash = config.get("crop_mode") == "squash"
    interpolation = str(config.get("interpolation") or "bicubic")
    return Preprocessing(
        PixelSpace(tuple(config["mean"]), tuple(config["std"])),
        int(config["input_size"][-1]),
        None if squash else float(config.get("crop_pct") or 0.875),
        interpolation if interpolation != "random" else "bilinear",
    )


def _of_transformers(images: Any) -> Preprocessing:
    config = images.to_dict()
    pixels = PixelSpace()
    if config.get("do_normalize", True) and config.get("image_mean"):
        pixels = PixelSpace(tuple(config["image_mean"]), tuple(config["image_std"]))
    size = config.get("size") or {}
    names = {0: "nearest", 2: "bilinear", 3: "bicubic"}
    interpolation = names.get(config.get("resample", 2), "bilinear")
    always = bool(config.get("do_resize", True))
    side = size.get("shortest_edge") or size.get("height") or 224
    if config.get("crop_pct"):  # ConvNeXt: from 384 pixels on the whole image is resized
        crop = float(config["crop_pct"]) if side < 384 else None
        return Preprocessing(pixels, int(side), crop, interpolation, always)
    if config.get("do_center_crop") and config.get("crop_size"):
        cropped = config["crop_size"]["height"]
        return Preprocessing(pixels, int(cropped), cropped / side, interpolation, always)
    whole = None if "height" in size else 1.0
    return Preprocessing(pixels, int(side), whole, interpolation, always)

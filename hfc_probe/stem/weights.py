"""Kernels read from weights, if they surely are what the layer computes with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import kernels
from ..ground.errors import InputError


@dataclass(frozen=True)
class Stem:
    """The first layer's kernels and how they were obtained.

    Attributes:
        name: the layer's dotted name.
        layer_type: its class.
        kernels: float32 ``(out, in, kh, kw)`` on the CPU. Time lies beside the channels
            (``in = channels · kt``), and so do the two parts of a complex response.
        dilation: spacing of the taps in pixels.
        obtained: "weights" (they were read), or "response" and to what.
        caveats: what cannot be trusted about them.
    """

    name: str
    layer_type: str
    kernels: Tensor
    dilation: tuple[int, int] = (1, 1)
    obtained: str = "weights"
    caveats: tuple[str, ...] = ()


def read_weights(
    name: str,
    module: nn.Module,
    layout: kernels.Layout = "auto",
    caveats: tuple[str, ...] = (),
    obtained: str = "weights",
) -> Stem:
    return Stem(
        name=name,
        layer_type=type(module).__name__,
        kernels=kernels.weight_of(name, module, layout=layout),
        dilation=kernels.dilation_of(module),
        obtained=obtained,
        caveats=caveats,
    )


def is_plain(module: nn.Module) -> bool:
    """Whether a convolution surely computes with its weight as it is stored."""
    if type(module) not in (nn.Conv2d, nn.Conv3d):
        return False
    weight = module._parameters.get("weight")
    return (
        type(weight) is nn.Parameter
        and weight.is_floating_point()
        and "forward" not in vars(module)
        and not module._forward_pre_hooks
        and not module._forward_hooks
    )


def usual_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of one image to try if nobody said what the model is fed."""
    try:
        _, first = kernels.first_layer(model)
    except InputError:
        first = model
    channels = int(getattr(first, "in_channels", 3))
    features = getattr(first, "in_features", None)
    if isinstance(features, int):
        for channels in (3, 1, 4):
            side = math.isqrt(features // channels)
            if channels * side * side == features:
                yield channels, side, side
        channels = 3
    declared: Any = getattr(getattr(model, "config", None), "image_size", None)
    timm: Any = getattr(model, "default_cfg", None)
    if isinstance(timm, Mapping):
        declared = timm.get("input_size")
    if isinstance(declared, (tuple, list)):
        declared = declared[-1]
    sides = ([declared] if isinstance(declared, int) else []) + [32, 224, 64, 28, 256, 384, 512]
    for side in dict.fromkeys(sides):
        if len(getattr(first, "kernel_size", ())) == 3:
            yield channels, 16, side, side  # a video
        else:
            yield channels, side, side

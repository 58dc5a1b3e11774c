"""The first layer that sees pixels: which it is, and its weights as they act on pixels."""

from __future__ import annotations

import difflib
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..ground import checks
from ..ground.errors import InputError
from ..model.isolation import unwrap

Layout = Literal["auto", "channels_first", "channels_last"]

_LISTED = 8  # layers named in the error that none sees pixels
_INTEGERS = (torch.int8, torch.uint8, torch.qint8, torch.quint8)
_NEGLIGIBLE = 1e-5  # of the largest response: rounding, not a tap


def first_layer(
    model: nn.Module, *, layer: str | None = None, channels: int | None = None
) -> tuple[str, nn.Module]:
    """The first layer that sees pixels, as ``(dotted name, module)``.

    Looked for, in the order in which the model registers its modules, and without running
    it (so a model on the meta device will do):

    1. a convolution with a kernel larger than one pixel that reads 3 or 4 channels (or
       ``channels``, if that is given);
    2. the very first layer with weights, if it is a convolution with a larger kernel: one
       channel, several spectral bands, or pixels moved into channels;
    3. such a convolution over one channel with more than one output;
    4. the very first layer with weights, if it is linear over flattened square patches of
       1, 3 or 4 channels: the patch embedding of some vision transformers, an MLP.

    Wrappers (``DistributedDataParallel``, ``DataParallel``, ``torch.compile``) are looked
    through; grouped, strided, dilated, parametrised and quantised layers count like plain
    ones.

    Args:
        model: any module.
        layer: take the layer of this name instead.
        channels: number of channels of the images, when known.

    Raises:
        InputError: nothing found (the message lists what was looked at), or an unknown or
            unsuitable ``layer``.

    >>> first_layer(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))[0]
    '0'
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {checks.shown(model)}")
    model = unwrap(model)
    modules = dict(model.named_modules())
    if layer is not None:
        checks.text("layer", layer, "the dotted name of a layer")
        return layer, _named(modules, layer)
    layers = [(name, module) for name, module in modules.items() if is_layer(module)]
    spatial = [(name, module) for name, module in layers if kernel_size(module) > 1]
    wanted = (3, 4) if channels is None else (channels,)
    # One channel comes last, and only with several outputs: attention and position encodings
    # are convolutions from one channel to one.
    candidates = [pair for pair in spatial if input_channels(pair[1]) in wanted]
    if channels is None and _feeds(layers, candidates):
        candidates = layers[:1]
    candidates += [pair for pair in spatial[:1] if pair[1] is layers[0][1]]
    candidates += [
        pair for pair in spatial if input_channels(pair[1]) == 1 and pair[1].out_channels != 1
    ]
    candidates += [pair for pair in layers[:1] if _patch_shape(*pair, "auto")]
    if candidates:
        return candidates[0]
    looked_at = ", ".join(f"{name or '(root)'}: {describe(m)}" for name, m in layers[:_LISTED])
    raise InputError(
        "first_layer: expected a convolution with a kernel larger than 1×1 that reads the image, "
        f"or a linear patch embedding, found none in {type(model).__name__}; looked at "
        f"{looked_at or 'no layer with weights'}"
        f"{', …' if len(layers) > _LISTED else ''}; name one with layer="
    )


def weight_of(name: str, module: nn.Module, *, layout: Layout = "auto") -> Tensor:
    """A layer's kernels as they act on pixels: float32 ``(out, in, kh, kw)``, on the CPU.

    A copy: writing to it does not change the model. Call it in evaluation mode (as
    measurements do), since spectral norm updates its buffers when its weight is read in
    training mode. Three-dimensional kernels put time beside the channels,
    ``(out, in · kt, kh, kw)``. Weights under ``parametrize`` or the older weight and
    spectral norm are the effective ones; quantised weights are dequantised.

    Args:
        name: the layer's dotted name; for a linear layer "patch" or "embed" in it means
            that patches are flattened as (height, width, channel).
        module: a convolution or linear layer as :func:`first_layer` returns it.
        layout: the order in which a linear layer's inputs were flattened;
            ``"channels_first"`` is (channel, height, width).

    Raises:
        InputError: the layer holds no weights yet (lazy, or on the meta device), or is
            not a convolution or patch embedding.
    """
    with torch.no_grad():
        weight = raw_weight(module)
        if hasattr(weight, "full_tensor"):  # spread over ranks, which all come here
            weight = weight.full_tensor()
        if (
            not isinstance(weight, Tensor)
            or weight.is_meta
            or isinstance(weight, nn.UninitializedParameter)
        ):
            raise InputError(
                f"kernels: expected weights in layer {name!r}, got "
                f"{'a meta tensor' if isinstance(weight, Tensor) else 'none'}; load weights or "
                "run the model once before its kernels are read"
            )
        if weight.is_quantized or (hasattr(weight, "dequantize") and weight.dtype in _INTEGERS):
            weight = weight.dequantize()
        weight = weight.detach()
        if weight.is_complex():  # its two parts beside the channels
            weight = torch.cat([weight.real, weight.imag], 1)
        weight = weight.to(device="cpu", dtype=torch.float32, copy=True)
    if weight.dim() == 2:
        patch = _patch_shape(name, module, layout)
        if patch is None:
            raise InputError(
                f"kernels: expected layer {name!r} to read square patches of 1, 3 or 4 channels, "
                f"got {weight.shape[1]} inputs"
            )
        channels, side, last = patch
        if last:
            return weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()
        return weight.reshape(-1, channels, side, side)
    if weight.dim() == 5:
        return weight.flatten(1, 2)
    if weight.dim() != 4:
        raise InputError(
            f"kernels: expected a 2-D or 3-D convolution or a linear layer at {name!r}, got "
            f"{describe(module)} with weights of shape {tuple(weight.shape)}"
        )
    return weight


def response_of(module: nn.Module, channels: int, extent: int) -> Tensor:
    """A convolution's kernels as its response to pixels, with gradients to its parameters.

    Right for a layer that computes with something else than its weight: one that standardises
    it, an adapter. :mod:`hfc_probe.stem` does the same for a layer inside a model.

    Args:
        module: called on one image of ``channels`` channels.
        extent: of its kernel in pixels.

    Returns:
        ``(out, in, kh, kw)``.
    """
    like = next(p for p in module.parameters() if p.is_floating_point())
    with torch.enable_grad():
        image = like.new_zeros(1, channels, 3 * extent, 3 * extent).requires_grad_()
        output = module(image)
        row = output[0, :, output.shape[2] // 2, output.shape[3] // 2]
        response = torch.stack(
            [torch.autograd.grad(one, image, create_graph=True)[0][0] for one in row]
        )
    (top, bottom), (left, right) = (support(response.detach(), axis) for axis in (-2, -1))
    return response[..., top:bottom, left:right]


def used(response: Tensor, axis: int) -> Tensor:
    """The indices along an axis at which a response is more than rounding."""
    size = response.abs().movedim(axis, 0).flatten(1).amax(1)
    return (size > _NEGLIGIBLE * size.max()).nonzero().flatten()


def support(response: Tensor, axis: int) -> tuple[int, int]:
    """First index along an axis at which a response is more than rounding, and one past the last.

    >>> support(torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0]]), 1)
    (1, 4)
    """
    indices = used(response, axis)
    return (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, response.shape[axis])


def dilation_of(module: nn.Module) -> tuple[int, int]:
    """Spacing in pixels of a layer's taps along height and width (1 unless dilated)."""
    dilation = getattr(module, "dilation", (1, 1))
    return (int(dilation[-2]), int(dilation[-1]))


def map_extent(module: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of a convolution's window."""
    size, dilation = getattr(module, "kernel_size", (1, 1)), dilation_of(module)
    return (1 + (size[-2] - 1) * dilation[0], 1 + (size[-1] - 1) * dilation[1])


def is_layer(module: nn.Module) -> bool:
    """A 2-D or 3-D convolution or a linear layer, by what it has: quantised ones count too."""
    # Not hasattr(module, "weight"): that would compute a parametrised weight, and spectral
    # norm updates its buffers when that happens in training mode.
    if not ("weight" in module._parameters or "weight" in vars(module)) and not hasattr(
        type(module), "weight"
    ):
        return False
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple):
        image = len(kernel) in (2, 3) and hasattr(module, "in_channels")
        return image and not getattr(module, "transposed", False)
    return isinstance(getattr(module, "in_features", None), int)


def _named(modules: dict[str, nn.Module], layer: str) -> nn.Module:
    if layer not in modules:
        names = [name for name, module in modules.items() if is_layer(module)]
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise InputError(
            f"layer: expected the dotted name of a layer with weights, got {layer!r}; "
            f"closest: {', '.join(close) or 'none, the model has no such layer'}"
        )
    module = modules[layer]
    if not is_layer(module) or (
        kernel_size(module) <= 1 and _patch_shape(layer, module, "auto") is None
    ):
        raise InputError(
            f"layer: expected a convolution larger than 1×1 or a linear patch embedding at "
            f"{layer!r}, got {describe(module)}"
        )
    return module


def kernel_size(module: nn.Module) -> int:
    """Largest spatial extent of a convolution's kernel; 0 for a linear layer."""
    kernel = getattr(module, "kernel_size", None)
    return max(kernel[-2:]) if isinstance(kernel, tuple) else 0


def _feeds(layers: list[tuple[str, nn.Module]], candidates: list[tuple[str, nn.Module]]) -> bool:
    """Whether the very first layer makes what the first candidate reads: 3 or 4 feature maps."""
    if not candidates or kernel_size(layers[0][1]) <= 1 or layers[0] == candidates[0]:
        return False
    return getattr(layers[0][1], "out_channels", None) == input_channels(candidates[0][1])


def input_channels(module: nn.Module) -> int:
    return int(getattr(module, "in_channels", 0))


def _patch_shape(name: str, module: nn.Module, layout: Layout) -> tuple[int, int, bool] | None:
    """(channels, side, channels last) of the square patches a linear layer reads, if it does."""
    inputs = getattr(module, "in_features", None)
    if not isinstance(inputs, int):
        return None
    for channels in (3, 1, 4):
        side = math.isqrt(inputs // channels)
        if side > 1 and channels * side * side == inputs:
            last = layout == "channels_last" or (
                layout == "auto" and any(part in name.lower() for part in ("patch", "embed"))
            )
            return channels, side, last
    return None


def raw_weight(module: nn.Module) -> Any:
    """The effective weight, also if a forward pre-hook has yet to compute it."""
    for hook in module._forward_pre_hooks.values():
        compute = getattr(hook, "compute_weight", None)
        if compute is not None and getattr(hook, "name", None) == "weight":
            if hasattr(hook, "n_power_iterations"):  # spectral norm
                return compute(module, do_power_iteration=False)
            return compute(module)
        if hasattr(hook, "apply_mask") and getattr(hook, "_tensor_name", None) == "weight":
            return hook.apply_mask(module)  # pruning: the attribute is one step old
    weight = module.weight
    return weight() if callable(weight) and not isinstance(weight, Tensor) else weight


def computes_with_its_weight(module: nn.Module) -> bool:
    """Whether a convolution's forward is PyTorch's own, not one that changes the weight first."""
    kind: Any = type(module)
    return "forward" not in vars(module) and any(
        isinstance(module, conv)
        and kind.forward is conv.forward
        and kind._conv_forward is conv._conv_forward
        for conv in (nn.Conv2d, nn.Conv3d)
    )


def describe(module: nn.Module) -> str:
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple) and hasattr(module, "in_channels"):
        size = "×".join(str(k) for k in kernel)
        return f"{type(module).__name__} {size} over {module.in_channels} channels"
    if hasattr(module, "in_features"):
        return f"{type(module).__name__} over {module.in_features} features"
    return type(module).__name__

"""The first layer that sees pixels: find it, its weights, spectra, smoothness, smoothing.

A kernel here is one output channel's weights, ``(C, kh, kw)``. A kernel's spectrum is taken
over its two spatial axes, zero-padded to a common size, with DC in the middle.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import fourier
from .errors import InputError
from .isolation import unwrap

Layout = Literal["auto", "channels_first", "channels_last"]

_LISTED = 8  # layers named in the error that none sees pixels


def first_layer(
    model: nn.Module, *, layer: str | None = None, channels: int | None = None
) -> tuple[str, nn.Module]:
    """The first layer that sees pixels, as ``(dotted name, module)``.

    Looked for, in the order in which the model registers its modules, and without running
    it (so a model on the meta device will do):

    1. a convolution with a kernel larger than one pixel that reads 3 or 4 channels (or
       ``channels``, where that is given);
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
    model = unwrap(model)
    modules = dict(model.named_modules())
    if layer is not None:
        return layer, _named(modules, layer)
    layers = [(name, module) for name, module in modules.items() if _is_layer(module)]
    spatial = [(name, module) for name, module in layers if _kernel_size(module) > 1]
    wanted = (3, 4) if channels is None else (channels,)
    # One channel comes last, and only with several outputs: attention and position encodings
    # are convolutions from one channel to one.
    candidates = [pair for pair in spatial if _inputs(pair[1]) in wanted]
    candidates += [pair for pair in spatial[:1] if pair[1] is layers[0][1]]
    candidates += [pair for pair in spatial if _inputs(pair[1]) == 1 and pair[1].out_channels != 1]
    candidates += [pair for pair in layers[:1] if _patch_shape(*pair, "auto")]
    if candidates:
        return candidates[0]
    looked_at = ", ".join(f"{name or '(root)'}: {_describe(m)}" for name, m in layers[:_LISTED])
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
        weight = _raw_weight(module)
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
        weight = weight.detach().to(device="cpu", dtype=torch.float32, copy=True)
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
            f"{_describe(module)} with weights of shape {tuple(weight.shape)}"
        )
    return weight


_INTEGERS = (torch.int8, torch.uint8, torch.qint8, torch.quint8)


def dilation_of(module: nn.Module) -> tuple[int, int]:
    """Spacing in pixels of a layer's taps along height and width (1 unless dilated)."""
    dilation = getattr(module, "dilation", (1, 1))
    return (int(dilation[-2]), int(dilation[-1]))


def smoothness(weight: Tensor) -> Tensor:
    """Smoothness of each kernel: one minus its normalised total variation.

    ``1 − Σ |a − b| / Σ (|a| + |b|)`` over all pairs (a, b) of vertically or horizontally
    adjacent weights, all input channels together. It lies in [0, 1] and ignores scale and
    sign: 1 for a constant kernel, 0 where every pair of neighbours differs in sign (a
    checkerboard), about 0.29 for independent Gaussian weights.

    Args:
        weight: ``(out, in, kh, kw)``, kh · kw > 1.

    Returns:
        ``(out,)``; NaN for a kernel of zeros.

    Raises:
        InputError: not four-dimensional, or 1×1 kernels, which have no neighbours.

    Source: the quantity that Wang et al., CVPR 2020, §5 compare by eye (their Figures 3
    and 7), made a number.

    >>> board = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]], [[[3.0, 3.0], [3.0, 3.0]]]])
    >>> smoothness(board).tolist()
    [0.0, 1.0]
    """
    weight = _check_weight(weight)
    if weight.shape[-1] * weight.shape[-2] == 1:
        raise InputError("smoothness: expected kernels larger than 1×1, which have no neighbours")
    variation = weight.new_zeros(weight.shape[0])
    total = weight.new_zeros(weight.shape[0])
    for axis in (-2, -1):
        size = weight.shape[axis]
        a, b = weight.narrow(axis, 0, size - 1), weight.narrow(axis, 1, size - 1)
        variation = variation + (a - b).abs().sum((1, 2, 3))
        total = total + (a.abs() + b.abs()).sum((1, 2, 3))
    return 1 - variation / total


def spectrum(weight: Tensor, size: int = 32, *, dilation: tuple[int, int] = (1, 1)) -> Tensor:
    """Power spectrum of each kernel, zero-padded to ``size`` × ``size``.

    Args:
        weight: ``(out, in, kh, kw)``.
        size: points of the transform along each axis, in pixels; a frequency index k is
            k / size cycles per pixel.
        dilation: spacing of the taps, in pixels.

    Returns:
        ``(out, size, size)``, ``Σ_in |DFT|²``, DC at ``[size // 2, size // 2]``.

    Raises:
        InputError: ``size`` smaller than the (dilated) kernel.

    >>> int(spectrum(torch.ones(1, 1, 3, 3), 8).argmax()) == 4 * 8 + 4  # DC
    True
    """
    weight = _check_weight(weight)
    height, width = (1 + (k - 1) * d for k, d in zip(weight.shape[-2:], dilation, strict=True))
    if not size >= max(height, width):
        raise InputError(
            f"spectrum: expected size of at least the kernel's {height}×{width} pixels, got {size}"
        )
    spread = weight.new_zeros(*weight.shape[:2], height, width)
    spread[..., :: dilation[0], :: dilation[1]] = weight
    power = torch.fft.fft2(spread, s=(size, size)).abs().square().sum(1)
    centred: Tensor = torch.fft.fftshift(power, dim=(-2, -1))
    return centred


def cycles_per_pixel(size: int) -> Tensor:
    """Distance from DC of each point of a ``(size, size)`` kernel spectrum, cycles per pixel."""
    return fourier.distance(size, size) / size


def smooth(weight: Tensor, rho: float, *, normalize: bool = False) -> Tensor:
    """Smoothed kernels: every weight plus ρ times the sum of its eight neighbours.

    Args:
        weight: ``(out, in, kh, kw)`` (or any ``(..., kh, kw)``). Edges are replicated.
        rho: strength, at least 0.
        normalize: divide by ``1 + 8ρ``, which keeps a constant kernel as it is.

    Returns:
        A new tensor of the same shape; differentiable.

    Raises:
        InputError: ρ negative or not a number.

    Source: Wang et al., CVPR 2020, equation 3.

    >>> smooth(torch.ones(1, 1, 3, 3), 0.5)[0, 0, 0].tolist()
    [5.0, 5.0, 5.0]
    """
    if isinstance(rho, (bool, str)) or not float(rho) >= 0:
        raise InputError(f"smooth: expected rho of at least 0, got {rho!r}")
    planes = weight.reshape(-1, 1, *weight.shape[-2:])
    stencil = torch.full((1, 1, 3, 3), float(rho), dtype=weight.dtype, device=weight.device)
    stencil[..., 1, 1] = 1.0
    with torch.autocast(weight.device.type, enabled=False):
        out = F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), stencil)
    if normalize:
        out = out / (1 + 8 * rho)
    return out.reshape(weight.shape)


@contextmanager
def smoothed(
    model: nn.Module, rho: float, *, normalize: bool = False, layer: str | None = None
) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are smoothed.

    The model's own parameters are never written: the stand-in runs the same modules with
    another weight tensor in the first layer's place, and gradients reach the inputs.

    Args:
        model, layer: as :func:`first_layer`; the layer must be a convolution whose
            weight is a plain parameter.
        rho, normalize: as :func:`smooth`.

    Yields:
        A module that is called like ``model``; valid inside the ``with`` block.

    Raises:
        InputError: no such layer, a layer whose weight is computed or quantised, bad ρ.

    Source: Wang et al., CVPR 2020, §6.
    """
    with _replaced(
        model, lambda weight: smooth(weight, rho, normalize=normalize), "smoothed", layer
    ) as stand_in:
        yield stand_in


def low_pass(weight: Tensor, radius: float) -> Tensor:
    """Kernels without the coefficients of their own DFT beyond a radius.

    Args:
        weight: ``(out, in, kh, kw)`` (or any ``(..., kh, kw)``).
        radius: cut-off in cycles per kernel, at least 0. A 3×3 kernel has coefficients at 0, 1
            and √2: radius 1 drops the diagonal ones, radius 0 leaves each plane's mean.

    Returns:
        A new tensor of the same shape; differentiable.

    Raises:
        InputError: a radius that is negative or not a number.

    Source: the frequency-domain counterpart of Wang et al., CVPR 2020, equation 3.

    >>> low_pass(torch.tensor([[[[0.0, 3.0, 0.0]]]]), 0).tolist()
    [[[[1.0, 1.0, 1.0]]]]
    """
    low, _ = fourier.split(weight, radius)
    return low.to(weight.dtype)


@contextmanager
def low_passed(model: nn.Module, radius: float, *, layer: str | None = None) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are low-passed.

    As :func:`smoothed`, with :func:`low_pass` instead of smoothing: parameters are never
    written, gradients reach the inputs.

    Raises:
        InputError: as :func:`smoothed` and :func:`low_pass`.
    """
    with _replaced(model, lambda weight: low_pass(weight, radius), "low_passed", layer) as stand_in:
        yield stand_in


def smoothness_penalty(model: nn.Module, *, layer: str | None = None) -> Tensor:
    """One minus the mean smoothness of the first layer's kernels, to be added to a loss.

    ``Σ |a − b| / Σ (|a| + |b|)`` over adjacent weights (see :func:`smoothness`), averaged
    over kernels: in [0, 1], 0 for constant kernels, and unchanged by the weights' scale, so
    that weight decay does not compete with it. Gradients reach the layer's parameters, also
    through parametrisations.

    Args:
        model, layer: as :func:`first_layer`; the layer must be a convolution.

    Returns:
        A scalar; kernels of zeros count as smooth.

    Raises:
        InputError: no such layer, or one that is not a 2-D convolution.

    >>> layer = nn.Conv2d(3, 4, 3)
    >>> _ = nn.init.constant_(layer.weight, 0.5)
    >>> float(smoothness_penalty(layer).detach())
    0.0
    """
    name, module = first_layer(unwrap(model), layer=layer)
    weight = _raw_weight(module)
    if not isinstance(weight, Tensor) or weight.dim() != 4 or not weight.is_floating_point():
        raise InputError(
            f"smoothness_penalty: expected a 2-D convolution with floating-point weights at "
            f"{name!r}, got {_describe(module)}"
        )
    variation = weight.new_zeros(weight.shape[0])
    total = weight.new_zeros(weight.shape[0])
    for axis in (-2, -1):
        a, b = (
            weight.narrow(axis, 0, weight.shape[axis] - 1),
            weight.narrow(axis, 1, weight.shape[axis] - 1),
        )
        variation = variation + (a - b).abs().sum((1, 2, 3))
        total = total + (a.abs() + b.abs()).sum((1, 2, 3))
    return (variation / total.clamp_min(torch.finfo(weight.dtype).tiny)).mean()


@contextmanager
def _replaced(
    model: nn.Module, change: Callable[[Tensor], Tensor], who: str, layer: str | None
) -> Iterator[nn.Module]:
    """A stand-in for a model whose first layer's weight is replaced by a function of it."""
    target = unwrap(model)
    name, module = first_layer(target, layer=layer)
    weight = getattr(module, "_parameters", {}).get("weight")
    if weight is None or weight.dim() not in (4, 5):
        raise InputError(
            f"{who}: expected a convolution with a plain weight at {name!r}, got "
            f"{_describe(module)}; fold its parametrisation or quantisation first"
        )
    with torch.no_grad():
        replacement = change(weight)
    stand_in = _StandIn(target, {f"{name}.weight" if name else "weight": replacement}, who)
    try:
        yield stand_in
    finally:
        stand_in.replacements = None


class _StandIn(nn.Module):
    """Runs another module with some of its parameters replaced, for as long as they are set."""

    def __init__(self, model: nn.Module, replacements: dict[str, Tensor], who: str) -> None:
        super().__init__()
        self.who = who
        self.model = model
        self.replacements: dict[str, Tensor] | None = replacements
        self.training = model.training  # not train(), which would reach into the model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.replacements is None:
            raise InputError(
                f"{self.who}: expected to be called inside its `with` block, which has ended"
            )
        return torch.func.functional_call(self.model, self.replacements, args, kwargs)


def _named(modules: dict[str, nn.Module], layer: str) -> nn.Module:
    if layer not in modules:
        names = [name for name, module in modules.items() if _is_layer(module)]
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise InputError(
            f"layer: expected the dotted name of a layer with weights, got {layer!r}; "
            f"closest: {', '.join(close) or 'none, the model has no such layer'}"
        )
    module = modules[layer]
    if not _is_layer(module) or (
        _kernel_size(module) <= 1 and _patch_shape(layer, module, "auto") is None
    ):
        raise InputError(
            f"layer: expected a convolution larger than 1×1 or a linear patch embedding at "
            f"{layer!r}, got {_describe(module)}"
        )
    return module


def _is_layer(module: nn.Module) -> bool:
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


def _kernel_size(module: nn.Module) -> int:
    """Largest spatial extent of a convolution's kernel; 0 for a linear layer."""
    kernel = getattr(module, "kernel_size", None)
    return max(kernel[-2:]) if isinstance(kernel, tuple) else 0


def _inputs(module: nn.Module) -> int:
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


def _raw_weight(module: nn.Module) -> Any:
    """The effective weight, also where a forward pre-hook has yet to compute it."""
    for hook in module._forward_pre_hooks.values():
        compute = getattr(hook, "compute_weight", None)
        if compute is not None and getattr(hook, "name", None) == "weight":
            if hasattr(hook, "n_power_iterations"):  # spectral norm
                return compute(module, do_power_iteration=False)
            return compute(module)
    weight = module.weight
    return weight() if callable(weight) and not isinstance(weight, Tensor) else weight


def _check_weight(weight: Tensor) -> Tensor:
    if weight.dim() != 4 or 0 in weight.shape:
        raise InputError(
            f"kernels: expected weights of shape (out, in, kh, kw), got {tuple(weight.shape)}"
        )
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _describe(module: nn.Module) -> str:
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple) and hasattr(module, "in_channels"):
        size = "×".join(str(k) for k in kernel)
        return f"{type(module).__name__} {size} over {module.in_channels} channels"
    if hasattr(module, "in_features"):
        return f"{type(module).__name__} over {module.in_features} features"
    return type(module).__name__

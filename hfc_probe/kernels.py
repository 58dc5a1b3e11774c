"""The first layer that sees pixels: find it, its weights, spectra, smoothness, smoothing.

A kernel here is one output channel's weights, ``(C, kh, kw)``. A kernel's spectrum is taken
over its two spatial axes, zero-padded to a common size, with DC in the middle.

Long because the public functions on kernels and the search for their layer are one namespace.
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
from .ground import checks
from .ground.errors import InputError
from .model.isolation import unwrap

Layout = Literal["auto", "channels_first", "channels_last"]

_LISTED = 8  # layers named in the error that none sees pixels


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
    spatial = [(name, module) for name, module in layers if _kernel_size(module) > 1]
    wanted = (3, 4) if channels is None else (channels,)
    # One channel comes last, and only with several outputs: attention and position encodings
    # are convolutions from one channel to one.
    candidates = [pair for pair in spatial if _inputs(pair[1]) in wanted]
    if channels is None and _feeds(layers, candidates):
        candidates = layers[:1]
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
            f"{_describe(module)} with weights of shape {tuple(weight.shape)}"
        )
    return weight


_INTEGERS = (torch.int8, torch.uint8, torch.qint8, torch.quint8)
_NEGLIGIBLE = 1e-5  # of the largest response: rounding, not a tap


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


def smoothness(weight: Tensor) -> Tensor:
    """Smoothness of each kernel: one minus its normalised total variation.

    ``1 − Σ |a − b| / Σ (|a| + |b|)`` over all pairs (a, b) of vertically or horizontally
    adjacent weights, all input channels together. It lies in [0, 1] and ignores scale and
    sign: 1 for a constant kernel, 0 if every pair of neighbours differs in sign (a
    checkerboard), about 0.29 for independent Gaussian weights.

    Args:
        weight: ``(out, in, kh, kw)``, kh · kw > 1.

    Returns:
        ``(out,)``; NaN for a kernel of zeros.

    Raises:
        InputError: not four-dimensional, or 1×1 kernels, which have no neighbours.

    Source: what Wang et al., CVPR 2020, §6.1 and 6.2, compare by eye (their Figure 7), made
    a number.

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
    size = checks.whole("size", size, 1, 4096)
    height, width = (1 + (k - 1) * d for k, d in zip(weight.shape[-2:], dilation, strict=True))
    if not size >= max(height, width):
        raise InputError(
            f"spectrum: expected size of at least the kernel's {height}×{width} pixels, got {size}"
        )
    spread = weight.new_zeros(*weight.shape[:2], height, width)
    spread[..., :: dilation[0], :: dilation[1]] = weight
    power = fourier.transform(torch.fft.fft2, spread, s=(size, size)).abs().square().sum(1)
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
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.is_floating_point():
        what = tuple(weight.shape) if isinstance(weight, Tensor) else checks.shown(weight)
        raise InputError(f"smooth: expected real weights (..., kh, kw), got {what}")
    checks.flag("normalize", normalize)
    rho = checks.number("smooth: rho", rho, 0, 1000)
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
    model: nn.Module,
    rho: float,
    *,
    normalize: bool = False,
    layer: str | None = None,
    channels: int | None = None,
) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are smoothed.

    The model's own parameters are never written: the stand-in runs the same modules with
    another weight tensor in the first layer's place, and gradients reach the inputs.

    Args:
        model, layer, channels: as :func:`first_layer`; the layer must be a convolution that
            computes with a plain parameter.
        rho, normalize: as :func:`smooth`.

    Yields:
        A module that is called like ``model``; valid inside the ``with`` block.

    Raises:
        InputError: no such layer, a layer whose weight is computed or quantised, bad ρ.

    Source: Wang et al., CVPR 2020, §6.
    """
    with _replaced(
        model, lambda weight: smooth(weight, rho, normalize=normalize), "smoothed", layer, channels
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
def low_passed(
    model: nn.Module, radius: float, *, layer: str | None = None, channels: int | None = None
) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are low-passed.

    As :func:`smoothed`, with :func:`low_pass` instead of smoothing: parameters are never
    written, gradients reach the inputs.

    Raises:
        InputError: as :func:`smoothed` and :func:`low_pass`.
    """
    with _replaced(
        model, lambda weight: low_pass(weight, radius), "low_passed", layer, channels
    ) as stand_in:
        yield stand_in


def smoothness_penalty(
    model: nn.Module, *, layer: str | None = None, channels: int | None = None
) -> Tensor:
    """One minus the mean smoothness of the first layer's kernels, to be added to a loss.

    ``Σ |a − b| / Σ (|a| + |b|)`` over adjacent weights (see :func:`smoothness`), averaged
    over kernels: in [0, 1], 0 for constant kernels, and unchanged by the weights' scale, so
    that weight decay does not compete with it. Gradients reach the layer's parameters, also
    through parametrisations, pruning, standardised weights and adapters.

    Args:
        model, layer, channels: as :func:`first_layer`; the layer must be a convolution.

    Returns:
        A scalar; kernels of zeros count as smooth.

    Raises:
        InputError: no such layer, or one that is not a 2-D convolution.

    >>> layer = nn.Conv2d(3, 4, 3)
    >>> _ = nn.init.constant_(layer.weight, 0.5)
    >>> float(smoothness_penalty(layer).detach())
    0.0
    """
    target = unwrap(model)
    name, module = first_layer(target, layer=layer, channels=channels)
    if name.endswith("base_layer"):  # the frozen half of an adapter (peft)
        size, channels = _kernel_size(module), _inputs(module)
        weight = response_of(target.get_submodule(name.rpartition(".")[0]), channels, size)
    elif isinstance(module, nn.Conv2d) and not _computes_with_its_weight(module):
        weight = response_of(module, _inputs(module), max(map_extent(module)))
    else:
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
    model: nn.Module,
    change: Callable[[Tensor], Tensor],
    who: str,
    layer: str | None,
    channels: int | None,
) -> Iterator[nn.Module]:
    """A stand-in for a model whose first layer's weight is replaced by a function of it."""
    target = unwrap(model)
    name, module = first_layer(target, layer=layer, channels=channels)
    weight = getattr(module, "_parameters", {}).get("weight")
    plain = _computes_with_its_weight(module) and not name.endswith("base_layer")
    if weight is None or weight.dim() not in (4, 5) or not plain:
        raise InputError(
            f"{who}: expected a convolution that computes with a plain weight at {name!r}, got "
            f"{_describe(module)}; fold its parametrisation, quantisation or adapter first"
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
        names = [name for name, module in modules.items() if is_layer(module)]
        close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise InputError(
            f"layer: expected the dotted name of a layer with weights, got {layer!r}; "
            f"closest: {', '.join(close) or 'none, the model has no such layer'}"
        )
    module = modules[layer]
    if not is_layer(module) or (
        _kernel_size(module) <= 1 and _patch_shape(layer, module, "auto") is None
    ):
        raise InputError(
            f"layer: expected a convolution larger than 1×1 or a linear patch embedding at "
            f"{layer!r}, got {_describe(module)}"
        )
    return module


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


def _kernel_size(module: nn.Module) -> int:
    """Largest spatial extent of a convolution's kernel; 0 for a linear layer."""
    kernel = getattr(module, "kernel_size", None)
    return max(kernel[-2:]) if isinstance(kernel, tuple) else 0


def _feeds(layers: list[tuple[str, nn.Module]], candidates: list[tuple[str, nn.Module]]) -> bool:
    """Whether the very first layer makes what the first candidate reads: 3 or 4 feature maps."""
    if not candidates or _kernel_size(layers[0][1]) <= 1 or layers[0] == candidates[0]:
        return False
    return getattr(layers[0][1], "out_channels", None) == _inputs(candidates[0][1])


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


def _check_weight(weight: Tensor) -> Tensor:
    if not isinstance(weight, Tensor) or weight.dim() != 4 or 0 in weight.shape:
        what = tuple(weight.shape) if isinstance(weight, Tensor) else checks.shown(weight)
        raise InputError(f"kernels: expected weights of shape (out, in, kh, kw), got {what}")
    if not weight.is_floating_point():
        raise InputError(f"kernels: expected real weights, got {weight.dtype}")
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def map_extent(module: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of a convolution's window."""
    size, dilation = getattr(module, "kernel_size", (1, 1)), dilation_of(module)
    return (1 + (size[-2] - 1) * dilation[0], 1 + (size[-1] - 1) * dilation[1])


def _computes_with_its_weight(module: nn.Module) -> bool:
    """Whether a convolution's forward is PyTorch's own, not one that changes the weight first."""
    kind: Any = type(module)
    return "forward" not in vars(module) and any(
        isinstance(module, conv)
        and kind.forward is conv.forward
        and kind._conv_forward is conv._conv_forward
        for conv in (nn.Conv2d, nn.Conv3d)
    )


def _describe(module: nn.Module) -> str:
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple) and hasattr(module, "in_channels"):
        size = "×".join(str(k) for k in kernel)
        return f"{type(module).__name__} {size} over {module.in_channels} channels"
    if hasattr(module, "in_features"):
        return f"{type(module).__name__} over {module.in_features} features"
    return type(module).__name__

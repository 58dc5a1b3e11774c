"""Kernels as filters: their spectra, smoothness, smoothing and low-pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import fourier
from ..ground import checks
from ..ground.errors import InputError


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
    weight = check_weight(weight)
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
    weight = check_weight(weight)
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


def check_weight(weight: Tensor) -> Tensor:
    if not isinstance(weight, Tensor) or weight.dim() != 4 or 0 in weight.shape:
        what = tuple(weight.shape) if isinstance(weight, Tensor) else checks.shown(weight)
        raise InputError(f"kernels: expected weights of shape (out, in, kh, kw), got {what}")
    if not weight.is_floating_point():
        raise InputError(f"kernels: expected real weights, got {weight.dtype}")
    return weight.to(torch.promote_types(weight.dtype, torch.float32))

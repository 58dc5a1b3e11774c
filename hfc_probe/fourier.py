"""Frequency maths on image tensors: pure functions of torch tensors.

Conventions (see Wang et al., CVPR 2020, §3.1): a frequency is a pair of signed integers
``(i, j)``, cycles per image along the height and along the width; DC is (0, 0). Spectra
that are shown or returned have DC in the middle, at ``[H // 2, W // 2]``. All transforms run
in float32 at least, whatever the autocast state, because half precision has neither the
range nor, on the CPU, the kernels.

Long because all frequency maths stands in one place, each function with its doctest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .ground import checks
from .ground.devices import sent
from .ground.errors import InputError

# Distances that differ by less are the same: a radius given as sqrt(41) or 0.1 · 3 is meant.
_ROUNDING = 1e-9

# A maximum below this share of full scale is the rounding of two transforms, not a component.
_NOTHING = 1e-6

Units = Literal["cycles", "nyquist"]
Part = Literal["original", "lfc", "hfc"]
Rescale = Literal["max"]
Background = Literal["zero", "mean"]


def frequencies(size: int, *, device: torch.device | None = None) -> Tensor:
    """Signed integer frequencies of a DFT of ``size`` points, in FFT order (DC first).

    For an even size the Nyquist frequency appears once, as ``-size / 2``.

    >>> frequencies(5).tolist(), frequencies(4).tolist()
    ([0, 1, 2, -2, -1], [0, 1, -2, -1])
    """
    size = checks.whole("size", size, maximum=2**20, what="number of pixels")
    index = torch.arange(size, device=device or "cpu")
    return torch.where(index < (size + 1) // 2, index, index - size)


def distance(
    height: int,
    width: int,
    *,
    units: Units = "cycles",
    centred: bool = True,
    device: torch.device | None = None,
) -> Tensor:
    """Distance of every frequency from DC, ``(height, width)`` float64.

    Args:
        height, width: image size in pixels.
        units: ``"cycles"`` gives ``sqrt(i² + j²)`` in cycles per image, also for
            non-square images; ``"nyquist"`` divides i by H/2 and j by W/2 first, so that
            1 is the Nyquist frequency of each axis.
        centred: DC at ``[H // 2, W // 2]``; otherwise FFT order.

    Raises:
        InputError: for other units.

    Source: Wang et al., CVPR 2020, §3.1.

    >>> float(distance(32, 32)[0, 16])
    16.0
    """
    check_units(units)
    i = frequencies(height, device=device).to(torch.float64)
    j = frequencies(width, device=device).to(torch.float64)
    if units == "nyquist":
        i, j = i / (len(i) / 2), j / (len(j) / 2)
    d = torch.sqrt(i[:, None] ** 2 + j[None, :] ** 2)
    return torch.fft.fftshift(d) if centred else d


def transform(fft: Callable[..., Tensor], images: Tensor, **options: Any) -> Tensor:
    """A transform of :mod:`torch.fft`, which gives an empty batch back as an empty one.

    MKL, which transforms on most CPUs, refuses an empty batch with an error of its own.

    Args:
        fft: such as ``torch.fft.rfft2``.
        images: ``(..., H, W)``, the last two not empty.
        options: of the transform.

    >>> transform(torch.fft.rfft2, torch.rand(0, 3, 4, 4)).shape
    torch.Size([0, 3, 4, 3])
    """
    if images.numel():
        return fft(images, **options)
    one = fft(images.new_zeros([max(size, 1) for size in images.shape]), **options)
    return one[tuple(slice(size) for size in images.shape[:-2])]


def corner(*sizes: int, units: Units = "cycles") -> float:
    """Largest distance that occurs: from this radius on, LFC is the whole image."""
    return float(_distances(sizes, units).max())


def _distances(sizes: Sequence[int], units: Units) -> Tensor:
    """:func:`distance` over two axes or three, in FFT order."""
    if len(sizes) == 2:
        return distance(*sizes, units=units, centred=False)
    squares = torch.zeros(())
    for size in sizes:
        index = frequencies(size).to(torch.float64)
        squares = squares[..., None] + (index / (size / 2 if units == "nyquist" else 1)) ** 2
    return squares.sqrt()


def bands(
    images: Tensor,
    radii: Sequence[float],
    *,
    closed: bool = True,
    units: Units = "cycles",
    axes: int = 2,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Low- and high-frequency components for each radius, from one forward transform.

    Args, errors and source as :func:`split`; yields ``(low, high)`` in the order of
    ``radii``, one radius at a time so that memory does not grow with their number.
    """
    _check_images(images)
    check_units(units)
    cutoffs = [check_radius(radius) for radius in checks.listed(radii)]
    closed = checks.flag("closed", closed)
    axes = check_axes(axes)
    if images.dim() < axes:
        raise InputError(f"images: expected (..., T, H, W) for axes=3, got {tuple(images.shape)}")
    return _bands(images, cutoffs, closed, units, axes)


def _bands(
    images: Tensor, cutoffs: list[float], closed: bool, units: Units, axes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    sizes, dims = images.shape[-axes:], tuple(range(-axes, 0))
    dtype = torch.promote_types(images.dtype, torch.float32)
    images = images.to(dtype)
    # Masks are made on the CPU: not every device has the float64 that they are computed in.
    d = _distances(sizes, units)[..., : sizes[-1] // 2 + 1]
    spectrum: Tensor | None = None
    for cutoff in cutoffs:
        keep = d <= cutoff + _ROUNDING if closed else d < cutoff - _ROUNDING
        if bool(keep.all()):
            # Exactly the image, not the image up to the rounding of two transforms.
            yield images.clone(), torch.zeros_like(images)
            continue
        if spectrum is None:
            spectrum = transform(torch.fft.rfftn, images, dim=dims)
        kept = spectrum * sent(keep, images.device)
        low = transform(torch.fft.irfftn, kept, s=sizes, dim=dims)
        yield low, images - low


def split(
    images: Tensor,
    radius: float,
    *,
    closed: bool = True,
    units: Units = "cycles",
    axes: int = 2,
) -> tuple[Tensor, Tensor]:
    """Split images into a low- and a high-frequency component.

    Args:
        images: real floating tensor ``(..., H, W)`` in pixel space.
        radius: cut-off, at least 0, in cycles per image (or in Nyquist units). Fractions
            and infinity are allowed.
        closed: the low component holds coefficients with ``d <= radius``;
            ``False`` gives ``d < radius``, as the authors' code does.
        units: see :func:`distance`.
        axes: how many of the last axes frequencies are of: 2, or 3 for video and volumes.

    Returns:
        ``(low, high)`` of the shape of ``images``, float32 at least. ``high`` is
        ``images - low``: signed, without DC, not to be stored as uint8.

    Raises:
        InputError: integer, complex or less than 2-D images; a radius that is negative
            or not a number; unknown units.

    Source: Wang et al., CVPR 2020, §3.1, equation for t(z; r).

    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> low, high = split(x, 0)
    >>> float(low[0, 0, 2, 3]), float(high.sum())
    (7.5, 0.0)
    """
    return next(bands(images, (radius,), closed=closed, units=units, axes=axes))


class Component(NamedTuple):
    """What a model is shown: an image as it is, or what one radius leaves of it.

    Attributes:
        part: ``"original"``, ``"lfc"`` or ``"hfc"``.
        radius: None for the original.
        images: of the shape of the images that were split.
    """

    part: Part
    radius: float | None
    images: Tensor

    def __str__(self) -> str:
        return "original" if self.radius is None else f"{self.part.upper()}({self.radius:g})"


def components(
    images: Tensor,
    radii: Sequence[float],
    *,
    closed: bool = True,
    units: Units = "cycles",
    background: Tensor | Sequence[float] | float | None = None,
    rescale: Rescale | None = None,
    full_scale: float = 1.0,
    axes: int = 2,
) -> Iterator[Component]:
    """The original, then LFC(r) and HFC(r) of each radius, as a model is shown them.

    Args:
        images: real floating tensor ``(..., C, H, W)`` in pixel space; video ``(N, C, T, H, W)``.
        radii, closed, units, axes: see :func:`split`.
        background: added to the HFC, one number or one per channel; None: nothing.
        rescale: see :func:`rescaled`; it comes last and acts on the original as well, so that
            LFC up to the corner is the original.
        full_scale: of the images: 1, or 255 if their values go that far.

    Yields:
        One :class:`Component` at a time, so that memory does not grow with the radii.

    Raises:
        InputError: as :func:`split`; another ``rescale``.

    Source: Wang et al., CVPR 2020, §3.1, and its code.

    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4) / 15
    >>> [str(part) for part in components(x, (1, 2))]
    ['original', 'LFC(1)', 'HFC(1)', 'LFC(2)', 'HFC(2)']
    """
    check_rescale(rescale)
    pairs = bands(images, radii, closed=closed, units=units, axes=axes)
    return _components(images, radii, pairs, background, rescale, full_scale)


def _components(
    images: Tensor,
    radii: Sequence[float],
    pairs: Iterator[tuple[Tensor, Tensor]],
    background: Tensor | Sequence[float] | float | None,
    rescale: Rescale | None,
    full_scale: float,
) -> Iterator[Component]:
    yield Component("original", None, rescaled(images, rescale, full_scale))
    for radius, (low, high) in zip(radii, pairs, strict=True):
        if background is not None:
            added = torch.as_tensor(background, dtype=high.dtype)
            high = high + added.to(high.device).reshape(-1, *[1] * max(2, high.dim() - 2))
        yield Component("lfc", radius, rescaled(low, rescale, full_scale))
        yield Component("hfc", radius, rescaled(high, rescale, full_scale))


def rescaled(images: Tensor, how: Rescale | None = "max", full_scale: float = 1.0) -> Tensor:
    """Each image divided by its own maximum over channels and pixels; None: as they are.

    The maximum is then ``full_scale``; the minimum may be anything, and values are not clipped.
    An image without a maximum above zero (an HFC that holds nothing, up to the rounding of the
    transforms) stays as it is: the authors' code divides zero by zero there.

    Args:
        images: ``(..., C, H, W)``, or video ``(N, C, T, H, W)``.
        how: ``"max"`` or None.
        full_scale: see :func:`components`.

    Raises:
        InputError: another ``how``; images without a channel axis.

    Source: the code of Wang et al., CVPR 2020, which does so with every LFC and HFC, training
    and test, and with the original training images ("normalized to have the standard pixel
    scale", §4.2). Its original test images it feeds as they are.

    >>> rescaled(torch.tensor([[[-0.1, 0.2]], [[0.0, 0.0]]])[:, None]).flatten().tolist()
    [-0.5, 1.0, 0.0, 0.0]
    """
    if check_rescale(how) is None or images.numel() == 0:
        return images
    if images.dim() < 3:
        raise InputError(f"rescaled: expected (..., C, H, W), got {tuple(images.shape)}")
    own = tuple(range(-4 if images.dim() == 5 else -3, 0))
    largest = images.amax(own, keepdim=True) / full_scale
    return images / torch.where(largest > _NOTHING, largest, torch.ones_like(largest))


def check_rescale(rescale: Rescale | None) -> Rescale | None:
    """The setting itself.

    Raises:
        InputError: neither None nor ``"max"``.
    """
    if rescale is not None and not (isinstance(rescale, str) and rescale == "max"):
        raise InputError(f'rescale: expected None or "max", got {checks.shown(rescale)}')
    return rescale


def rescale_note(rescale: str | None, before: str = ", ") -> str:
    """How images were rescaled, for titles; nothing if they were not.

    >>> rescale_note("max"), rescale_note(None)
    (', every image divided by its maximum', '')
    """
    return "" if rescale is None else f"{before}every image divided by its maximum"


def basis(
    i: int,
    j: int,
    height: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Real Fourier basis image ``U_ij``: unit L2 norm, spectrum on ±(i, j) only.

    Args:
        i, j: cycles per image along the height and the width, ``|i| <= H / 2`` and
            ``|j| <= W / 2``.
        height, width: image size in pixels.

    Returns:
        ``(height, width)``, cosine phase (its value at pixel (0, 0) is its maximum). Any phase
        has such a spectrum; the authors' code has π/4 unless (i, j) is its own mirror.

    Raises:
        InputError: a frequency that an image of that size does not have.

    Source: Yin et al., NeurIPS 2019, §2.

    >>> float((basis(3, -2, 8, 8) ** 2).sum())
    1.0
    """
    i, j = (checks.whole("basis", k, -(2**20), 2**20) for k in (i, j))
    height, width = (checks.whole("basis", n, 1, 2**20) for n in (height, width))
    if 2 * abs(i) > height or 2 * abs(j) > width:
        raise InputError(
            f"basis: expected |i| <= {height / 2:g} and |j| <= {width / 2:g} for a "
            f"{height}×{width} image, got ({i}, {j})"
        )
    # On the CPU, in float64, which not every device has.
    y = torch.arange(height, device="cpu")
    x = torch.arange(width, device="cpu")
    # The phase is reduced in integers, so that high frequencies are as exact as low ones.
    turns = (i * width * y[:, None] + j * height * x[None, :]) % (height * width)
    wave = torch.cos(turns.to(torch.float64) * (2 * math.pi / (height * width)))
    norm: Tensor = torch.linalg.vector_norm(wave)
    return sent((wave / norm).to(dtype), torch.device(device or "cpu"))


def half_plane(height: int, width: int) -> list[tuple[int, int]]:
    """One representative ``(i, j)`` of every pair ±(i, j), self-conjugate ones included.

    >>> len(half_plane(32, 32)), len(half_plane(3, 3))
    (514, 5)
    """
    rows, columns = frequencies(height).tolist(), frequencies(width).tolist()
    height, width = len(rows), len(columns)
    chosen = []
    for i in rows:
        for j in columns:
            mirror = (-i % height, -j % width)
            if (i % height, j % width) <= mirror:
                chosen.append((int(i), int(j)))
    return chosen


def recombine(amplitude_of: Tensor, phase_of: Tensor, *, over_channels: bool = False) -> Tensor:
    """Image with the amplitude spectrum of one image and the phase spectrum of another.

    Args:
        amplitude_of, phase_of: real floating tensors ``(..., C, H, W)`` of one shape.
        over_channels: transform the channel axis as well, as the authors' code does.

    Returns:
        Tensor of the same shape, float32 at least, not clipped.

    Raises:
        InputError: shapes that differ, integer images.

    Source: Chen et al., ICCV 2021, §3, and its code, which does not clip either.
    """
    _check_images(amplitude_of)
    _check_images(phase_of)
    if amplitude_of.shape != phase_of.shape:
        raise InputError(
            f"recombine: expected two tensors of one shape, got {tuple(amplitude_of.shape)} "
            f"and {tuple(phase_of.shape)}; resize or broadcast them first"
        )
    if checks.flag("over_channels", over_channels) and amplitude_of.dim() < 3:
        raise InputError(
            f"recombine: over_channels needs a channel axis, (..., C, H, W), got "
            f"{tuple(amplitude_of.shape)}"
        )
    axes = (-3, -2, -1) if over_channels else (-2, -1)
    dtype = torch.promote_types(
        torch.promote_types(amplitude_of.dtype, phase_of.dtype), torch.float32
    )
    amplitude = transform(torch.fft.fftn, amplitude_of.to(dtype), dim=axes).abs()
    phase = transform(torch.fft.fftn, phase_of.to(dtype), dim=axes).angle()
    image = transform(torch.fft.ifftn, torch.polar(amplitude, phase), dim=axes)
    return image.real


def radial_profile(spectrum: Tensor) -> Tensor:
    """Mean of a centred spectrum over rings one cycle wide.

    Args:
        spectrum: ``(..., H, W)`` with DC at ``[H // 2, W // 2]``. NaN cells are left out.

    Returns:
        ``(..., R)``; entry k is the mean over ``k - 1/2 <= d < k + 1/2`` cycles per
        image, R reaches the corner. A ring without cells (or with NaN only) is NaN.

    Raises:
        InputError: fewer than two dimensions.

    >>> radial_profile(torch.ones(5, 5)).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if not isinstance(spectrum, Tensor) or spectrum.dim() < 2 or spectrum.is_complex():
        what = tuple(spectrum.shape) if isinstance(spectrum, Tensor) else checks.shown(spectrum)
        raise InputError(f"radial_profile: expected a real tensor (..., H, W), got {what}")
    height, width = spectrum.shape[-2:]
    ring = torch.floor(distance(height, width) + 0.5).long().flatten()
    size = int(ring.max()) + 1
    ring = ring.to(spectrum.device)
    values = spectrum.to(torch.promote_types(spectrum.dtype, torch.float32)).flatten(-2)
    known = ~values.isnan()
    total = values.new_zeros(*values.shape[:-1], size)
    count = torch.zeros_like(total)
    total.index_add_(-1, ring, torch.where(known, values, 0.0))
    count.index_add_(-1, ring, known.to(values.dtype))
    return total / count


def svd_split(images: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Split each channel into its leading singular components and the rest.

    Args:
        images: real floating ``(..., H, W)``.
        rank: number of leading components kept, 0 to ``min(H, W)``.

    Returns:
        ``(leading, trailing)``; their sum is the image.

    Raises:
        InputError: a rank outside that range.

    Source: Wang et al., CVPR 2020, §8.
    """
    _check_images(images)
    largest = min(images.shape[-2:])
    rank = checks.whole("svd_split: rank", rank, 0, largest)
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):
        u, s, vh = torch.linalg.svd(images, full_matrices=False)
        leading = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    return leading, images - leading


def check_radius(radius: float) -> float:
    """The radius as a float.

    Raises:
        InputError: negative, NaN, or not a number.
    """
    return checks.number("radius", radius, 0)


def check_radii(radii: Any) -> tuple[float, ...]:
    """Increasing radii (one, a sequence, range, array or tensor), whole ones as ints.

    Raises:
        InputError: none, out of order, negative, NaN, or not numbers.

    >>> check_radii(range(4, 13, 4))
    (4, 8, 12)
    """
    return tuple(int(r) if r % 1 == 0 else r for r in checks.numbers("radii", radii))


def check_axes(axes: int) -> int:
    """2 or 3; otherwise an :class:`InputError`."""
    return checks.whole("axes", axes, 2, 3)


def check_units(units: Units) -> Units:
    """The units, if there are such; otherwise an :class:`InputError`."""
    checks.choice("units", units, ("cycles", "nyquist"))
    return units


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise InputError(f"images: expected a torch.Tensor, got {type(images).__name__}")
    if images.dim() < 2 or 0 in images.shape[-2:]:
        raise InputError(
            f"images: expected shape (..., H, W) with H, W >= 1, got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise InputError(
            f"images: expected a real floating-point tensor in pixel space, got {images.dtype}; "
            "for 8-bit images use images.float() / 255"
        )

"""Frequency transforms for training and evaluation, as torchvision v2 transforms.

All work in pixel space, before normalisation: on float images in [0, 1] or on uint8 (which
are given back as uint8), ``(..., C, H, W)``, on any device. Boxes, masks and labels beside an
image stay as they are; a NumPy array or a sample without an image is refused. Values that leave
the range are clipped unless a transform is told otherwise. The APR authors' code never clips: its
APR-P feeds the values as they are, and its APR-S casts to uint8, which wraps them around.

Random choices come from torch's global generator (which ``DataLoader`` seeds per worker), or
from one of the transform's own if ``seed`` is given; it then differs between workers and
is the same in every run.

Long because every transform is documented with its source and its differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from . import fourier
from .data.samples import PixelSpace, check_pixels
from .ground import checks
from .ground.errors import InputError

__all__ = [
    "AmplitudePhaseMix",
    "AmplitudePhaseSelf",
    "FrequencyFilter",
    "HighPass",
    "LowPass",
    "RandomBand",
]


class _OfImages(v2.Transform):  # type: ignore[misc]
    """A transform of images that refuses a sample without one, which torchvision lets through."""

    _transformed_types = (lambda part: _is_image(part),)

    def forward(self, *inputs: Any) -> Any:
        """One sample, of any structure that holds an image."""
        parts = tree_leaves(inputs)
        if not any(map(_is_image, parts)):
            found = ", ".join(dict.fromkeys(type(part).__name__ for part in parts)) or "nothing"
            raise InputError(
                f"{type(self).__name__}: expected a tensor (..., C, H, W), got {found}; put "
                "v2.ToImage() before it"
            )
        return super().forward(*inputs)


class _Random(_OfImages):
    """A transform with a generator of its own, if it is given a seed."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = None if seed is None else checks.whole("seed", seed, 0, 2**32)
        self._generator: torch.Generator | None = None
        self._worker: int | None = None

    def _draws(self) -> torch.Generator | None:
        if self.seed is None:
            return None
        info = get_worker_info()
        worker = -1 if info is None else int(info.id)
        if self._generator is None or worker != self._worker:
            # A worker starts with a copy of the parent's generator: without its own number
            # in the seed, all of them would draw the same.
            self._generator = torch.Generator().manual_seed(self.seed * 1_000_003 + worker + 1)
            self._worker = worker
        return self._generator

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self._draws(), device="cpu"))


class LowPass(_OfImages):
    """Keeps the frequencies ``d <= radius``.

    Args:
        radius: cut-off in cycles per image (or in ``units``), at least 0.
        closed, units: see :func:`hfc_probe.fourier.split`.
        rescale: ``"max"`` divides each image by its own maximum, see
            :func:`hfc_probe.fourier.rescaled`; float images are then not clipped, as in the
            code of Wang et al., CVPR 2020.

    Raises:
        InputError: a radius that is negative or not a number, unknown units or rescaling.

    >>> LowPass(0)(torch.tensor([[[0.0, 1.0]]])).tolist()
    [[[0.5, 0.5]]]
    """

    def __init__(
        self,
        radius: float,
        *,
        closed: bool = True,
        units: fourier.Units = "cycles",
        rescale: fourier.Rescale | None = None,
    ) -> None:
        super().__init__()
        self.radius = fourier.check_radius(radius)
        self.closed = checks.flag("closed", closed)
        self.units = fourier.check_units(units)
        self.rescale = fourier.check_rescale(rescale)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image or a batch."""
        return _on_pixels(inpt, lambda x: self._part(x), "LowPass", self.rescale is None)

    _transform = transform  # its name before torchvision 0.21

    def _part(self, images: Tensor) -> Tensor:
        low, _ = fourier.split(images, self.radius, closed=self.closed, units=self.units)
        return fourier.rescaled(low, self.rescale)


class HighPass(LowPass):
    """Keeps the frequencies ``d > radius``, on a background.

    Args:
        radius, closed, units, rescale: as :class:`LowPass`.
        background: added to the signed, zero-mean component before it is rescaled or clipped to
            [0, 1]; 0.5 shows both signs. None returns floats signed and unclipped: the HFC
            paper's models are fed those, with ``rescale="max"`` and ``closed=False``.

    Raises:
        InputError: as :class:`LowPass`; a background outside [0, 1]; uint8 images without a
            background, since half of the signal is below 0.

    >>> HighPass(0)(torch.tensor([[[0.0, 1.0]]])).tolist()
    [[[0.0, 1.0]]]
    """

    def __init__(
        self,
        radius: float,
        *,
        background: float | None = 0.5,
        closed: bool = True,
        units: fourier.Units = "cycles",
        rescale: fourier.Rescale | None = None,
    ) -> None:
        super().__init__(radius, closed=closed, units=units, rescale=rescale)
        if background is not None:
            background = checks.number("background", background, 0, 1)
        self.background = background

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image or a batch."""
        clip = self.background is not None and self.rescale is None
        if self.background is None and getattr(inpt, "dtype", None) == torch.uint8:
            raise InputError(
                "HighPass: expected float images with background=None, got uint8, which cannot "
                "hold values below 0; put v2.ToDtype(torch.float32, scale=True) before it"
            )
        return _on_pixels(inpt, lambda x: self._part(x), "HighPass", clip)

    _transform = transform

    def _part(self, images: Tensor) -> Tensor:
        _, high = fourier.split(images, self.radius, closed=self.closed, units=self.units)
        high = high if self.background is None else high + self.background
        return fourier.rescaled(high, self.rescale)


class RandomBand(_Random):
    """Removes a random band of frequencies, ``a < d <= a + width``.

    Args:
        width: of the band, in cycles per image, above 0.
        low, high: the band lies between these distances; ``high=None`` is half the smaller
            side. DC stays unless ``low`` is negative.
        p: probability that an image (or a batch, which gets one band) is changed.
        seed: of a generator of its own.
        rescale: as :class:`LowPass`; an image that is not changed is not rescaled either.

    Raises:
        InputError: a width, bounds or a probability outside those ranges; images too small
            for the band.
    """

    def __init__(
        self,
        width: float = 4.0,
        *,
        low: float = 0.0,
        high: float | None = None,
        p: float = 1.0,
        seed: int | None = None,
        rescale: fourier.Rescale | None = None,
    ) -> None:
        super().__init__(seed)
        self.width = checks.number("width", width, 0, math.inf, open_low=True, open_high=True)
        self.low = checks.number("low", low, -math.inf, math.inf, open_low=True, open_high=True)
        if high is not None:
            high = checks.number("high", high, self.low + self.width, math.inf, open_high=True)
        self.high, self.p = high, checks.number("p", p, 0, 1)
        self.rescale = fourier.check_rescale(rescale)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The inner radius of the band, or None if the image stays as it is."""
        height, width = _size_of(flat_inputs[0])
        high = min(height, width) / 2 if self.high is None else self.high
        if high - self.low < self.width:
            raise InputError(
                f"RandomBand: expected images that hold a band of {self.width:g} cycles above "
                f"{self.low:g}, got {height}×{width} pixels"
            )
        apply = self._uniform() < self.p
        inner = self.low + self._uniform() * (high - self.low - self.width)
        return {"inner": inner if apply else None}

    _get_params = make_params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image or a batch."""
        inner = params["inner"]
        if inner is None:
            return inpt

        def without(images: Tensor) -> Tensor:
            if inner >= 0:
                (below, _), (upto, _) = fourier.bands(images, (inner, inner + self.width))
                kept = images - (upto - below)
            else:
                kept = fourier.split(images, max(0.0, inner + self.width))[1]
            return fourier.rescaled(kept, self.rescale)

        return _on_pixels(inpt, without, "RandomBand", self.rescale is None)

    _transform = transform


class AmplitudePhaseMix(_Random):
    """APR-P: each image of a batch keeps its phase and takes another's amplitude.

    Called with images, or with ``(images, labels)`` as in a collate function; labels belong
    to the phase and stay as they are:

    ``collate_fn=lambda batch: mix(*default_collate(batch))``

    Args:
        p: probability that a batch is changed, the authors' 0.6.
        over_channels: transform the colour axis too, as the authors' code does.
        keep_original: give back the original images followed by the recombined ones (labels
            twice): the authors' loss is the sum over both.
        seed: of a generator of its own.
        clip: clip recombined images to [0, 1]; False: feed float images as they come out, as the
            authors' code does. On CIFAR-10 about one value in twenty lies outside.

    Raises:
        InputError: p outside [0, 1]; images without a batch axis.

    Source: Chen et al., ICCV 2021 (APR-P) and its code, which is
    ``AmplitudePhaseMix(over_channels=True, keep_original=True, clip=False)``.
    """

    def __init__(
        self,
        p: float = 0.6,
        *,
        over_channels: bool = False,
        keep_original: bool = False,
        seed: int | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__(seed)
        self.p = checks.number("p", p, 0, 1)
        self.over_channels = checks.flag("over_channels", over_channels)
        self.keep_original = checks.flag("keep_original", keep_original)
        self.clip = checks.flag("clip", clip)

    def forward(self, images: Tensor, labels: Any = None) -> Any:
        """``(N, C, H, W)``, and labels if they are given."""
        if not isinstance(images, Tensor) or images.dim() != 4:
            what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(
                f"AmplitudePhaseMix: expected a batch (N, C, H, W), got {what}; use it after "
                "batching, in the collate function or the training loop"
            )
        mixed = images
        if self._uniform() < self.p:
            order = torch.randperm(len(images), generator=self._draws(), device="cpu")
            order = order.to(images.device)
            mixed = _on_pixels(
                images,
                lambda x: fourier.recombine(x[order], x, over_channels=self.over_channels),
                "AmplitudePhaseMix",
                self.clip,
            )
        if self.keep_original:
            mixed = torch.cat([images, mixed])
            labels = torch.cat([labels, labels]) if isinstance(labels, Tensor) else labels
        return mixed if labels is None else (mixed, labels)


class AmplitudePhaseSelf(_Random):
    """APR-S: an image exchanges its amplitude with an augmented copy of itself.

    The image is augmented; with probability ``p`` a second copy is augmented anew, and the
    phase of one is put together with the amplitude of the other, which way by a fair coin.

    Args:
        augment: float image in [0, 1] to image; None: one of seven operations of AugMix
            (autocontrast, equalise, posterise, rotate, solarise, shear, translate). The authors
            have nine (shear and translate along each axis by itself) and draw the strength of
            each, whose largest is that of posterise and solarise here.
        p: probability of recombining, the authors' 0.5.
        over_channels: transform the colour axis too, as the authors' code does.
        seed: of a generator of its own; ``augment`` then draws from it as well.

    Raises:
        InputError: p outside [0, 1]; an ``augment`` that changes the size.

    Source: Chen et al., ICCV 2021 (APR-S) and its code.
    """

    def __init__(
        self,
        augment: Callable[[Tensor], Tensor] | None = None,
        *,
        p: float = 0.5,
        over_channels: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if augment is not None:
            checks.function("augment", augment, "a function of an image, or None")
        self.augment = _one_of_augmix() if augment is None else augment
        self.p = checks.number("p", p, 0, 1)
        self.over_channels = checks.flag("over_channels", over_channels)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image ``(C, H, W)`` (a batch gets one augmentation for all)."""
        return _on_pixels(inpt, self._changed, "AmplitudePhaseSelf")

    _transform = transform

    def _changed(self, image: Tensor) -> Tensor:
        first = self._augmented(image)
        if self._uniform() >= self.p:
            return first
        second = self._augmented(first)
        if first.shape != second.shape:
            raise InputError(
                f"AmplitudePhaseSelf: expected augment to keep the size, got "
                f"{tuple(second.shape)} from {tuple(first.shape)}"
            )
        pair = (first, second) if self._uniform() < 0.5 else (second, first)
        return fourier.recombine(*pair, over_channels=self.over_channels)

    def _augmented(self, image: Tensor) -> Tensor:
        generator = self._draws()
        if generator is None:
            return self.augment(image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator, device="cpu")))
            return self.augment(image)


class FrequencyFilter(nn.Module):
    """Passes low frequencies only; put it in front of a model.

    ``nn.Sequential(FrequencyFilter(12), model)`` is the low-pass "defence" that is proposed
    against adversarial examples. It is not one: it hides a part of the image that a model
    may need, and an attack that goes through it (it is differentiable, so
    :class:`hfc_probe.AdversarialAccuracy` does) or that is low-frequency itself is not
    stopped. What it shows is how much of the model's accuracy, and of an attack made
    without it, lies beyond the radius.

    It takes the model's input, normalised or not: low-passing and a per-channel
    normalisation can change places, since DC is kept.

    Args:
        radius: cut-off in cycles per image (or in ``units``).
        keep: ``"low"`` or ``"high"``.
        pixels: the normalisation of its inputs; needed for ``"high"`` alone, which removes
            the mean in pixel space (None: inputs are in pixel space).
        closed, units: see :func:`hfc_probe.fourier.split`.
        rescale: ``"max"`` divides each image by its own maximum in pixel space, see
            :func:`hfc_probe.fourier.rescaled`; ``pixels`` is then needed for both.

    Raises:
        InputError: a radius that is negative or not a number, another ``keep`` or ``rescale``.

    >>> FrequencyFilter(0)(torch.tensor([[[[0.0, 1.0]]]])).tolist()
    [[[[0.5, 0.5]]]]
    """

    def __init__(
        self,
        radius: float,
        *,
        keep: str = "low",
        pixels: PixelSpace | None = None,
        closed: bool = True,
        units: fourier.Units = "cycles",
        rescale: fourier.Rescale | None = None,
    ) -> None:
        super().__init__()
        self.rescale = fourier.check_rescale(rescale)
        self.radius = fourier.check_radius(radius)
        self.keep = checks.choice("keep", keep, ("low", "high"))
        self.closed, self.units = checks.flag("closed", closed), fourier.check_units(units)
        self.pixels = check_pixels(pixels) or PixelSpace()

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` of the same shape and type."""
        options: Any = {"closed": self.closed, "units": self.units}
        if self.keep == "low" and self.rescale is None:
            return fourier.split(images, self.radius, **options)[0].to(images.dtype)
        pixels = self.pixels.unnormalize(images)
        part = fourier.split(pixels, self.radius, **options)[self.keep == "high"]
        return self.pixels.normalize(fourier.rescaled(part, self.rescale)).to(images.dtype)

    def extra_repr(self) -> str:
        return f"radius={self.radius:g}, keep={self.keep!r}"


def _on_pixels(
    images: Any, change: Callable[[Tensor], Tensor], name: str, clip: bool = True
) -> Any:
    """Apply a change to pixels in [0, 1]; uint8 comes back as uint8, tensors as their kind."""
    if not isinstance(images, Tensor):
        raise InputError(
            f"{name}: expected a tensor, got {type(images).__name__}; put v2.ToImage() before it"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"{name}: expected float images in [0, 1] or uint8, got {images.dtype}")
    plain = images.as_subclass(Tensor)
    if plain.is_floating_point() and bool((plain < -1e-3).any() | (plain > 1 + 1e-3).any()):
        raise InputError(
            f"{name}: expected values in [0, 1], got {float(plain.min()):.3g} to "
            f"{float(plain.max()):.3g}; put it before Normalize"
        )
    out = change(_as_float(plain))
    if clip or images.dtype == torch.uint8:
        out = out.clamp(0, 1)
    if images.dtype == torch.uint8:
        out = (out * 255).round()
    out = out.to(images.dtype)
    if type(images) is not Tensor:
        return tv_tensors.wrap(out, like=images)
    return out


def _as_float(images: Tensor) -> Tensor:
    images = images.as_subclass(Tensor)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _is_image(part: Any) -> bool:
    kinds = (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image)
    plain = isinstance(part, Tensor) and not isinstance(part, tv_tensors.TVTensor)
    return isinstance(part, kinds) or (plain and part.dim() > 2)


def _size_of(images: Any) -> tuple[int, int]:
    if not isinstance(images, Tensor):
        raise InputError(
            f"RandomBand: expected a tensor, got {type(images).__name__}; put v2.ToImage() first"
        )
    return int(images.shape[-2]), int(images.shape[-1])


def _one_of_augmix() -> v2.RandomChoice:
    return v2.RandomChoice(
        [
            v2.RandomAutocontrast(p=1.0),
            v2.RandomEqualize(p=1.0),
            v2.RandomPosterize(bits=3, p=1.0),
            v2.RandomRotation(9),
            v2.RandomSolarize(threshold=0.7, p=1.0),
            v2.RandomAffine(0, shear=5),
            v2.RandomAffine(0, translate=(0.1, 0.1)),
        ]
    )

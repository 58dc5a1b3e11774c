"""The fixed images that a probe looks at, in pixel space."""

from __future__ import annotations

import logging
import math
import random
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)
from torch.utils.data.distributed import DistributedSampler

from . import checks
from .errors import InputError
from .isolation import protected_rng
from .loaders import inner_loader, statistics, untouched

Drawn = Literal["all", "random", "first"]

logger = logging.getLogger("hfc_probe")

_IMAGE_KEYS = ("pixel_values", "images", "image", "inputs", "input", "img", "x", "data")
_TARGET_KEYS = ("labels", "label", "targets", "target", "y", "cls", "class", "fine_label")
# Rounding of a normalisation and its inverse; overshoot of a bicubic resize on floats.
_ROUNDING, _OVERSHOOT = 1e-3, 0.1


@dataclass(frozen=True)
class PixelSpace:
    """How a model wants pixels normalised: ``(x − mean) / std`` per channel.

    Args:
        mean, std: one number per channel (or a single one for all), for values in [0, 1].

    Raises:
        InputError: numbers missing or not finite, or a std that is not positive.

    >>> PixelSpace((0.5,), (0.25,)).normalize(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = checks.numbers(f"PixelSpace: {name}", value, low=-math.inf, increasing=False)
            if not all(map(math.isfinite, numbers)):
                raise InputError(
                    f"PixelSpace: {name}: expected finite numbers, one per channel, got "
                    f"{checks.shown(value)}"
                )
            checks.keep(self, **{name: numbers})
        if min(self.std) <= 0:
            raise InputError(f"PixelSpace: expected std above 0, got {self.std}")
        if not all(-1 <= value <= 1 for value in self.mean):
            raise InputError(
                f"PixelSpace: expected the mean of images in [0, 1], got {self.mean}; divide a "
                "mean and std of 8-bit values by 255"
            )
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise InputError(
                "PixelSpace: expected as many means as stds, got "
                f"{len(self.mean)} and {len(self.std)}"
            )

    @classmethod
    def imagenet(cls) -> PixelSpace:
        """The ImageNet statistics that torchvision's models are trained with."""
        return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    @classmethod
    def cifar10(cls) -> PixelSpace:
        """Per-channel mean and standard deviation of the CIFAR-10 training set."""
        return cls((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

    def normalize(self, images: Tensor) -> Tensor:
        """Pixel space ``(N, C, H, W)`` in [0, 1] to what the model eats."""
        mean, std = self._statistics(images)
        return (images - mean) / std

    def unnormalize(self, images: Tensor) -> Tensor:
        """What the model eats back to pixel space."""
        mean, std = self._statistics(images)
        return images * std + mean

    @property
    def is_identity(self) -> bool:
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def check(self, channels: int) -> None:
        """Raise :class:`InputError` unless it fits images of that many channels."""
        count = max(len(self.mean), len(self.std))
        if count not in (1, channels):
            raise InputError(
                f"PixelSpace: expected statistics for {channels} channels, got {count}; pass "
                f"pixels=PixelSpace(mean, std) with {channels} numbers each"
            )

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.check(images.shape[1])
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class Samples:
    """Images in pixel space with their class indices, held in memory.

    Args:
        images: ``(N, C, H, W)``, float in [0, 1], or uint8 (a quarter of the memory; read as
            ``value / 255``). NumPy arrays are taken too.
        targets: ``(N,)`` class indices from 0.
        drawn: how they were chosen; ``"random"`` and ``"all"`` are beyond suspicion,
            ``"first"`` is checked for covering few of the classes.
        caveats: sentences on what cannot be trusted about them; results say them first.
        provenance: where they come from, as plain values: ``data`` (a description),
            ``normalization`` (where the statistics came from), ``resampling``.

    Raises:
        InputError: wrong shapes or lengths, no images, values outside [0, 1] or not finite,
            negative or fractional targets.
    """

    images: Tensor
    targets: Tensor
    drawn: Drawn = "all"
    caveats: tuple[str, ...] = field(default=(), kw_only=True)
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        images = _as_tensor("images", self.images)
        targets = _as_tensor("targets", self.targets)
        if images.dim() != 4 or 0 in images.shape[1:]:
            raise InputError(
                f"Samples: expected images of shape (N, C, H, W), got {tuple(images.shape)}"
            )
        if images.shape[0] == 0:
            raise InputError("Samples: expected at least one image, got none; is the data empty?")
        if images.shape[3] in (1, 3) and min(images.shape[1:3]) >= 8:
            raise InputError(
                f"Samples: expected images of shape (N, C, H, W), got {tuple(images.shape)} with "
                "the channels last; pass images.permute(0, 3, 1, 2)"
            )
        if images.dtype != torch.uint8:
            if not images.is_floating_point():
                raise InputError(
                    f"Samples: expected float images in [0, 1] or uint8, got {images.dtype}"
                )
            _check_range(images)
        if targets.shape != (images.shape[0],):
            raise InputError(
                f"Samples: expected {images.shape[0]} class indices of shape "
                f"({images.shape[0]},), got shape {tuple(targets.shape)}; soft or one-hot labels "
                "need .argmax(1) first"
            )
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise InputError(f"Samples: expected whole class indices, got {targets.dtype}")
        if int(targets.min()) < 0:
            raise InputError(
                f"Samples: expected class indices of at least 0, got {int(targets.min())}"
            )
        object.__setattr__(self, "images", images.detach().cpu())
        object.__setattr__(self, "targets", targets.detach().cpu().long())

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)

    def pixels(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Images as float32 in [0, 1] (float64 stays float64)."""
        images = self.images[index]
        if images.dtype == torch.uint8:
            return images.to(torch.float32) / 255
        return images.to(torch.promote_types(images.dtype, torch.float32))

    @cached_property
    def mean(self) -> Tensor:
        """Mean of each channel over all images, ``(C,)`` float64."""
        total = torch.zeros(self.image_shape[0], dtype=torch.float64, device="cpu")
        for start in range(0, len(self), 256):
            part = self.pixels(slice(start, start + 256)).to(torch.float64)
            total += part.sum((0, 2, 3))
        _, height, width = self.image_shape
        return total / (len(self) * height * width)

    def subset(self, limit: int | None, *, seed: int = 0) -> Samples:
        """A seeded random subset of at most ``limit`` samples, in their order; all for None."""
        limit = check_limit(limit)
        if limit is None or limit >= len(self):
            return self
        index = torch.tensor(
            sorted(random.Random(seed).sample(range(len(self)), limit)), device="cpu"
        )
        drawn: Drawn = "first" if self.drawn == "first" else "random"
        return Samples(self.images[index], self.targets[index], drawn)

    def warn_if_few_classes(self, classes: int) -> None:
        """Warn where the first samples of a set (it may be sorted) cover few of its classes."""
        if self.drawn != "first":
            return
        found = int(self.targets.unique().numel())
        expected = classes * (1 - (1 - 1 / classes) ** len(self))
        if found < expected / 2:
            warnings.warn(
                f"hfc_probe looks at the first {len(self)} samples, and they cover {found} of "
                f"{classes} classes (the data may be sorted by class); pass a DataLoader over a "
                "map-style dataset, or Samples(images, targets) chosen at random",
                stacklevel=2,
            )

    @classmethod
    def collect(
        cls,
        data: Any,
        *,
        pixels: PixelSpace | None = None,
        limit: int | None = 1000,
        seed: int = 0,
    ) -> Samples:
        """Read a loader once and keep its images, back in pixel space.

        A ``DataLoader`` over a map-style dataset gives a seeded random choice of ``limit``
        samples through its own dataset, collate function and workers; anything else gives its
        first ``limit``. Random states are restored, and the loader itself is not iterated
        where the dataset can be indexed. Images that were 8-bit are kept as uint8.

        Args:
            data: an iterable of batches: tuples or lists that start with (images, targets),
                or mappings with keys such as ``images``/``pixel_values`` and
                ``labels``/``targets``. Not an iterator, which could be read only once.
            pixels: the normalisation that the model wants; undone here where the loader does
                it, left to the model where the loader's images all lie in [0, 1], as where the
                training loop normalises. None: a ``Normalize`` found in the loader, else none.
            limit: at most so many samples; None for all.
            seed: of the choice.

        Raises:
            InputError: no samples, batches of another form, images of several sizes, values
                outside [0, 1] that no normalisation explains.
        """
        check_pixels(pixels)
        if isinstance(data, Samples):
            return data.subset(limit, seed=seed)
        limit = check_limit(limit)
        pixels = find_normalization(data) if pixels is None else pixels
        with protected_rng(), torch.no_grad():
            batches, drawn = _choose(data, limit, seed)
            images, targets = _gather(batches, limit, pixels)
        if pixels is None:
            _warn_of_raw_images(data)
        return cls(images, targets, drawn)


def check_pixels(pixels: PixelSpace | None) -> PixelSpace | None:
    """What was given, if it is a PixelSpace or None; otherwise an :class:`InputError`."""
    if pixels is not None and not isinstance(pixels, PixelSpace):
        raise InputError(
            "pixels: expected a PixelSpace such as PixelSpace.imagenet(), got "
            f"{checks.shown(pixels)}"
        )
    return pixels


def check_limit(limit: int | None) -> int | None:
    """The limit, if it is None or a whole number above 0; otherwise an :class:`InputError`."""
    return None if limit is None else checks.whole("limit", limit, what="number of samples")


def find_normalization(data: Any) -> PixelSpace | None:
    """The ``Normalize`` among the transforms of a loader's dataset, if there is one.

    Looked for as :func:`hfc_probe.loaders.statistics` says. What it found is logged.
    """
    if isinstance(data, (Tensor, Samples, list, tuple)):
        return None
    found = statistics(data)
    if found is None:
        return None
    mean, std = found
    logger.info("hfc_probe: normalisation found in the data: mean %s, std %s", mean, std)
    return PixelSpace(mean, std)


def _choose(data: Any, limit: int | None, seed: int) -> tuple[Iterable[Any], Drawn]:
    """Batches to read, and how they were chosen."""
    if isinstance(data, torch.nn.Module):
        raise InputError(
            f"data: expected a loader or Samples, got a model ({type(data).__name__}); the model "
            "comes first and the data second"
        )
    data = inner_loader(data)
    if isinstance(data, DataLoader):
        indices = _indices(data)
        if indices is not None:
            drawn: Drawn = "all"
            if limit is not None and limit < len(indices):
                picked = sorted(random.Random(seed).sample(range(len(indices)), limit))
                indices, drawn = [indices[k] for k in picked], "random"
            if not indices:
                raise InputError("data: expected samples, got an empty dataset")
            return _reader(data, indices, seed), drawn
        return _restored(data), "first"
    if isinstance(data, Iterator):
        raise InputError(
            f"data: expected a loader that can be read again, got {type(data).__name__}, an "
            "iterator that the probe would use up; pass the loader itself or Samples"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _choose(DataLoader(data, batch_size=64), limit, seed)
    if isinstance(data, (Tensor, str, Mapping)) or not isinstance(data, Iterable):
        raise InputError(
            f"data: expected an iterable of batches or Samples(images, targets), got "
            f"{type(data).__name__}"
        )
    return _restored(data), "first"


def _indices(loader: DataLoader[Any]) -> Sequence[int] | None:
    """Dataset indices that a loader draws from; None where only iterating it can tell."""
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    if not hasattr(dataset, "__len__"):
        return None
    # With a batch sampler of its own, a loader's .sampler is a placeholder that is not used;
    # without any, the dataset makes its own batches.
    sampler = getattr(_batches_of(loader), "sampler", None)
    if isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler)):
        return range(len(dataset))
    chosen = getattr(sampler, "indices", None)  # SubsetRandomSampler: a split by sampler
    return [int(k) for k in chosen] if chosen is not None else None


def _batches_of(loader: DataLoader[Any]) -> Any:
    """The batch sampler inside those that shard it over processes."""
    batches: Any = loader.batch_sampler
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    return batches


def _reader(loader: DataLoader[Any], indices: Sequence[int], seed: int) -> DataLoader[Any]:
    """A loader over some indices that shares nothing with the given one but its settings."""
    workers = min(loader.num_workers, len(indices))
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size or getattr(_batches_of(loader), "batch_size", None) or 64,
        sampler=indices,
        collate_fn=loader.collate_fn,
        num_workers=workers,
        timeout=loader.timeout if workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )


def _restored(data: Iterable[Any]) -> Iterator[Any]:
    """Batches of the user's own loader, which stays as it was."""
    with untouched(data):
        yield from data


def _gather(
    batches: Iterable[Any], limit: int | None, pixels: PixelSpace | None
) -> tuple[Tensor, Tensor]:
    image_parts: list[Tensor] = []
    raw: list[bool] = []
    target_parts: list[Tensor] = []
    count = 0
    # Our own reader's generator is on the CPU, whatever the default device.
    with torch.device("cpu") if isinstance(batches, DataLoader) else nullcontext():
        iterator = iter(batches)
    try:
        while limit is None or count < limit:
            try:
                batch = next(iterator)
            except StopIteration:
                break
            images, targets = _unpack(batch)
            if limit is not None:
                images, targets = images[: limit - count], targets[: limit - count]
            if image_parts and images.shape[1:] != image_parts[0].shape[1:]:
                raise InputError(
                    "data: expected images of one size, got "
                    f"{tuple(image_parts[0].shape[1:])} and {tuple(images.shape[1:])}; crop or "
                    "resize them in the transform"
                )
            count += images.shape[0]
            if pixels is not None:
                pixels.check(images.shape[1])
            raw.append(_is_raw(images))
            image_parts.append(to_pixels(images, None if raw[-1] else pixels))
            target_parts.append(targets)
    finally:
        close = getattr(iterator, "close", None)  # a generator's `finally` runs now, not later
        if close is not None:
            close()
    if not count:
        raise InputError("data: expected at least one batch, got none; is the loader empty?")
    if pixels is not None and not pixels.is_identity and not all(raw):
        # One batch alone may look raw: normalised images all of middle brightness.
        image_parts = [
            to_pixels(_as_float(part), pixels) if was_raw else part
            for part, was_raw in zip(image_parts, raw, strict=True)
        ]
    if any(part.dtype != torch.uint8 for part in image_parts):
        image_parts = [_as_float(part) for part in image_parts]
    return torch.cat(image_parts), torch.cat(target_parts)


def to_pixels(images: Tensor, pixels: PixelSpace | None) -> Tensor:
    """Images in pixel space, as uint8 where they were 8-bit; their normalisation is undone.

    Raises:
        InputError: values outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"data: expected float or uint8 images, got {images.dtype}")
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    known = pixels is not None and not pixels.is_identity
    if pixels is not None and known:
        images = pixels.unnormalize(images)
    _check_range(images, slack=_OVERSHOOT, normalised=known)
    images = images.clamp(0, 1)
    scaled = images * 255
    whole = scaled.round()
    if bool((scaled - whole).abs().max() < 255 * _ROUNDING / 10):
        return whole.to(torch.uint8)
    return images


def _is_raw(images: Tensor) -> bool:
    """Whether images are in pixel space, as where the training loop normalises, not the loader."""
    if images.dtype == torch.uint8:
        return True
    low, high = float(images.min()), float(images.max())
    return low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT


_warned_of: weakref.WeakSet[Any] = weakref.WeakSet()


def _warn_of_raw_images(data: Any) -> None:
    """Images in [0, 1] and no word on normalisation: right, unless the training loop does it."""
    with suppress(TypeError):  # a list, say, cannot be remembered
        if data in _warned_of:
            return
        _warned_of.add(data)
    logger.warning(
        "hfc_probe: found no normalisation, so the model is given the loader's images as they are, "
        "in [0, 1]; if the training loop normalises them, pass pixels=hfc_probe.PixelSpace(mean, "
        "std), otherwise pixels=hfc_probe.PixelSpace()"
    )


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def _check_range(images: Tensor, *, slack: float = _ROUNDING, normalised: bool = False) -> None:
    low, high = float(images.min()), float(images.max())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also NaN
        raise InputError("images: expected finite values in [0, 1], got NaN or infinity")
    if low >= -slack and high <= 1 + slack:
        return
    if normalised:
        advice = "the pixels= given does not undo this loader's normalisation"
    elif low >= 0:
        advice = "divide 8-bit values by 255"
    elif low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
        advice = (
            "this looks like mean 0.5, std 0.5: pass pixels=hfc_probe.PixelSpace((0.5,), (0.5,))"
        )
    elif low >= -3 and high <= 3 and images.shape[1] == 3:
        advice = (
            "this looks like ImageNet or CIFAR normalisation: pass "
            "pixels=hfc_probe.PixelSpace.imagenet() or hfc_probe.PixelSpace.cifar10()"
        )
    else:
        advice = "pass pixels=hfc_probe.PixelSpace(mean, std) with the loader's normalisation"
    raise InputError(f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}; {advice}")


def _as_tensor(name: str, value: Any) -> Tensor:
    """A tensor where it is, or what else has numbers, as one on the CPU."""
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    except Exception:  # text, None, ragged lists, whatever a stranger's object raises
        raise InputError(
            f"{name}: expected a tensor or an array of numbers, got {checks.shown(value)}"
        ) from None


def _unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and targets of one batch."""
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
    if not isinstance(images, Tensor) or images.dim() != 4:
        what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"data: expected batches of images (N, C, H, W), got {what}")
    targets = _as_tensor("targets", targets)
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.shape != images.shape[:1]:
        raise InputError(
            f"data: expected {images.shape[0]} class indices with {images.shape[0]} images, got "
            f"targets of shape {tuple(targets.shape)}; soft or one-hot labels need .argmax(1)"
        )
    return images.detach().cpu(), targets.detach().cpu()

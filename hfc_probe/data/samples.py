"""The fixed images that a probe looks at, in pixel space."""

from __future__ import annotations

import dataclasses
import logging
import random
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from ..ground import checks
from ..ground.errors import InputError
from ..ground.random_state import protected_rng
from .batches import channels_last, plain_targets, plain_tensor
from .normalization import LARGEST, check_range, on_trust
from .pixels import PixelSpace
from .reading import Selection, find_normalization, read

__all__ = ["PixelSpace", "Samples", "Selection", "check_limit", "find_normalization"]

logger = logging.getLogger("hfc_probe")


@dataclass(frozen=True, eq=False)
class Samples:
    """Images in pixel space with their class indices, held in memory.

    Args:
        images: ``(N, C, H, W)``, or video and volumes ``(N, C, T, H, W)``; float in [0, 1], or
            uint8 (a quarter of the memory; read as ``value / 255``) or uint16 (read as
            ``value / 65535``). NumPy arrays are taken too, and a list of ``(C, H, W)`` of several
            sizes: a model is then given one image at a time.
        targets: ``(N,)`` class indices from 0.
        selection: how they were chosen; ``"random"`` and ``"all"`` are beyond suspicion,
            ``"first"`` is checked for covering few of the classes.
        caveats: sentences on what cannot be trusted about them; results say them first.
        provenance: where they come from, as plain values: ``data`` (a description),
            ``normalization`` (where the statistics came from), ``selection``, ``resampling``.
        normalization: how the model is given them unless ``pixels=`` says otherwise: as the
            loader that they were read from does it. None: as they are.
        sizes: ``(N, 2)``, height and width of each image if they differ; the rest is padding.

    Raises:
        InputError: wrong shapes or lengths, no images, values outside [0, 1] or not finite,
            negative or fractional targets.
    """

    images: Tensor
    targets: Tensor
    selection: Selection = "all"
    caveats: tuple[str, ...] = field(default=(), kw_only=True)
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    normalization: PixelSpace | None = field(default=None, kw_only=True)
    sizes: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.selection, PixelSpace):
            raise InputError("Samples: pass a PixelSpace as normalization=, not as selection")
        checks.choice("Samples: selection", self.selection, get_args(Selection))
        check_pixels(self.normalization, "Samples: normalization")
        if not isinstance(self.caveats, tuple):
            raise InputError(
                f"Samples: caveats: expected a tuple of sentences, got {checks.shown(self.caveats)}"
            )
        if isinstance(self.images, (list, tuple)):
            images, sizes = _padded(self.images)
            object.__setattr__(self, "images", images)
            object.__setattr__(self, "sizes", sizes)
        if not isinstance(self.images, Tensor):
            object.__setattr__(self, "images", _as_tensor("images", self.images))
        images = plain_tensor(self.images)
        targets = plain_targets(self.targets)
        if images.dim() not in (4, 5) or 0 in images.shape[1:]:
            raise InputError(
                "Samples: expected images of shape (N, C, H, W) or (N, C, T, H, W), got "
                f"{tuple(images.shape)}"
            )
        if images.shape[0] == 0:
            raise InputError("Samples: expected at least one image, got none; is the data empty?")
        if images.dim() == 5 and images.shape[2] in (1, 3) and images.shape[1] not in (1, 3):
            raise InputError(
                f"Samples: expected video of shape (N, C, T, H, W), got {tuple(images.shape)} with "
                "the channels third; pass images.permute(0, 2, 1, 3, 4)"
            )
        if channels_last(images):
            raise InputError(
                f"Samples: expected images of shape (N, C, H, W), got {tuple(images.shape)} with "
                "the channels last; pass images.permute(0, 3, 1, 2)"
            )
        if images.dtype not in LARGEST:
            if not images.is_floating_point():
                raise InputError(
                    f"Samples: expected float images in [0, 1], uint8 or uint16, got {images.dtype}"
                )
            check_range(images)
        if targets.shape != (images.shape[0],):
            raise InputError(
                f"Samples: expected {images.shape[0]} class indices of shape "
                f"({images.shape[0]},), got shape {tuple(targets.shape)}; soft or one-hot labels "
                "need .argmax(1) first, masks and targets of other tasks ImageScore(targets=…) and "
                "Samples(images, torch.arange(N))"
            )
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise InputError(
                f"Samples: expected whole class indices, got {targets.dtype}; for targets of other "
                "tasks pass ImageScore(targets=…) and Samples(images, torch.arange(N))"
            )
        if int(targets.min()) < 0:
            raise InputError(
                f"Samples: expected class indices of at least 0, got {int(targets.min())}"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "targets", targets.long())

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        shape = shape if self.sizes is None else f"up to {shape}"
        classes = int(self.targets.unique().numel())
        return f"<Samples, {len(self)} images of {shape} ({self.images.dtype}), {classes} classes>"

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), of several sizes the smallest height and width; (C, T, H, W) of video."""
        if self.sizes is not None:
            height, width = self.sizes.amin(0).tolist()
            return int(self.images.shape[1]), int(height), int(width)
        return tuple(map(int, self.images.shape[1:]))  # type: ignore[return-value]

    @property
    def is_plain(self) -> bool:
        """Whether they are images of one size, which every measurement takes."""
        return self.images.dim() == 4 and self.sizes is None

    def pixels(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Images as float32 in [0, 1] (float64 stays float64)."""
        images = self.images[index]
        if self.sizes is not None:
            sizes = self.sizes[index]
            if bool((sizes != sizes[:1]).any()):
                raise InputError(
                    "Samples: expected images of one size at a time, got several; read them one by "
                    "one, as samples.pixels(slice(k, k + 1))"
                )
            images = images[..., : int(sizes[0, 0]), : int(sizes[0, 1])]
        if images.dtype in LARGEST:
            return images.to(torch.float32) / LARGEST[images.dtype]
        return images.to(torch.promote_types(images.dtype, torch.float32))

    @cached_property
    def mean(self) -> Tensor:
        """Mean of each channel over all images, ``(C,)`` float64."""
        total = torch.zeros(self.image_shape[0], dtype=torch.float64, device="cpu")
        count, size = 0, 256 if self.sizes is None else 1
        for start in range(0, len(self), size):
            part = self.pixels(slice(start, start + size)).to(torch.float64)
            total += part.flatten(2).sum((0, 2))
            count += part[:, 0].numel()
        return total / count

    def subset(self, limit: int | None, *, seed: int = 0) -> Samples:
        """A seeded random subset of at most ``limit`` samples, in their order; all for None."""
        limit = check_limit(limit)
        if limit is None or limit >= len(self):
            return self
        index = torch.tensor(
            sorted(random.Random(seed).sample(range(len(self)), limit)), device="cpu"
        )
        selection: Selection = "first" if self.selection == "first" else "random"
        return dataclasses.replace(
            self,
            images=self.images[index],
            targets=self.targets[index],
            sizes=None if self.sizes is None else self.sizes[index],
            selection=selection,
            provenance={**self.provenance, "selection": selection},
        )

    def shuffled_labels(self, seed: int = 0) -> Samples:
        """The same images, each with the label of another, by one random permutation.

        What a network learns of them it has memorised (Zhang et al., ICLR 2017).

        >>> samples = Samples(torch.rand(6, 3, 4, 4), torch.arange(6))
        >>> samples.shuffled_labels().targets.tolist()
        [2, 5, 3, 0, 1, 4]
        """
        order = torch.randperm(
            len(self), generator=torch.Generator().manual_seed(checks.whole("seed", seed, 0))
        )
        provenance = {**self.provenance, "labels": f"shuffled with seed {seed}"}
        return dataclasses.replace(self, targets=self.targets[order], provenance=provenance)

    def few_classes(self, classes: int) -> str | None:
        """The sentence on the first samples of a set (it may be sorted) covering few classes."""
        found = int(self.targets.unique().numel())
        expected = classes * (1 - (1 - 1 / classes) ** len(self))
        if self.selection != "first" or found >= expected / 2:
            return None
        return (
            f"hfc_probe looks at the first {len(self)} samples, and they cover {found} of "
            f"{classes} classes (the data may be sorted by class); pass a DataLoader over a "
            "map-style dataset, or Samples(images, targets) chosen at random."
        )

    def warn_if_few_classes(self, classes: int) -> None:
        """Warn with what :meth:`few_classes` says, if it says anything."""
        sentence = self.few_classes(classes)
        if sentence is not None:
            warnings.warn(sentence, stacklevel=2)

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

        A ``DataLoader`` over a map-style dataset gives a seeded random choice of ``limit`` of the
        samples that its sampler yields (on all ranks together), through its own dataset, collate
        function and workers; a few of them are read twice, to see whether they change. Anything
        else, such as a loader with an ``__iter__`` of its own, gives its first ``limit``. Random
        states are restored, and the loader itself is not iterated if the dataset can be
        indexed. Images that were 8-bit are kept as uint8.

        What is known of the normalisation (``pixels``, a ``Normalize`` in the loader's transforms)
        is checked on the images: 8-bit values lie on the grid k/255 only if the right one is
        undone. The one that fits is used, and contradictions are caveats.

        Args:
            data: an iterable of batches: tuples or lists that start with (images, targets),
                or mappings with keys such as ``images``/``pixel_values`` and
                ``labels``/``targets``. Not an iterator, which could be read only once.
            pixels: the normalisation that the model wants; undone here if the loader does
                it, left to the model if the loader's images all lie in [0, 1], as when the
                training loop normalises. None: what fits the images, of a ``Normalize`` found
                in the loader, well-known ones and what the images show themselves.
            limit: maximum number of samples; None for all.
            seed: of the choice.

        Returns:
            Samples whose ``normalization`` is how the model is to be given them.

        Raises:
            InputError: no samples, batches of another form, images of several sizes, values
                outside [0, 1] that no normalisation explains.
        """
        check_pixels(pixels)
        if isinstance(data, Samples):
            chosen = data.subset(limit, seed=seed)
            if pixels is None:
                return chosen
            provenance = {**chosen.provenance, "normalization": "given"}
            return dataclasses.replace(
                chosen,
                normalization=pixels,
                provenance=provenance,
                caveats=tuple(dict.fromkeys((*chosen.caveats, *on_trust(pixels)))),
            )
        limit = check_limit(limit)
        with protected_rng(), torch.no_grad():
            found = read(data, pixels, limit, seed)
        _tell(data, found.caveats)
        return cls(
            found.images,
            found.targets,
            found.selection,
            caveats=found.caveats,
            provenance={
                "data": found.description,
                "normalization": found.normalization.source,
                "selection": found.selection,
            },
            normalization=found.normalization.pixels,
        )


def check_pixels(pixels: PixelSpace | None, name: str = "pixels") -> PixelSpace | None:
    """What was given, if it is a PixelSpace or None; otherwise an :class:`InputError`."""
    if pixels is not None and not isinstance(pixels, PixelSpace):
        raise InputError(
            f"{name}: expected a PixelSpace such as PixelSpace.imagenet(), got "
            f"{checks.shown(pixels)}"
        )
    return pixels


def check_limit(limit: int | None) -> int | None:
    """The limit, if it is None or a whole number above 0; otherwise an :class:`InputError`."""
    return None if limit is None else checks.whole("limit", limit, what="number of samples")


_told_of: weakref.WeakSet[Any] = weakref.WeakSet()


def _tell(data: Any, caveats: tuple[str, ...]) -> None:
    """Log what cannot be trusted, once per loader."""
    if not caveats:
        return
    with suppress(TypeError):  # a list, say, cannot be remembered
        if data in _told_of:
            return
        _told_of.add(data)
    for caveat in caveats:
        logger.warning("hfc_probe: %s", caveat)


def _padded(images: Sequence[Any]) -> tuple[Any, Tensor | None]:
    """Images of several sizes in one tensor, and their sizes; those of one size as they are."""
    tensors = [one if isinstance(one, Tensor) else _as_tensor("images", one) for one in images]
    shapes, kinds = {tuple(one.shape) for one in tensors}, {one.dtype for one in tensors}
    if len(kinds) > 1:
        raise InputError(
            f"images: expected all of one number type, got {', '.join(sorted(map(str, kinds)))}"
        )
    if len(shapes) < 2:
        return (torch.stack(tensors) if tensors else torch.as_tensor(images)), None
    if any(one.dim() != 3 for one in tensors) or len({one.shape[0] for one in tensors}) > 1:
        shown = ", ".join(map(str, sorted(shapes)[:3]))
        raise InputError(f"images: expected (C, H, W) of one number of channels, got {shown}")
    sizes = torch.tensor([tuple(one.shape[1:]) for one in tensors])
    height, width = sizes.amax(0).tolist()
    out = tensors[0].new_zeros(len(tensors), len(tensors[0]), height, width)
    for whole, one in zip(out, tensors, strict=True):
        whole[:, : one.shape[1], : one.shape[2]] = one
    return out, sizes


def _as_tensor(name: str, value: Any) -> Tensor:
    """What has numbers, as a tensor on the CPU."""
    try:
        return torch.as_tensor(value, device="cpu")
    except Exception:  # text, None, ragged lists, whatever a stranger's object raises
        raise InputError(
            f"{name}: expected a tensor or an array of numbers, got {checks.shown(value)}"
        ) from None

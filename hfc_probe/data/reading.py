"""Reading a loader once: which batches, what is in them, and whether they can be relied on.

Long because reading, trying and refusing a loader share what they know of it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from ..ground.errors import InputError
from .foreign_loaders import PREFETCHERS, inner_loader, statistics, untouched
from .normalization import LARGEST, OVERSHOOT, ROUNDING, Normalization, check_range, decide
from .pixels import PixelSpace
from .samplers import batches_of, indices_of

logger = logging.getLogger("hfc_probe")

Selection = Literal["all", "random", "first"]

_IMAGE_KEYS = ("pixel_values", "images", "image", "inputs", "input", "img", "x", "data")
_TARGET_KEYS = ("labels", "label", "targets", "target", "y", "cls", "class", "fine_label")
_ENOUGH = 256  # images that show how all of them are normalised
_AGAIN = 8  # samples read twice, to see whether images change at each reading


@dataclass
class Reading:
    """What was read from a loader.

    Attributes:
        images: in pixel space, uint8 if they were 8-bit, else float.
        targets: class indices as the loader gives them.
        selection: how the samples were chosen.
        normalization: what is known of the loader's normalisation.
        caveats: what cannot be trusted about the choice or the images.
        description: of the data, in a few words.
    """

    images: Tensor
    targets: Tensor
    selection: Selection
    normalization: Normalization
    caveats: tuple[str, ...]
    description: str


@dataclass
class _Plan:
    """Batches to read, and what is known of them before."""

    batches: Iterable[Any]
    selection: Selection
    positions: list[list[int]] = field(default_factory=list)  # of samples, batch by batch
    again: list[list[int]] = field(default_factory=list)  # and those that come again at the end
    caveats: tuple[str, ...] = ()


def read(data: Any, pixels: PixelSpace | None, limit: int | None, seed: int) -> Reading:
    """Read at most ``limit`` samples; see :meth:`hfc_probe.Samples.collect`."""
    found = find_normalization(data)
    plan = _plan(data, limit, seed)
    expected = sum(map(len, plan.positions))
    gathered = _Gathered(pixels, found, type(data).__name__ in PREFETCHERS, expected)
    again: list[tuple[Tensor, Tensor]] = []
    ended = False
    with closing(_iterator(plan.batches)) as iterator:
        while limit is None or gathered.count < limit:
            if plan.positions and gathered.batches == len(plan.positions):
                break
            try:
                batch = next(iterator)
            except StopIteration:
                ended = True
                break
            images, targets = unpack(batch)
            if not gathered.batches:
                plan.caveats = (*plan.caveats, *_rival_labels(batch))
            if limit is not None:
                rest = limit - gathered.count
                images, targets = images[:rest], targets[:rest]
            gathered.add(images, targets)
            del batch, images, targets  # before the loader makes the next ones
        if gathered.count == sum(map(len, plan.positions)):
            with suppress(Exception):  # a collate function that wants more of a batch
                again = [unpack(batch) for batch in iterator]
    if not gathered.count:
        raise InputError("data: expected at least one batch, got none; is the loader empty?")
    selection: Selection = "all" if plan.selection == "first" and ended else plan.selection
    images, targets, normalization = gathered.finish()
    if _in_fixed_order(data) and not plan.positions:
        with suppress(Exception), closing(_restored(data)) as iterator:
            again = [unpack(next(iterator))]
            size = min(len(again[0][0]), len(images))
            again = [(again[0][0][:size], again[0][1][:size])]
            plan.positions = plan.again = [list(range(size))]
    caveats = [*plan.caveats, *normalization.caveats]
    if _changed(images, targets, again, plan, normalization):
        caveats.append(
            "The loader gives other images at each reading: its transforms draw at random, or its "
            "collate function mixes the images of a batch; these numbers are of the images as "
            "they were read once. Pass a loader without augmentation."
        )
    return Reading(images, targets, selection, normalization, tuple(caveats), _description(data))


def _in_fixed_order(data: Any) -> bool:
    """Whether a loader that only reading it can tell gives its samples in one order."""
    return (
        isinstance(data, DataLoader)
        and isinstance(data.sampler, SequentialSampler)
        and not isinstance(data.dataset, IterableDataset)
    )


def find_normalization(data: Any) -> PixelSpace | None:
    """The ``Normalize`` among the transforms of a loader's dataset, if there is one.

    Found by :func:`hfc_probe.data.foreign_loaders.statistics`. Whether it was applied is another
    question, see :func:`hfc_probe.data.normalization.decide`.
    """
    if isinstance(data, (Tensor, list, tuple)):
        return None
    found = statistics(data)
    if found is None:
        return None
    try:
        pixels = PixelSpace(*found)
    except InputError:  # numbers that no images have
        return None
    logger.info("hfc_probe: normalisation found in the data: %s", pixels)
    return pixels


def _iterator(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """As a generator, whose ``close`` ends the reading of what is inside now, not later."""
    yield from batches


def _plan(data: Any, limit: int | None, seed: int) -> _Plan:
    """Batches to read, and how they were chosen."""
    if isinstance(data, torch.nn.Module):
        raise InputError(
            f"data: expected a loader or Samples, got a model ({type(data).__name__}); the model "
            "comes first and the data second"
        )
    data = inner_loader(data)
    if isinstance(data, DataLoader):
        indices, caveats = indices_of(data, seed)
        if indices is None:
            return _Plan(_restored(data), "first")
        selection: Selection = "all"
        if limit is not None and limit < len(indices):
            picked = sorted(random.Random(seed).sample(range(len(indices)), limit))
            indices, selection = [indices[k] for k in picked], "random"
        if not indices:
            raise InputError("data: expected samples, got an empty dataset")
        size = data.batch_size or getattr(batches_of(data), "batch_size", None) or 64
        positions = _batched(range(len(indices)), size)
        some = random.Random(seed).sample(range(len(indices)), min(_AGAIN, len(indices)))
        again = _batched(some, max(1, len(some) // 2))  # in other company than before
        batches = [[indices[k] for k in batch] for batch in [*positions, *again]]
        return _Plan(_reader(data, batches, seed), selection, positions, again, caveats)
    if isinstance(data, Iterator):
        raise InputError(
            f"data: expected a loader that can be read again, got {type(data).__name__}, an "
            "iterator that the probe would use up; pass the loader itself or Samples"
        )
    if isinstance(data, Mapping):
        names = [str(name) for name in data]
        raise InputError(
            f"data: expected one data set or loader, got {len(names)} by name "
            f"({', '.join(names[:5])}); pass the one to look at"
            + (f", data[{names[0]!r}]" if names else "")
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _plan(DataLoader(data, batch_size=64), limit, seed)
    if isinstance(data, (Tensor, np.ndarray, str)) or not isinstance(data, Iterable):
        raise InputError(
            f"data: expected an iterable of batches or Samples(images, targets), got "
            f"{type(data).__name__}"
        )
    return _Plan(_restored(data), "first")


def _batched(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[k : k + size]) for k in range(0, len(indices), size)]


def _reader(loader: DataLoader[Any], batches: list[list[Any]], seed: int) -> DataLoader[Any]:
    """A loader over some batches that shares nothing with the given one but its settings."""
    workers = min(loader.num_workers, len(batches))
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        collate_fn=loader.collate_fn,
        num_workers=workers,
        timeout=loader.timeout if workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=torch.Generator(device="cpu").manual_seed(seed),
    )


def _restored(data: Iterable[Any]) -> Generator[Any, None, None]:
    """Batches of the user's own loader, which stays as it was."""
    with untouched(data):
        yield from data


class _Kept:
    """Images one after the other in one tensor, made at once if their number is known.

    So reading holds the images once: joining the batches at the end would hold them twice.
    """

    def __init__(self, expected: int) -> None:
        self.count, self._expected = 0, expected
        self._held: Tensor | None = None

    def add(self, part: Tensor) -> None:
        held, count = self._held, self.count + len(part)
        if held is not None and held.dtype != part.dtype:
            held = held[: self.count].to(torch.promote_types(held.dtype, part.dtype))
        if held is None or len(held) < count:
            size = max(count, self._expected if held is None else 2 * len(held))
            larger = part.new_empty((size, *part.shape[1:]))
            if held is not None:
                larger[: self.count] = held[: self.count]
            held = larger
        held[self.count : count] = part
        self._held, self.count = held, count

    def all(self) -> Tensor:
        assert self._held is not None
        held = self._held[: self.count]
        return held if len(held) == len(self._held) else held.clone()

    @property
    def dtype(self) -> torch.dtype | None:
        return None if self._held is None else self._held.dtype


class _Gathered:
    """Batches in the order of their coming, in pixel space as soon as it is known how.

    Args:
        expected: number of images to come, if it is known.
    """

    def __init__(
        self, given: PixelSpace | None, found: PixelSpace | None, wrapped: bool, expected: int
    ) -> None:
        self.given, self.found, self.wrapped, self.expected = given, found, wrapped, expected
        self.count = self.batches = 0
        self._raw: list[Tensor] = []
        self._pixels = _Kept(expected)
        self._targets = _Kept(expected)
        self._shape: torch.Size | None = None
        self._decided: Normalization | None = None
        self._revised = False

    def add(self, images: Tensor, targets: Tensor) -> None:
        self._shape = shape = self._shape or images.shape[1:]
        if images.shape[1:] != shape:
            raise InputError(
                f"data: expected images of one size, got {tuple(shape)} and "
                f"{tuple(images.shape[1:])}; crop or resize them in the transform"
            )
        self.count += len(images)
        self.batches += 1
        self._targets.add(targets)
        self._raw.append(images)
        if self._decided is not None:
            self._convert()
        elif not self._revised and self.count >= _ENOUGH:
            self._decide()

    def finish(self) -> tuple[Tensor, Tensor, Normalization]:
        """All images in pixel space, all targets, and how the images were normalised."""
        if self._raw:
            self._decide()
        assert self._decided is not None
        return self._pixels.all(), self._targets.all(), self._decided

    def _decide(self) -> None:
        if len({part.dtype if part.dtype in LARGEST else None for part in self._raw}) > 1:
            raise InputError(
                "data: expected images of one number type, got "
                f"{', '.join(sorted({str(part.dtype) for part in self._raw}))}"
            )
        self._decided = decide(self._raw, self.given, self.found, wrapped=self.wrapped)
        self._convert()

    def _convert(self) -> None:
        assert self._decided is not None
        while self._raw:
            try:
                part = to_pixels(self._raw[0], self._decided)
            except InputError:
                # The first images alone may look raw: normalised ones of middle brightness.
                if self._revised or not self._pixels.count:
                    raise
                self._revised = True
                undo = self._decided.undo
                before = as_float(self._pixels.all())
                before = before if undo is None else undo.normalize(before)
                self._raw.insert(0, before * self._decided.largest)
                self._pixels, self._decided = _Kept(self.expected), None
                return
            if self._pixels.dtype not in (None, part.dtype):  # not all came from 8 bits
                floats = _Kept(self.expected)
                floats.add(as_float(self._pixels.all()))
                self._pixels, part = floats, as_float(part)
            self._pixels.add(part)
            del self._raw[0]


# Values of the images that are brought to pixel space at a time.
_CHUNK = 1 << 17


def to_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Images in pixel space, as uint8 if they were 8-bit; their normalisation is undone.

    Raises:
        InputError: values outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return images
    chunks = images.split(max(1, _CHUNK // max(1, images[0].numel())))
    parts = []
    for chunk in chunks:
        scaled = _undone(chunk, normalization) * 255
        whole = scaled.round()
        if not bool((scaled - whole).abs().max() < 255 * ROUNDING / 10):
            return torch.cat([_undone(chunk, normalization) for chunk in chunks])
        parts.append(whole.to(torch.uint8))
    return torch.cat(parts)


def _undone(images: Tensor, normalization: Normalization) -> Tensor:
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    images = images / normalization.largest
    undo = normalization.undo
    if undo is not None:
        images = undo.unnormalize(images)
    undone = None if undo is None else (undo, normalization.source)
    check_range(images, slack=OVERSHOOT, undone=undone)
    return images.clamp(0, 1)


def as_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float."""
    largest = LARGEST.get(images.dtype)
    return images if largest is None else images.to(torch.float32) / largest


def _changed(
    images: Tensor,
    targets: Tensor,
    again: Sequence[tuple[Tensor, Tensor]],
    plan: _Plan,
    normalization: Normalization,
) -> bool:
    """Whether samples that were read a second time are not among those read first.

    Looked for in the batches that they were in at first, in any order.
    """
    for (others, labels), positions in zip(again, plan.again, strict=False):
        near = [
            k for batch in plan.positions if not set(batch).isdisjoint(positions) for k in batch
        ]
        near.sort(key=lambda k: k not in positions)
        try:
            pixels = as_float(to_pixels(others, normalization))
        except InputError:  # out of range this time
            return True
        for one, label in zip(pixels, labels, strict=True):
            if not any(
                bool(targets[k] == label)
                and float((as_float(images[k]) - one).abs().max()) <= ROUNDING
                for k in near
            ):
                return True
    return False


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and targets of one batch, as plain tensors on the CPU.

    Raises:
        InputError: another form of batch, images or labels.
    """
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
    labels = plain_targets(targets)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"data: expected {images.shape[0]} class indices with {images.shape[0]} images, got "
            f"targets of shape {tuple(labels.shape)}; soft or one-hot labels need .argmax(1)"
        )
    return plain_tensor(images), labels


def _rival_labels(batch: Any) -> Iterator[str]:
    """The sentence on further fields of a batch that could be its labels as well."""
    if not isinstance(batch, (tuple, list)) or not isinstance(batch[1], Tensor):
        return
    rivals = [
        str(k)
        for k, other in enumerate(batch[2:], 2)
        if isinstance(other, Tensor)
        and other.shape == batch[1].shape
        and not other.is_floating_point()
    ]
    if rivals:
        yield (
            f"Batches have {len(batch)} fields; field 1 is taken for the labels, and field "
            f"{', '.join(rivals)} looks like labels too. If that is wrong, pass a loader of "
            "(images, labels)."
        )


def plain_tensor(value: Tensor) -> Tensor:
    """A tensor on the CPU without a history and without what a subclass adds.

    Raises:
        InputError: a tensor without values.
    """
    if value.is_meta:
        raise InputError("data: expected tensors with values, got one on the meta device")
    return value.detach().as_subclass(Tensor).cpu()


def plain_targets(targets: Any) -> Tensor:
    """Labels as a plain tensor; those among others in a mapping too.

    Raises:
        InputError: names, None, or anything else that is no number.
    """
    if isinstance(targets, Mapping):
        key = next((k for k in _TARGET_KEYS if k in targets), None)
        if key is None:
            raise InputError(
                "labels: expected class indices, or a mapping with one of the keys "
                f"{', '.join(_TARGET_KEYS[:3])}, …, got {', '.join(map(str, targets)) or 'none'}"
            )
        targets = targets[key]
    if isinstance(targets, Tensor):
        return plain_tensor(targets)
    try:
        return plain_tensor(torch.as_tensor(targets, device="cpu"))
    except Exception:
        first = targets
        if isinstance(targets, (list, tuple)) and targets:
            first = next((t for t in targets if not isinstance(t, (int, float))), targets[0])
        what = repr(first) if isinstance(first, str) else type(first).__name__
        raise InputError(
            f"labels: expected whole class indices from 0, got {what}; map names to indices in "
            "the data set, and leave out images without a label"
        ) from None


def _description(data: Any) -> str:
    """The data in a few words: what holds them, and how many."""
    held = getattr(inner_loader(data), "dataset", data)
    names = [type(held).__name__]
    while len(names) < 4 and getattr(held, "dataset", None) is not None:
        held = held.dataset
        names.append(type(held).__name__)
    outer = getattr(inner_loader(data), "dataset", data)
    try:
        size = f", {len(outer)} {'samples' if outer is not data else 'items'}"
    except Exception:  # a stream
        size = ""
    return " of ".join(names) + size

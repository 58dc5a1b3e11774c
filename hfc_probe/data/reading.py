"""Reading a loader once: which batches, what is in them, and whether they can be relied on."""

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
from .batches import rival_labels, unpack
from .foreign_loaders import PREFETCHERS, inner_loader, statistics, untouched
from .gathering import Gathered, as_float, to_pixels
from .normalization import ROUNDING, Normalization
from .pixels import PixelSpace
from .samplers import batches_of, indices_of

logger = logging.getLogger("hfc_probe")

Selection = Literal["all", "random", "first"]

_REPEATED = 0.05  # share of images, above what large data sets hold by chance
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
    gathered = Gathered(pixels, found, type(data).__name__ in PREFETCHERS, expected)
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
                plan.caveats = (*plan.caveats, *rival_labels(batch))
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
    repeated = [] if plan.positions else list(_repeated(images))  # a sampler's are said already
    if _in_fixed_order(data) and not plan.positions:
        with suppress(Exception), closing(_restored(data)) as iterator:
            again = [unpack(next(iterator))]
            size = min(len(again[0][0]), len(images))
            again = [(again[0][0][:size], again[0][1][:size])]
            plan.positions = plan.again = [list(range(size))]
    caveats = [*plan.caveats, *repeated, *normalization.caveats]
    if _changed(images, targets, again, plan, normalization):
        caveats.append(
            "The loader gives other images at each reading: its transforms draw at random, or its "
            "collate function mixes the images of a batch; these numbers are of the images as "
            "they were read once. Pass a loader without augmentation."
        )
    return Reading(images, targets, selection, normalization, tuple(caveats), _description(data))


def _repeated(images: Tensor) -> Iterator[str]:
    """Said of images that come again, as of an iterable data set that each worker reads whole."""
    count = len(images)
    distinct = len({hash(one.contiguous().numpy().tobytes()) for one in images})
    if count - distinct > _REPEATED * count:
        yield (
            f"{count - distinct} of {count} images are repetitions of others, so that intervals "
            "are too narrow; pass each image once (workers of an IterableDataset have to "
            "share its images)"
        )


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
    if isinstance(data, Iterator) and not callable(getattr(data, "reset", None)):
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
    if isinstance(data, Iterator):
        yield from _epoch(data)
        return
    with untouched(data):
        yield from data


def _epoch(data: Iterator[Any]) -> Generator[Any, None, None]:
    """One epoch of an iterator of DALI's, which starts anew by ``reset``, at its end alone."""
    ended = False
    try:
        yield from data
        ended = True
    finally:
        for _ in () if ended else data:
            pass
        data.reset()  # type: ignore[attr-defined]


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

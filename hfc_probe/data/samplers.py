"""Which samples a loader draws: what iterating its samplers yields, on copies of them."""

from __future__ import annotations

import copy
import operator
import random
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from ..ground.errors import InputError

# Subclasses of DataLoader whose __iter__ changes no sample: they move batches to a device, keep
# their workers or their place. (Accelerate, torchdata, timm, ultralytics.)
_HARMLESS = {
    "DataLoaderShard",
    "DataLoaderDispatcher",
    "StatefulDataLoader",
    "MultiEpochsDataLoader",
    "InfiniteDataLoader",
}
# Samplers that yield what another one does, again and again.
_REPEATING = {"_RepeatSampler": "sampler"}
_RANKS = (
    ("rank", "num_replicas"),
    ("rank", "world_size"),
    ("process_index", "num_processes"),
)
_MOST = 10**8  # indices of one sampler


def batches_of(loader: DataLoader[Any]) -> Any:
    """The batch sampler inside those that repeat it or shard it over processes."""
    batches: Any = loader.batch_sampler
    while True:
        inner = getattr(batches, _REPEATING.get(type(batches).__name__, "batch_sampler"), None)
        if inner is None:
            return batches
        batches = inner


def indices_of(loader: DataLoader[Any], seed: int) -> tuple[list[Any] | None, tuple[str, ...]]:
    """Dataset indices that a loader draws in one epoch, and sentences on what is missing.

    All ranks' shares together, in order. None if only reading the loader itself can tell: an
    ``__iter__`` of its own, a stream, batches made by the dataset, samplers without an end.

    Its samplers are copied, so that iterating them changes nothing of the user's. Call it inside
    :func:`hfc_probe.ground.random_state.protected_rng`.
    """
    own = type(loader).__iter__ is not DataLoader.__iter__
    own = own or type(loader)._get_iterator is not DataLoader._get_iterator
    if own and type(loader).__name__ not in _HARMLESS:
        return None, ()
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__getitem__"):
        return None, ()
    sampler: Any = loader.batch_sampler
    while type(sampler).__name__ in _REPEATING:
        sampler = getattr(sampler, _REPEATING[type(sampler).__name__])
    batched = type(sampler) is not BatchSampler
    if not batched:
        sampler = sampler.sampler  # all of it, whatever the last batch drops
    if sampler is None:
        return None, ()
    if isinstance(sampler, Iterator):
        raise InputError(
            f"data: expected a sampler that can be read again, got {type(sampler).__name__}, an "
            "iterator that the probe would use up; give the DataLoader a list of indices"
        )
    return _of_all_ranks(sampler, batched, seed, loader.dataset)


def _repeats(indices: list[Any], sampler: Any, dataset: Any) -> Iterator[str]:
    """What is said of a sampler that gives some samples several times and others not at all."""
    with suppress(TypeError):  # a data set without a length, or indices without a hash
        distinct, total = len(set(indices)), len(dataset)
        if distinct < min(len(indices), total):
            yield (
                f"{type(sampler).__name__} repeats indices and gives {distinct} of the {total} "
                "samples of the data set; pass a loader of validation data without it."
            )


def _of_all_ranks(
    sampler: Any, batched: bool, seed: int, dataset: Any
) -> tuple[list[Any] | None, tuple[str, ...]]:
    try:
        own = _iterated(copied(sampler), batched, seed)
    except Exception:  # no copy can be had of it: the loader itself is read
        own = None
    if own is None:
        return None, ()
    holder, rank, world = _sharing(sampler)
    count = getattr(holder, world, 1) if holder is not None else 1
    if count == 1:
        return _in_order(own), tuple(_repeats(own, sampler, dataset))
    found: list[Any] = []
    try:
        for one in range(count):
            twin = copied(sampler)
            setattr(_sharing(twin)[0], rank, one)
            share = _iterated(twin, batched, seed)
            if share is None:
                raise ValueError("a share without an end")
            found += share
    except Exception:  # a sampler that keeps more of its rank than the number
        return _in_order(own), (
            f"These are the samples of one of {count} processes: {type(sampler).__name__} does "
            "not tell which ones the others look at.",
        )
    return _in_order(list(dict.fromkeys(found))), tuple(_repeats(found, sampler, dataset))


def _iterated(sampler: Any, batched: bool, seed: int) -> list[Any] | None:
    """What one pass yields; None if it does not say how long it is, or it is endless."""
    try:
        length = len(sampler)
    except Exception:  # not every sampler has one; what it raises is up to it
        return None
    if length > _MOST:
        return None
    # Every share of the same shuffle. Not torch.manual_seed, which would also seed CUDA later on.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    found = list(islice(iter(sampler), length))
    if batched:
        found = [index for batch in found for index in batch]
    with suppress(TypeError):  # other keys, as for a dataset that is a dict
        found = [operator.index(one) for one in found]
    return found


def _in_order(indices: list[Any]) -> list[Any]:
    # In the order of the dataset: the same on every rank and in every run, however it shuffles.
    return sorted(indices) if all(isinstance(one, int) for one in indices) else indices


def _sharing(sampler: Any) -> tuple[Any, str, str]:
    """The sampler, or one inside it, that yields one process's share, and its attributes."""
    for names in _RANKS:
        count = getattr(sampler, names[1], None)
        rank = getattr(sampler, names[0], None)
        if isinstance(count, int) and isinstance(rank, int) and count > 1:
            return sampler, *names
    for name in ("sampler", "batch_sampler", "base_sampler"):
        inner = getattr(sampler, name, None)
        if inner is not None and hasattr(inner, "__iter__"):
            found = _sharing(inner)
            if found[0] is not None:
                return found
    return None, "", ""


def copied(sampler: Any, made: dict[int, Any] | None = None) -> Any:
    """A copy that can be iterated in place of a sampler: what it may change is its own.

    Counters, lists and generators are copied, samplers inside it too; data are shared.
    """
    made = {} if made is None else made
    if id(sampler) in made:
        return made[id(sampler)]
    twin = copy.copy(sampler)
    made[id(sampler)] = twin
    own = getattr(twin, "__dict__", {})
    for name, value in list(own.items()):
        if isinstance(value, torch.Generator):
            own[name] = torch.Generator(value.device)
            own[name].set_state(value.get_state())
        elif isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
            own[name] = copy.deepcopy(value)
        elif isinstance(value, (list, dict, set, deque, np.ndarray)):
            own[name] = copy.copy(value)
        elif _samples(value) or any(map(_samples, getattr(value, "__dict__", {}).values())):
            own[name] = copied(value, made)
    return twin


def _samples(value: Any) -> bool:
    return isinstance(value, Sampler) or type(value).__name__.endswith("Sampler")

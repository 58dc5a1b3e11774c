"""What other people's loaders hold: a loader in a wrapper, a normalisation, state of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

# Wrappers that change no sample: timm's prefetcher (which normalises, see below), Fabric's loader.
_WRAPPERS = {"PrefetchLoader": "loader", "_FabricDataLoader": "_dataloader"}
# Where datasets and transforms keep other datasets and transforms.
_HOLDERS = ("dataset", "datasets", "transform", "transforms", "_transform", "normalize", "pixels")
_DEPTH = 10

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def inner_loader(data: Any) -> Any:
    """The ``DataLoader`` in timm's or Fabric's wrapper, whose samples can be had by index.

    timm's prefetcher normalises what comes out of it, so its inner loader gives 8-bit pixels;
    :func:`statistics` knows with what.
    """
    inner = getattr(data, _WRAPPERS.get(type(data).__name__, ""), None)
    return inner if isinstance(inner, DataLoader) else data


def statistics(data: Any) -> Statistics | None:
    """Mean and std of the normalisation in a loader, for values in [0, 1]; None where none is.

    Looked for among the transforms of its dataset, through ``Subset`` and the like, composed
    transforms, functions that hold a transform (as for ``set_transform`` of Hugging Face's
    datasets), and in timm's prefetcher.
    """
    return _search(data, 0, set())


def _search(item: Any, depth: int, seen: set[int]) -> Statistics | None:
    if item is None or depth > _DEPTH or id(item) in seen or isinstance(item, (Tensor, str)):
        return None
    seen.add(id(item))
    kind = type(item).__name__
    if hasattr(item, "mean") and hasattr(item, "std"):
        if kind in ("Normalize", "PixelSpace"):
            return numbers(item.mean), numbers(item.std)
        if kind == "PrefetchLoader":  # which keeps them for values up to 255, as float32
            mean, std = numbers(item.mean), numbers(item.std)
            return tuple(round(v / 255, 6) for v in mean), tuple(round(v / 255, 6) for v in std)
    for child in _children(item):
        found = _search(child, depth + 1, seen)
        if found is not None:
            return found
    return None


def _children(item: Any) -> list[Any]:
    children = [getattr(item, name, None) for name in _HOLDERS]
    format_kwargs = getattr(item, "_format_kwargs", None)  # of Hugging Face's datasets
    if isinstance(format_kwargs, dict):
        children.append(format_kwargs.get("transform"))
    if isinstance(item, (list, tuple, nn.Sequential)):
        children += list(item)[:-17:-1]  # the last transform first: normalisation comes last
    elif isinstance(item, Dataset):
        own = vars(item).values()
        children += [value for value in own if callable(value) and not isinstance(value, type)]
    elif isinstance(item, functools.partial):
        children += [item.func, *item.args, *item.keywords.values()]
    elif isinstance(item, MethodType):
        children.append(item.__self__)
    elif isinstance(item, FunctionType):
        for cell in item.__closure__ or ():
            try:
                children.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
    return children


@contextmanager
def untouched(data: Any) -> Iterator[None]:
    """Read a loader inside, and the ``DataLoader`` that it is or holds stays as it was.

    Its generators are put back. So are workers that stay between epochs: a reading that started
    them would save the first real epoch a draw from the random state, and change the training.
    """
    held = [data, *getattr(data, "__dict__", {}).values()]
    loaders = {id(one): one for one in held if isinstance(one, DataLoader)}.values()
    owners = [o for one in loaders for o in (one, one.sampler, one.batch_sampler)]
    generators = {id(g): g for g in (getattr(o, "generator", None) for o in owners) if g}.values()
    states = [(generator, generator.get_state()) for generator in generators]
    workers = [(one, one._iterator) for one in loaders]
    for one, _ in workers:
        one._iterator = None
    try:
        yield
    finally:
        for one, iterator in workers:
            one._iterator = iterator
        for generator, state in states:
            generator.set_state(state)


def numbers(value: Any) -> tuple[float, ...]:
    """A number, a sequence of them or a tensor of any shape, as floats."""
    if isinstance(value, Tensor):
        value = value.flatten().tolist()
    return tuple(float(v) for v in (value if isinstance(value, Iterable) else (value,)))

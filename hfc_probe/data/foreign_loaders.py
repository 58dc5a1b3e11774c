"""What other people's loaders hold: a loader in a wrapper, a normalisation, state of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..ground.errors import InputError

# Wrappers that change no sample: timm's prefetcher (which normalises, see below), Fabric's loader.
_WRAPPERS = {"PrefetchLoader": "loader", "_FabricDataLoader": "_dataloader"}
PREFETCHERS = ("PrefetchLoader",)  # which normalise what comes out of the loader inside
# Where datasets and transforms keep other datasets and transforms.
_HOLDERS = ("dataset", "transform", "transforms", "_transform", "normalize", "pixels")
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
    """Mean and std of the normalisation in a loader, for values in [0, 1]; None if there is none.

    Looked for among the transforms of its dataset, through ``Subset`` and the like, composed
    transforms, functions that hold a transform (as for ``set_transform`` of Hugging Face's
    datasets), and in timm's prefetcher. Several in a row are taken together. Whether they are
    applied to the images is not known from this.

    Raises:
        InputError: a normalisation of each image by its own statistics, or data sets side by
            side that are normalised differently.
    """
    return _search(data, 0, set())


def _search(item: Any, depth: int, seen: set[int]) -> Statistics | None:
    if item is None or depth > _DEPTH or id(item) in seen or isinstance(item, (Tensor, str)):
        return None
    seen.add(id(item))
    own = _own_statistics(item)
    if own is not None:
        return own
    if isinstance(item, (list, tuple, nn.Sequential)):
        return _in_a_row([_search(one, depth + 1, seen) for one in list(item)[-16:]])
    side_by_side = getattr(item, "datasets", None)
    if isinstance(side_by_side, (list, tuple)):
        # Each may share a transform with the one before.
        each = {_search(one, depth + 1, set(seen)) for one in side_by_side[:16]}
        if len(each) > 1:
            raise InputError(
                "data: expected one normalisation, got data sets side by side "
                f"({type(item).__name__}) that are normalised differently; pass one of them"
            )
        return each.pop() if each else None
    for child in _children(item):
        found = _search(child, depth + 1, seen)
        if found is not None:
            return found
    return None


def _own_statistics(item: Any) -> Statistics | None:
    """Those of a ``Normalize`` itself, whose library's it may be."""
    kind = type(item).__name__
    if kind not in ("Normalize", "PixelSpace", *PREFETCHERS):
        return None
    mode = getattr(item, "normalization", "standard")  # of Albumentations'
    if mode != "standard":
        raise InputError(
            f"data: expected images normalised by one mean and std, got {kind}(normalization="
            f"{mode!r}), which takes each image's own and cannot be undone; pass "
            "Samples(images, targets) in [0, 1] and predict=lambda model, images: … that does it"
        )
    flags = getattr(item, "flags", None)  # of Kornia's augmentation
    held = flags if isinstance(flags, dict) else {}
    mean, std = getattr(item, "mean", held.get("mean")), getattr(item, "std", held.get("std"))
    if mean is None or std is None:
        return None
    mean, std = numbers(mean), numbers(std)
    if kind in PREFETCHERS or max(mean) > 1:  # for values up to 255
        return tuple(round(v / 255, 6) for v in mean), tuple(round(v / 255, 6) for v in std)
    return mean, std


def _in_a_row(found: list[Statistics | None]) -> Statistics | None:
    """One normalisation that does what several do, one after the other."""
    together: Statistics | None = None
    for one in found:
        if one is None or together is None:
            together = one or together
            continue
        (mean, std), (next_mean, next_std) = together, one
        channels = max(map(len, (mean, std, next_mean, next_std)))
        m, s, nm, ns = (
            v * channels if len(v) == 1 else v for v in (mean, std, next_mean, next_std)
        )
        together = (
            tuple(a + b * c for a, b, c in zip(m, s, nm, strict=True)),
            tuple(a * b for a, b in zip(s, ns, strict=True)),
        )
    return together


def _children(item: Any) -> list[Any]:
    children = [getattr(item, name, None) for name in _HOLDERS]
    format_kwargs = getattr(item, "_format_kwargs", None)  # of Hugging Face's datasets
    if isinstance(format_kwargs, dict):
        children.append(format_kwargs.get("transform"))
    if isinstance(item, Dataset):
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

    Its generators and attributes are put back. So are workers that stay between epochs: a reading
    that started them would save the first real epoch a draw from the random state, and change the
    training.
    """
    own = getattr(data, "__dict__", None)
    before = dict(own) if isinstance(own, dict) else None
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
        if before is not None and isinstance(own, dict):
            own.update(before)  # counters, an iterator that is kept
            for name in own.keys() - before.keys():
                del own[name]


def numbers(value: Any) -> tuple[float, ...]:
    """A number, a sequence of them or a tensor of any shape, as floats."""
    if isinstance(value, Tensor):
        value = value.flatten().tolist()
    return tuple(float(v) for v in (value if isinstance(value, Iterable) else (value,)))

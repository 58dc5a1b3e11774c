"""What modules keep beside their parameters: taken before a measurement, put back after it."""

from __future__ import annotations

import operator
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_MAPPINGS = frozenset({dict, OrderedDict, defaultdict, Counter})
_SEQUENCES = (list, deque)
_CONTAINERS = frozenset({*_MAPPINGS, *_SEQUENCES, set})
# Not worth a look inside. bool and the like are found by their exact type.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type, type(len)})
# Longer containers are data (a file list, a replay memory) and no state of a forward pass.
_LONGEST = 100_000
# In bytes, of tensors and arrays that are no buffers; beyond it their values are left alone.
_LARGEST = 2**28
_MISSING = object()


class Attributes:
    """The attributes of modules as they are now.

    Of every module: which objects its attributes, buffers, submodules and hooks are; what is in
    lists, dicts, sets, deques and tuples among them, also in nested ones; the values of tensors
    and arrays; the states of random generators. That covers counters, caches, hidden states and
    the metrics of torchmetrics. Parameters and objects of any other class (a trainer, a probe, a
    meter) are kept as objects: what happens inside them is not undone.

    Everything is put back in place, so that whoever holds the same object sees it too. Modules
    are walked into wherever they are found, once each.

    Args:
        modules: the modules.
        sharded: leave it to FSDP which parameters a module has at a time, whole ones or shards.
    """

    def __init__(self, modules: Iterable[nn.Module], *, sharded: bool = False) -> None:
        self._empty: list[Any] = []
        self._mappings: list[tuple[Any, dict[Any, Any]]] = []
        self._sequences: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._tensors: list[tuple[Tensor, int, Tensor]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Callable[[Any], Any], Any]] = []
        self._bytes = 0
        self._seen: set[int] = set()
        self._sharded = sharded
        modules = list(modules)
        for module in modules:
            for buffer in module._buffers.values():  # first: they are kept whatever their size
                if isinstance(buffer, Tensor):
                    self._take_tensor(buffer, limit=False)
        pending: list[Any] = [module.__dict__ for module in modules]
        seen, empty, mappings = self._seen, self._empty, self._mappings
        seen.update(map(id, modules))
        seen.update(id(module._parameters) for module in modules if sharded)
        while pending:
            value = pending.pop()
            kind = type(value)
            if kind in _PLAIN or id(value) in seen or kind is nn.Parameter:
                continue
            if kind in _CONTAINERS and not value:  # most are: the hooks that a module may have
                empty.append(value)
            elif kind in _MAPPINGS and len(value) <= _LONGEST:
                seen.add(id(value))
                mappings.append((value, dict(value)))
                pending += value.values()
            elif kind is tuple:
                pending += value
            else:
                pending += self._take(kind, value)

    def _take(self, kind: type, value: Any) -> Iterable[Any]:
        """Keep one value of the less frequent kinds; returns what is in it."""
        if isinstance(value, nn.Module):  # one that is not registered, hidden in a list, say
            self._seen.add(id(value))
            return (value.__dict__,)
        if isinstance(value, Tensor):
            self._take_tensor(value, limit=True)
        elif kind in _SEQUENCES and len(value) <= _LONGEST:
            self._sequences.append((value, list(value)))
            self._seen.add(id(value))
            return list(value)
        elif kind is set and len(value) <= _LONGEST:
            self._sets.append((value, set(value)))
            self._seen.add(id(value))
        elif kind is np.ndarray and value.dtype != object and self._fits(value.nbytes):
            self._arrays.append((value, value.copy()))
            self._seen.add(id(value))
        elif isinstance(value, torch.Generator):
            self._generators.append((value.set_state, value.get_state()))
        elif kind is random.Random:
            self._generators.append((value.setstate, value.getstate()))
        elif kind is np.random.RandomState:
            self._generators.append((value.set_state, value.get_state()))
        elif kind is np.random.Generator:
            self._generators.append((value.bit_generator.__setstate__, value.bit_generator.state))
        return ()

    def _take_tensor(self, tensor: Tensor, *, limit: bool) -> None:
        if self._sharded and tensor._is_view():  # of FSDP's flat parameter
            return
        # A result of autograd is replaced and not written to; its graph is none of ours.
        skipped = isinstance(tensor, nn.Parameter) or tensor.grad_fn is not None or is_lazy(tensor)
        if id(tensor) in self._seen or skipped or tensor.is_meta or tensor.is_inference():
            return
        self._seen.add(id(tensor))
        if not limit or self._fits(tensor.numel() * tensor.element_size()):
            self._tensors.append((tensor, tensor._version, tensor.detach().clone()))

    def _fits(self, size: int) -> bool:
        if self._bytes + size > _LARGEST:
            return False
        self._bytes += size
        return True

    def put_back(self) -> set[tuple[int, Any]]:
        """Put everything back; returns the identity of what had changed, and its key if it has one.

        One value that refuses (a tensor in use elsewhere, say) does not keep back the others; its
        error is raised at the end.
        """
        changed: set[tuple[int, Any]] = set()
        errors: list[Exception] = []
        for container in self._empty:
            if container:
                changed.add((id(container), None))
                container.clear()
        work: list[tuple[Callable[..., Iterable[Any]], list[Any]]] = [
            (_put_mapping, self._mappings),
            (_put_sequence, self._sequences),
            (_put_set, self._sets),
            (put_tensor, self._tensors),
            (_put_array, self._arrays),
        ]
        for put, kept in work:
            for value, *before in kept:
                try:
                    changed.update((id(value), key) for key in put(value, *before))
                except Exception as error:
                    errors.append(error)
        for set_state, state in self._generators:
            set_state(state)
        if errors:
            raise errors[0]
        return changed


def _put_mapping(value: Any, before: dict[Any, Any]) -> list[Any]:
    if list(value) == list(before) and all(map(operator.is_, value.values(), before.values())):
        return []
    added = [key for key in value if key not in before]
    for key in added:
        del value[key]
    other = [key for key, one in before.items() if value.get(key, _MISSING) is not one]
    for key in other:
        value[key] = before[key]
    if list(value) != list(before):
        for key in before:  # the order, too: hooks run in it
            value[key] = value.pop(key)
    return added + other


def _put_sequence(value: Any, before: list[Any]) -> list[Any]:
    if len(value) == len(before) and all(a is b for a, b in zip(value, before, strict=True)):
        return []
    value.clear()
    value.extend(before)
    return [None]


def _put_set(value: set[Any], before: set[Any]) -> list[Any]:
    if value == before:
        return []
    value.clear()
    value.update(before)
    return [None]


def put_tensor(tensor: Tensor, version: int, before: Tensor) -> list[Any]:
    """Put a tensor's values back; returns something if they had changed."""
    if tensor.shape != before.shape:  # as observers of quantisation do at their first look
        with torch.no_grad():
            tensor.resize_(before.shape)
    elif not _written(tensor, version, before):
        return []
    # .data: an unchanged version keeps what autograd has saved of this tensor usable.
    tensor.data.copy_(before)
    return [None]


def _written(tensor: Tensor, version: int, before: Tensor) -> bool:
    """Whether a tensor was written to; batch_norm writes its statistics without a new version."""
    if tensor._version != version:
        return True
    comparable = tensor.layout is torch.strided and not tensor.is_quantized
    return comparable and not torch.equal(tensor, before)


def _put_array(value: Any, before: Any) -> list[Any]:
    if value.tobytes() == before.tobytes():
        return []
    value[...] = before
    return [None]

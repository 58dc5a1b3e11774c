"""What a detector is known by: weights, attributes, code, and its answer on finished images."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .coco import Detections

_DIGITS = 12
_DEPTH = 8  # of containers, attributes and calls that are followed
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size, range)
_OF_MODULES = frozenset(vars(nn.Module()))  # torch's own bookkeeping, ``training`` with it
_OBJECTS = 100_000


def detector_identity(detector: Any, model: nn.Module | None = None) -> dict[str, Any]:
    """Everything of a detector that its detections may depend on and that can be seen.

    Followed are modules, functions with their closures, defaults and the globals they name,
    partial functions, bound methods, and the attributes of objects. Text inside an object of an
    installed package, such as the path of a session's file, does not count. An object that shows
    nothing is known by its class; its answer decides.

    Args:
        detector: what is called.
        model: a module inside it that cannot be reached from it.

    Returns:
        ``detector`` (its name), ``weights`` and ``code`` (hashes), and ``attributes``: a hash
        by name of attribute, so that a refusal can say which one differs.
    """
    walk = _Walk()
    walk.visit("detector", detector)
    if model is not None:
        walk.visit("model", model)
    return {
        "detector": getattr(detector, "__qualname__", type(detector).__qualname__),
        "weights": walk.hashed(walk.weights),
        "code": walk.hashed(walk.code),
        "attributes": {name: walk.hashed(v) for name, v in sorted(walk.attributes.items())},
    }


def known_as(identity: Mapping[str, Any]) -> str:
    """A hash that differs from another detector's: of the weights, or of all if none are seen."""
    if identity["weights"] != _Walk.hashed([]):
        return str(identity["weights"])
    return _Walk.hashed([json.dumps(identity, sort_keys=True, default=str)])


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What of an identity differs: ``weights``, ``code``, ``attributes.NAME``.

    Between the identities before and after a call it is what calling the detector changes: a
    counter, a cache, a session loaded at the first image.
    """
    flat = [
        {k: v for k, v in one.items() if k != "attributes"}
        | {f"attributes.{k}": v for k, v in one["attributes"].items()}
        for one in (before, after)
    ]
    return sorted(k for k in flat[0] | flat[1] if flat[0].get(k) != flat[1].get(k))


class _Walk:
    """Collects descriptions of a detector's parts, each object once."""

    def __init__(self) -> None:
        self.weights: list[str] = []
        self.code: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self._seen: dict[int, Any] = {}  # holds them, so that no id is used twice
        self._installed = False  # inside an object of an installed package

    @staticmethod
    def hashed(lines: list[str]) -> str:
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:_DIGITS]

    def visit(self, name: str, value: Any, depth: int = 0) -> None:
        """Take in a value; ``name`` is the attribute or variable that holds it."""
        if isinstance(value, _PLAIN):
            self._note(name, self._text(value))
            return
        if isinstance(value, PurePath):
            self._note(name, self._text(str(value)))
            return
        if id(value) in self._seen or depth > _DEPTH or len(self._seen) > _OBJECTS:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._note(name, _tensor(value))
        elif isinstance(value, np.ndarray):
            self._note(name, f"{value.dtype}{value.shape}{_bytes(value.tobytes())}")
        elif isinstance(value, nn.Module):
            self._module(name, value, depth)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.visit(name, part, depth + 1)
        elif isinstance(value, types.MethodType):
            self.visit(name, value.__func__, depth + 1)
            self.visit(name, value.__self__, depth + 1)
        elif isinstance(value, types.FunctionType):
            self._function(name, value, depth)
        elif type(value) in (list, tuple, set, frozenset, dict):
            self._container(name, value, depth)
        elif isinstance(value, type):
            self._class(value, depth)
        elif not isinstance(value, types.ModuleType):
            self._note(name, type(value).__qualname__)
            self._class(type(value), depth)
            package = type(value).__module__.split(".")[0]
            if package not in ("builtins", "numpy", "torch"):
                outer, self._installed = self._installed, not _own(type(value).__module__)
                self._installed &= package != "hfc_probe"
                for key, item in sorted(_attributes(value).items()):
                    self.visit(key, item, depth + 1)
                self._installed = outer

    def _text(self, value: Any) -> str:
        return "str" if self._installed and isinstance(value, str) else repr(value)

    def _note(self, name: str, text: str) -> None:
        self.attributes.setdefault(name, []).append(text)

    def _module(self, name: str, module: nn.Module, depth: int) -> None:
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            self.weights.append(f"{key} {_tensor(tensor)}")
        for path, part in module.named_modules():
            self._class(type(part), depth)
            self._note(name, f"{path} {type(part).__qualname__}")
            for key, value in sorted(vars(part).items()):
                if key in _OF_MODULES:
                    continue
                if isinstance(value, (*_PLAIN, list, tuple, dict)):
                    self._note(key, path)  # which part holds it
                self.visit(key, value, depth + 1)

    def _container(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                text = repr(key) if isinstance(key, _PLAIN) else type(key).__qualname__
                if isinstance(item, _PLAIN):
                    self._note(name, f"{text}: {self._text(item)}")
                else:
                    self._note(name, text)
                    self.visit(name, item, depth + 1)
        elif all(isinstance(item, _PLAIN) for item in value):
            ordered = value if isinstance(value, (list, tuple)) else sorted(value, key=repr)
            self._note(name, str(list(map(self._text, ordered))))
        else:
            for item in value:
                self.visit(name, item, depth + 1)

    def _class(self, kind: type, depth: int) -> None:
        """The methods of a user's own class and of its bases."""
        for base in kind.__mro__:
            if not _own(base.__module__) or id(base) in self._seen:
                continue
            self._seen[id(base)] = base
            for key, value in sorted(vars(base).items()):
                inner = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(inner, types.FunctionType):
                    self._function(key, inner, depth)
                elif isinstance(inner, _PLAIN) and not key.startswith("__"):
                    self._note(key, repr(inner))

    def _function(self, name: str, function: types.FunctionType, depth: int) -> None:
        if not _own(function.__module__):
            self.code.append(f"{function.__module__}.{function.__qualname__}")
            return
        self.code.append(_code(function.__code__))
        for cell, key in zip(
            function.__closure__ or (), function.__code__.co_freevars, strict=True
        ):
            try:
                self.visit(key, cell.cell_contents, depth + 1)
            except ValueError:  # a variable that is not set yet
                continue
        for key, value in (function.__kwdefaults__ or {}).items():
            self.visit(key, value, depth + 1)
        self.visit(name, function.__defaults__, depth + 1)
        for key in _names(function.__code__):
            if key in function.__globals__:
                self.visit(key, function.__globals__[key], depth + 1)


@functools.cache
def _own(module: str | None) -> bool:
    """Whether code is the user's: installed packages are known by name, not by their insides."""
    if (module or "").split(".")[0] in ("hfc_probe", "builtins"):
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    installed = {sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")}
    return file is None or not any(file.startswith(folder) for folder in installed)


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        for key in _strings(vars(base).get("__slots__", ())):
            if hasattr(value, key):
                found[key] = getattr(value, key)
    return found


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _code(code: types.CodeType) -> str:
    """Byte code, names and constants: comments and line numbers do not matter."""
    constants = list(map(_constant, code.co_consts))
    return _bytes(repr((code.co_name, code.co_code, code.co_names, constants)).encode())


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)


def _tensor(value: Tensor) -> str:
    text = f"{value.dtype} {tuple(value.shape)}"
    if value.is_meta or value.is_quantized or value.layout is not torch.strided:
        return text
    flat = value.detach().cpu().contiguous().reshape(-1)
    return f"{text} {_bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else ''}"


def _bytes(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def same_answer(before: Mapping[str, Detections], now: Mapping[str, Detections]) -> bool:
    """Whether two runs of an image can be of one detector.

    Nine of ten detections have a counterpart in the other run: of the same label, with a score
    within 0.005, and sides within 1 % of the box or half a pixel. That is more than a processor's
    rounding makes, and less than another input size or normalisation. One detection may always be
    without, as rounding moves one across a score threshold, but not the only one.
    """
    return before.keys() == now.keys() and all(
        _mostly_among(one, other) for one, other in ((before, now), (now, before))
    )


def _mostly_among(one: Mapping[str, Detections], other: Mapping[str, Detections]) -> bool:
    """Whether nine of ten of one's detections are among the other's, on each variant and in all."""
    many = np.array([len(found.scores) for found in one.values()])
    alone = np.array([_without(found, other[name]) for name, found in one.items()])
    allowed = np.maximum(1, [*many // 10, many.sum() // 10])
    return bool((np.append(alone, alone.sum()) <= allowed).all()) and (
        not many.any() or bool(alone.sum() < many.sum())
    )


def _without(one: Detections, other: Detections) -> int:
    """How many of one's detections have no counterpart among the other's."""
    if not len(one.scores):
        return 0
    near = np.abs(one.scores[:, None] - other.scores) <= 0.005
    near &= one.labels[:, None] == other.labels
    reach = np.maximum(0.5, 0.01 * one.boxes[:, 2:].max(1))
    near &= (np.abs(one.boxes[:, None] - other.boxes) <= reach[:, None, None]).all(-1)
    return int((~near.any(1)).sum())

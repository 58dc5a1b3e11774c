"""A trial on a few samples: what would make every number of a model wrong, found beforehand."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..ground.errors import InputError
from .attributes import Attributes, put_tensor
from .isolation import (
    device_of,
    first_tensor,
    forward_hooks,
    global_forward_hooks,
    isolated,
    values_of,
)

logger = logging.getLogger("hfc_probe")
TrialPass = Callable[[nn.Module, int], Tensor]

SAMPLES = 8
# Of the logits' standard deviation over images: far below what dropout changes.
_RANDOM, _BY_BATCH = 1e-3, 0.05
# Of the largest logit: what another batch size may change by rounding (TF32 among it).
_ROUNDING = 2e-3
_verdicts: weakref.WeakKeyDictionary[nn.Module, Verdict] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Verdict:
    """What the trial of a model has shown.

    Attributes:
        caveats: why its answers cannot be trusted.
        without: the user's forward hooks that change nothing, so that it can run without them.
        hooks: all of the user's forward hooks at that time.
        writes: whether it writes to its parameters in forward (Embedding(max_norm=), say).
        classes: number of logits; None if the trial did not get that far.
        error: what the trial raised.
    """

    caveats: tuple[str, ...] = ()
    without: frozenset[int] = frozenset()
    hooks: frozenset[int] = frozenset()
    writes: bool = False
    classes: int | None = None
    error: Exception | None = None


def verdict_of(model: nn.Module, run: TrialPass, *, again: bool = False) -> Verdict:
    """The verdict on a model, from its trial or from that of an earlier call.

    The trial takes two isolated passes over at most :data:`SAMPLES` samples, one more if the
    user's own forward hooks are to be judged, and one more if the answers differ.

    Args:
        model: the model, wrapped or not.
        run: ``run(model, count)``: outputs ``(count, K)`` for the first samples (fewer if there
            are fewer).
        again: whatever was found before. Otherwise that holds as long as the model has the same
            forward hooks.
    """
    hooks = _own_hooks(model)
    found = _verdicts.get(model)
    if found is None or again or found.hooks != hooks:
        found = _try(model, run, hooks)
        _verdicts[model] = replace(found, error=None)  # whose frames would hold the model
        for caveat in found.caveats:
            logger.warning("hfc_probe: %s", caveat)
    return found


def known(model: nn.Module) -> Verdict:
    """The verdict of an earlier trial, for callers that have no samples; else an empty one."""
    found = _verdicts.get(model)
    return found if found is not None and found.hooks == _own_hooks(model) else Verdict()


def _try(model: nn.Module, run: TrialPass, hooks: frozenset[int]) -> Verdict:
    caveats = [*_modes_kept(model)]
    if device_of(model).type == "meta":
        return Verdict(tuple(caveats), hooks=hooks)
    try:
        values = values_of(model)
        without: frozenset[int] = frozenset()
        with ExitStack() as stack:
            stack.callback(lambda: [put_tensor(*value) for value in values])
            inner = stack.enter_context(isolated(model))
            first = None
            if hooks:  # without them first: nothing they have kept is of these images then
                first, alone = _without(model, hooks, run)
                again, changed = _noting_changes(inner, run)
                same = first is not None and torch.equal(first, again) and alone == changed
                without, first = (hooks if same else frozenset()), again
            first = run(inner, SAMPLES) if first is None else first
            caveats += _unsteady(inner, run, first) if not caveats else []
            writes = [bool(put_tensor(*value)) for value in values]
        return Verdict(tuple(caveats), without, hooks, any(writes), first.shape[1])
    except (torch.OutOfMemoryError, MemoryError):
        return Verdict(tuple(caveats), hooks=hooks)
    except Exception as error:
        return Verdict(tuple(caveats), hooks=hooks, error=error)


def _unsteady(model: nn.Module, run: TrialPass, first: Tensor) -> Iterator[str]:
    """Whether the answer to an image depends on more than the image."""
    half = max(1, len(first) // 2)
    largest = float(first.abs().max())
    spread = float(first.std(0).mean()) if len(first) > 1 else largest
    if not 0 < spread < math.inf or not largest < math.inf:
        return
    dtype = getattr(first_tensor(model), "dtype", torch.float32)
    precise = dtype.is_floating_point and torch.finfo(dtype).bits >= 32
    rounding = largest * (_ROUNDING if precise else 4 * 2**-8)
    by_batch = float((run(model, half) - first[:half]).abs().max())
    if by_batch <= max(_RANDOM * spread, rounding / 100):
        return
    if float((run(model, SAMPLES) - first).abs().max()) > max(_RANDOM * spread, rounding / 100):
        yield (
            "the model answers differently each time that it sees the same images, also in "
            "evaluation mode (dropout that is always on, or a state that it keeps); make dropout "
            "depend on self.training, or export and trace it in evaluation mode"
        )
    elif by_batch > max(_BY_BATCH * spread, rounding):
        yield (
            "the model's answer to an image depends on the other images of the batch, also in "
            "evaluation mode (batch statistics that are always on); the numbers hold for this "
            "batch size and order alone"
        )


def _modes_kept(model: nn.Module) -> Iterator[str]:
    """Layers that evaluation mode does not reach, as they are written in the model's graph."""
    if any(type(module).__name__ == "TopLevelTracedModule" for module in model.modules()):
        yield (
            "a traced model stays in the mode that it was traced in, and is measured in that; use "
            "the model itself, or a torch.jit.script of it"
        )
    graphs = [one for one in model.modules() if isinstance(one, torch.fx.GraphModule)]
    kept = sorted(
        {name for one in graphs for name in map(_in_training_mode, one.graph.nodes) if name}
    )
    if kept:
        yield (
            f"the model's graph keeps {', '.join(kept)} in training mode, which evaluation mode "
            "does not change; export or trace the model in evaluation mode, or switch the graph "
            "with torch.ao.quantization.move_exported_model_to_eval"
        )


def _in_training_mode(node: Any) -> str | None:
    """The name of an operation that a graph calls with ``training=True``."""
    if node.op != "call_function":
        return None
    given: Mapping[str, Any] = node.kwargs
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        names = [argument.name for argument in schema.arguments]
        given = {**dict(zip(names, node.args, strict=False)), **given}
    on = any(given.get(name) is True for name in ("train", "training", "use_input_stats"))
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    return name.strip("_") if on and not _without_effect(given) else None


def _without_effect(given: Mapping[str, Any]) -> bool:
    return given.get("p") == 0 or given.get("dropout_p") == 0


def _own_hooks(model: nn.Module) -> frozenset[int]:
    """Forward hooks and pre-hooks that are not torch's own (weight norm, pruning and the like)."""
    own = [hooks for module in model.modules() for _, hooks in forward_hooks(module)]
    return frozenset(
        key
        for hooks in [*own, *global_forward_hooks()]
        for key, hook in hooks.items()
        if not _maker(hook).startswith("torch.")
    )


def _maker(hook: Any) -> str:
    hook = getattr(hook, "func", hook)
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def _without(
    model: nn.Module, hooks: frozenset[int], run: TrialPass
) -> tuple[Tensor | None, set[tuple[int, Any]]]:
    """Outputs without these hooks, or None if the model cannot do without, and what changed."""
    with isolated(model, without=hooks) as inner:
        try:
            return _noting_changes(inner, run)
        except Exception:
            return None, set()


def _noting_changes(model: nn.Module, run: TrialPass) -> tuple[Tensor, set[tuple[int, Any]]]:
    """Outputs, and which attributes of modules the pass has changed."""
    attributes = Attributes(model.modules())
    try:
        outputs = run(model, SAMPLES)
    finally:
        changed = attributes.put_back()
    return outputs, changed


def check_lazy(model: nn.Module) -> None:
    """Refuse layers whose shape the first forward pass will tell.

    Raises:
        InputError: a layer without its weights.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputError(
                f"model: expected weights, got layer {name.rpartition('.')[0]!r}, which makes its "
                "own at its first forward pass; call the model on one batch before attach"
            )


def check_settings(measurement: Any, image_shape: tuple[int, int, int], classes: int) -> None:
    """Refuse settings that do not fit the images or the logits, and would give empty numbers.

    Raises:
        InputError: radii beyond the spectrum or below its first frequency, or a k that takes in
            every class.
    """
    nyquist = getattr(measurement, "units", "cycles") == "nyquist"
    sizes = image_shape[-getattr(measurement, "axes", 2) :]
    halves = [1.0 if nyquist else size // 2 for size in sizes]
    largest, size = math.hypot(*halves), "×".join(map(str, sizes))
    for name in ("radii", "perturbation_radii"):
        radii = [r for r in getattr(measurement, name, None) or () if isinstance(r, (int, float))]
        if radii and max(radii) > largest + 1e-9:
            raise InputError(
                f"{name}: expected at most {largest:.4g}, the largest frequency of "
                f"{size} images in {'Nyquist units' if nyquist else 'cycles'}, got "
                f"{max(radii):g}; leave it out"
            )
        if not nyquist and any(0 < r < 1 for r in radii):
            small = next(r for r in radii if 0 < r < 1)
            raise InputError(
                f"{name}: expected cycles per image, 1 or more, got {small:g}; for fractions of "
                'the Nyquist frequency pass units="nyquist"'
                if hasattr(measurement, "units")
                else f"{name}: expected cycles per image, 1 or more, got {small:g}"
            )
    topk = getattr(measurement, "topk", ())
    ks = [k for k in (topk if isinstance(topk, (tuple, list)) else (topk,)) if isinstance(k, int)]
    if ks and max(ks) >= classes:
        raise InputError(
            f"topk: expected less than the model's {classes} classes, got {max(ks)}, with which "
            "every prediction is right"
        )

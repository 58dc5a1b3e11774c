"""Counting the steps of an optimizer, wrapped or not, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..ground.errors import InputError


def count_steps(optimizer: Any, callback: Callable[[], Any]) -> Any:
    """Call back after each step of an optimizer; returns a handle with ``remove()``.

    Counted is the innermost optimizer, whose step is the one that changes weights: SAM and
    Lookahead wrap one, and so do Opacus and Accelerate.

    Raises:
        InputError: no optimizer, or one that cannot call back.
    """
    inner = innermost(optimizer)
    if not isinstance(inner, torch.optim.Optimizer):
        raise InputError(
            f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}; leave "
            "it out and call probe.step() after each step"
        )
    if not hasattr(inner, "_optimizer_step_post_hooks"):
        raise InputError(
            "optimizer: expected one that takes step hooks, got "
            f"{type(inner).__name__}, whose class does not call Optimizer.__init__; leave it out "
            "and call probe.step() after each step"
        )
    # Out of the graph if the step, or the whole training step, is compiled. What this imports
    # is there already: making an optimizer imports it.
    hook = torch.compiler.disable(lambda *_: callback())
    return inner.register_step_post_hook(hook)


def innermost(optimizer: Any) -> Any:
    """The optimizer inside wrappers that hold exactly one other."""
    seen = {id(optimizer)}
    while True:
        held = [
            one
            for one in getattr(optimizer, "__dict__", {}).values()
            if isinstance(one, torch.optim.Optimizer)
        ]
        if len(held) != 1 or id(held[0]) in seen:
            return optimizer
        optimizer = held[0]
        seen.add(id(optimizer))


def not_of(optimizer: Any, model: nn.Module) -> str | None:
    """Why an optimizer does not seem to train a model; None if it does.

    An averaged copy of the model (EMA) shares no parameter with the optimizer, rightly, and so do
    weights that an engine keeps in one flat tensor or in another precision.

    Raises:
        InputError: its parameters are those of another model: none is shared, and there are
            shapes that the model does not have.
    """
    inner = innermost(optimizer)
    groups = inner.param_groups if isinstance(inner, torch.optim.Optimizer) else ()
    trained = [parameter for group in groups for parameter in group["params"]]
    own = list(model.parameters())
    if not trained or not own or {id(p) for p in trained} & {id(p) for p in own}:
        return None
    shapes = {tuple(p.shape) for p in own}
    strange = [tuple(p.shape) for p in trained if tuple(p.shape) not in shapes]
    if strange and not all(p.dim() <= 1 for p in trained):
        raise InputError(
            "optimizer: expected one that trains the model, got one of other parameters (one has "
            f"shape {strange[0]}); make it of model.parameters(), or leave it out and call "
            "probe.step() after each step"
        )
    name = type(model).__name__
    if strange or "ema" in name.lower() or "averaged" in name.lower():
        return None
    return (
        "optimizer= holds none of the parameters of the model measured: right for an averaged "
        "copy, wrong if the model was made again after its optimizer"
    )

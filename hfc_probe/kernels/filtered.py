"""Models with a first layer of other kernels, and a penalty that makes its kernels smooth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..ground.errors import InputError
from ..model.isolation import unwrap
from .filters import low_pass, smooth
from .layers import (
    computes_with_its_weight,
    describe,
    first_layer,
    input_channels,
    kernel_size,
    map_extent,
    raw_weight,
    response_of,
)


@contextmanager
def smoothed(
    model: nn.Module,
    rho: float,
    *,
    normalize: bool = False,
    layer: str | None = None,
    channels: int | None = None,
) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are smoothed.

    The model's own parameters are never written: the stand-in runs the same modules with
    another weight tensor in the first layer's place, and gradients reach the inputs.

    Args:
        model, layer, channels: as :func:`first_layer`; the layer must be a convolution that
            computes with a plain parameter.
        rho, normalize: as :func:`smooth`.

    Yields:
        A module that is called like ``model``; valid inside the ``with`` block.

    Raises:
        InputError: no such layer, a layer whose weight is computed or quantised, bad ρ.

    Source: Wang et al., CVPR 2020, §6.
    """
    with _replaced(
        model, lambda weight: smooth(weight, rho, normalize=normalize), "smoothed", layer, channels
    ) as stand_in:
        yield stand_in


@contextmanager
def low_passed(
    model: nn.Module, radius: float, *, layer: str | None = None, channels: int | None = None
) -> Iterator[nn.Module]:
    """A stand-in for ``model`` whose first layer's kernels are low-passed.

    As :func:`smoothed`, with :func:`low_pass` instead of smoothing: parameters are never
    written, gradients reach the inputs.

    Raises:
        InputError: as :func:`smoothed` and :func:`low_pass`.
    """
    with _replaced(
        model, lambda weight: low_pass(weight, radius), "low_passed", layer, channels
    ) as stand_in:
        yield stand_in


def smoothness_penalty(
    model: nn.Module, *, layer: str | None = None, channels: int | None = None
) -> Tensor:
    """One minus the mean smoothness of the first layer's kernels, to be added to a loss.

    ``Σ |a − b| / Σ (|a| + |b|)`` over adjacent weights (see :func:`smoothness`), averaged
    over kernels: in [0, 1], 0 for constant kernels, and unchanged by the weights' scale, so
    that weight decay does not compete with it. Gradients reach the layer's parameters, also
    through parametrisations, pruning, standardised weights and adapters.

    Args:
        model, layer, channels: as :func:`first_layer`; the layer must be a convolution.

    Returns:
        A scalar; kernels of zeros count as smooth.

    Raises:
        InputError: no such layer, or one that is not a 2-D convolution.

    >>> layer = nn.Conv2d(3, 4, 3)
    >>> _ = nn.init.constant_(layer.weight, 0.5)
    >>> float(smoothness_penalty(layer).detach())
    0.0
    """
    target = unwrap(model)
    name, module = first_layer(target, layer=layer, channels=channels)
    if name.endswith("base_layer"):  # the frozen half of an adapter (peft)
        size, channels = kernel_size(module), input_channels(module)
        weight = response_of(target.get_submodule(name.rpartition(".")[0]), channels, size)
    elif isinstance(module, nn.Conv2d) and not computes_with_its_weight(module):
        weight = response_of(module, input_channels(module), max(map_extent(module)))
    else:
        weight = raw_weight(module)
    if not isinstance(weight, Tensor) or weight.dim() != 4 or not weight.is_floating_point():
        raise InputError(
            f"smoothness_penalty: expected a 2-D convolution with floating-point weights at "
            f"{name!r}, got {describe(module)}"
        )
    variation = weight.new_zeros(weight.shape[0])
    total = weight.new_zeros(weight.shape[0])
    for axis in (-2, -1):
        a, b = (
            weight.narrow(axis, 0, weight.shape[axis] - 1),
            weight.narrow(axis, 1, weight.shape[axis] - 1),
        )
        variation = variation + (a - b).abs().sum((1, 2, 3))
        total = total + (a.abs() + b.abs()).sum((1, 2, 3))
    return (variation / total.clamp_min(torch.finfo(weight.dtype).tiny)).mean()


@contextmanager
def _replaced(
    model: nn.Module,
    change: Callable[[Tensor], Tensor],
    who: str,
    layer: str | None,
    channels: int | None,
) -> Iterator[nn.Module]:
    """A stand-in for a model whose first layer's weight is replaced by a function of it."""
    target = unwrap(model)
    name, module = first_layer(target, layer=layer, channels=channels)
    weight = getattr(module, "_parameters", {}).get("weight")
    plain = computes_with_its_weight(module) and not name.endswith("base_layer")
    if weight is None or weight.dim() not in (4, 5) or not plain:
        raise InputError(
            f"{who}: expected a convolution that computes with a plain weight at {name!r}, got "
            f"{describe(module)}; fold its parametrisation, quantisation or adapter first"
        )
    with torch.no_grad():
        replacement = change(weight)
    stand_in = _StandIn(target, {f"{name}.weight" if name else "weight": replacement}, who)
    try:
        yield stand_in
    finally:
        stand_in.replacements = None


class _StandIn(nn.Module):
    """Runs another module with some of its parameters replaced, for as long as they are set."""

    def __init__(self, model: nn.Module, replacements: dict[str, Tensor], who: str) -> None:
        super().__init__()
        self.who = who
        self.model = model
        self.replacements: dict[str, Tensor] | None = replacements
        self.training = model.training  # not train(), which would reach into the model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.replacements is None:
            raise InputError(
                f"{self.who}: expected to be called inside its `with` block, which has ended"
            )
        return torch.func.functional_call(self.model, self.replacements, args, kwargs)

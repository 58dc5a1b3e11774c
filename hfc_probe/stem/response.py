"""A linear layer's response to the model's input, cut to its taps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from .watching import ChangedError, ForwardPass, Place, Reached, Seen, watch
from .weights import Stem, is_plain, read_weights

NEGLIGIBLE = 1e-5  # of the largest response: rounding, not a tap


_AT_ONCE = 2**24  # numbers in one batch of derivatives: 64 MB


def centred(model: nn.Module, run: ForwardPass, image: Tensor, place: Place) -> Place:
    """A place of the output that looks at the middle of the image, not at its edge."""
    outputs = []

    def visit(seen: Seen) -> bool:
        if seen.number == place.number:
            outputs.append(rows_of(seen.tensor.detach(), place.axis))
            raise Reached
        return False

    moved = image.clone()
    middle: Any = (..., *(size // 2 for size in image.shape[2:]))
    moved[middle] += 1
    for one in (image, moved):
        watch(model, run, one, visit)
    change = (outputs[1] - outputs[0]).abs().amax(1)
    rows = (change > 1e-3 * change.max()).nonzero()
    return replace(place, row=int(rows[len(rows) // 2])) if len(rows) else place


# ---------------------------------------------------------------------- measuring the response


def measure_response(model: nn.Module, run: ForwardPass, image: Tensor, place: Place) -> Stem:
    """The kernels at a place that was found."""
    module = dict(model.named_modules()).get(place.name)
    if type(module) is not place.kind:
        raise ChangedError
    assert module is not None
    if is_plain(module) and (place.own or place.direct) and not place.summed:
        return read_weights(place.name, module, caveats=place.caveats)
    found: list[tuple[Tensor, tuple[int, ...]]] = []

    def visit(seen: Seen) -> bool:
        if seen.number < place.number:
            return False
        if not seen.tensor.requires_grad or (not place.summed and seen.name != place.name):
            raise ChangedError
        rows = rows_of(seen.tensor, place.axis)
        if place.row >= len(rows):
            raise ChangedError
        found.append(
            (
                _derivatives(rows[place.row], seen.given if place.own else seen.image),
                _place_of(seen.tensor, place),
            )
        )
        if seen.tensor.is_complex():  # the parts beside the channels
            found[-1] = (torch.cat(found[-1][0].chunk(2), 1), found[-1][1])
        raise Reached

    watch(model, run, image, visit)
    if not found:
        raise ChangedError
    response, where = found[0]
    declared = module if (place.own or place.direct) else None
    taps, dilation = _taps(response, declared, where)
    to = "its own input" if place.own else "the model's input"
    also = ", with the branches that are added to it" if place.summed else ""
    return Stem(
        name=place.name,
        layer_type=type(module).__name__,
        kernels=taps,
        dilation=dilation,
        obtained=f"response to {to}{also}",
        caveats=place.caveats,
    )


def _derivatives(row: Tensor, source: Tensor) -> Tensor:
    """Derivatives of each number of a row: ``(len(row), C, …, H, W)`` for one image."""
    count = len(row)
    chunk = max(1, min(count, _AT_ONCE // source.numel()))
    found = []
    for start in range(0, count, chunk):
        part = range(start, min(start + chunk, count))
        cotangents = torch.zeros(len(part), count, dtype=row.dtype, device=row.device)
        cotangents[:, part.start : part.stop].fill_diagonal_(1)
        try:
            (gradients,) = torch.autograd.grad(
                row, source, cotangents, retain_graph=True, is_grads_batched=True
            )
        except RuntimeError:  # an operation that cannot be batched
            gradients = torch.stack([torch.autograd.grad(row, source, one, retain_graph=True)[0]
                                     for one in cotangents])  # fmt: skip
        # A video's frames may have become images of the batch: one of them alone responds.
        found.append(gradients.sum(1).to(device="cpu", dtype=torch.float32))
    return torch.cat(found)


def _place_of(tensor: Tensor, place: Place) -> tuple[int, ...]:
    """Row and column of the output that is looked at; empty if the output is no picture."""
    if tensor.dim() < 4 or place.axis != 1:
        return ()
    rest = place.row % (tensor.shape[-2] * tensor.shape[-1])
    return divmod(rest, tensor.shape[-1])


def _taps(
    response: Tensor, module: nn.Module | None, where: tuple[int, ...]
) -> tuple[Tensor, tuple[int, int]]:
    """The taps in a response to whole images, and their spacing.

    Args:
        response: ``(out, C, [T,] H, W)``.
        module: the layer, if it reads those images as they are: it says its window, of
            which taps at the edge may be zero.
        where: row and column of its output.
    """
    if response.dim() == 5:
        first, last = kernels.support(response, 2)
        response = response[:, :, first:last].flatten(1, 2)
    spacing = []
    for axis, index in ((-2, 0), (-1, 1)):
        start, stop = kernels.support(response, axis)
        size = getattr(module, "kernel_size", None)
        if (
            module is not None
            and isinstance(size, tuple)
            and not getattr(module, "transposed", False)
        ):
            step = kernels.dilation_of(module)[index]
            extent = 1 + (size[axis] - 1) * step
            if stop - start < extent and where:
                first = _first_pixel(module, axis, where[index])
                if first <= start and stop <= first + extent:
                    start, stop = max(first, 0), min(first + extent, response.shape[axis])
        else:
            used = kernels.used(response, axis)
            step = max(1, math.gcd(*(int(one - used[0]) for one in used)))
        response = response.index_select(axis, torch.arange(start, stop, step, device="cpu"))
        spacing.append(step)
    groups = int(getattr(module, "groups", 1))
    if groups > 1:
        response = _without_other_groups(response, groups)
    return response.contiguous(), (spacing[0], spacing[1])


def _first_pixel(module: Any, axis: int, place: int) -> int:
    """The first row or column of the window that a convolution looks at from a place."""
    pad = module.padding
    if isinstance(pad, str):
        extent = (module.kernel_size[axis] - 1) * module.dilation[axis]
        return place * int(module.stride[axis]) - (extent // 2 if pad == "same" else 0)
    return place * int(module.stride[axis]) - int(pad[axis])


def _without_other_groups(response: Tensor, groups: int) -> Tensor:
    """Leave out the channels that a grouped convolution's kernels do not read."""
    each = len(response) // groups
    width = response.shape[1] // groups
    parts = [
        response[g * each : (g + 1) * each, g * width : (g + 1) * width] for g in range(groups)
    ]
    return torch.cat(parts) if width else response


def rows_of(tensor: Tensor, axis: int) -> Tensor:
    """A layer's output as ``(places, kernels)``; a complex one's two parts beside each other."""
    if tensor.is_complex():
        return torch.cat([rows_of(tensor.real, axis), rows_of(tensor.imag, axis)], 1)
    return tensor.movedim(axis, -1).flatten(0, -2)


def middle_of(tensor: Tensor, axis: int) -> int:
    """The row of :func:`rows_of` in the middle."""
    sizes = list(tensor.shape)
    del sizes[axis]
    row = 0
    for size in sizes:
        row = row * size + size // 2
    return row


def kernel_axis(module: nn.Module, tensor: Tensor) -> int:
    """The axis of a layer's output along which its kernels lie."""
    if tensor.dim() == 2 or isinstance(getattr(module, "kernel_size", None), tuple):
        return 1
    if tensor.dim() == 3 or isinstance(getattr(module, "in_features", None), int):
        return tensor.dim() - 1
    return 1

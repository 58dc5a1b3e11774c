"""The first layer as it acts on pixels: found by running the model, measured by its response.

A layer's response is the derivative of its output at one place with respect to the model's input.
For a linear layer that is its kernel, whatever the layer is made of and however pixels were
rearranged before it: pruning, adapters, parametrisations and branches that are added are all in it.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from ..ground.errors import InputError
from ..model.isolation import first_tensor
from ..ranks import is_sharded, whole_weights
from .response import NEGLIGIBLE, centred, kernel_axis, measure_response, middle_of, rows_of
from .watching import (
    ChangedError,
    ForwardPass,
    Place,
    Reached,
    Seen,
    as_real,
    derivable,
    gradients,
    has_weights,
    is_close,
    watch,
)
from .weights import Stem, is_plain, read_weights, usual_shapes

_TRIES = 12  # layers that mix pixels without being linear, before the search gives up


_FURTHER = 40  # tensors looked at after the first layer, for branches that are added to it


# By model, so that nothing is written to it; no value refers to its model, which may go.
_known_places: weakref.WeakKeyDictionary[nn.Module, dict[Any, Place]] = weakref.WeakKeyDictionary()


def measure(
    model: nn.Module,
    run: ForwardPass | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    layer: str | None = None,
    layout: kernels.Layout = "auto",
) -> Stem:
    """The kernels of a model's first layer, as they act on the model's input.

    The first layer is the first module with weights, in the order in which they run, that is
    linear and whose output at one place depends on more pixels than each number of its input
    does. Branches that are added to its output (an adapter, a block that is yet to be
    reparametrised) count as part of it. A run is given up once the layer is reached.

    Args:
        model: a model in isolation (:func:`hfc_probe.model.isolation.isolated`).
        run: calls the model on a batch; None: ``model(batch)``.
        shape: of one image; None: usual shapes are tried.
        layer: the layer of this name instead. If its input already mixes pixels, its
            kernels are those that act on this input.
        layout: see :func:`hfc_probe.kernels.weight_of`; used only for a linear layer in a
            model that cannot be run.

    Raises:
        InputError: no such layer, an unknown ``layer``, or weights that are not there.
    """
    if layer is not None:
        kernels.first_layer(model, layer=layer)
    if is_sharded(model):  # whose passes cannot be given up half-way
        with whole_weights(model):
            channels = shape[0] if shape else None
            name, module = kernels.first_layer(model, layer=layer, channels=channels)
            return read_weights(name, module, layout, obtained="weights, gathered from all ranks")
    tensors = [*model.parameters(), *model.buffers()]
    meta = any(one.is_meta or isinstance(one, nn.UninitializedParameter) for one in tensors)
    reason = "its weights are not there yet"
    for size in () if meta else [shape] if shape else usual_shapes(model):
        try:
            with derivable():
                found = _measure(model, run or model, size, layer)
        except Exception as error:  # whatever a stranger's model raises
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            continue
        if found is not None:
            return found
        reason = "none of its modules was seen to mix pixels"
    return _alone(model, layer, shape, layout, reason)


def _measure(
    model: nn.Module, run: ForwardPass, shape: tuple[int, ...], layer: str | None
) -> Stem | None:
    known = _known_places.setdefault(model, {})
    image = _image(model, shape, seed=0)
    if (layer, shape) in known:
        with suppress(ChangedError):
            return measure_response(model, run, image, known[layer, shape])
        del known[layer, shape]
    place = _find(model, run, image, _image(model, shape, seed=1), layer)
    if place is None:
        return None
    found = measure_response(model, run, image, place)
    known[layer, shape] = place
    return found


# ------------------------------------------------------------------------- finding the layer


@dataclass
class _Candidate:
    """A layer that mixes pixels, and what its derivatives say."""

    place: Place
    seen: Seen
    gradients: tuple[Tensor, Tensor]  # with respect to the image, and to the layer's input
    pointwise: bool  # whether each number that it reads depends on one pixel
    beside: bool = False  # whether other layers read the image, too
    sums: dict[int, Tensor] = field(default_factory=dict)  # later tensors: gradients to the image


def _find(
    model: nn.Module, run: ForwardPass, image: Tensor, other: Tensor, layer: str | None
) -> Place | None:
    """Look for the first layer; ``other`` is another image, at which derivatives must agree."""
    after, fallback = 0, None
    for _ in range(_TRIES):
        candidate = _first_candidate(model, run, image, layer, after)
        if candidate is None:
            return fallback
        linear, alone, total = _linear(model, run, other, candidate)
        place = _judged(candidate, linear, alone, total, layer)
        if alone or linear or layer is not None:
            return place if place.own else centred(model, run, image, place)
        fallback = fallback or place
        after = candidate.place.number
    return fallback


def _first_candidate(
    model: nn.Module, run: ForwardPass, image: Tensor, layer: str | None, after: int
) -> _Candidate | None:
    found: _Candidate | None = None

    def visit(seen: Seen) -> bool:
        nonlocal found
        if not seen.tensor.requires_grad:
            return False
        if found is not None:
            _look_further(found, seen)
            return False
        if not seen.is_output or seen.number <= after or not seen.given.requires_grad:
            return False
        if layer is None and (not has_weights(seen.module) or not _mixes(seen)):
            return False
        if layer is not None and seen.name != layer:
            return False
        axis = kernel_axis(seen.module, seen.tensor)
        place = Place(seen.name, type(seen.module), seen.number, axis, middle_of(seen.tensor, axis))
        weights = _noise(seen.tensor, seen.number)
        image, given = gradients((as_real(seen.tensor) * weights).sum(), seen.image, seen.given)
        pointwise = _reach(_strongest(seen), seen.image) <= 1
        found = _Candidate(place, seen, (image, given), pointwise)
        if layer is not None:
            raise Reached
        return True

    try:
        watch(model, run, image, visit)
    except Exception:
        if found is None:
            raise
    return found


def _mixes(seen: Seen) -> bool:
    """Whether the output depends on more pixels, at one place, than the input does."""
    axis = kernel_axis(seen.module, seen.tensor)
    row = rows_of(seen.tensor, axis)[middle_of(seen.tensor, axis)]
    value = (row * _noise(row, 0)).sum()
    convolution = isinstance(getattr(seen.module, "kernel_size", None), tuple)
    if convolution and seen.given.dim() > 3 and _reach(value, seen.given) > 1:
        return True  # also behind what has mixed all pixels
    reach = _reach(value, seen.image)
    return reach > 1 and reach > _reach(_strongest(seen), seen.image)


def _strongest(seen: Seen) -> Tensor:
    """The number of a layer's input that counts most for its output in the middle."""
    axis = kernel_axis(seen.module, seen.tensor)
    row = rows_of(seen.tensor, axis)[middle_of(seen.tensor, axis)]
    (gradient,) = gradients((row * _noise(row, 0)).sum(), seen.given)
    return as_real(seen.given).flatten()[as_real(gradient).abs().flatten().argmax()]


def _reach(value: Tensor, image: Tensor) -> int:
    """How many pixels (not counting channels and frames) a number depends on."""
    (gradient,) = gradients(value, image)
    pixels = gradient.abs().flatten(0, -3).amax(0)
    return int((pixels > NEGLIGIBLE * pixels.max()).sum())


def _look_further(found: _Candidate, seen: Seen) -> None:
    """See whether a later tensor is the layer's output with something of the image added to it.

    The search ends where the layer's output is mixed any further.
    """
    own = found.seen.tensor
    if seen.number > found.seen.number + _FURTHER:
        raise Reached
    index = rows_of(own, found.place.axis).shape[1] // 2
    if seen.tensor.shape != own.shape or seen.tensor.is_complex():
        value = (as_real(seen.tensor) * _noise(seen.tensor, 0)).sum()
        if bool(gradients(value, own)[0].any()):
            raise Reached
    else:
        value = rows_of(seen.tensor, found.place.axis)[found.place.row, index]
    image, inner = gradients(value, found.seen.image, own)
    if not bool(inner.any()):
        found.beside |= seen.is_output and has_weights(seen.module) and bool(image.any())
        return
    rest = inner.clone()
    rows_of(rest, found.place.axis)[found.place.row, index] = 0
    if float(rest.abs().max()) > NEGLIGIBLE * float(inner.abs().max()):
        raise Reached
    (through,) = torch.autograd.grad(own, found.seen.image, inner, retain_graph=True)
    if not is_close(through, image):
        value = (seen.tensor * _noise(seen.tensor, seen.number)).sum()
        found.sums[seen.number] = gradients(value, found.seen.image)[0]


def _linear(
    model: nn.Module, run: ForwardPass, other: Tensor, candidate: _Candidate
) -> tuple[bool, bool, int | None]:
    """Whether the layer is linear in the image and in its input; the last sum that is, too."""
    linear = alone = False
    total: int | None = None
    last = max([candidate.place.number, *candidate.sums])

    def visit(seen: Seen) -> bool:
        nonlocal linear, alone, total
        if seen.number == candidate.place.number:
            value = (as_real(seen.tensor) * _noise(seen.tensor, seen.number)).sum()
            image, given = gradients(value, seen.image, seen.given)
            linear = is_close(image, candidate.gradients[0])
            alone = is_close(given, candidate.gradients[1])
        elif seen.number in candidate.sums:
            value = (seen.tensor * _noise(seen.tensor, seen.number)).sum()
            if is_close(gradients(value, seen.image)[0], candidate.sums[seen.number]):
                total = seen.number
        if seen.number == last:
            raise Reached
        return False

    watch(model, run, other, visit)
    return linear, alone, total


def _judged(
    candidate: _Candidate, linear: bool, alone: bool, total: int | None, layer: str | None
) -> Place:
    """What is measured of a candidate, and what is to be said about it."""
    place, given, image = candidate.place, candidate.seen.given, candidate.seen.image
    pictures = given.dim() == image.dim() and not given.is_complex()
    resized = (
        pictures and given.shape[1] == image.shape[1] and given.shape[-2:] != image.shape[-2:]
    ) and not candidate.pointwise
    own = pictures and alone and (not linear or resized)
    if layer is not None:
        own = pictures and (not linear or not candidate.pointwise)
    caveats = []
    if layer is None and own:
        done = "resizes its images" if linear else "changes its images in a way that is not linear"
        caveats.append(
            f"the model {done} before its first layer ({place.name or 'the model itself'}): these "
            "kernels act on the changed images, not on the pixels themselves"
        )
    elif not own and not linear:
        caveats.append(
            f"the output of the first layer ({place.name or 'the model itself'}) is not linear in "
            "the pixels: these kernels are its response near one image and differ for others"
        )
    if candidate.beside and total is None:
        caveats.append(
            f"other layers read the pixels beside {place.name or 'the first layer'}, and are not "
            "in these kernels"
        )
    direct = own
    if given.shape == image.shape and not own:
        noise = _noise(given, 0)
        direct = is_close(gradients((as_real(given) * noise).sum(), image)[0], noise)
    summed = total is not None and not own
    number = total if summed and total is not None else place.number
    return replace(
        place, number=number, own=own, direct=direct, summed=summed, caveats=tuple(caveats)
    )


# --------------------------------------------------------------------- if nothing can be run


def _alone(
    model: nn.Module,
    layer: str | None,
    shape: tuple[int, ...] | None,
    layout: kernels.Layout,
    reason: str,
) -> Stem:
    """The first layer by the order of registration, run or read by itself."""
    try:
        name, module = kernels.first_layer(model, layer=layer, channels=shape[0] if shape else None)
    except InputError as error:
        raise InputError(f"{error} (the model was run on an image: {reason})") from None
    if layer is None and name.endswith("base_layer"):  # an adapter's frozen half
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
    by_order = "; the layer is the first by order, as the model could not be followed"
    if isinstance(getattr(module, "in_features", None), int):
        caveat = (
            f"the model could not be followed to its first layer ({reason}): how {name!r} "
            "flattens its patches is guessed from its name; layout= sets it"
        )
        caveats = (caveat,) if layout == "auto" else ()
        return read_weights(name, module, layout, caveats, obtained=f"weights{by_order}")
    if is_plain(module):
        return read_weights(name, module, obtained=f"weights{by_order}")
    size = 3 * max(1, *getattr(module, "kernel_size", (5,)))
    channels = int(getattr(module, "in_channels", 3))
    with suppress(Exception), derivable():
        found = _measure(module, module, (channels, size, size), "")
        if found is not None:
            return replace(found, name=name, obtained=f"response to its own input{by_order}")
    return read_weights(name, module, layout, obtained=f"weights{by_order}")


# ---------------------------------------------------------------------------------- arithmetic


def _image(model: nn.Module, shape: tuple[int, ...], *, seed: int) -> Tensor:
    """One random image with values in [0, 1], as the model's first weights are kept."""
    like = first_tensor(model)
    generator = torch.Generator("cpu").manual_seed(seed)
    image = torch.rand((1, *shape), generator=generator, device="cpu", dtype=torch.float32)
    if like is None:
        return image
    floating = like.dtype.is_floating_point
    return image.to(like.device, like.dtype if floating else torch.float32)


def _noise(like: Tensor, seed: int) -> Tensor:
    """Random numbers for a tensor's real and imaginary parts, always the same."""
    parts = as_real(like)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(parts.shape, generator=generator, device="cpu", dtype=torch.float32)
    return noise.to(parts.device, parts.dtype)

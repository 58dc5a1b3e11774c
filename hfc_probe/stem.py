"""The first layer as it acts on pixels: found by running the model, measured by its response.

A layer's response is the derivative of its output at one place with respect to the model's input.
For a linear layer that is its kernel, whatever the layer is made of and however pixels were
rearranged before it: pruning, adapters, parametrisations and branches that are added are all in it.
"""

from __future__ import annotations

import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from . import kernels
from .ground.errors import InputError
from .model.isolation import first_tensor
from .ranks import is_sharded, whole_weights

Run = Callable[[Tensor], Any]

_TRIES = 12  # layers that mix pixels without being linear, before the search gives up
_FURTHER = 40  # tensors looked at after the first layer, for branches that are added to it
_NEGLIGIBLE = 1e-5  # of the largest response: rounding, not a tap
_AT_ONCE = 2**24  # numbers in one batch of derivatives: 64 MB


@dataclass(frozen=True)
class Stem:
    """The first layer's kernels and how they were obtained.

    Attributes:
        name: the layer's dotted name.
        layer_type: its class.
        kernels: float32 ``(out, in, kh, kw)`` on the CPU. Time lies beside the channels
            (``in = channels · kt``), and so do the two parts of a complex response.
        dilation: spacing of the taps in pixels.
        obtained: "weights" (they were read), or "response" and to what.
        caveats: what cannot be trusted about them.
    """

    name: str
    layer_type: str
    kernels: Tensor
    dilation: tuple[int, int] = (1, 1)
    obtained: str = "weights"
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where in a model's run the first layer's output is.

    Attributes:
        name, kind: the layer.
        number: of the tensor, as :class:`_Watch` counts them.
        axis: of the tensor, along which the kernels lie.
        row: the place in the image: an index into the tensor's other axes, flattened.
        own: whether the response is to the layer's own input instead of the model's.
        direct: whether the layer reads what it responds to as it is.
        summed: whether branches beside the layer are in the tensor.
        caveats: what cannot be trusted.
    """

    name: str
    kind: type[nn.Module]
    number: int
    axis: int
    row: int
    own: bool = False
    direct: bool = False
    summed: bool = False
    caveats: tuple[str, ...] = ()


class _Reached(BaseException):
    """Ends a run of the model that has gone far enough; no model's own handler catches it."""


class _ChangedError(Exception):
    """The model no longer runs as it did when its first layer was found."""


# By model, so that nothing is written to it; no value refers to its model, which may go.
_places: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Place]] = weakref.WeakKeyDictionary()


def measure(
    model: nn.Module,
    run: Run | None = None,
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
        layer: the layer of this name instead. Where its input already mixes pixels, its
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
            return _read(name, module, layout, obtained="weights, gathered from all ranks")
    tensors = [*model.parameters(), *model.buffers()]
    meta = any(one.is_meta or isinstance(one, nn.UninitializedParameter) for one in tensors)
    reason = "its weights are not there yet"
    for size in () if meta else [shape] if shape else _usual_shapes(model):
        try:
            with _derivable():
                found = _measure(model, run or model, size, layer)
        except Exception as error:  # whatever a stranger's model raises
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            continue
        if found is not None:
            return found
        reason = "none of its modules was seen to mix pixels"
    return _alone(model, layer, shape, layout, reason)


def _measure(model: nn.Module, run: Run, shape: tuple[int, ...], layer: str | None) -> Stem | None:
    known = _places.setdefault(model, {})
    image = _image(model, shape, seed=0)
    if (layer, shape) in known:
        with suppress(_ChangedError):
            return _response(model, run, image, known[layer, shape])
        del known[layer, shape]
    place = _find(model, run, image, _image(model, shape, seed=1), layer)
    if place is None:
        return None
    found = _response(model, run, image, place)
    known[layer, shape] = place
    return found


# ---------------------------------------------------------------------- watching the model run


@dataclass
class _Seen:
    """One tensor in a model's run."""

    number: int
    name: str
    module: nn.Module
    is_output: bool
    tensor: Tensor
    given: Tensor  # what the module was given first, or the tensor itself
    image: Tensor  # the model's input


def _watch(model: nn.Module, run: Run, image: Tensor, visit: Callable[[_Seen], bool]) -> None:
    """Run a model and show ``visit`` what goes into and comes out of its modules, in order.

    Hooks for all modules of the process are used rather than hooks on each of the model's,
    which so stays untouched. What ``visit`` returns true for is handed on as a copy, so that
    a later in-place operation does not change it.
    """
    names = {module: name for name, module in reversed(list(model.named_modules()))}
    thread, count = threading.get_ident(), 0
    leaf = image.detach().clone().requires_grad_()

    def show(module: nn.Module, is_output: bool, tensor: Tensor, given: Tensor) -> bool:
        nonlocal count
        count += 1
        return visit(_Seen(count, names[module], module, is_output, tensor, given, leaf))

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if threading.get_ident() != thread or module not in names:
            return None
        if not args or not isinstance(args[0], Tensor):
            return None
        given = args[0].clone() if args[0].requires_grad else args[0]
        show(module, False, given, given)
        stand_in = _unquantized(module, given)
        if stand_in is not None:
            show(module, True, stand_in, given)
        return (given, *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != thread or module not in names:
            return None
        tensor = output
        while isinstance(tensor, (tuple, list)) and tensor:
            tensor = tensor[0]
        if not isinstance(tensor, Tensor):
            return None
        given = args[0] if args and isinstance(args[0], Tensor) else leaf
        if tensor.is_quantized and not given.is_quantized:
            return given  # Not rounded: what follows is computed without rounding, too.
        copied = show(module, True, tensor, given)
        return tensor.clone() if copied and tensor is output else None

    handles = [
        torch_module.register_module_forward_pre_hook(before),
        torch_module.register_module_forward_hook(after),
    ]
    try:
        with suppress(_Reached):
            run(leaf.clone())
    finally:
        for handle in handles:
            handle.remove()


def _unquantized(module: Any, given: Tensor) -> Tensor | None:
    """What a quantised layer computes, without its rounding and with derivatives."""
    if isinstance(module, torch.jit.ScriptModule) or not given.requires_grad:
        return None
    if not callable(getattr(type(module), "weight", None)) or not kernels.is_layer(module):
        return None
    weight: Tensor = module.weight().dequantize().to(given)
    if weight.dim() == 2:
        return F.linear(given, weight)
    convolve: Any = F.conv3d if weight.dim() == 5 else F.conv2d
    how = (module.stride, module.padding, module.dilation, module.groups)
    output: Tensor = convolve(given, weight, None, *how)
    return output


# ------------------------------------------------------------------------- finding the layer


@dataclass
class _Candidate:
    """A layer that mixes pixels, and what its derivatives say."""

    place: _Place
    seen: _Seen
    gradients: tuple[Tensor, Tensor]  # with respect to the image, and to the layer's input
    pointwise: bool  # whether each number that it reads depends on one pixel
    beside: bool = False  # whether other layers read the image, too
    sums: dict[int, Tensor] = field(default_factory=dict)  # later tensors: gradients to the image


def _find(
    model: nn.Module, run: Run, image: Tensor, other: Tensor, layer: str | None
) -> _Place | None:
    """Look for the first layer; ``other`` is another image, at which derivatives must agree."""
    after, fallback = 0, None
    for _ in range(_TRIES):
        candidate = _first_candidate(model, run, image, layer, after)
        if candidate is None:
            return fallback
        linear, alone, total = _linear(model, run, other, candidate)
        place = _judged(candidate, linear, alone, total, layer)
        if alone or linear or layer is not None:
            return place if place.own else _centred(model, run, image, place)
        fallback = fallback or place
        after = candidate.place.number
    return fallback


def _first_candidate(
    model: nn.Module, run: Run, image: Tensor, layer: str | None, after: int
) -> _Candidate | None:
    found: _Candidate | None = None

    def visit(seen: _Seen) -> bool:
        nonlocal found
        if not seen.tensor.requires_grad:
            return False
        if found is not None:
            _look_further(found, seen)
            return False
        if not seen.is_output or seen.number <= after or not seen.given.requires_grad:
            return False
        if layer is None and (not _has_weights(seen.module) or not _mixes(seen)):
            return False
        if layer is not None and seen.name != layer:
            return False
        axis = _kernel_axis(seen.module, seen.tensor)
        place = _Place(seen.name, type(seen.module), seen.number, axis, _middle(seen.tensor, axis))
        weights = _noise(seen.tensor, seen.number)
        image, given = _grad((_real(seen.tensor) * weights).sum(), seen.image, seen.given)
        pointwise = _reach(_strongest(seen), seen.image) <= 1
        found = _Candidate(place, seen, (image, given), pointwise)
        if layer is not None:
            raise _Reached
        return True

    try:
        _watch(model, run, image, visit)
    except Exception:
        if found is None:
            raise
    return found


def _mixes(seen: _Seen) -> bool:
    """Whether the output depends on more pixels, at one place, than the input does."""
    axis = _kernel_axis(seen.module, seen.tensor)
    row = _rows(seen.tensor, axis)[_middle(seen.tensor, axis)]
    value = (row * _noise(row, 0)).sum()
    convolution = isinstance(getattr(seen.module, "kernel_size", None), tuple)
    if convolution and seen.given.dim() > 3 and _reach(value, seen.given) > 1:
        return True  # also behind what has mixed all pixels
    reach = _reach(value, seen.image)
    return reach > 1 and reach > _reach(_strongest(seen), seen.image)


def _strongest(seen: _Seen) -> Tensor:
    """The number of a layer's input that counts most for its output in the middle."""
    axis = _kernel_axis(seen.module, seen.tensor)
    row = _rows(seen.tensor, axis)[_middle(seen.tensor, axis)]
    (gradient,) = _grad((row * _noise(row, 0)).sum(), seen.given)
    return _real(seen.given).flatten()[_real(gradient).abs().flatten().argmax()]


def _reach(value: Tensor, image: Tensor) -> int:
    """How many pixels (not counting channels and frames) a number depends on."""
    (gradient,) = _grad(value, image)
    pixels = gradient.abs().flatten(0, -3).amax(0)
    return int((pixels > _NEGLIGIBLE * pixels.max()).sum())


def _look_further(found: _Candidate, seen: _Seen) -> None:
    """See whether a later tensor is the layer's output with something of the image added to it.

    The search ends where the layer's output is mixed any further.
    """
    own = found.seen.tensor
    if seen.number > found.seen.number + _FURTHER:
        raise _Reached
    index = _rows(own, found.place.axis).shape[1] // 2
    if seen.tensor.shape != own.shape or seen.tensor.is_complex():
        value = (_real(seen.tensor) * _noise(seen.tensor, 0)).sum()
        if bool(_grad(value, own)[0].any()):
            raise _Reached
    else:
        value = _rows(seen.tensor, found.place.axis)[found.place.row, index]
    image, inner = _grad(value, found.seen.image, own)
    if not bool(inner.any()):
        found.beside |= seen.is_output and _has_weights(seen.module) and bool(image.any())
        return
    rest = inner.clone()
    _rows(rest, found.place.axis)[found.place.row, index] = 0
    if float(rest.abs().max()) > _NEGLIGIBLE * float(inner.abs().max()):
        raise _Reached
    (through,) = torch.autograd.grad(own, found.seen.image, inner, retain_graph=True)
    if not _close(through, image):
        value = (seen.tensor * _noise(seen.tensor, seen.number)).sum()
        found.sums[seen.number] = _grad(value, found.seen.image)[0]


def _linear(
    model: nn.Module, run: Run, other: Tensor, candidate: _Candidate
) -> tuple[bool, bool, int | None]:
    """Whether the layer is linear in the image and in its input; the last sum that is, too."""
    linear = alone = False
    total: int | None = None
    last = max([candidate.place.number, *candidate.sums])

    def visit(seen: _Seen) -> bool:
        nonlocal linear, alone, total
        if seen.number == candidate.place.number:
            value = (_real(seen.tensor) * _noise(seen.tensor, seen.number)).sum()
            image, given = _grad(value, seen.image, seen.given)
            linear = _close(image, candidate.gradients[0])
            alone = _close(given, candidate.gradients[1])
        elif seen.number in candidate.sums:
            value = (seen.tensor * _noise(seen.tensor, seen.number)).sum()
            if _close(_grad(value, seen.image)[0], candidate.sums[seen.number]):
                total = seen.number
        if seen.number == last:
            raise _Reached
        return False

    _watch(model, run, other, visit)
    return linear, alone, total


def _judged(
    candidate: _Candidate, linear: bool, alone: bool, total: int | None, layer: str | None
) -> _Place:
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
        direct = _close(_grad((_real(given) * noise).sum(), image)[0], noise)
    summed = total is not None and not own
    number = total if summed and total is not None else place.number
    return replace(
        place, number=number, own=own, direct=direct, summed=summed, caveats=tuple(caveats)
    )


def _centred(model: nn.Module, run: Run, image: Tensor, place: _Place) -> _Place:
    """A place of the output that looks at the middle of the image, not at its edge."""
    outputs = []

    def visit(seen: _Seen) -> bool:
        if seen.number == place.number:
            outputs.append(_rows(seen.tensor.detach(), place.axis))
            raise _Reached
        return False

    moved = image.clone()
    middle: Any = (..., *(size // 2 for size in image.shape[2:]))
    moved[middle] += 1
    for one in (image, moved):
        _watch(model, run, one, visit)
    change = (outputs[1] - outputs[0]).abs().amax(1)
    rows = (change > 1e-3 * change.max()).nonzero()
    return replace(place, row=int(rows[len(rows) // 2])) if len(rows) else place


# ---------------------------------------------------------------------- measuring the response


def _response(model: nn.Module, run: Run, image: Tensor, place: _Place) -> Stem:
    """The kernels at a place that was found."""
    module = dict(model.named_modules()).get(place.name)
    if type(module) is not place.kind:
        raise _ChangedError
    assert module is not None
    if _plain(module) and (place.own or place.direct) and not place.summed:
        return _read(place.name, module, caveats=place.caveats)
    found: list[tuple[Tensor, tuple[int, ...]]] = []

    def visit(seen: _Seen) -> bool:
        if seen.number < place.number:
            return False
        if not seen.tensor.requires_grad or (not place.summed and seen.name != place.name):
            raise _ChangedError
        rows = _rows(seen.tensor, place.axis)
        if place.row >= len(rows):
            raise _ChangedError
        found.append(
            (
                _derivatives(rows[place.row], seen.given if place.own else seen.image),
                _place_of(seen.tensor, place),
            )
        )
        if seen.tensor.is_complex():  # the parts beside the channels
            found[-1] = (torch.cat(found[-1][0].chunk(2), 1), found[-1][1])
        raise _Reached

    _watch(model, run, image, visit)
    if not found:
        raise _ChangedError
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


def _place_of(tensor: Tensor, place: _Place) -> tuple[int, ...]:
    """Row and column of the output that is looked at; empty where the output is no picture."""
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
        module: the layer, where it reads those images as they are: it tells its window, of
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


# --------------------------------------------------------------------- where nothing can be run


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
        return _read(name, module, layout, caveats, obtained=f"weights{by_order}")
    if _plain(module):
        return _read(name, module, obtained=f"weights{by_order}")
    size = 3 * max(1, *getattr(module, "kernel_size", (5,)))
    channels = int(getattr(module, "in_channels", 3))
    with suppress(Exception), _derivable():
        found = _measure(module, module, (channels, size, size), "")
        if found is not None:
            return replace(found, name=name, obtained=f"response to its own input{by_order}")
    return _read(name, module, layout, obtained=f"weights{by_order}")


def _read(
    name: str,
    module: nn.Module,
    layout: kernels.Layout = "auto",
    caveats: tuple[str, ...] = (),
    obtained: str = "weights",
) -> Stem:
    return Stem(
        name=name,
        layer_type=type(module).__name__,
        kernels=kernels.weight_of(name, module, layout=layout),
        dilation=kernels.dilation_of(module),
        obtained=obtained,
        caveats=caveats,
    )


def _plain(module: nn.Module) -> bool:
    """Whether a convolution surely computes with its weight as it is stored."""
    if type(module) not in (nn.Conv2d, nn.Conv3d):
        return False
    weight = module._parameters.get("weight")
    return (
        type(weight) is nn.Parameter
        and weight.is_floating_point()
        and "forward" not in vars(module)
        and not module._forward_pre_hooks
        and not module._forward_hooks
    )


def _usual_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of one image to try where nobody said what the model is fed."""
    try:
        _, first = kernels.first_layer(model)
    except InputError:
        first = model
    channels = int(getattr(first, "in_channels", 3))
    features = getattr(first, "in_features", None)
    if isinstance(features, int):
        for channels in (3, 1, 4):
            side = math.isqrt(features // channels)
            if channels * side * side == features:
                yield channels, side, side
        channels = 3
    declared: Any = getattr(getattr(model, "config", None), "image_size", None)
    timm: Any = getattr(model, "default_cfg", None)
    if isinstance(timm, Mapping):
        declared = timm.get("input_size")
    if isinstance(declared, (tuple, list)):
        declared = declared[-1]
    sides = ([declared] if isinstance(declared, int) else []) + [32, 224, 64, 28, 256, 384, 512]
    for side in dict.fromkeys(sides):
        if len(getattr(first, "kernel_size", ())) == 3:
            yield channels, 16, side, side  # a video
        else:
            yield channels, side, side


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
    parts = _real(like)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(parts.shape, generator=generator, device="cpu", dtype=torch.float32)
    return noise.to(parts.device, parts.dtype)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _rows(tensor: Tensor, axis: int) -> Tensor:
    """A layer's output as ``(places, kernels)``; a complex one's two parts beside each other."""
    if tensor.is_complex():
        return torch.cat([_rows(tensor.real, axis), _rows(tensor.imag, axis)], 1)
    return tensor.movedim(axis, -1).flatten(0, -2)


def _middle(tensor: Tensor, axis: int) -> int:
    """The row of :func:`_rows` in the middle."""
    sizes = list(tensor.shape)
    del sizes[axis]
    row = 0
    for size in sizes:
        row = row * size + size // 2
    return row


def _kernel_axis(module: nn.Module, tensor: Tensor) -> int:
    """The axis of a layer's output along which its kernels lie."""
    if tensor.dim() == 2 or isinstance(getattr(module, "kernel_size", None), tuple):
        return 1
    if tensor.dim() == 3 or isinstance(getattr(module, "in_features", None), int):
        return tensor.dim() - 1
    return 1


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has weights of its own, not only in modules inside it."""
    own = any(parameter is not None for parameter in vars(module).get("_parameters", {}).values())
    return own or kernels.is_layer(module)


def _grad(value: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
    """Derivatives; zeros for what the value does not depend on."""
    return torch.autograd.grad(
        value, sources, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two derivatives agree but for rounding."""
    scale = float(other.abs().max())
    tolerance = 0.05 if one.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return one.shape == other.shape and float((one - other).abs().max()) <= tolerance * scale


@contextmanager
def _derivable() -> Iterator[None]:
    """Derivatives are recorded, in full precision, and nothing is warned of."""
    with _exact(), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _exact() -> Iterator[None]:
    """Full precision on GPUs that would round the factors of products (TF32)."""
    if not torch.cuda.is_initialized():
        yield
        return
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value

"""Running a model under hooks and looking at what goes in and out of its modules."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from .. import kernels

ForwardPass = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Place:
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


class Reached(BaseException):
    """Ends a run of the model that has gone far enough; no model's own handler catches it."""


class ChangedError(Exception):
    """The model no longer runs as it did when its first layer was found."""


# ---------------------------------------------------------------------- watching the model run


@dataclass
class Seen:
    """One tensor in a model's run."""

    number: int
    name: str
    module: nn.Module
    is_output: bool
    tensor: Tensor
    given: Tensor  # what the module was given first, or the tensor itself
    image: Tensor  # the model's input


def watch(model: nn.Module, run: ForwardPass, image: Tensor, visit: Callable[[Seen], bool]) -> None:
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
        return visit(Seen(count, names[module], module, is_output, tensor, given, leaf))

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
        with suppress(Reached):
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


def as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def has_weights(module: nn.Module) -> bool:
    """Whether a module has weights of its own, not only in modules inside it."""
    own = any(parameter is not None for parameter in vars(module).get("_parameters", {}).values())
    return own or kernels.is_layer(module)


def gradients(value: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
    """Derivatives; zeros for what the value does not depend on."""
    return torch.autograd.grad(
        value, sources, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def is_close(one: Tensor, other: Tensor) -> bool:
    """Whether two derivatives agree but for rounding."""
    scale = float(other.abs().max())
    tolerance = 0.05 if one.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return one.shape == other.shape and float((one - other).abs().max()) <= tolerance * scale


@contextmanager
def derivable() -> Iterator[None]:
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

"""Run something on a model in training and leave no trace of it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from ..ground.random_state import protected_rng
from ..ranks import is_sharded
from .attributes import Attributes, put_tensor


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``, Fabric's.

    Measurements call that one: a data-parallel wrapper would wait for other processes, a
    compiled one would compile again for evaluation mode.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif type(model).__name__ == "_FabricModule":
            model = model._forward_module  # type: ignore[assignment]
        else:
            return model


@contextmanager
def isolated(
    model: nn.Module,
    *,
    grad: bool = False,
    without: Collection[int] = (),
    writes: bool = False,
) -> Iterator[nn.Module]:
    """The model in evaluation mode, put back as it was whatever happens inside.

    Restored, also after an exception or ``KeyboardInterrupt``: every module's ``training``
    flag (module by module, so that frozen BatchNorm stays frozen), buffers and plain Python
    attributes (in place, if changed; see :class:`hfc_probe.model.attributes.Attributes`),
    ``.grad`` of every parameter and which data it has (not what is in them), random states, grad
    mode and autocast. Modes are set as flags, without calling the model's own ``eval()``, which
    some models override with work of their own. Autocast is off inside, compiled code runs
    eagerly, and Lightning's ``self.log`` does nothing.

    Args:
        model: the model, wrapped or not.
        grad: whether gradients are recorded inside. Without them ``torch.no_grad`` is used
            rather than inference mode: a model that keeps tensors from one forward pass to
            the next could not train with inference tensors.
        without: identities of forward hooks and forward pre-hooks that do not run inside; they
            may be registered on the model's modules or on all modules.
        writes: the model writes to its parameters in forward: their values are put back, too.

    Yields:
        The unwrapped model, to be called in place of the wrapper.
    """
    inner = unwrap(model)
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    parameters = [(one, one.data, one.grad) for one in model.parameters() if not is_lazy(one)]
    sharded = is_sharded(model)
    attributes = Attributes(modules, sharded=sharded)
    values = values_of(model) if writes else []
    with ExitStack() as stack:
        stack.enter_context(protected_rng())
        stack.enter_context(torch.set_grad_enabled(grad))
        device_type = device_of(inner).type
        if torch.amp.is_autocast_available(device_type):  # not on the meta device
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_eager())
        stack.callback(lambda: [put_tensor(*value) for value in values])
        stack.callback(_restore, modes, parameters, attributes, sharded)
        for module, _ in modes:
            module.training = False
            _silence(module)
            for _, hooks in forward_hooks(module):
                _leave_out(hooks, without)
        for hooks in global_forward_hooks():
            stack.callback(hooks.update, dict(hooks))
            stack.callback(hooks.clear)  # first, so that they come back in their order
            _leave_out(hooks, without)
        yield inner


def _leave_out(hooks: dict[int, Any], without: Collection[int]) -> None:
    for key in [key for key in hooks if key in without]:
        del hooks[key]


def _restore(
    modes: list[tuple[nn.Module, bool]],
    parameters: list[tuple[nn.Parameter, Tensor, Tensor | None]],
    attributes: Attributes,
    sharded: bool,
) -> None:
    for module, training in modes:
        module.training = training
    for parameter, data, gradient in parameters:
        # Some models bound their weights in forward, by other data. Written to, they stay so.
        own = type(parameter) is nn.Parameter and not sharded
        if own and parameter.data_ptr() != data.data_ptr():
            parameter.data = data
        if parameter.grad is not gradient:
            parameter.grad = gradient
    attributes.put_back()


def values_of(model: nn.Module) -> list[tuple[Tensor, int, Tensor]]:
    """Every parameter with its version and a copy of its values, for :func:`put_tensor`.

    None of a sharded model, whose parameters come and go in a forward pass.
    """
    if is_sharded(model):
        return []
    return [
        (one, one._version, one.detach().clone())
        for one in model.parameters()
        if not is_lazy(one) and not one.is_meta
    ]


def forward_hooks(module: nn.Module) -> list[tuple[str, dict[int, Any]]]:
    """The forward hooks and the forward pre-hooks that are registered on a module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    # In its __dict__: TorchScript's modules have theirs elsewhere, and compiled.
    return [(kind, module.__dict__[kind]) for kind in kinds if kind in module.__dict__]


def global_forward_hooks() -> list[dict[int, Any]]:
    """The forward hooks and forward pre-hooks that are registered on all modules at once."""
    return [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]


def _silence(module: nn.Module) -> None:
    """Let a LightningModule's ``self.log`` in forward do nothing: it feeds the user's metrics."""
    if any(kind.__name__ == "LightningModule" for kind in type(module).__mro__):
        # In the instance, where the attributes' restoration removes them again.
        module.__dict__["log"] = module.__dict__["log_dict"] = lambda *_, **__: None


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU if it has none."""
    tensor = first_tensor(model)
    return torch.device("cpu") if tensor is None else tensor.device


def first_tensor(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter, else the first buffer, else None."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    return next(iter(model.buffers()), None)


@contextmanager
def _eager() -> Iterator[None]:
    """Keep functions and submodules that the user compiled from compiling again."""
    # Looked up, not imported: if nothing was compiled the import alone takes seconds.
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not hasattr(torch.compiler, "set_stance"):  # the latter: torch < 2.6
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

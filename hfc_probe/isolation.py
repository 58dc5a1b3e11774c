"""Run something on a model in training and leave no trace of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


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
def protected_rng() -> Iterator[None]:
    """Restore the Python, NumPy, torch, CUDA and MPS random states on the way out."""
    import numpy as np

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def isolated(model: nn.Module, *, grad: bool = False) -> Iterator[nn.Module]:
    """The model in evaluation mode, put back as it was whatever happens inside.

    Restored, also after an exception or ``KeyboardInterrupt``: every module's ``training``
    flag (module by module, so that frozen BatchNorm stays frozen), every buffer (in place,
    and only where it changed), ``.grad`` of every parameter, random states, grad mode and
    autocast. Modes are set as flags, without calling the model's own ``eval()``, which some
    models override with work of their own. Autocast is off inside, compiled code runs
    eagerly.

    Args:
        model: the model, wrapped or not.
        grad: whether gradients are recorded inside. Without them ``torch.no_grad`` is used
            rather than inference mode: a model that keeps tensors from one forward pass to
            the next could not train with inference tensors.

    Yields:
        The unwrapped model, to be called in place of the wrapper.
    """
    inner = unwrap(model)
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module._buffers, name, buffer, buffer._version, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta and not buffer.is_inference()
    ]
    with ExitStack() as stack:
        stack.enter_context(protected_rng())
        stack.enter_context(torch.set_grad_enabled(grad))
        device_type = device_of(inner).type
        if torch.amp.is_autocast_available(device_type):  # not on the meta device
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_eager())
        stack.callback(_restore, modes, gradients, buffers)
        for module, _ in modes:
            module.training = False
        yield inner


def _restore(
    modes: list[tuple[nn.Module, bool]],
    gradients: list[tuple[nn.Parameter, Tensor | None]],
    buffers: list[tuple[dict[str, Tensor | None], str, Tensor, int, Tensor]],
) -> None:
    for module, training in modes:
        module.training = training
    for parameter, gradient in gradients:
        if parameter.grad is not gradient:
            parameter.grad = gradient
    for owner, name, buffer, version, before in buffers:
        # Not owner.get(name): TorchScript's buffers have no such method.
        if name not in owner or owner[name] is not buffer:
            owner[name] = buffer
        if _changed(buffer, version, before):
            # .data: an unchanged version keeps what autograd has saved of this buffer usable.
            buffer.data.copy_(before)


def _changed(buffer: Tensor, version: int, before: Tensor) -> bool:
    """Whether a buffer was written to; batch_norm writes its statistics without a new version."""
    if buffer._version != version:
        return True
    comparable = buffer.layout is torch.strided and not buffer.is_quantized
    return comparable and not torch.equal(buffer, before)


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU where it has none."""
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
    # Looked up, not imported: where nothing was compiled the import alone takes seconds.
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not hasattr(torch.compiler, "set_stance"):  # the latter: torch < 2.6
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

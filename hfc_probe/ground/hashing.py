"""Hashes that tell tensors apart: all of their bytes, or as much as a training can afford."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

_SPREAD = 64


def whole_hash(*tensors: Tensor) -> str:
    """SHA-256 of types, shapes and all bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """16 hexadecimal digits of a file's SHA-256; empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def state_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of a model's named tensors, cheaply, in hexadecimal digits.

    Hashed are name, type and shape of each, the sum of the bits of all its values, and 64 values
    spread over it: every value counts, yet nothing but a few numbers for each tensor leaves its
    device, so that it costs no more than reading the weights once. It is the same on every
    device. Of a tensor that is spread over ranks it is this rank's share.
    """
    digest = hashlib.sha256()
    numbers = []
    with torch.no_grad():
        for name, tensor in named:
            digest.update(f"{name} {tensor.dtype}\0".encode())
            with suppress(Exception):  # of another kind: not initialised, quantised, sparse, …
                tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                digest.update(f"{tuple(tensor.shape)}\0".encode())
                bits = _bits(tensor.detach())
                numbers.append(bits[:: max(1, bits.numel() // _SPREAD)].to(torch.int64))
                if bits.numel() > _SPREAD:
                    numbers.append(bits.sum(dtype=torch.int64)[None])
        if numbers:
            device = numbers[0].device
            together = torch.cat([part.to(device) for part in numbers]).cpu()
            digest.update(together.numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
        raise TypeError("no values to look at")
    whole = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    return whole.reshape(-1).view(kinds[whole.element_size()])

"""Copies between the host and a device, and waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device; a GPU's queued work is not waited for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def waited(device: torch.device) -> None:
    """Return when a device has done what it was given, so that a clock counts it."""
    if device.type != "cpu":
        torch.empty(1, device=device).fill_(0).item()  # in the order of the work, on any device

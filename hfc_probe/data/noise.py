"""Seeded noise that depends on neither batch size nor device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniform_noise(seed: int, start: int, images: Tensor) -> Tensor:
    """Noise uniform in [−1, 1] of the shape of a batch that starts at sample ``start``.

    Drawn per image, so that it depends on neither batch size nor device.
    """
    draws = [
        np.random.default_rng((seed, start + k)).random(tuple(images.shape[1:]), np.float32)
        for k in range(len(images))
    ]
    return (2 * torch.from_numpy(np.stack(draws)) - 1).to(images.device)


def normal_noise(seed: int, start: int, images: Tensor, channels: int | None = None) -> Tensor:
    """Gaussian noise of unit variance, drawn as :func:`uniform_noise`."""
    shape = (channels or images.shape[1], *images.shape[2:])
    draws = [
        np.random.default_rng((seed, start + k)).standard_normal(shape, np.float32)
        for k in range(len(images))
    ]
    return torch.from_numpy(np.stack(draws)).to(images.device)

"""Models that read known frequencies, and images to read them from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hfc_probe import Samples, fourier


class ReadsFrequencies(nn.Module):
    """Class 1 where the sum of some Fourier coefficients (first channel) is above zero.

    What is within rounding of zero is zero, and class 0.
    """

    def __init__(self, pairs: list[tuple[int, int]], height: int, width: int) -> None:
        super().__init__()
        waves = torch.stack([fourier.basis(i, j, height, width) for i, j in pairs])
        self.register_buffer("waves", waves)

    def forward(self, x: Tensor) -> Tensor:
        score = (x[:, 0, None] * self.waves).sum((1, 2, 3))
        score = torch.where(score.abs() < 1e-4, 0.0, score)
        return torch.stack([-score, score], 1)


def coded(i: int, j: int, height: int, width: int, n: int = 64, strength: float = 0.5) -> Samples:
    """Images of one wave, ±strength by class, on grey: a classifier reads the sign."""
    targets = torch.arange(n) % 2
    wave = fourier.basis(i, j, height, width)
    sign = (2 * targets - 1)[:, None, None, None].float()
    images = 0.5 + strength * sign * wave / wave.abs().max() * torch.ones(1, 3, 1, 1)
    return Samples(images, targets)

"""Seeded noise and counting that several measurements share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base import Result, Subject, rank


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


@dataclass(frozen=True, eq=False)
class CellResult(Result):
    """A result whose scalars are single cells of its arrays, with their bounds in two others."""

    @abstractmethod
    def cells(self) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """Tag, array and index of every scalar."""

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        return {tag: float(arrays[name][at]) for tag, name, at in self.cells()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays = self.arrays()
        return {
            tag: (float(arrays[f"{name}_lower"][at]), float(arrays[f"{name}_upper"][at]))
            for tag, name, at in self.cells()
        }


def right(subject: Subject, images: Tensor, targets: Tensor, what: str) -> Tensor:
    """Which of the images are predicted right, ``(N,)`` bool."""
    return rank(subject.logits(images, what), targets) < 1

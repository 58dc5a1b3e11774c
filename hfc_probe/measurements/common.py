"""Checks of settings, seeded noise and counting that several measurements share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Result, Subject, rank


def check_numbers(
    name: str,
    values: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    increasing: bool = True,
) -> tuple[float, ...]:
    """Settings that are a number or several of them, as a tuple of floats.

    Raises:
        InputError: none, one that is not a number or outside the bounds, or (where they are
            to increase) out of order.
    """
    given = values if isinstance(values, (tuple, list)) else (values,)
    bounds = f"above {low:g}" if open_low else f"of at least {low:g}"
    if math.isfinite(high):
        bounds = f"{'above' if open_low else 'from'} {low:g} to {high:g}"
    try:
        numbers = tuple(math.nan if isinstance(v, (bool, str)) else float(v) for v in given)
    except (TypeError, ValueError):
        numbers = ()
    inside = [low < v <= high if open_low else low <= v <= high for v in numbers]
    if not numbers or not all(inside):
        raise InputError(f"{name}: expected numbers {bounds}, got {values!r}")
    if increasing and list(numbers) != sorted(set(numbers)):
        raise InputError(f"{name}: expected increasing numbers without repetition, got {values!r}")
    return numbers


def check_whole(name: str, value: Any, minimum: int = 1) -> int:
    """A setting that counts something.

    Raises:
        InputError: not a whole number, or below ``minimum``.
    """
    try:
        whole = minimum - 1 if isinstance(value, (bool, str)) else int(value)
    except (TypeError, ValueError, OverflowError):
        whole = minimum - 1
    if whole < minimum or whole != value:
        raise InputError(f"{name}: expected a whole number of at least {minimum}, got {value!r}")
    return whole


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """A setting that names one of a few ways.

    Raises:
        InputError: any other name.
    """
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices[:-1])
        raise InputError(f'{name}: expected {listed} or "{choices[-1]}", got {value!r}')
    return str(value)


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

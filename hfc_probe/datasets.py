"""Images whose class is written into chosen frequencies: the right answers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import fourier
from .data.samples import PixelSpace
from .ground import checks
from .ground.errors import InputError

Band = Literal["low", "high", "both"]

# Distance from DC of the planted waves, as a share of the Nyquist frequency: at 32 pixels
# about 3 and 14 cycles per image, so that LFC(4) holds the low wave and LFC(12) not the high one.
_LOW, _HIGH = 3 / 16, 14 / 16


@dataclass(frozen=True)
class PlantedWaves:
    """Where the classes are written: one wave per class and band.

    Args:
        band: ``"low"``, ``"high"`` or ``"both"``.
        classes: number of classes, at least 2; a class is a direction in the frequency
            plane, evenly spaced over the half circle.
        size: image side in pixels, at least 16.

    Raises:
        InputError: outside those bounds, or too many classes to tell apart.
    """

    band: Band = "both"
    classes: int = 8
    size: int = 32

    def __post_init__(self) -> None:
        checks.choice("band", self.band, ("low", "high", "both"))
        size = checks.whole("size", self.size, 16, 2**14, what="number of pixels")
        checks.keep(self, size=size, classes=checks.whole("classes", self.classes, 2, 2**14))
        for where in self.where.values():
            if len(set(where)) < len(where):
                raise InputError(
                    f"classes: expected few enough to have frequencies of their own in band "
                    f"{self.band!r} at {self.size} pixels, got {self.classes}"
                )

    @property
    def where(self) -> dict[str, list[tuple[int, int]]]:
        """Frequency (i, j) of each class, in cycles per image, by band.

        >>> PlantedWaves("high", classes=4).where["high"]
        [(0, 14), (10, 10), (14, 0), (10, -10)]
        """
        half = self.size / 2
        bands = {"low": _LOW, "high": _HIGH}
        chosen = bands if self.band == "both" else {self.band: bands[self.band]}
        out = {}
        for name, share in chosen.items():
            angles = [math.pi * k / self.classes for k in range(self.classes)]
            out[name] = [
                (round(share * half * math.sin(a)), round(share * half * math.cos(a)))
                for a in angles
            ]
        return out


class PlantedFrequencies(Dataset[tuple[Tensor, int]]):
    """Natural-looking 1/f noise images with the class written as a wave of one frequency.

    An image is coloured noise whose amplitude falls as 1/f, as in photographs, plus for its
    class k the basis image of ``waves.where[band][k]`` with a random sign, in each band
    chosen. Images are in pixel space, [0, 1]; every item is the same whenever it is read.

    Args:
        count: number of images.
        band, classes, size: see :class:`PlantedWaves`.
        strength: L2 norm of the planted wave per channel in the low band.
        high_strength: the same in the high band; None: ``strength``.
        noise: standard deviation of the noise.
        train: train and test splits have different images for one seed.
        seed: of all of it.

    Raises:
        InputError: counts below 1, negative strengths or noise.

    >>> image, target = PlantedFrequencies(4, band="low")[1]
    >>> tuple(image.shape), target
    ((3, 32, 32), 1)
    """

    def __init__(
        self,
        count: int = 2048,
        *,
        band: Band = "both",
        classes: int = 8,
        size: int = 32,
        strength: float = 4.0,
        high_strength: float | None = None,
        noise: float = 0.12,
        train: bool = True,
        seed: int = 0,
    ) -> None:
        count = checks.whole("count", count, maximum=2**31, what="number of images")
        seed = checks.whole("seed", seed, 0)
        train = checks.flag("train", train)
        strength = checks.number("strength", strength, 0, math.inf, open_high=True)
        if high_strength is not None:
            high_strength = checks.number(
                "high_strength", high_strength, 0, math.inf, open_high=True
            )
        else:
            high_strength = strength
        self.waves = PlantedWaves(band, classes, size)
        classes, size = self.waves.classes, self.waves.size
        self.noise = checks.number("noise", noise, 0, math.inf, open_high=True)
        self.seed = (seed, int(train))
        self.targets = torch.arange(count, device="cpu") % classes
        scale = {"low": strength, "high": high_strength}
        self._planted = {
            name: scale[name] * torch.stack([fourier.basis(i, j, size, size) for i, j in where])
            for name, where in self.waves.where.items()
        }
        distance = fourier.distance(size, size, centred=False)[:, : size // 2 + 1].float()
        self._fall = (1 / distance.clamp(min=1.0)).numpy()
        self._fall[0, 0] = 0.0
        self.pixels = PixelSpace()  # no normalisation is wanted; find_normalization reads this

    @property
    def classes(self) -> list[str]:
        return [f"wave {k}" for k in range(self.waves.classes)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} images")
        index %= len(self)
        target = int(self.targets[index])
        rng = np.random.default_rng((*self.seed, index))
        size = self.waves.size
        white = rng.standard_normal((3, size, size), dtype=np.float32)
        # NumPy's transform gives the same last bit whatever the number of threads; torch's does
        # not, so that an image read by a worker would differ from one read by the main process.
        noise = np.fft.irfft2(np.fft.rfft2(white) * self._fall, s=(size, size))
        pink = torch.from_numpy(noise.astype(np.float32))
        # Photographs are mostly grey: the channels share most of their noise.
        pink = 0.3 * pink + 0.7 * pink.mean(0, keepdim=True)
        image = 0.5 + self.noise * pink / pink.std()
        for planted in self._planted.values():
            sign = 1 - 2 * int(rng.integers(2))
            image = image + sign * planted[target]
        return image.clamp(0, 1), target

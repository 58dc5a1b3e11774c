"""How a model wants its pixels: mean and std of a normalisation, and its inverse."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ground import checks
from ..ground.errors import InputError


@dataclass(frozen=True)
class PixelSpace:
    """How a model wants pixels normalised: ``(x − mean) / std`` per channel.

    Args:
        mean, std: one number per channel (or a single one for all), for values in [0, 1].
        declared: whether they stand for a range of values, see :meth:`of_range`.

    Raises:
        InputError: numbers missing, not finite or of 8-bit values; a std of 0 or less.

    >>> PixelSpace((0.5,), (0.25,)).normalize(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    declared: bool = field(default=False, kw_only=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.flag("declared", self.declared)
        for name in ("mean", "std"):
            given = getattr(self, name)
            values = checks.numbers(f"PixelSpace {name}", given, low=-math.inf, increasing=False)
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise InputError(f"PixelSpace: expected std above 0, got {self.std}")
        usual = all(-1 <= value <= 1 for value in self.mean) and max(self.std) <= 1
        if not (usual or self.declared):
            raise InputError(
                f"PixelSpace: expected the mean and std of images in [0, 1], got {self.mean} and "
                f"{self.std}; divide a mean and std of 8-bit values by 255"
            )
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise InputError(
                "PixelSpace: expected as many means as stds, got "
                f"{len(self.mean)} and {len(self.std)}"
            )

    @classmethod
    def imagenet(cls) -> PixelSpace:
        """The ImageNet statistics that torchvision's models are trained with."""
        return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    @classmethod
    def cifar10(cls) -> PixelSpace:
        """Per-channel mean and standard deviation of the CIFAR-10 training set."""
        return cls((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

    @classmethod
    def of_range(cls, low: float, high: float) -> PixelSpace:
        """Of a model and a loader whose values go from ``low`` to ``high``, as they are.

        For 16-bit or 12-bit images, CT in Hounsfield units, log-scaled radar. Pixel space is the
        range mapped to [0, 1], so that a norm or a strength is a share of it.

        >>> PixelSpace.of_range(-1000, 3000).normalize(torch.tensor([[[[0.25]]]])).item()
        0.0
        """
        low = checks.number("low", low, -math.inf, open_low=True)
        high = checks.number("high", high, low, open_low=True)
        return cls((-low / (high - low),), (1 / (high - low),), declared=True)

    def normalize(self, images: Tensor) -> Tensor:
        """Pixel space ``(N, C, …)`` in [0, 1] to the model's input."""
        mean, std = self._statistics(images)
        return (images - mean).div_(std)

    def unnormalize(self, images: Tensor) -> Tensor:
        """The model's input back to pixel space."""
        mean, std = self._statistics(images)
        return (images * std).add_(mean)

    @property
    def is_identity(self) -> bool:
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def fits(self, channels: int) -> bool:
        """Whether it has statistics for images of that many channels."""
        return max(len(self.mean), len(self.std)) in (1, channels)

    def is_close(self, other: PixelSpace) -> bool:
        """Whether two agree but for rounding, to 2 % of the std."""
        means, stds = parse_numbers(self.mean), parse_numbers(self.std)
        try:
            apart = torch.stack(
                [
                    (means - parse_numbers(other.mean)).abs().max(),
                    (stds - parse_numbers(other.std)).abs().max(),
                ]
            )
        except RuntimeError:  # for other numbers of channels
            return False
        return bool(apart.max() <= 0.02 * min(self.std))

    @property
    def looks_swapped(self) -> bool:
        """Whether no images in [0, 1] have this mean and std, but some have them swapped.

        The variance of values in [0, 1] with mean m is at most m (1 − m) (Bhatia and Davis, 2000).
        A few percent are left for rounded numbers; averaged over channels.
        """
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        if not 0 < mean < 1 or not 0 < std < 1:
            return False
        possible = std <= 1.03 * math.sqrt(mean * (1 - mean))
        return not possible and mean <= math.sqrt(std * (1 - std))

    def check(self, channels: int) -> None:
        """Raise :class:`InputError` unless it fits images of that many channels."""
        if not self.fits(channels):
            raise InputError(
                f"PixelSpace: expected statistics for {channels} channels, got "
                f"{max(len(self.mean), len(self.std))}; pass pixels=PixelSpace(mean, std) with "
                f"{channels} numbers each"
            )

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.check(images.shape[1])
        make = _statistics if type(images) is Tensor else _statistics.__wrapped__
        return make(self, images.dtype, images.device, images.dim())

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"mean ({mean}), std ({std})"


@functools.lru_cache(maxsize=64)
def _statistics(
    pixels: PixelSpace, dtype: torch.dtype, device: torch.device, dim: int = 4
) -> tuple[Tensor, Tensor]:
    """Mean and std by channel, made once: on a GPU each would wait for a copy from the host."""
    with torch.inference_mode(False):
        mean, std = (
            torch.tensor(values, dtype=dtype, device=device).view(1, -1, *[1] * (dim - 2))
            for values in (pixels.mean, pixels.std)
        )
    return mean, std


def parse_numbers(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, device="cpu")

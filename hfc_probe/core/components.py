"""What measurements have in common that show a model LFC(r) and HFC(r) of each radius."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .. import fourier
from ..ground import checks
from ..model.subject import Subject
from .measurement import Measurement


@dataclass(frozen=True)
class ComponentMeasurement(Measurement):
    """Settings of the original, LFC(r) and HFC(r) that a model is shown.

    Measurements with the same ones share forward passes, see :meth:`Subject.components`.
    """

    radii: tuple[float, ...] | None = None
    hfc_background: fourier.Background = "zero"
    closed: bool = True
    units: fourier.Units = field(default="cycles", kw_only=True)
    rescale: fourier.Rescale | None = field(default=None, kw_only=True)
    axes: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radii is not None:
            checks.keep(self, radii=fourier.check_radii(self.radii))
        checks.choice("hfc_background", self.hfc_background, ("zero", "mean"))
        fourier.check_units(self.units)
        fourier.check_rescale(self.rescale)
        fourier.check_axes(self.axes)

    def radii_for(self, height: int, width: int) -> tuple[float, ...]:
        """The radii used for images of that size.

        >>> from hfc_probe import FrequencyAccuracy
        >>> FrequencyAccuracy().radii_for(32, 32), FrequencyAccuracy().radii_for(224, 256)
        ((4, 8, 12, 16), (28, 56, 84, 112))
        """
        if self.radii is not None:
            return self.radii
        quarters = (0.25, 0.5, 0.75, 1.0)
        if self.units == "nyquist":
            return quarters
        half = min(height, width) / 2
        return tuple(sorted({max(1, int(q * half + 0.5)) for q in quarters}))

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return samples * (1 + 2 * len(self.radii_for(*image_shape[-2:])))

    def logits(self, subject: Subject, start: int, images: Tensor) -> Iterator[Tensor]:
        """Logits of the original, then of LFC(r) and HFC(r) of each radius, for one batch."""
        return subject.components(
            start,
            images,
            self.radii_for(*subject.samples.image_shape[-2:]),
            closed=self.closed,
            units=self.units,
            background=self.hfc_background,
            rescale=self.rescale,
            axes=self.axes,
        )


def radius_unit(settings: Mapping[str, Any]) -> str:
    """Unit of the radii of a result with these settings.

    >>> radius_unit({"units": "nyquist"})
    '× Nyquist'
    """
    return "× Nyquist" if settings.get("units") == "nyquist" else "cycles/image"

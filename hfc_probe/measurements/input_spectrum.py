"""What the data offers: its mean spectrum, slope, and frequencies by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.drawing import HFC, LFC, bare, decades, map_pixels, spectrum_axes
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject

__all__ = ["InputSpectrum", "InputSpectrumResult"]


@dataclass(frozen=True)
class InputSpectrum(Measurement):
    """The data's mean power spectrum and radial slope, and what sets its classes apart.

    The model is not run. ADCS, the accumulative difference of class-wise average spectra,
    counts for each class and frequency the classes whose mean amplitude it exceeds minus
    those it falls below.

    Args:
        classes_shown: classes in the figure; the arrays have all of them.

    Raises:
        InputError: images smaller than 8 pixels, whose slope cannot be fitted.

    Source: van der Schaaf and van Hateren, Vision Research 1996 (spectra of natural images
    fall as 1/f^α, α about 2); Wang et al., ICCV 2023 (ADCS).
    """

    classes_shown: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.keep(self, classes_shown=checks.whole("classes_shown", self.classes_shown))

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None and min(image_shape[1:]) < 8:
            raise InputError(
                f"InputSpectrum: expected images of at least 8×8 pixels, got "
                f"{image_shape[1]}×{image_shape[2]}"
            )

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return 0

    def compute(self, subject: Subject) -> InputSpectrumResult:
        samples = subject.samples
        self.validate(subject.model, samples.image_shape)
        _, height, width = samples.image_shape
        classes, index = samples.targets.unique(return_inverse=True)
        power = torch.zeros(height, width, dtype=torch.float64, device="cpu")
        amplitude = torch.zeros(len(classes), height, width, dtype=torch.float64, device="cpu")
        start = 0
        with subject.progress(len(samples), "image") as advance:
            for images, targets in subject.batches():
                part = index[start : start + len(targets)]
                magnitude = torch.fft.fftshift(
                    fourier.transform(torch.fft.fft2, images).abs(), dim=(-2, -1)
                )
                power += magnitude.square().mean(1).sum(0).cpu().double()
                amplitude.index_add_(0, part, magnitude.mean(1).cpu().double())
                start += len(targets)
                advance(len(targets))
        count = torch.bincount(index)
        power /= len(samples) * (height * width) ** 2
        amplitude /= count[:, None, None] * height * width
        rings = fourier.radial_profile(power)
        half = min(height, width) // 2
        return InputSpectrumResult(
            settings=settings_of(self),
            samples=len(samples),
            classes=classes.numpy(),
            class_counts=count.numpy(),
            power=power.numpy(),
            radial=rings.numpy(),
            slope=slope(rings[1 : half + 1]),
            adcs=adcs(amplitude).numpy(),
        )


def slope(rings: Tensor) -> float:
    """α of power ~ 1/f^α by least squares in log-log, rings of 1, 2, … cycles per image.

    >>> round(slope(torch.arange(1.0, 9.0) ** -2), 3)
    2.0
    """
    frequency = torch.arange(1, len(rings) + 1, dtype=torch.float64, device=rings.device).log()
    level = rings.double().clamp_min(torch.finfo(torch.float64).tiny).log()
    frequency = frequency - frequency.mean()
    fitted = (frequency * (level - level.mean())).sum() / frequency.square().sum()
    return -float(fitted.item())


def adcs(amplitude: Tensor) -> Tensor:
    """Accumulative difference of class-wise average spectra.

    ``Σ_{j≠c} sign(E_c − E_j)`` at every frequency, E the mean amplitude spectrum of a class.

    Args:
        amplitude: ``(K, H, W)``.

    Returns:
        ``(K, H, W)``, whole numbers from 1 − K to K − 1.

    Source: Wang et al., ICCV 2023. Their code sums a class's spectra instead of averaging
    them, which ranks by class size if classes differ in it.

    >>> adcs(torch.tensor([3.0, 1.0, 2.0]).view(3, 1, 1)).flatten().tolist()
    [2.0, -2.0, 0.0]
    """
    out = torch.zeros_like(amplitude)
    for other in amplitude:
        out += torch.sign(amplitude - other)
    return out


@dataclass(frozen=True, eq=False)
class InputSpectrumResult(Result):
    """Spectra of the data, K classes that occur.

    ``arrays()``, spectra with DC at ``[H // 2, W // 2]``:

    - ``power`` (H, W): mean over images and channels of the squared DFT, divided by (H·W)²,
      so that it sums to the mean square of the pixels; ``radial`` (R,): its mean over rings
      one cycle wide;
    - ``classes``, ``class_counts`` (K,); ``adcs`` (K, H, W); ``class_radial`` (K, R): ADCS by
      ring; ``dominant`` (K,): the ring, in cycles per image, where a class stands out most;
    - ``slope``: α of power ~ 1/f^α up to Nyquist.
    """

    inches: ClassVar[tuple[float, float]] = (13.4, 4.2)

    classes: NDArray[np.int64]
    class_counts: NDArray[np.int64]
    power: NDArray[np.float64]
    radial: NDArray[np.float64]
    slope: float
    adcs: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        rings = fourier.radial_profile(torch.from_numpy(self.adcs)).numpy()
        half = min(self.power.shape) // 2
        return {
            "power": self.power,
            "radial": self.radial,
            "slope": np.asarray(self.slope),
            "classes": self.classes,
            "class_counts": self.class_counts,
            "adcs": self.adcs,
            "class_radial": rings,
            "dominant": np.argmax(rings[:, : half + 1], axis=1),
        }

    def share_within(self, radius: float) -> float:
        """Share of the energy without DC at ``d <= radius`` cycles per image."""
        distance = fourier.distance(*self.power.shape).numpy()
        other = distance > 0
        return float(self.power[other & (distance <= radius)].sum() / self.power[other].sum())

    def scalars(self) -> dict[str, float]:
        return {
            "hfc_input/slope": self.slope,
            "hfc_input/energy_within_quarter_nyquist": self.share_within(self.quarter),
        }

    def labels(self) -> dict[str, Label]:
        return {
            "hfc_input/slope": Label("the slope of the images' spectrum", "slope"),
            "hfc_input/energy_within_quarter_nyquist": Label(
                "the images' energy within a quarter of the Nyquist frequency",
                "share of energy",
                radius=self.quarter,
            ),
        }

    @property
    def quarter(self) -> float:
        """A quarter of the Nyquist frequency of the shorter side, in cycles per image."""
        return float(min(self.power.shape)) / 8

    def images(self) -> dict[str, Any]:
        return {"hfc_input/spectrum": map_pixels(decades(self.power), cmap="magma")}

    def draw_panels(self, figure: Any) -> None:
        """Mean spectrum, radial profile with its slope, and ADCS of each class."""
        shown = min(len(self.classes), int(self.settings["classes_shown"]))
        columns = min(shown, 5)
        rows = -(-shown // columns)
        parts: Any = figure.subfigures(1, 2, width_ratios=(8.2, 5.2))
        left, middle = parts[0].subplots(1, 2)
        spectrum_axes(left, self.power, "Mean power spectrum", "log10 of power")
        half = min(self.power.shape) // 2
        x = np.arange(1, half + 1)
        middle.loglog(x, self.radial[1 : half + 1], "o-", color=LFC, ms=4, label="mean over rings")
        centre = np.exp(np.log(self.radial[1 : half + 1]).mean())
        line = centre * (x / np.exp(np.log(x).mean())) ** -self.slope
        middle.loglog(x, line, "--", color=HFC, label=f"fit, 1/f^{self.slope:.2f}")
        middle.set_xlabel("frequency (cycles/image)")
        middle.set_ylabel("power")
        middle.set_title(f"Radial profile ({self.samples} images)")
        middle.legend(frameon=False, fontsize=9)
        bound = max(1, len(self.classes) - 1)
        grid = parts[1].subplots(rows, columns, squeeze=False)
        picture = None
        for k, axes in enumerate(np.ravel(grid)):
            bare(axes)
            if k < shown:
                picture = axes.imshow(
                    self.adcs[k], cmap="PuOr_r", vmin=-bound, vmax=bound, interpolation="nearest"
                )
                axes.set_title(f"class {self.classes[k]}", fontsize=9, pad=3)
        few = f" (first {shown} of {len(self.classes)})" if shown < len(self.classes) else ""
        parts[1].suptitle(f"ADCS by class{few}, DC in the middle")
        if picture is not None:
            bar = parts[1].colorbar(picture, ax=grid, shrink=0.8)
            bar.set_label("classes exceeded − classes above")

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = ["class", "images", "stands out most at (cycles/image)", "above others there by"]
        rows = []
        for k, label in enumerate(self.classes):
            ring = int(arrays["dominant"][k])
            above = float(arrays["class_radial"][k, ring])
            found = ["nowhere", ""]
            if above > 0:
                found = [str(ring), f"{above:+.1f} of {len(self.classes) - 1}"]
            rows.append([str(label), str(self.class_counts[k]), *found])
        return heads, rows

    def _title(self) -> str:
        return (
            f"Spectrum of {self.samples} images: power falls as 1/f^{self.slope:.2f}, "
            f"{100 * self.share_within(self.quarter):.1f} % of the energy without DC lies at "
            f"d ≤ {self.quarter:g} cycles/image"
        )

    def verdict(self) -> str:
        return (
            f"The data's power falls as 1/f^{self.slope:.2f} (natural images: about 2); "
            f"{100 * self.share_within(self.quarter):.1f} % of its energy without DC lies at "
            f"d ≤ {self.quarter:g} cycles/image, a quarter of Nyquist."
        )

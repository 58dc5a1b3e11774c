"""Spectra and smoothness of the first layer's kernels (Wang et al., CVPR 2020, §5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import fourier, kernels
from ..errors import InputError
from ..ranks import whole_weights
from .base import Measurement, Result, Subject, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# "High" is beyond half the Nyquist frequency: the outer half of the radial range.
HIGH_CYCLES_PER_PIXEL = 0.25
# Pictures and their tensors hold so many kernels; all 768 of a vision transformer, logged every
# 100 steps, would make event files of gigabytes.
_LOGGED = 64


@dataclass(frozen=True)
class KernelSpectra(Measurement):
    """Smoothness and power spectra of the kernels that see pixels. Needs no data.

    Args:
        layer: dotted name of the layer; None: the first that sees pixels
            (:func:`hfc_probe.kernels.first_layer`).
        size: points of the zero-padded transform along each axis; larger kernels raise it.
        layout: how a linear patch embedding's inputs were flattened
            (:func:`hfc_probe.kernels.weight_of`).

    Raises:
        InputError: a size below 2, an unknown layout.

    Source: Wang et al., CVPR 2020, §5 and Figures 3 and 7, which compare kernels by eye.
    """

    needs_data: ClassVar[bool] = False

    layer: str | None = None
    size: int = 32
    layout: kernels.Layout = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or self.size != int(self.size) or self.size < 2:
            raise InputError(f"size: expected a whole number of at least 2, got {self.size!r}")
        if self.layout not in ("auto", "channels_first", "channels_last"):
            raise InputError(
                f'layout: expected "auto", "channels_first" or "channels_last", got {self.layout!r}'
            )

    @property
    def variant(self) -> str:
        return self.layer or ""

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        kernels.first_layer(model, layer=self.layer)

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return 0

    def compute(self, subject: Subject) -> KernelSpectraResult:
        name, module = kernels.first_layer(subject.model, layer=self.layer)
        with whole_weights(subject.model):
            weight = kernels.weight_of(name, module, layout=self.layout)
        bad = int((~weight.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise InputError(
                f"weights: expected finite weights in layer {name!r}, got NaN or infinity in "
                f"{bad} of {len(weight)} kernels; the training has diverged"
            )
        dilation = kernels.dilation_of(module)
        extent = max(1 + (k - 1) * d for k, d in zip(weight.shape[-2:], dilation, strict=True))
        size = max(self.size, extent)
        spectra = kernels.spectrum(weight, size, dilation=dilation)
        power = spectra / spectra.sum((1, 2), keepdim=True)  # NaN for a kernel of zeros
        distance = kernels.cycles_per_pixel(size).to(power.dtype)
        high = power[:, distance > HIGH_CYCLES_PER_PIXEL].sum(1)
        rings = fourier.radial_profile(power)[:, : size // 2 + 1]
        return KernelSpectraResult(
            settings=settings_of(self) | {"size": size},
            samples=0,
            layer=name,
            layer_type=type(module).__name__,
            kernels=weight.numpy(),
            spectra=spectra.numpy(),
            smoothness=kernels.smoothness(weight).numpy(),
            high_frequency_ratio=high.numpy(),
            spectral_centroid=(power * distance).sum((1, 2)).numpy(),
            radial_profile=rings.numpy(),
        )


@dataclass(frozen=True, eq=False)
class KernelSpectraResult(Result):
    """One row per kernel, N kernels of C channels.

    ``arrays()``:

    - ``kernels`` (N, C, kh, kw), the weights;
    - ``spectra`` (N, S, S), power, DC at ``[S // 2, S // 2]``, S points per axis;
    - ``smoothness`` (N,) in [0, 1], see :func:`hfc_probe.kernels.smoothness`;
    - ``high_frequency_ratio`` (N,): share of the power beyond 0.25 cycles per pixel (half
      of Nyquist); an impulse, whose spectrum is flat, has 0.80;
    - ``spectral_centroid`` (N,): power-weighted mean distance from DC, cycles per pixel; an
      impulse has 0.38;
    - ``radial_profile`` (N, S // 2 + 1): mean share of power in rings 1 / S cycles per pixel
      wide, ``radial_frequency`` (S // 2 + 1,) in cycles per pixel.

    A kernel of zeros has NaN throughout and is left out of the means.
    """

    layer: str
    layer_type: str
    kernels: NDArray[np.float32]
    spectra: NDArray[np.float32]
    smoothness: NDArray[np.float32]
    high_frequency_ratio: NDArray[np.float32]
    spectral_centroid: NDArray[np.float32]
    radial_profile: NDArray[np.float32]

    @property
    def dead(self) -> int:
        """Number of kernels that are all zero."""
        return int(np.isnan(self.smoothness).sum())

    def arrays(self) -> dict[str, NDArray[Any]]:
        size = self.spectra.shape[-1]
        return {
            "kernels": self.kernels,
            "spectra": self.spectra,
            "smoothness": self.smoothness,
            "high_frequency_ratio": self.high_frequency_ratio,
            "spectral_centroid": self.spectral_centroid,
            "radial_profile": self.radial_profile,
            "radial_frequency": np.arange(self.radial_profile.shape[1]) / size,
        }

    @property
    def group(self) -> str:
        return f"{self.name}/{self.layer or 'model'}"

    @property
    def section(self) -> str:
        """First segment of its tags."""
        return f"hfc_{self.layer or 'model'}"

    def scalars(self) -> dict[str, float]:
        return {
            f"{self.section}/smoothness_mean": _mean(self.smoothness),
            f"{self.section}/high_frequency_ratio": _mean(self.high_frequency_ratio),
            f"{self.section}/spectral_centroid": _mean(self.spectral_centroid),
        }

    def histograms(self) -> dict[str, NDArray[Any]]:
        alive = self.smoothness[~np.isnan(self.smoothness)]
        return {f"{self.section}/smoothness": alive} if len(alive) else {}

    def images(self) -> dict[str, Any]:
        from ..plots import kernel_tiles, spectrum_tiles

        return {
            f"{self.section}/kernels": kernel_tiles(self.kernels[:_LOGGED]),
            f"{self.section}/spectra": spectrum_tiles(self.spectra[:_LOGGED]),
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        kept = super().tensors()
        return kept | {name: kept[name][:_LOGGED] for name in ("kernels", "spectra")}

    def figure(self) -> Figure:
        from ..plots import kernel_figure

        return kernel_figure(self)

    def axes(self) -> dict[str, dict[str, Any]]:
        size = self.spectra.shape[-1]
        kernel: dict[str, Any] = {"name": "kernel"}
        per_pixel = {"unit": "cycles/pixel", "values": fourier_axis(size)}
        cells = [{"name": "i", **per_pixel}, {"name": "j", **per_pixel}]
        taps = [{"name": name, "unit": "pixel"} for name in ("row", "column")]
        rings = {
            "name": "frequency",
            "unit": "cycles/pixel",
            "values": self.arrays()["radial_frequency"].tolist(),
        }
        what = {"layer": self.layer}
        return {
            "kernels": {"unit": "weight", "axes": [kernel, {"name": "channel"}, *taps], **what},
            "spectra": {"unit": "power", "axes": [kernel, *cells], **what},
            "smoothness": {"unit": "1", "axes": [kernel], **what},
            "high_frequency_ratio": {"unit": "1", "axes": [kernel], **what},
            "spectral_centroid": {"unit": "cycles/pixel", "axes": [kernel], **what},
            "radial_profile": {"unit": "share of power", "axes": [kernel, rings], **what},
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["quantity", "mean", "5th percentile", "95th percentile"]
        rows = []
        for label, values in (
            ("smoothness", self.smoothness),
            ("high-frequency ratio", self.high_frequency_ratio),
            ("spectral centroid (cycles/pixel)", self.spectral_centroid),
        ):
            alive = values[~np.isnan(values)]
            low, high = np.percentile(alive, (5, 95)) if len(alive) else (np.nan, np.nan)
            rows.append([label, *(f"{v:.3f}" for v in (_mean(values), low, high))])
        return heads, rows

    def _title(self) -> str:
        count, channels, height, width = self.kernels.shape
        dead = f", {self.dead} of them zero" if self.dead else ""
        return (
            f"Kernels of {self.layer or 'the model'} ({self.layer_type}): {count} of "
            f"{height}×{width} over {channels} channels{dead}"
        )

    def sentence(self) -> str:
        from ..summary import smoothness_words

        return (
            f"The kernels of {self.layer or 'the model'} have a mean smoothness of "
            f"{_mean(self.smoothness):.2f} (1 constant, 0.29 Gaussian noise) and "
            f"{100 * _mean(self.high_frequency_ratio):.0f} % of their power beyond "
            f"{HIGH_CYCLES_PER_PIXEL} cycles/pixel (an impulse: 80 %)"
            f"{smoothness_words(_mean(self.smoothness), max(self.kernels.shape[-2:]))}."
        )


def fourier_axis(size: int) -> list[float]:
    """Signed frequencies of a centred transform of ``size`` points, cycles per pixel."""
    return [float(f) / size for f in torch.fft.fftshift(fourier.frequencies(size))]


def _mean(values: NDArray[Any]) -> float:
    alive = values[~np.isnan(values)]
    return float(alive.mean()) if len(alive) else float("nan")

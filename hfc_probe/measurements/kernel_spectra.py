"""Spectra and smoothness of the first layer's kernels (Wang et al., CVPR 2020, §6.1).

Long because a measurement is one file: settings, spectra, result, sentence and figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import fourier, kernels, stem
from ..core.drawing import CLEAN, LFC, coloured, tile
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..ground import checks
from ..ground.errors import InputError
from ..model.isolation import isolated
from ..model.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KernelSpectra", "KernelSpectraResult"]

# "High" is beyond half the Nyquist frequency: the outer half of the radial range.
HIGH_CYCLES_PER_PIXEL = 0.25
# At most this many kernels in pictures and tensors: all 768 of a vision transformer, logged every
# 100 steps, would make event files of gigabytes.
_LOGGED = 64


@dataclass(frozen=True)
class KernelSpectra(Measurement):
    """Smoothness and power spectra of the kernels that see pixels. Needs no data.

    The kernels are those that act on the model's input: the response of the first layer's
    output at one place, measured by running the model up to there on one image (see
    :func:`hfc_probe.stem.measure`), or the weights of a plain convolution that reads the input
    itself, which are the same. What the model does to pixels before that layer is included,
    as long as it is linear: normalisation, patches, space to depth. Normalisation in the
    loader is not.

    Args:
        layer: dotted name of the layer; None: the first that sees pixels.
        size: points of the zero-padded transform along each axis; larger kernels raise it.
        layout: how a linear patch embedding's inputs were flattened
            (:func:`hfc_probe.kernels.weight_of`), if the model cannot be run.

    Raises:
        InputError: a size below 2, an unknown layout.

    Source: Wang et al., CVPR 2020, §6.1 and 6.2 and Figure 7, which compare kernels by eye.
    """

    needs_data: ClassVar[bool] = False

    layer: str | None = None
    size: int = 32
    layout: kernels.Layout = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.keep(self, size=checks.whole("size", self.size, 2, 4096))
        checks.choice("layout", self.layout, ("auto", "channels_first", "channels_last"))
        if self.layer is not None:
            checks.text("layer", self.layer, "the dotted name of a layer")

    @property
    def variant(self) -> str:
        return self.layer or ""

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        try:
            channels = image_shape[0] if image_shape else None
            kernels.first_layer(model, layer=self.layer, channels=channels)
        except InputError:
            if self.layer is not None or image_shape is None:
                raise
            with isolated(model) as inner:  # its modules' names do not tell: run it
                stem.measure(inner, None, image_shape)

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return 0

    def compute(self, subject: Subject) -> KernelSpectraResult:
        model, predict, shape = subject.model, subject.predict, subject.samples.image_shape
        found = stem.measure(
            model,
            None if predict is None else lambda images: predict(model, images),
            shape if min(shape[1:]) > 1 else None,  # without data, samples of one pixel stand in
            layer=self.layer,
            layout=self.layout,
        )
        weight, dilation = found.kernels, found.dilation
        bad = int((~weight.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise InputError(
                f"weights: expected finite weights in layer {found.name!r}, got NaN or infinity "
                f"in {bad} of {len(weight)} kernels; the training has diverged"
            )
        extent = max(1 + (k - 1) * d for k, d in zip(weight.shape[-2:], dilation, strict=True))
        size = max(self.size, extent)
        spacing = {} if tuple(dilation) == (1, 1) else {"dilation": list(dilation)}
        spectra = kernels.spectrum(weight, size, dilation=dilation)
        power = spectra / spectra.sum((1, 2), keepdim=True)  # NaN for a kernel of zeros
        distance = kernels.cycles_per_pixel(size).to(power.dtype)
        high = power[:, distance > HIGH_CYCLES_PER_PIXEL].sum(1)
        rings = fourier.radial_profile(power)[:, : size // 2 + 1]
        return KernelSpectraResult(
            settings=settings_of(self) | {"size": size} | spacing,
            samples=0,
            provenance={"caveats": list(found.caveats)},
            layer=found.name,
            layer_type=found.layer_type,
            obtained=found.obtained,
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

    ``layer`` and ``layer_type`` say which layer it was, ``obtained`` whether its weights were
    read or its response measured, and to what.

    ``arrays()``:

    - ``kernels`` (N, C, kh, kw), weights as they act on pixels;
    - ``spectra`` (N, S, S), power, DC at ``[S // 2, S // 2]``, S points per axis;
    - ``smoothness`` (N,) in [0, 1], see :func:`hfc_probe.kernels.smoothness`;
    - ``high_frequency_ratio`` (N,): share of the power beyond 0.25 cycles per pixel (half
      of Nyquist); an impulse, whose spectrum is flat, has 0.80;
    - ``spectral_centroid`` (N,): power-weighted mean distance from DC, cycles per pixel; an
      impulse has 0.38;
    - ``radial_profile`` (N, S // 2 + 1): mean share of power in rings 1 / S cycles per pixel
      wide, ``radial_frequency`` (S // 2 + 1,) in cycles per pixel.

    A kernel of zeros has NaN throughout and is left out of the means; if all are zeros, there
    are no scalars.
    """

    inches: ClassVar[tuple[float, float]] = (12.6, 4.4)

    layer: str
    layer_type: str
    kernels: NDArray[np.float32]
    spectra: NDArray[np.float32]
    smoothness: NDArray[np.float32]
    high_frequency_ratio: NDArray[np.float32]
    spectral_centroid: NDArray[np.float32]
    radial_profile: NDArray[np.float32]
    obtained: str = "weights"

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
        if self.dead == len(self.smoothness):
            return {}
        return {
            f"{self.section}/smoothness_mean": _mean(self.smoothness),
            f"{self.section}/high_frequency_ratio": _mean(self.high_frequency_ratio),
            f"{self.section}/spectral_centroid": _mean(self.spectral_centroid),
        }

    def labels(self) -> dict[str, Label]:
        of = f"of the kernels of {self.layer or 'the model'}"
        texts = {
            "smoothness_mean": ("the mean smoothness", "smoothness"),
            "high_frequency_ratio": ("the high-frequency power", "share of power"),
            "spectral_centroid": ("the spectral centroid (cycles/pixel)", "frequency"),
        }
        return {
            f"{self.section}/{name}": Label(f"{text} {of}", quantity)
            for name, (text, quantity) in texts.items()
        }

    def to_dict(self) -> dict[str, Any]:
        which = {"layer": self.layer, "layer_type": self.layer_type, "obtained": self.obtained}
        return super().to_dict() | which

    def histograms(self) -> dict[str, NDArray[Any]]:
        alive = self.smoothness[~np.isnan(self.smoothness)]
        return {f"{self.section}/smoothness": alive} if len(alive) else {}

    def images(self) -> dict[str, Any]:
        return {
            f"{self.section}/kernels": kernel_tiles(self.kernels[:_LOGGED]),
            f"{self.section}/spectra": spectrum_tiles(self.spectra[:_LOGGED]),
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        kept = super().tensors()
        return kept | {name: kept[name][:_LOGGED] for name in ("kernels", "spectra")}

    def draw_panels(self, figure: Any) -> None:
        """The kernels and their spectra as grids, and the mean radial profile."""
        shown = min(_KERNELS_SHOWN, len(self.kernels))
        rest = len(self.kernels) - shown
        first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        few = f" (first {shown} of {shown + rest})" if rest else ""
        pixels = kernel_tiles(self.kernels[:shown])
        first.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        kind = "colour: R, G, B weights" if pixels.ndim == 3 else "mean over channels"
        first.set_title(f"Kernels of {self.layer or 'the model'}{few}")
        first.set_xlabel(f"{kind}; grey is 0, each scaled by itself", fontsize=9)
        second.imshow(spectrum_tiles(self.spectra[:shown]), interpolation="nearest")
        second.set_title("Their power spectra")
        second.set_xlabel("DC in the middle, ±0.5 cycles/pixel; each scaled by itself", fontsize=9)
        for axes in (first, second):
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_visible(False)
        profile_axes(third, self)

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
        what = {"layer": self.layer, "layer_type": self.layer_type, "obtained": self.obtained}
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
            if len(alive):
                low, high = np.percentile(alive, (5, 95))
                rows.append([label, *(f"{v:.3f}" for v in (_mean(values), low, high))])
            else:
                rows.append([label, "–", "–", "–"])
        return heads, rows

    def _title(self) -> str:
        count, channels, height, width = self.kernels.shape
        dead = f", {self.dead} of them zero" if self.dead else ""
        return (
            f"Kernels of {self.layer or 'the model'} ({self.layer_type}): {count} of "
            f"{height}×{width} over {channels} channels{dead}, by their {self.obtained}"
        )

    def verdict(self) -> str:

        layer = self.layer or "the model"
        if self.dead == len(self.smoothness):
            return (
                f"All {self.dead} kernels of {layer} are zero: it passes nothing of the image on."
            )
        return (
            f"The kernels of {layer} have a mean smoothness of "
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


def _figure(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


# Mean smoothness of the first layers of four networks trained on CIFAR-10, measured with this
# library: ResNet-20 (3×3, 0.43), two small CNNs with BatchNorm (5×5, 0.41 and 0.45) and one
# without (3×3, 0.36). Untrained ones had 0.33 and 0.36.
REFERENCE_SMOOTHNESS = (0.36, 0.45)


_REFERENCE_SIZE = 5


def smoothness_words(mean: float, size: int) -> str:
    """How a layer's mean smoothness compares with the reference range; nothing for large kernels.

    >>> smoothness_words(0.63, 3)
    '; smoother than the 0.36 to 0.45 of four first layers trained on CIFAR-10'
    """
    low, high = REFERENCE_SMOOTHNESS
    if size > _REFERENCE_SIZE or not np.isfinite(mean):
        return ""
    where = "within"
    if round(mean, 2) < low:
        where = "rougher than"
    elif round(mean, 2) > high:
        where = "smoother than"
    return f"; {where} the {low:g} to {high:g} of four first layers trained on CIFAR-10"


_KERNELS_SHOWN = 64


def profile_axes(axes: Axes, result: KernelSpectraResult) -> None:
    arrays = result.arrays()
    x, profile = arrays["radial_frequency"], arrays["radial_profile"]
    alive = profile[~np.isnan(result.smoothness)]
    if len(alive):
        alive = alive / alive.max(1, keepdims=True)
        low, high = np.percentile(alive, (10, 90), axis=0)
        axes.fill_between(x, low, high, color=LFC, alpha=0.18, lw=0, label="10 to 90 % of kernels")
        axes.plot(x, alive.mean(0), color=LFC, lw=2.2, label="mean over kernels")
    axes.axvline(0.25, color=CLEAN, ls=":", lw=1.2)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("frequency (cycles/pixel)")
    axes.set_ylabel("power, relative to each kernel's peak")
    mean = result.scalars().get(f"{result.section}/smoothness_mean")
    axes.set_title(
        "All kernels are zero" if mean is None else f"Radial profile; mean smoothness {mean:.2f}"
    )
    if len(alive):
        axes.legend(frameon=False, fontsize=9)


def kernel_tiles(kernels: NDArray[Any]) -> NDArray[np.uint8]:
    """Kernels side by side: colour if there are three channels, else the channels' mean.

    Args:
        kernels: ``(N, C, kh, kw)``.

    Returns:
        ``(H, W, 3)`` or ``(H, W)`` uint8; 128 is weight 0, each kernel scaled by itself.
    """
    tiles = kernels if kernels.shape[1] == 3 else kernels.mean(1, keepdims=True)
    peak = np.abs(tiles).max((1, 2, 3), keepdims=True)
    grey = 128 + 127 * tiles / np.where(peak > 0, peak, 1)
    return tile(np.moveaxis(grey, 1, -1))


def spectrum_tiles(spectra: NDArray[Any]) -> NDArray[np.uint8]:
    """Power spectra ``(N, S, S)`` side by side, each scaled by its own peak, DC in the middle.

    Returns:
        ``(H, W, 3)`` uint8 in the magma map.
    """
    power = np.nan_to_num(spectra)
    peak = power.max((1, 2), keepdims=True)
    return tile(coloured(power / np.where(peak > 0, peak, 1), "magma"))

"""Which octave a model recognises objects by: critical-band masking (Subramanian et al., 2023).

Long because a measurement is one file: settings, noise, fit, result, sentence and figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.drawing import HFC, LFC
from ..core.intervals import percent, percent_at, proportion_arrays
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..data.noise import normal_noise
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, is_correct, target_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CriticalBand", "CriticalBandResult"]

# Fit to the average of 14 people at 224 pixels, as computed in the authors' published
# analysis/human_analysis.ipynb; the paper's abstract gives the bandwidth as one octave.
HUMAN_CENTRE, HUMAN_BANDWIDTH = 39.6, 1.0
_HUMAN_PIXELS = 224


@dataclass(frozen=True)
class CriticalBand(Measurement):
    """Accuracy under noise in octave bands; centre and bandwidth of the model's channel.

    Gaussian noise is band-passed to one octave, ``c/√2 < d <= c·√2``, and rescaled so that its
    root mean square is the same in every band. Each band's sensitivity is how many doublings
    below the strongest noise the accuracy falls to the threshold; a Gaussian over octaves is
    fitted to it, and its peak and full width at half maximum are the channel.

    The authors' code differs: it interpolates no threshold (here between strengths); it shifts
    image pixels so that noise fits in (here clipped to [0, 1]); its bands are levels of a
    Laplacian pyramid, which overlap (here cut sharply); and its strength is the standard
    deviation of white noise, whose finest level sets the root mean square of every band (here
    the strength is that root mean square).

    Args:
        strengths: root mean square of the noise in pixel values, increasing, above 0.
        centres: of the bands, cycles per image, increasing; None: min(H, W)/2 and its
            halves down to 1.75 (112 to 1.75 at 224 pixels, the paper's seven).
        contrast: contrast that images are reduced to first, about mean 0.449 where it is
            below 1; the paper's is 0.2, 1 leaves images as they are.
        grayscale: make images grey (luma) and the noise the same in every channel.
        threshold: accuracy that noise must push the model below; None: halfway between the
            accuracy without noise and chance, 1 / classes. The paper's is 0.5 in 16 classes.
        samples: maximum number of images, a seeded random choice.
        seed: of that choice and of the noise.

    Raises:
        InputError: settings outside those bounds; when measuring, centres beyond Nyquist.

    Source: Subramanian et al., NeurIPS 2023, and its code.
    """

    strengths: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16)
    centres: tuple[float, ...] | None = None
    contrast: float = 1.0
    grayscale: bool = False
    threshold: float | None = None
    samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        strengths = checks.numbers("strengths", self.strengths, high=1, open_low=True)
        contrast = checks.number("contrast", self.contrast, 0, 1, open_low=True)
        checks.keep(self, strengths=strengths, contrast=contrast)
        if self.centres is not None:
            checks.keep(self, centres=checks.numbers("centres", self.centres, open_low=True))
        if self.threshold is not None:
            threshold = checks.number("threshold", self.threshold, 0, 1, open_low=True)
            checks.keep(self, threshold=threshold)

    def centres_for(self, height: int, width: int) -> tuple[float, ...]:
        """Centres of the bands for images of that size.

        >>> CriticalBand().centres_for(32, 32)
        (2.0, 4.0, 8.0, 16.0)
        """
        nyquist = min(height, width) / 2
        if self.centres is None:
            count = int(math.log2(nyquist / 1.75)) + 1 if nyquist >= 1.75 else 0
            centres = tuple(nyquist / 2**k for k in reversed(range(count)))
        else:
            centres = self.centres
        if len(centres) < 3:
            raise InputError(
                f"centres: expected at least 3 bands to fit a channel to, got {len(centres)} for "
                f"{height}×{width} pixels"
            )
        if centres[-1] > nyquist:
            raise InputError(
                f"centres: expected at most {nyquist:g} cycles/image for {height}×{width} pixels, "
                f"got {centres[-1]:g}"
            )
        return centres

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.centres_for(*image_shape[1:])

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        cells = len(self.strengths) * len(self.centres_for(*image_shape[1:]))
        return min(samples, self.samples) * (1 + cells)

    def compute(self, subject: Subject) -> CriticalBandResult:
        subject = subject.subset(self.samples, self.seed)
        centres = self.centres_for(*subject.samples.image_shape[1:])
        count = len(subject.samples)
        clean, classes = 0, 0
        hits = np.zeros((len(self.strengths), len(centres)), np.int64)

        def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> tuple[int, int, Any]:
            prepared = self.prepared(images)
            if prepared is images:
                logits = subject.original(start, images)
            else:
                images, logits = prepared, subject.logits(prepared)
                if start == 0:
                    subject.check_targets(logits.shape[1])
            found = np.zeros_like(hits)
            white = normal_noise(self.seed, start, images, 1 if self.grayscale else None)
            for column, centre in enumerate(centres):
                noise = octave(white, centre)
                for row, strength in enumerate(self.strengths):
                    noisy = (images + strength * noise).clamp(0, 1)
                    hit = is_correct(subject, noisy, targets, f"noise at {centre:g}")
                    found[row, column] = int(hit.sum())
            return logits.shape[1], int((target_rank(logits, targets) < 1).sum()), found

        for classes, hit, found in subject.map(evaluate_batch):  # noqa: B007
            clean += hit
            hits += found
        chance = 1 / classes
        rate = clean / count
        threshold = (rate + chance) / 2 if self.threshold is None else self.threshold
        sensitivity = sensitivities(rate, hits / count, np.asarray(self.strengths), threshold)
        octaves = np.log2(np.asarray(centres))
        peak, centre, width = fit_channel(octaves, sensitivity)
        return CriticalBandResult(
            settings=settings_of(self) | {"centres": centres},
            samples=count,
            image_size=subject.samples.image_shape[1:],
            clean_right=clean,
            hits=hits,
            threshold=threshold,
            sensitivity=sensitivity,
            peak=peak,
            centre=float(2**centre),
            bandwidth=width,
        )

    def prepared(self, images: Tensor) -> Tensor:
        """Images at the contrast and in the colours that noise is added to."""
        if self.grayscale and images.shape[1] == 3:
            weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            images = (images * weights).sum(1, keepdim=True).expand_as(images)
        if self.contrast < 1:
            mean = images.mean((1, 2, 3), keepdim=True)
            images = ((images - mean) * self.contrast + 0.449).clamp(0, 1)
        return images


def octave(noise: Tensor, centre: float) -> Tensor:
    """Noise band-passed to the octave about a centre, of unit root mean square per image.

    Args:
        noise: ``(N, C, H, W)``.
        centre: in cycles per image; the band is ``centre/√2 < d <= centre·√2``.
    """
    # A hair further out, so that rounding does not put √8 into both of two adjacent octaves.
    low, high = (centre * factor * (1 + 1e-9) for factor in (1 / math.sqrt(2), math.sqrt(2)))
    below, upto = fourier.bands(noise, (low, high))
    band = upto[0] - below[0]
    rms = band.square().mean((1, 2, 3), keepdim=True).sqrt()
    return band / rms.clamp_min(1e-12)


def sensitivities(
    clean: float, rates: NDArray[np.float64], strengths: NDArray[np.float64], threshold: float
) -> NDArray[np.float64]:
    """Doublings of noise below the strongest at which accuracy falls to the threshold.

    Args:
        clean: accuracy without noise.
        rates: ``(S, B)`` accuracy by strength, increasing, and band.
        strengths: ``(S,)``.
        threshold: accuracy.

    Returns:
        ``(B,)``: 0 where even the strongest noise leaves it above the threshold; between two
        strengths by interpolation in log2 of the strength; below the weakest, up to 1 more.

    >>> rates = np.array([[0.9, 0.9], [0.9, 0.1]])
    >>> sensitivities(0.9, rates, np.array([0.1, 0.2]), 0.5).tolist()
    [0.0, 0.5]
    """
    levels = np.log2(strengths)
    # No noise is one doubling below the weakest strength: accuracy is known there as well.
    levels = np.concatenate([[levels[0] - 1], levels])
    out = np.zeros(rates.shape[1])
    for band in range(rates.shape[1]):
        curve = np.concatenate([[clean], rates[:, band]])
        if curve[-1] > threshold:
            continue
        last = int(np.flatnonzero(curve > threshold)[-1]) if (curve > threshold).any() else -1
        if last < 0:
            out[band] = levels[-1] - levels[0]
            continue
        fraction = (curve[last] - threshold) / (curve[last] - curve[last + 1])
        crossing = levels[last] + fraction * (levels[last + 1] - levels[last])
        out[band] = levels[-1] - crossing
    return out


def fit_channel(
    octaves: NDArray[np.float64], sensitivity: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Least-squares Gaussian over octaves: ``(peak, centre, full width at half maximum)``.

    The centre is kept within half an octave of the bands, the width to four times their
    range; NaN where no band is sensitive.

    >>> x = np.arange(7.0)
    >>> peak, centre, width = fit_channel(x, 3 * np.exp(-((x - 4.5) ** 2) / (2 * 0.8**2)))
    >>> print(f"{peak:.2f} {centre:.2f} {width:.2f}")
    3.00 4.50 1.88
    """
    if not (sensitivity > 0).any():
        return math.nan, math.nan, math.nan

    def peaks(mean: Any, log_width: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of Gaussians: the peak, which enters linearly, and the squares that it explains."""
        found = np.exp(-((octaves - mean[..., None]) ** 2) / (2 * np.exp(2 * log_width[..., None])))
        squares = np.maximum((found**2).sum(-1), 1e-12)
        return found @ sensitivity / squares, (found @ sensitivity) ** 2 / squares

    low = np.array([octaves[0] - 0.5, math.log(0.15)])
    high = np.array([octaves[-1] + 0.5, math.log(4 * (octaves[-1] - octaves[0]))])
    best, reach = (low + high) / 2, (high - low) / 2
    strongest = octaves[sensitivity.argmax()]
    # The whole range first, so that no local minimum is taken for the least; then ever closer.
    for points in (201, *(21,) * 40):
        begin, end = (best - reach).clip(low, high), (best + reach).clip(low, high)
        grid = np.meshgrid(*np.linspace(begin, end, points).T, indexing="ij")
        # One sensitive band alone does not settle the centre: it is then the band.
        far = 1e-8 * (grid[0] - strongest) ** 2
        least = np.unravel_index(np.argmax(peaks(*grid)[1] * (1 - far)), grid[0].shape)
        best, reach = (
            np.array([side[least] for side in grid]),
            reach * (0.05 if points > 21 else 0.6),
        )
    mean, log_width = best
    width = 2 * math.sqrt(math.log(4)) * math.exp(log_width)
    return float(peaks(mean, log_width)[0]), float(mean), width


@dataclass(frozen=True, eq=False)
class CriticalBandResult(Result):
    """Counts of right predictions under band noise, S strengths and B bands.

    ``arrays()``:

    - ``strengths`` (S,) in pixel values, ``centres`` (B,) in cycles per image;
    - ``accuracy`` (S, B) and ``clean`` with ``_lower``, ``_upper`` (95 % Wilson), ``_correct``,
      ``_count``;
    - ``sensitivity`` (B,) in octaves of noise, see :func:`sensitivities`.

    Attributes:
        threshold: the accuracy that noise had to push the model below.
        peak: of the fitted channel, in octaves of noise.
        centre: of the fitted channel, in cycles per image.
        bandwidth: its full width at half maximum, in octaves.
    """

    inches: ClassVar[tuple[float, float]] = (11.0, 4.3)

    image_size: tuple[int, int]
    clean_right: int
    hits: NDArray[np.int64]
    threshold: float
    sensitivity: NDArray[np.float64]
    peak: float
    centre: float
    bandwidth: float

    def original(self) -> tuple[int, int, int]:
        return self.clean_right, self.samples, 1

    @property
    def centres(self) -> tuple[float, ...]:
        return tuple(self.settings["centres"])

    @property
    def human_centre(self) -> float:
        """The human channel's centre, scaled to the size of these images."""
        return HUMAN_CENTRE * min(self.image_size) / _HUMAN_PIXELS

    @property
    def band_limited(self) -> bool:
        """Whether the fit says where the channel ends: within the bands measured."""
        span = math.log2(self.centres[-1] / self.centres[0])
        edge = self.centres[0] * 1.01 < self.centre < self.centres[-1] * 0.99
        return bool(math.isfinite(self.centre) and edge and self.bandwidth <= 1.5 * span)

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {
            "strengths": np.asarray(self.settings["strengths"]),
            "centres": np.asarray(self.centres),
            "sensitivity": self.sensitivity,
        }
        out |= proportion_arrays("accuracy", self.hits, self.samples)
        return out | proportion_arrays("clean", self.clean_right, self.samples)

    def scalars(self) -> dict[str, float]:
        out = {
            "hfc_channel/centre": self.centre,
            "hfc_channel/bandwidth": self.bandwidth,
            "hfc_channel/peak": self.peak,
        }
        return {tag: value for tag, value in out.items() if math.isfinite(value)}

    def labels(self) -> dict[str, Label]:
        return {
            "hfc_channel/centre": Label("the channel's centre (cycles/image)", "frequency"),
            "hfc_channel/bandwidth": Label("the channel's bandwidth (octaves)", "bandwidth"),
            "hfc_channel/peak": Label("the channel's peak (octaves of noise)", "sensitivity"),
        }

    def draw_panels(self, figure: Any) -> None:
        """Accuracy by band and strength, and the channel fitted to the sensitivities."""
        arrays = self.arrays()
        centres = arrays["centres"]
        strengths = arrays["strengths"]
        panels: Any = figure.subplots(1, 2, width_ratios=(1, 1.05))
        picture = panels[0].imshow(
            arrays["accuracy"][::-1], cmap="viridis", vmin=0, vmax=1, aspect="auto"
        )
        for row in range(len(strengths)):
            for column in range(len(centres)):
                value = arrays["accuracy"][len(strengths) - 1 - row, column]
                panels[0].text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="black" if value > 0.55 else "white",
                )
        panels[0].set_xticks(range(len(centres)), [f"{c:g}" for c in centres])
        panels[0].set_yticks(range(len(strengths)), [f"{s:g}" for s in strengths[::-1]])
        panels[0].set_xlabel("centre of the noise's octave (cycles/image)")
        panels[0].set_ylabel("noise (RMS, pixel values)")
        panels[0].set_title(f"Accuracy, {percent(float(arrays['clean']))} without noise")
        figure.colorbar(picture, ax=panels[0], pad=0.02).set_label("accuracy")
        _channel_axes(panels[1], self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = ["noise (RMS)", *(f"{centre:g} cycles/image" for centre in self.centres)]
        clean = percent_at(arrays, "clean")
        rows = [["none", clean, *[""] * (len(self.centres) - 1)]]
        for row, strength in enumerate(self.settings["strengths"]):
            cells = [percent_at(arrays, "accuracy", row, k) for k in range(len(self.centres))]
            rows.append([f"{strength:g}", *cells])
        rows.append(["sensitivity", *(f"{value:.2f}" for value in self.sensitivity)])
        return heads, rows

    def _title(self) -> str:
        return (
            f"Accuracy under octave-band noise, {self.samples} images, threshold "
            f"{percent(self.threshold)}, 95 % Wilson intervals"
        )

    def verdict(self) -> str:
        clean = self.clean_right / self.samples
        if clean <= self.threshold:
            return (
                f"Accuracy is {percent(clean)} without any noise, not above the threshold of "
                f"{percent(self.threshold)}, so that no noise pushes it below; lower threshold=."
            )
        if not math.isfinite(self.centre):
            strongest = self.settings["strengths"][-1]
            return (
                f"Noise of {strongest:g} in no octave pushes accuracy below "
                f"{percent(self.threshold)}; raise strengths= to find the channel."
            )
        human = (
            f"people's is {HUMAN_BANDWIDTH:g} octave wide at about {self.human_centre:.0f} "
            "cycles/image of an image this size"
        )
        if not self.band_limited:
            k = int(np.argmax(self.sensitivity))
            return (
                f"Noise hurts most at {self.centres[k]:g} cycles/image, but the channel does not "
                f"end within the octaves measured ({human})."
            )
        return (
            f"The model's channel is centred at {self.centre:.1f} cycles/image and "
            f"{self.bandwidth:.1f} octaves wide ({human})."
        )


def _channel_axes(axes: Axes, result: CriticalBandResult) -> None:
    centres = np.asarray(result.centres)
    axes.plot(centres, result.sensitivity, "o", color=LFC, label="model, measured")
    x = np.exp2(np.linspace(np.log2(centres[0]) - 0.5, np.log2(centres[-1]) + 0.5, 200))
    full = 2 * np.sqrt(np.log(4))
    if np.isfinite(result.centre):
        spread = result.bandwidth / full
        fit = np.exp(-(np.log2(x / result.centre) ** 2) / (2 * spread**2))
        label = f"model, {result.bandwidth:.1f} octaves about {result.centre:.1f}"
        axes.plot(x, result.peak * fit, "-", color=LFC, label=label)

    spread = HUMAN_BANDWIDTH / full
    top = max(float(np.nanmax(result.sensitivity)), 1.0)
    human = np.exp(-(np.log2(x / result.human_centre) ** 2) / (2 * spread**2))
    label = f"people, {HUMAN_BANDWIDTH:g} octave about {result.human_centre:.1f} (height arbitrary)"
    axes.plot(x, top * human, "--", color=HFC, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(centres, [f"{c:g}" for c in centres])
    axes.set_xlabel("frequency (cycles/image)")
    axes.set_ylabel("sensitivity (octaves of noise)")
    axes.set_ylim(0, 1.45 * top)
    axes.set_title(f"Channel at a threshold of {percent(result.threshold)}")
    axes.legend(frameon=False, fontsize=9, loc="upper left")

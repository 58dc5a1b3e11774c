"""Error under common corruptions: published folders, or frequency corruptions made on the fly.

Long because a measurement is one file, and this one reads published folders and makes its own
corruptions.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC
from ..core.intervals import percent, percent_at, proportion_arrays, wilson
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..data.noise import normal_noise
from ..data.samples import Samples
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, target_rank
from .fourier_heatmap.settings import default_norm

__all__ = ["CorruptionAccuracy", "CorruptionAccuracyResult"]

# The fifteen that mean corruption error is defined over (Hendrycks and Dietterich, ICLR 2019).
COMMON = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
# Made here; names that no published set uses, so that results are not mistaken for theirs.
GENERATED = (
    "fourier_wave_low",
    "fourier_wave_middle",
    "fourier_wave_high",
    "band_noise_low",
    "band_noise_middle",
    "band_noise_high",
)
SEVERITIES = 5
# Parts of the Nyquist frequency that low, middle and high span.
_THIRDS = {"low": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "high": (2 / 3, 1.0)}
# Root mean square of the band noise in pixel values, and shares of the heatmap's norm.
_NOISE = (0.02, 0.04, 0.06, 0.09, 0.12)
_WAVE = (0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class CorruptionAccuracy(Measurement):
    """Error by corruption and severity; mean error, and mCE against a baseline's errors.

    The fifteen common corruptions are read from the published files and not made here: no
    library that makes them is maintained (imagecorruptions 1.1.2, the latest, needs
    pkg_resources, which setuptools has dropped; imagenet-c needs ImageMagick).

    Args:
        folder: CIFAR-10-C as published (``<corruption>.npy`` of 5 × n images, ``labels.npy``)
            or ImageNet-C (``<corruption>/<severity>/<class>/`` with images, already at the
            size they are evaluated at). None: frequency corruptions made on the fly from the
            samples, additive Fourier waves and band noise; their names and numbers are not
            comparable with published ones, and no mCE is given for them.
        corruptions: names; None: the fifteen of the mCE (or all that are generated).
        severities: from 1 to 5.
        baseline: errors of a reference model by corruption, for the mCE: one per severity
            (of the five, or of ``severities``), or one number, the mean over all five, as
            papers print them for AlexNet (as a share, not in per cent). One number does for all
            five severities only: errors grow with severity, and a mean over five against a few
            is no comparison.
        samples: maximum number of images of each corruption and severity, a seeded choice.
        seed: of that choice and of what is generated.

    Raises:
        InputError: unknown names, severities outside 1 to 5, a baseline that lacks a
            corruption, has errors outside (0, 1] or is a mean over other severities; when
            measuring, files that are missing
            (named), or of another length or form.

    Source: Hendrycks and Dietterich, ICLR 2019 (mCE); Yin et al., NeurIPS 2019 (waves).
    """

    folder: str | None = None
    corruptions: tuple[str, ...] | None = None
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    baseline: Mapping[str, Any] | None = None
    samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder is not None:
            checks.keep(self, folder=checks.path("folder", self.folder))
        known = GENERATED if self.folder is None else None
        names = self.corruptions
        if names is None:
            names = GENERATED if self.folder is None else COMMON
        names = tuple(checks.text("corruptions", n, "names") for n in checks.listed(names))
        unknown = [name for name in names if known is not None and name not in known]
        if unknown or not names:
            got = checks.shown(unknown) if unknown else "none"
            raise InputError(
                f"corruptions: expected some of {', '.join(GENERATED)} without a folder, got "
                f"{got}; pass folder= with the published files"
            )
        object.__setattr__(self, "corruptions", names)
        severities = checks.wholes("severities", self.severities, maximum=5)
        checks.keep(self, severities=severities)
        if self.baseline is not None:
            if self.folder is None:
                raise InputError(
                    "baseline: expected with a folder of published corruptions, got it without "
                    "one; errors on generated corruptions have no published baseline"
                )
            for name in names:
                _baseline_error(self.baseline, name, severities)

    # A mapping among the settings cannot be hashed; measurements are keys of a schedule.
    def __hash__(self) -> int:
        return hash((self.folder, self.corruptions, self.severities, self.samples, self.seed))

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if self.folder is not None:
            _check_folder(Path(self.folder), self._names, self.severities)

    @property
    def _names(self) -> tuple[str, ...]:
        assert self.corruptions is not None
        return self.corruptions

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        sets = len(self._names) * len(self.severities)
        own = min(samples, self.samples)
        theirs = own
        if self.folder is not None:
            theirs = min(self.samples, _length(Path(self.folder), self._names[0]))
        return own + theirs * sets

    def compute(self, subject: Subject) -> CorruptionAccuracyResult:
        self.validate(subject.model, None)
        subject = subject.subset(self.samples, self.seed)
        samples = subject.samples
        shape = (len(self._names), len(self.severities))
        wrong, count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        clean = 0
        total = 1 + shape[0] * shape[1]
        with subject.progress(total, "set") as advance:
            clean = _errors(subject, None, "original")
            advance(1)
            for row, name in enumerate(self._names):
                sets: Iterator[tuple[Samples, _Change | None]]
                if self.folder is None:
                    sets = ((samples, self._change(name, s)) for s in self.severities)
                else:
                    read = _read(Path(self.folder), name, self.severities, self.samples, self.seed)
                    sets = ((part, None) for part in read)
                for column, (part, change) in enumerate(sets):
                    if part.image_shape != samples.image_shape:
                        raise InputError(
                            f"folder: expected images of {_size(samples)} as in data, got "
                            f"{_size(part)} in {name}"
                        )
                    wrong[row, column] = _errors(replace(subject, samples=part), change, name)
                    count[row, column] = len(part)
                    advance(1)
        return CorruptionAccuracyResult(
            settings=settings_of(self),
            samples=len(samples),
            clean_wrong=clean,
            wrong=wrong,
            count=count,
        )

    def _change(self, name: str, severity: int) -> _Change:
        kind, _, third = name.rpartition("_")
        low, high = _THIRDS[third]

        def noise(start: int, images: Tensor) -> Tensor:
            half = min(images.shape[-2:]) / 2
            white = normal_noise(self.seed, start, images)
            # Without DC, which is brightness and not noise.
            below, upto = fourier.bands(white, (low * half, high * half))
            band = upto[0] - below[0]
            rms = band.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            return images + _NOISE[severity - 1] * band / rms

        def wave(start: int, images: Tensor) -> Tensor:
            height, width = images.shape[-2:]
            half = min(height, width) / 2
            norm = _WAVE[severity - 1] * default_norm(height, width)
            inside = _frequencies(height, width, low * half, high * half)
            signs, waves = [], []
            for k in range(len(images)):
                rng = np.random.default_rng((self.seed, start + k))
                i, j = inside[int(rng.integers(len(inside)))]
                signs.append(2.0 * rng.integers(0, 2, size=images.shape[1]) - 1)
                waves.append(fourier.basis(i, j, height, width))
            sign = torch.from_numpy(np.stack(signs)).to(images)[..., None, None]
            return images + norm * sign * torch.stack(waves).to(images)[:, None]

        return noise if kind == "band_noise" else wave


@functools.lru_cache(maxsize=16)
def _frequencies(height: int, width: int, low: float, high: float) -> tuple[tuple[int, int], ...]:
    """One (i, j) of each pair ±(i, j) with ``low < d <= high``."""
    pairs = fourier.half_plane(height, width)
    return tuple((i, j) for i, j in pairs if low < math.hypot(i, j) <= high)


_Change = Callable[[int, Tensor], Tensor]


def _errors(subject: Subject, change: _Change | None, what: str) -> int:
    def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> int:
        if what == "original":
            logits = subject.original(start, images)
        else:
            if change is not None:
                images = change(start, images).clamp(0, 1)
            logits = subject.logits(images, what)
            if start == 0 and change is None:
                subject.check_targets(logits.shape[1])
        return int((target_rank(logits, targets) > 0).sum())

    return sum(subject.map(evaluate_batch, advance=lambda n: None))


def _size(samples: Samples) -> str:
    return "×".join(str(n) for n in samples.image_shape)


def _baseline_error(
    baseline: Mapping[str, Any], name: str, severities: tuple[int, ...]
) -> NDArray[np.float64]:
    if not isinstance(baseline, Mapping):
        raise InputError(
            f"baseline: expected errors by corruption, a mapping, got {checks.shown(baseline)}"
        )
    if name not in baseline:
        raise InputError(
            f"baseline: expected errors for every corruption, got none for {name!r}; leave it out "
            "of corruptions= or add it"
        )
    value = np.array(checks.numbers(f"baseline: {name}", baseline[name], increasing=False))
    sizes = {1, SEVERITIES} if np.ndim(baseline[name]) == 0 else {len(severities), SEVERITIES}
    if value.size not in sizes or not ((value > 0) & (value <= 1)).all():
        raise InputError(
            f"baseline: expected one error or {len(severities)} above 0 and up to 1 for {name}, "
            f"got {baseline[name]!r}"
        )
    if np.ndim(baseline[name]) == 0:
        if len(severities) < SEVERITIES:
            raise InputError(
                f"baseline: expected an error of each severity for {name}, since severities= are "
                f"{', '.join(map(str, severities))} of {SEVERITIES}, got one number, the mean "
                "over all; pass a list, or measure all severities"
            )
        return np.full(SEVERITIES, value)
    return value if value.size == len(severities) else value[np.asarray(severities) - 1]


def _check_folder(folder: Path, names: tuple[str, ...], severities: tuple[int, ...]) -> bool:
    """Whether it is of npy files; raises for what is missing."""
    if not folder.is_dir():
        raise InputError(
            "folder: expected CIFAR-10-C or ImageNet-C files, got "
            f"{checks.shown(str(folder))}, no folder"
        )
    arrays = (folder / "labels.npy").is_file() or any(folder.glob("*.npy"))
    if arrays:
        needed = ["labels.npy", *(f"{name}.npy" for name in names)]
        missing = [name for name in needed if not (folder / name).is_file()]
    else:
        needed = [f"{name}/{severity}" for name in names for severity in severities]
        missing = [name for name in needed if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"folder: expected {len(needed)} files or folders in {folder}, missing "
            f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}; name those there in "
            "corruptions="
        )
    return arrays


def _read(
    folder: Path, name: str, severities: tuple[int, ...], limit: int, seed: int
) -> Iterator[Samples]:
    """One set of samples per severity, the same images of each."""
    if not _check_folder(folder, (name,), severities):
        yield from _read_images(folder, name, severities, limit, seed)
        return
    images = _load(folder / f"{name}.npy")
    labels = _load(folder / "labels.npy")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise InputError(
            f"folder: expected uint8 images (5 × n, H, W, 3) in {name}.npy, got "
            f"{images.dtype} {images.shape}"
        )
    if len(images) % SEVERITIES or len(labels) not in (len(images), len(images) // SEVERITIES):
        raise InputError(
            f"folder: expected {name}.npy to hold {SEVERITIES} severities of the images that "
            f"labels.npy labels, got {len(images)} images and {len(labels)} labels"
        )
    size = len(images) // SEVERITIES
    index = np.arange(size)
    if limit < size:
        index = np.sort(np.random.default_rng(seed).choice(size, limit, replace=False))
    for severity in severities:
        rows = (severity - 1) * size + index
        picked = np.ascontiguousarray(np.moveaxis(images[rows], -1, 1))
        truth = labels[rows if len(labels) == len(images) else index].astype(np.int64)
        yield Samples(torch.from_numpy(picked), torch.from_numpy(truth), "random")


def _length(folder: Path, name: str) -> int:
    """Images of each severity in published arrays; a tree of files is not counted: many."""
    if not _check_folder(folder, (name,), (1,)):
        return sys.maxsize
    return len(_load(folder / f"{name}.npy")) // SEVERITIES


def _load(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"folder: expected a NumPy array in {path.name}, got a file that cannot be read as one"
        ) from error


def _read_images(
    folder: Path, name: str, severities: tuple[int, ...], limit: int, seed: int
) -> Iterator[Samples]:
    from torchvision import datasets, transforms

    from ..data.samples import PixelSpace

    for severity in severities:
        root = folder / name / str(severity)
        try:
            data = datasets.ImageFolder(str(root), transforms.ToTensor())
        except (FileNotFoundError, OSError) as error:
            raise InputError(
                f"folder: expected one folder of images per class in {root}: {error}"
            ) from error
        yield Samples.collect(data, pixels=PixelSpace(), limit=limit, seed=seed)


@dataclass(frozen=True, eq=False)
class CorruptionAccuracyResult(Result):
    """Counts of errors, C corruptions and S severities.

    ``arrays()``:

    - ``error`` (C, S) and ``clean_error``, with ``_lower``, ``_upper`` (95 % Wilson),
      ``_correct`` (here: errors) and ``_count``;
    - ``severities`` (S,); ``mean_error`` and its bounds (Wilson over all images that were
      looked at, which counts an image once per corruption: take it as a lower bound of the
      width); ``mce`` if a baseline was given, in multiples of the baseline (1 is as good).
      Papers on CIFAR-10-C often call the mean error mCE: compare those with ``mean_error``.
    """

    clean_wrong: int
    wrong: NDArray[np.int64]
    count: NDArray[np.int64]

    def original(self) -> tuple[int, int, int]:
        return self.samples - self.clean_wrong, self.samples, 1

    @property
    def corruptions(self) -> tuple[str, ...]:
        return tuple(self.settings["corruptions"])

    @property
    def severities(self) -> tuple[int, ...]:
        return tuple(self.settings["severities"])

    @property
    def generated(self) -> bool:
        return self.settings["folder"] is None

    @property
    def mean_error(self) -> float:
        """Unweighted mean of the error over corruptions and severities."""
        return float((self.wrong / self.count).mean())

    @property
    def mce(self) -> float | None:
        """Mean over corruptions of the summed error divided by the baseline's; None without.

        The published quantity is over the fifteen of ``COMMON`` and all five severities;
        :attr:`mce_label` says if it is over others.
        """
        baseline = self.settings["baseline"]
        if baseline is None:
            return None
        errors = self.wrong / self.count
        ratios = []
        for row, name in enumerate(self.corruptions):
            reference = _baseline_error(baseline, name, self.severities)
            ratios.append(errors[row].sum() / reference.sum())
        return float(np.mean(ratios))

    @property
    def mce_label(self) -> str:
        """``mCE``, and over what if it is not the published fifteen at five severities."""
        if set(self.corruptions) == set(COMMON) and len(self.severities) == SEVERITIES:
            return "mCE"
        count = len(self.corruptions)
        return (
            f"mCE over {count} corruption{'s' if count != 1 else ''}, severities "
            f"{', '.join(map(str, self.severities))} (published: {len(COMMON)}, all {SEVERITIES})"
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {"severities": np.asarray(self.severities)}
        out |= proportion_arrays("error", self.wrong, self.count)
        out |= proportion_arrays("clean_error", self.clean_wrong, self.samples)
        low, high = wilson(self.mean_error * self.count.sum(), self.count.sum())
        out |= {
            "mean_error": np.asarray(self.mean_error),
            "mean_error_lower": low,
            "mean_error_upper": high,
        }
        if self.mce is not None:
            out["mce"] = np.asarray(self.mce)
        return out

    @property
    def _section(self) -> str:
        return "hfc_generated_corruption" if self.generated else "hfc_corruption"

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        out = {
            f"{self._section}/clean_error": float(arrays["clean_error"]),
            f"{self._section}/mean_error": self.mean_error,
        }
        for row, name in enumerate(self.corruptions):
            out[f"{self._section}/{name}"] = float(arrays["error"][row].mean())
        if self.mce is not None:
            out[f"{self._section}/mce"] = self.mce
        return out

    def labels(self) -> dict[str, Label]:
        def of(name: str, text: str) -> tuple[str, Label]:
            return f"{self._section}/{name}", Label(text, "error rate")

        found = [of(name, f"the error under {name.replace('_', ' ')}") for name in self.corruptions]
        found.append(of("clean_error", "the error on the original images"))
        found.append(of("mean_error", "the mean error over corruptions"))
        mce = Label("the error relative to the baseline model's (mCE)", "mCE")
        return dict(found) | ({} if self.mce is None else {f"{self._section}/mce": mce})

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays = self.arrays()
        out = {
            f"{self._section}/{name}": (
                float(arrays[f"{name}_lower"]),
                float(arrays[f"{name}_upper"]),
            )
            for name in ("clean_error", "mean_error")
        }
        for row, name in enumerate(self.corruptions):
            total = self.count[row].sum()
            mean = (self.wrong[row] / self.count[row]).mean()
            low, high = wilson(mean * total, total)
            out[f"{self._section}/{name}"] = (float(low), float(high))
        return out

    def figure_inches(self) -> tuple[float, float]:
        return 9.6, 1.8 + 0.34 * len(self.corruptions)

    def draw_panels(self, figure: Any) -> None:
        """Error by corruption and severity as a map, and the mean by corruption."""
        arrays = self.arrays()
        names = [name.replace("_", " ") for name in self.corruptions]
        clean = float(arrays["clean_error"])
        panels: Any = figure.subplots(1, 2, sharey=True, width_ratios=(1.1, 1))
        picture = panels[0].imshow(arrays["error"], cmap="viridis", vmin=0, vmax=1, aspect="auto")
        panels[0].set_xticks(range(len(self.severities)), [str(s) for s in self.severities])
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_xlabel("severity")
        panels[0].set_title("Error by severity")
        figure.colorbar(picture, ax=panels[0], pad=0.02).set_label("error rate")
        mean = arrays["error"].mean(1)
        section = "hfc_generated_corruption" if self.generated else "hfc_corruption"
        bounds = self.intervals()
        low, high = np.array([bounds[f"{section}/{name}"] for name in self.corruptions]).T
        panels[1].barh(
            range(len(names)),
            mean,
            color=LFC,
            xerr=[np.maximum(mean - low, 0), np.maximum(high - mean, 0)],
            capsize=3,
            ecolor="black",
        )
        panels[1].axvline(clean, color=CLEAN, ls=":", label=f"clean {percent(clean)}")
        panels[1].axvline(
            self.mean_error, color=HFC, ls="--", label=f"mean {percent(self.mean_error)}"
        )
        panels[1].set_xlim(0, 1)
        panels[1].set_xlabel("mean error over severities")
        kind = "generated" if self.generated else "published"
        panels[1].set_title(f"{kind} corruptions".capitalize())
        panels[1].legend(
            frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()

        heads = ["corruption", *(f"severity {s}" for s in self.severities), "mean error"]
        rows = [["none", *[""] * len(self.severities), percent_at(arrays, "clean_error")]]
        for row, name in enumerate(self.corruptions):
            cells = [percent_at(arrays, "error", row, k) for k in range(len(self.severities))]
            rows.append([name, *cells, percent(float(arrays["error"][row].mean()))])
        rows.append(["mean", *[""] * len(self.severities), percent_at(arrays, "mean_error")])
        if self.mce is not None:
            rows.append([self.mce_label, *[""] * len(self.severities), percent(self.mce)])
        return heads, rows

    def _title(self) -> str:
        source = "generated here, not CIFAR-10-C or ImageNet-C" if self.generated else "published"
        return (
            f"Error under corruptions ({source}), {int(self.count.max())} images each, "
            "95 % Wilson intervals"
        )

    def verdict(self) -> str:
        errors = (self.wrong / self.count).mean(1)
        worst, second = (int(k) for k in (*np.argsort(-errors, kind="stable"), 0)[:2])
        lower, upper = wilson(self.wrong.sum(1), self.count.sum(1))
        clean = percent(self.clean_wrong / self.samples)
        text = (
            f"Mean error under {'generated ' if self.generated else ''}corruptions is "
            f"{percent(self.mean_error)} against {clean} clean; it is largest under "
            f"{self.corruptions[worst]} ({percent(float(errors[worst]))})"
        )
        if len(errors) > 1 and lower[worst] <= upper[second]:
            text += (
                f", without a clear difference from {self.corruptions[second]} "
                f"({percent(float(errors[second]))})"
            )
        if self.mce is not None:
            text += f"; {self.mce_label}: {percent(self.mce)} of the baseline"
        return text + "."

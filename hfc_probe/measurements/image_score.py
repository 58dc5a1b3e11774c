"""Any score on low- and high-frequency components by radius, for any task."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.components import ComponentMeasurement, radius_unit
from ..core.drawing import CLEAN, HFC, LFC, radius_axis
from ..core.event_file import radius_tag
from ..core.labels import Label
from ..core.measurement import settings_of
from ..core.result import Arrays, Result, manner
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject
from .score_targets import check_rows, is_clean, name_of, targets_of
from .scores import SCORES, SetScore, score_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SCORES", "ImageScore", "ImageScoreResult", "SetScore"]

_SERIES = ("original", "lfc", "hfc", "lfc_difference", "hfc_difference")
_CLASSES = 40  # of a table
_AT_ONCE = 50  # resamples of a set


@dataclass(frozen=True)
class ImageScore(ComponentMeasurement):
    """A score on the original images, on LFC(r) and on HFC(r): any model, any task.

    :class:`FrequencyAccuracy` is the special case of accuracy, with counts and Wilson intervals.

    Args:
        score: ``score(outputs, targets) -> (N,)``; a :class:`SetScore`, which is no mean over
            images; or one of :data:`SCORES`: ``accuracy``; ``exact_match``, ``label_accuracy``
            and ``mean_average_precision`` (multi-label); ``mean_iou`` of each image and
            ``set_iou`` (logits ``(N, K, H, W)``); ``absolute_error``, ``rmse`` and ``abs_rel``
            (regression, depth); ``psnr`` and ``ssim`` (image to image); ``cosine`` (embeddings).
        targets: what the score compares with, ``(M, …)``; the samples' own targets are then the
            rows of it that belong to the images, as in ``Samples(images, torch.arange(M))``. None:
            the samples' own targets. ``"clean"``: the model's outputs on the original images.
        label: the score's name in tags and figures; None: its own.
        classes: names of the classes or labels, for a score that has values by class.
        bootstrap: resamples of the images, for 95 % intervals.
        seed: of the resamples.
        radii, hfc_background, closed, units, rescale, axes: as for :class:`FrequencyAccuracy`.

    Raises:
        InputError: a score that is neither a function nor one of :data:`SCORES`.
    """

    needs_logits: ClassVar[bool] = False
    any_shape: ClassVar[bool] = True

    score: Any = field(default="accuracy", kw_only=True)
    targets: Any = field(default=None, kw_only=True, compare=False, repr=False)
    label: str | None = field(default=None, kw_only=True)
    classes: tuple[str, ...] | None = field(default=None, kw_only=True)
    bootstrap: int = field(default=2000, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        found = score_named(self.score)
        name = getattr(found, "__name__", "score") if found is self.score else self.score
        name = name.strip("<>")
        if self.classes is not None:
            checks.keep(self, classes=tuple(map(str, checks.listed(self.classes))))
        checks.keep(self, bootstrap=checks.whole("bootstrap", self.bootstrap, 100))
        checks.keep(self, label=checks.text("label", self.label or name))

    @property
    def variant(self) -> str:
        return str(self.label)

    def compute(self, subject: Subject) -> ImageScoreResult:
        samples = subject.samples
        radii = self.radii_for(*samples.image_shape[-2:])
        score = score_named(self.score)
        clean = is_clean(self.targets)
        check_rows(self.targets, samples.targets)
        rows_of = score.rows if isinstance(score, SetScore) else score
        background = samples.mean if self.hfc_background == "mean" else None

        def scored(start: int, images: Tensor, rows: Tensor) -> NDArray[np.float64]:
            several = isinstance(score, SetScore)
            views = fourier.components(
                images,
                radii,
                closed=self.closed,
                units=self.units,
                background=background,
                rescale=self.rescale,
                axes=self.axes,
            )
            found, targets = [], None if clean else targets_of(self.targets, rows)
            for view in views:
                outputs = subject.answer(view.images, tensor=isinstance(self.score, str))
                if targets is None:
                    targets = outputs  # the original comes first
                values = torch.as_tensor(rows_of(outputs, targets))
                fits = values.shape[:1] == (len(images),) and values.dim() == 1 + several
                if not fits or not bool(values.isfinite().all()):
                    raise InputError(
                        f"score: expected {'finite rows' if several else 'a finite number'} for "
                        f"each of {len(images)} images, got shape {tuple(values.shape)}"
                        f"{'' if values.isfinite().all() else ', NaN'}" + _of_a_set(values, several)
                    )
                found.append(values.double().cpu().numpy())
            return np.stack(found)

        parts = list(subject.map(scored))
        widths = sorted({part.shape[2:] for part in parts})
        if len(widths) > 1:
            raise InputError(
                f"score: expected as many numbers in the rows of all images, got "
                f"{' and '.join(str(n) for (n,) in widths[:2])}; for outputs of several sizes make "
                "a SetScore of rows= that do not depend on it"
            )
        values = np.concatenate(parts, axis=1)
        estimates = None
        if isinstance(score, SetScore):
            estimates = _estimates(score, values, self.bootstrap, self.seed)
            values = values[:, :0, 0]
        return ImageScoreResult(
            settings=settings_of(self)
            | {"radii": radii, "score": self.label, "targets": name_of(self.targets)},
            samples=len(samples),
            radii=np.asarray(radii, dtype=np.float64),
            values=values,
            estimates=estimates,
        )


def _of_a_set(values: Tensor, several: bool) -> str:
    whole = not several and values.dim() == 0
    return "; wrap a metric of all images in hfc_probe.SetScore" if whole else ""


def _resamples(count: int, bootstrap: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Weights of images drawn with replacement, by resample."""
    rng = np.random.default_rng(seed)
    for _ in range(bootstrap):
        yield np.bincount(rng.integers(0, count, count), minlength=count) / count


def _estimates(
    score: SetScore, views: NDArray[np.float64], bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Value and bounds of the original, LFC, HFC and their differences, by class as well.

    Args:
        views: rows ``(1 + 2R, N, S)``.
    """
    count = views.shape[1]

    def series(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.stack([np.atleast_2d(score.value(rows, weights)) for rows in views], 1)
        original, low, high = found[:, :1], found[:, 1::2], found[:, 2::2]
        return np.concatenate([original, low, high, low - original, high - original], 1)

    drawn, parts = _resamples(count, bootstrap, seed), []
    while some := list(islice(drawn, _AT_ONCE)):
        parts.append(series(np.stack(some)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is in no image
        low, high = np.nanquantile(np.concatenate(parts), (0.025, 0.975), axis=0)
    (value,) = series(np.full((1, count), 1 / count))
    return np.stack([value, np.fmin(low, value), np.fmax(high, value)])


@dataclass(frozen=True, eq=False)
class ImageScoreResult(Result):
    """The score of each image in each view; means and intervals follow.

    ``arrays()``, R radii: ``radii`` (R,); ``original``, ``lfc`` (R,), ``hfc`` (R,), and
    ``lfc_difference``, ``hfc_difference`` (R,) to the original, image by image; each with
    ``_lower`` and ``_upper`` (95 %, bootstrap over images); ``values`` (1 + 2R, N). A score of the
    set has no values by image; if it has K classes, each of the others is there as
    ``…_by_class`` with a last axis of K, NaN for a class that is in no image.

    Attributes:
        values: ``(1 + 2R, N)``: originals, then LFC and HFC of each radius; N = 0 for a score of
            the set.
        estimates: ``(3, 1 + 4R, 1 + K)`` of a score of the set: value and bounds, of the original,
            LFC, HFC and the two differences, overall and by class.
    """

    inches: ClassVar[tuple[float, float]] = (6.4, 4.2)

    radii: NDArray[np.float64]
    values: NDArray[np.float64]
    estimates: NDArray[np.float64] | None = None

    def arrays(self) -> Arrays:
        values = self.values
        out: Arrays = {"radii": self.radii}
        if self.estimates is not None:
            bounds = [0, 1, *(1 + n * len(self.radii) for n in range(1, 5))]
            for k, name in enumerate(_SERIES):
                of = self.estimates[:, bounds[k] : bounds[k + 1]]
                for suffix, found in zip(("", "_lower", "_upper"), of, strict=True):
                    for word, part in (("", found[:, 0]), ("_by_class", found[:, 1:])):
                        if part.size:
                            out[name + word + suffix] = part[0] if name == "original" else part
            return out
        series = {"original": values[:1], "lfc": values[1::2], "hfc": values[2::2]}
        series |= {f"{part}_difference": series[part] - values[:1] for part in ("lfc", "hfc")}
        means: dict[str, list[NDArray[np.float64]]] = {name: [] for name in series}
        for weights in _resamples(
            values.shape[1], self.settings["bootstrap"], self.settings["seed"]
        ):
            for name, rows in series.items():
                means[name].append(rows @ weights)
        out["values"] = values
        for name, rows in series.items():
            low, high = np.quantile(np.stack(means[name]), (0.025, 0.975), axis=0)
            for suffix, found in (("", rows.mean(1)), ("_lower", low), ("_upper", high)):
                out[name + suffix] = found[0] if name == "original" else found
        return out

    def _cells(self) -> list[tuple[str, str, tuple[int, ...], float | None]]:
        base = f"hfc_{self.settings['label']}"
        cells: list[tuple[str, str, tuple[int, ...], float | None]] = [
            (f"{base}/original", "original", (), None)
        ]
        for name in _SERIES[1:]:
            cells += [
                (f"{base}_{name}/{radius_tag(float(r))}", name, (k,), float(r))
                for k, r in enumerate(self.radii)
            ]
        return cells

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        return {tag: float(arrays[name][at]) for tag, name, at, _ in self._cells()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays = self.arrays()
        return {
            tag: (float(arrays[f"{name}_lower"][at]), float(arrays[f"{name}_upper"][at]))
            for tag, name, at, _ in self._cells()
        }

    def labels(self) -> dict[str, Label]:
        out, word = {}, self.settings["label"]
        for tag, name, _, radius in self._cells():
            part, _, difference = name.partition("_")
            shown = "the original images" if radius is None else f"{part.upper()}({radius:g})"
            text = f"{word} on {shown}{' less that on the original images' if difference else ''}"
            quantity = f"{word} difference" if difference else word
            out[tag] = Label(text, quantity, part, radius)
        return out

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays, word = self.arrays(), self.settings["label"]

        def cell(name: str, *at: int) -> str:
            value, low, high = (arrays[name + part][at] for part in ("", "_lower", "_upper"))
            return f"{value:.4g} [{low:.4g}, {high:.4g}]"

        heads = [
            f"radius ({radius_unit(self.settings)})",
            f"{word} on LFC",
            f"{word} on HFC",
            "LFC − original",
            "HFC − original",
        ]
        rows = [["original image", cell("original"), "", "", ""]]
        names = _SERIES[1:]
        for k, radius in enumerate(self.radii):
            rows.append([f"{radius:g}", *(cell(name, k) for name in names)])
        middle = len(self.radii) // 2
        for k in range(min(len(arrays.get("original_by_class", ())), _CLASSES)):
            named = self.settings["classes"]
            head = f"{named[k] if named else f'class {k}'} at {self.radii[middle]:g}"
            rows.append([head, *(cell(f"{name}_by_class", middle, k) for name in names)])
        return heads, rows

    def verdict(self) -> str:
        arrays, k, word = self.arrays(), len(self.radii) // 2, self.settings["label"]
        unit = radius_unit(self.settings)
        say = partial("{:.4g} [{:.4g}, {:.4g}]".format)
        low, high, whole = (
            say(*(np.atleast_1d(arrays[name + s])[at] for s in ("", "_lower", "_upper")))
            for name, at in (("lfc", k), ("hfc", k), ("original", 0))
        )
        return (
            f"At {self.radii[k]:g} {unit} low frequencies alone give {word} {low}, high ones alone "
            f"{high}; original images give {whole} ({manner(self.settings)})."
        )

    def draw(self, axes: Axes) -> None:
        """The score on LFC and HFC against radius, with intervals as bands."""
        arrays = self.arrays()
        for name, colour, style in (("lfc", LFC, "-"), ("hfc", HFC, "--")):
            low, high = arrays[f"{name}_lower"], arrays[f"{name}_upper"]
            axes.fill_between(self.radii, low, high, color=colour, alpha=0.18, lw=0)
            label = name.upper()
            axes.plot(self.radii, arrays[name], style, marker="o", color=colour, label=label)
        axes.axhline(float(arrays["original"]), color=CLEAN, lw=1.2, ls=":", label="original")
        radius_axis(axes, self.radii, radius_unit(self.settings))
        axes.set_ylabel(self.settings["label"])
        axes.set_title(f"{self.settings['label']} by frequency ({self.samples} images, 95 %)")
        axes.legend(frameon=False, fontsize=9)

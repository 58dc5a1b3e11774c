"""Any score of single images on low- and high-frequency components by radius, for any task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.components import ComponentMeasurement, radius_unit
from ..core.drawing import CLEAN, HFC, LFC
from ..core.event_file import radius_tag
from ..core.labels import Label
from ..core.measurement import settings_of
from ..core.result import Arrays, Result, manner
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SCORES", "ImageScore", "ImageScoreResult"]

Score = Callable[[Any, Any], Tensor]


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float()


def _exact_match(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == targets.bool()).all(1).float()


def _mean_iou(outputs: Tensor, targets: Tensor) -> Tensor:
    classes = outputs.shape[1]
    valid = (targets >= 0) & (targets < classes)  # 255 and the like are not judged
    said = torch.where(valid, outputs.argmax(1), classes)
    true = torch.where(valid, targets.long(), classes)

    def masks(of: Tensor) -> Tensor:
        return torch.stack([(of == k).flatten(1) for k in range(classes)], 1)

    both = (masks(said) & masks(true)).sum(2)
    either = (masks(said) | masks(true)).sum(2)
    present = either > 0
    return (both / either.clamp_min(1)).sum(1) / present.sum(1).clamp_min(1)


def _per_image(values: Tensor) -> Tensor:
    """Means of ``(N, …)`` over all but the images; also of one value an image, ``(N,)``."""
    return values.reshape(len(values), -1).mean(1)


def _absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _per_image((outputs.reshape(targets.shape) - targets).abs())


def _psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    error = _per_image((outputs - targets).square())
    return -10 * error.clamp_min(1e-10).log10()  # of images in [0, 1]; at most 100 dB


def _cosine(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(outputs.flatten(1), targets.flatten(1))


SCORES: Mapping[str, Score] = {
    "accuracy": _correct,
    "exact_match": _exact_match,
    "mean_iou": _mean_iou,
    "absolute_error": _absolute_error,
    "psnr": _psnr,
    "cosine": _cosine,
}


@dataclass(frozen=True)
class ImageScore(ComponentMeasurement):
    """A score of every image on the original, on LFC(r) and on HFC(r): any model, any task.

    :class:`FrequencyAccuracy` is the special case of accuracy, with counts and Wilson intervals.

    Args:
        score: ``score(outputs, targets) -> (N,)``, or one of :data:`SCORES`: ``accuracy``,
            ``exact_match`` (multi-label), ``mean_iou`` (logits ``(N, K, H, W)``),
            ``absolute_error`` (regression, depth), ``psnr`` (image to image), ``cosine``
            (embeddings).
        targets: what the score compares with, ``(M, …)``; the samples' own targets are then the
            rows of it that belong to the images, as in ``Samples(images, torch.arange(M))``. None:
            the samples' own targets. ``"clean"``: the model's outputs on the original images.
        label: the score's name in tags and figures; None: its own.
        bootstrap: resamples of the images, for 95 % intervals.
        seed: of the resamples.
        radii, hfc_background, closed, units, rescale: as for :class:`FrequencyAccuracy`.

    Raises:
        InputError: a score that is neither a function nor one of :data:`SCORES`.
    """

    needs_logits: ClassVar[bool] = False

    score: Any = field(default="accuracy", kw_only=True)
    targets: Any = field(default=None, kw_only=True, compare=False, repr=False)
    label: str | None = field(default=None, kw_only=True)
    bootstrap: int = field(default=2000, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.score):
            name = getattr(self.score, "__name__", "score").strip("<>")
        else:
            name = checks.choice("score", self.score, tuple(SCORES))
        checks.keep(self, bootstrap=checks.whole("bootstrap", self.bootstrap, 100))
        checks.keep(self, label=checks.text("label", self.label or name))

    @property
    def variant(self) -> str:
        return str(self.label)

    def compute(self, subject: Subject) -> ImageScoreResult:
        samples = subject.samples
        radii = self.radii_for(*samples.image_shape[1:])
        score = self.score if callable(self.score) else SCORES[self.score]
        background = samples.mean if self.hfc_background == "mean" else None

        def scored(start: int, images: Tensor, rows: Tensor) -> NDArray[np.float64]:
            views = fourier.components(
                images,
                radii,
                closed=self.closed,
                units=self.units,
                background=background,
                rescale=self.rescale,
            )
            found, targets = [], self._targets(rows)
            for view in views:
                outputs = subject.answer(view.images)
                if targets is None:
                    targets = outputs  # the original comes first
                values = torch.as_tensor(score(outputs, targets))
                if values.shape != (len(images),) or not bool(values.isfinite().all()):
                    raise InputError(
                        f"score: expected a finite number for each of {len(images)} images, got "
                        f"shape {tuple(values.shape)}{'' if values.isfinite().all() else ', NaN'}"
                    )
                found.append(values.double().cpu().numpy())
            return np.stack(found)

        values = np.concatenate(list(subject.map(scored)), axis=1)
        return ImageScoreResult(
            settings={k: v for k, v in settings_of(self).items() if k != "targets"}
            | {"radii": radii, "score": self.label},
            samples=len(samples),
            radii=np.asarray(radii, dtype=np.float64),
            values=values,
        )

    def _targets(self, rows: Tensor) -> Any:
        if isinstance(self.targets, str) and self.targets == "clean":
            return None
        if self.targets is None:
            return rows
        known = torch.as_tensor(self.targets)
        if int(rows.max()) >= len(known):
            raise InputError(
                f"targets: expected a row for each image, got {len(known)} and an image of row "
                f"{int(rows.max())}; give the images as Samples(images, torch.arange(len(images)))"
            )
        return known[rows.cpu()].to(rows.device)


@dataclass(frozen=True, eq=False)
class ImageScoreResult(Result):
    """The score of each image in each view; means and intervals follow.

    ``arrays()``, R radii: ``radii`` (R,); ``original``, ``lfc`` (R,), ``hfc`` (R,), and
    ``lfc_difference``, ``hfc_difference`` (R,) to the original, image by image; each with
    ``_lower`` and ``_upper`` (95 %, bootstrap over images); ``values`` (1 + 2R, N).

    Attributes:
        values: ``(1 + 2R, N)``: originals, then LFC and HFC of each radius.
    """

    inches: ClassVar[tuple[float, float]] = (6.4, 4.2)

    radii: NDArray[np.float64]
    values: NDArray[np.float64]

    def arrays(self) -> Arrays:
        values = self.values
        series = {"original": values[:1], "lfc": values[1::2], "hfc": values[2::2]}
        series |= {f"{part}_difference": series[part] - values[:1] for part in ("lfc", "hfc")}
        count = values.shape[1]
        rng = np.random.default_rng(self.settings["seed"])
        means: dict[str, list[NDArray[np.float64]]] = {name: [] for name in series}
        for _ in range(self.settings["bootstrap"]):
            weights = np.bincount(rng.integers(0, count, count), minlength=count) / count
            for name, rows in series.items():
                means[name].append(rows @ weights)
        out: Arrays = {"radii": self.radii, "values": values}
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
        for name in ("lfc", "hfc", "lfc_difference", "hfc_difference"):
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
            value, low, high = (arrays[name + s][at] for s in ("", "_lower", "_upper"))
            return f"{value:.4g} [{low:.4g}, {high:.4g}]"

        heads = [
            f"radius ({radius_unit(self.settings)})",
            f"{word} on LFC",
            f"{word} on HFC",
            "LFC − original",
            "HFC − original",
        ]
        rows = [["original image", cell("original"), "", "", ""]]
        names = ("lfc", "hfc", "lfc_difference", "hfc_difference")
        for k, radius in enumerate(self.radii):
            rows.append([f"{radius:g}", *(cell(name, k) for name in names)])
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
        axes.set_xlabel(f"radius r ({radius_unit(self.settings)})")
        axes.set_xticks(self.radii)
        axes.set_ylabel(self.settings["label"])
        axes.set_title(f"{self.settings['label']} by frequency ({self.samples} images, 95 %)")
        axes.legend(frameon=False, fontsize=9)

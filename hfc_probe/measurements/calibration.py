"""Calibration and out-of-distribution detection on LFC and HFC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.components import ComponentMeasurement, radius_unit
from ..core.drawing import CLEAN, HFC, LFC, radius_axis
from ..core.event_file import radius_tag
from ..core.labels import Label, accuracy_label
from ..core.measurement import settings_of
from ..core.result import CellResult, manner
from ..data.samples import Samples
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, target_rank

__all__ = ["Calibration", "CalibrationResult"]


@dataclass(frozen=True)
class Calibration(ComponentMeasurement):
    """ECE on the original, LFC(r) and HFC(r), and how well confidence separates them.

    The expected calibration error compares confidence (the largest softmax probability) with
    accuracy in equal bins of confidence. The AUROC is that of telling the original images
    from others, LFC(r), HFC(r) or a second data set, by confidence: 1 where every original is
    more confident than every other image, 0.5 where confidence says nothing.

    Args:
        radii, hfc_background, closed, units, rescale, axes: as :class:`FrequencyAccuracy`; a second
            data set is rescaled as well.
        bins: of the ECE.
        ood: a second data set's samples, of the same shape; its labels are not looked at.
        resamples: of the bootstrap that gives the 95 % intervals.
        seed: of the bootstrap.

    Raises:
        InputError: settings outside their bounds; when measuring, a second data set of another
            image shape.

    Source: Guo et al., ICML 2017 (ECE); Hendrycks and Gimpel, ICLR 2017 (max-softmax). The code
    of Chen et al., ICCV 2021, has the AUROC of a second data set, by the largest logit.
    """

    bins: int = 15
    ood: Samples | None = None
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bins", "resamples"):
            checks.keep(self, **{name: checks.whole(name, getattr(self, name))})
        if self.ood is not None and not isinstance(self.ood, Samples):
            raise InputError(
                f"ood: expected Samples(images, targets), got {type(self.ood).__name__}; "
                "Samples.collect(loader, pixels=…) makes them"
            )

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if self.ood is None or image_shape is None:
            return
        if self.ood.image_shape != image_shape:
            raise InputError(
                f"ood: expected images of shape {image_shape} as in data, got "
                f"{self.ood.image_shape}; resize them"
            )

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return super().cost(samples, image_shape) + (0 if self.ood is None else len(self.ood))

    def compute(self, subject: Subject) -> CalibrationResult:
        samples = subject.samples
        self.validate(subject.model, samples.image_shape)
        radii = self.radii_for(*samples.image_shape[1:])
        views = ["original", *(f"{part}_{r:g}" for r in radii for part in ("lfc", "hfc"))]

        def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> Tensor:
            rows = []  # confidence, and 1 where right, of every view
            for logits in self.logits(subject, start, images):
                if start == 0:
                    subject.check_scale(logits)
                rows += [
                    logits.cpu().double().softmax(1).amax(1),
                    (target_rank(logits, targets) < 1).cpu().double(),
                ]
            return torch.stack(rows)

        def look_at_ood(start: int, images: Tensor, targets: Tensor) -> Tensor:
            logits = subject.logits(fourier.rescaled(images, self.rescale), "out-of-distribution")
            return logits.cpu().double().softmax(1).amax(1)

        rows = torch.cat(list(subject.map(evaluate_batch)), 1)
        confidence = dict(zip(views, rows[::2].numpy(), strict=True))
        hits = dict(zip(views, rows[1::2].bool().numpy(), strict=True))
        if self.ood is not None:
            others_subject = replace(subject, samples=self.ood)
            confidence["ood"] = torch.cat(list(others_subject.map(look_at_ood))).numpy()
        others = [name for name in confidence if name != "original"]
        bounded = partial(
            bootstrap_interval, rng=np.random.default_rng(self.seed), resamples=self.resamples
        )
        error = partial(expected_calibration_error, bins=self.bins)
        ece = [bounded(error, (confidence[n], hits[n]), paired=True) for n in views]
        auroc = [
            bounded(area_under_roc, (confidence["original"], confidence[n]), paired=False)
            for n in others
        ]
        return CalibrationResult(
            settings=settings_of(self)
            | {"radii": radii, "ood": None if self.ood is None else f"{len(self.ood)} images"},
            samples=len(samples),
            radii=np.asarray(radii, np.float64),
            labelled=tuple(views),
            others=tuple(others),
            ece=np.array(ece),
            auroc=np.array(auroc),
            confidence=np.array([confidence[n].mean() for n in views]),
            accuracy=np.array([hits[n].mean() for n in views]),
        )


def expected_calibration_error(
    confidence: NDArray[np.float64], is_correct: NDArray[np.bool_], bins: int = 15
) -> float:
    """ECE in [0, 1], from confidences and whether each prediction was correct.

    >>> sure = np.array([0.9, 0.9, 0.6, 0.6])
    >>> round(expected_calibration_error(sure, np.array([True, True, True, False])), 3)
    0.1
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(places, is_correct, bins) - np.bincount(places, confidence, bins)
    return float(np.abs(gap).sum() / len(confidence))


def area_under_roc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """AUROC of telling ``inside`` from ``outside`` by larger scores; ties count half.

    >>> area_under_roc(np.array([0.9, 0.8]), np.array([0.1, 0.8]))
    0.875
    """
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left")
    upto = np.searchsorted(ordered, inside, "right")
    return float((below + upto).mean() / 2 / len(outside))


def bootstrap_interval(
    statistic: Callable[..., float],
    samples: tuple[NDArray[Any], ...],
    *,
    paired: bool,
    rng: np.random.Generator,
    resamples: int,
) -> tuple[float, float, float]:
    """A statistic with its percentile-bootstrap 95 % interval."""
    found = []
    for _ in range(resamples):
        if paired:
            index = rng.integers(0, len(samples[0]), len(samples[0]))
            drawn = [s[index] for s in samples]
        else:
            drawn = [s[rng.integers(0, len(s), len(s))] for s in samples]
        found.append(statistic(*drawn))
    value = statistic(*samples)
    low, high = np.percentile(found, (2.5, 97.5))
    # ECE is biased upwards in resamples; the interval still has to hold the estimate.
    return value, min(float(low), value), max(float(high), value)


@dataclass(frozen=True, eq=False)
class CalibrationResult(CellResult):
    """ECE per view and AUROC against the original images, R radii.

    ``arrays()``:

    - ``radii`` (R,); ``ece_original``, ``ece_lfc``, ``ece_hfc`` ((), (R,), (R,)) in [0, 1],
      with ``_lower``, ``_upper`` (95 % bootstrap); ``confidence_…``, ``accuracy_…`` likewise;
    - ``auroc_lfc``, ``auroc_hfc`` (R,) and, with a second data set, ``auroc_ood``, with the
      bounds.
    """

    inches: ClassVar[tuple[float, float]] = (10.4, 4.3)

    radii: NDArray[np.float64]
    labelled: tuple[str, ...]
    others: tuple[str, ...]
    ece: NDArray[np.float64]
    auroc: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def original(self) -> tuple[int, int, int]:
        return round(float(self.accuracy[0]) * self.samples), self.samples, 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {"radii": self.radii}
        for part, offset in (("lfc", 0), ("hfc", 1)):
            for k, variant in enumerate(("", "_lower", "_upper")):
                out[f"ece_{part}{variant}"] = self.ece[1 + offset :: 2, k][: len(self.radii)]
                out[f"auroc_{part}{variant}"] = self.auroc[offset::2, k][: len(self.radii)]
            out[f"confidence_{part}"] = self.confidence[1 + offset :: 2]
            out[f"accuracy_{part}"] = self.accuracy[1 + offset :: 2]
        for k, variant in enumerate(("", "_lower", "_upper")):
            out[f"ece_original{variant}"] = np.asarray(self.ece[0, k])
            if "ood" in self.others:
                out[f"auroc_ood{variant}"] = np.asarray(self.auroc[-1, k])
        out["confidence_original"] = np.asarray(self.confidence[0])
        out["accuracy_original"] = np.asarray(self.accuracy[0])
        return out

    def cells(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        yield "hfc_calibration/ece_original", "ece_original", ()
        for k, radius in enumerate(self.radii):
            tag = radius_tag(float(radius))
            for kind in ("ece", "auroc"):
                for part in ("lfc", "hfc"):
                    yield f"hfc_calibration/{kind}_{part}_{tag}", f"{kind}_{part}", (k,)
        if "ood" in self.others:
            yield "hfc_calibration/auroc_ood", "auroc_ood", ()

    def labels(self) -> dict[str, Label]:
        kinds = {"ece": "the calibration error", "auroc": "the AUROC against the original images"}
        out = {}
        for tag, name, at in self.cells():
            kind, _, part = name.partition("_")
            if part == "ood":
                out[tag] = Label("the AUROC against the second data set", "AUROC")
            else:
                radius = float(self.radii[at[0]]) if at else None
                text = accuracy_label(part, radius, quantity=kinds[kind]).text
                out[tag] = Label(text, kind.upper(), part, radius)
        return out

    def draw_panels(self, figure: Any) -> None:
        """ECE and AUROC against radius, with bootstrap intervals."""
        arrays = self.arrays()
        panels: Any = figure.subplots(1, 2)
        for axes, kind, title, label in (
            (panels[0], "ece", "Calibration", "expected calibration error"),
            (panels[1], "auroc", "Told from the original by confidence", "AUROC"),
        ):
            for part, colour, style in (("lfc", LFC, "-"), ("hfc", HFC, "--")):
                low, line, high = (arrays[f"{kind}_{part}{v}"] for v in ("_lower", "", "_upper"))
                axes.fill_between(self.radii, low, high, color=colour, alpha=0.18, lw=0)
                name = f"{part.upper()}(r)"
                axes.plot(self.radii, line, style, marker="o", color=colour, label=name)
            radius_axis(axes, self.radii, radius_unit(self.settings))
            axes.set_ylabel(label)
            axes.set_title(title)
            axes.set_ylim(0, 1.02)
        original = float(arrays["ece_original"])
        panels[0].axhline(original, color=CLEAN, ls=":", label=f"original {original:.3f}")
        panels[1].axhline(0.5, color=CLEAN, ls=":", label="confidence says nothing")
        if "ood" in self.others:
            ood = float(arrays["auroc_ood"])
            panels[1].axhline(ood, color="#009E73", ls="-.", label=f"second data set {ood:.3f}")
        for axes in panels:
            axes.legend(frameon=False, fontsize=9)
        fed = fourier.rescale_note(self.settings["rescale"], "; ")
        figure.suptitle(
            f"{self.samples} images, HFC on {self.settings['hfc_background']} background{fed}",
            fontsize=11,
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["images", "accuracy", "mean confidence", "ECE", "AUROC against original"]
        rows = []
        bounds = {name: self.ece[k] for k, name in enumerate(self.labelled)}
        areas = {name: self.auroc[k] for k, name in enumerate(self.others)}
        for name in dict.fromkeys((*self.labelled, *self.others)):
            part, _, radius = name.partition("_")
            label = f"{part.upper()}({radius})" if radius else name
            row = [label if label != "ood" else "second data set"]
            if name in bounds:
                k = self.labelled.index(name)
                row += [f"{100 * self.accuracy[k]:.1f} %", f"{100 * self.confidence[k]:.1f} %"]
                row.append(_bounded(bounds[name]))
            else:
                row += ["", "", ""]
            row.append(_bounded(areas[name]) if name in areas else "")
            rows.append(row)
        return heads, rows

    def _title(self) -> str:
        return (
            f"Calibration, {self.samples} images, {self.settings['bins']} bins, HFC on "
            f"{self.settings['hfc_background']} background"
            f"{fourier.rescale_note(self.settings['rescale'])}, 95 % bootstrap intervals"
        )

    def verdict(self) -> str:
        original = self.ece[0]
        worst = int(np.argmax(self.ece[:, 0]))
        part, _, radius = self.labelled[worst].partition("_")
        text = f"Confidence is off by {original[0]:.3f} (ECE) on the original images"
        if worst and self.ece[worst, 1] > original[2]:
            text += f" and by {self.ece[worst, 0]:.3f} on {part.upper()}({radius})"
        else:
            text += " and by no measurably more on any component"
        if "ood" in self.others:
            text += f"; it tells a second data set apart with AUROC {self.auroc[-1, 0]:.3f}"
        return f"{text} ({manner(self.settings)})."


def _bounded(values: NDArray[np.float64]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"

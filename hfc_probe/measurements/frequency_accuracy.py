"""Accuracy on low- and high-frequency components by radius (Wang et al., CVPR 2020).

Long because a measurement is one file: settings, counts, result, sentence and figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.components import ComponentMeasurement, radius_unit
from ..core.drawing import CLEAN, HFC, LFC, radius_axis
from ..core.event_file import radius_tag
from ..core.intervals import (
    difference,
    paired_difference,
    percent,
    percent_at,
    proportion_arrays,
)
from ..core.labels import Label, accuracy_label
from ..core.measurement import settings_of
from ..core.result import Result, manner
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, target_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FrequencyAccuracy", "FrequencyAccuracyResult"]


# A part of the frequencies is enough for a model if it keeps so much of what the original images
# give above chance.
ENOUGH = 0.75


def accuracy_sentence(result: FrequencyAccuracyResult) -> str:
    """What a model relies on, from its LFC and HFC accuracy.

    The radii at which LFC and HFC accuracy differ (the 95 % interval of the difference, image by
    image, excludes 0) bracket the frequencies that the model cannot do without: HFC ahead up to
    radius a and LFC ahead from radius b on means that what it needs lies between a and b. A model
    is said to rely on a part only if that part is enough for it: it keeps at least :data:`ENOUGH`
    of the original accuracy above chance, by the interval of what it loses.
    """
    arrays = result.arrays()
    radii = result.radii
    unit = radius_unit(result.settings)
    clean = float(arrays["original"])
    chance = min(clean, float(result.provenance.get("chance") or 0.0))
    spare = (1 - ENOUGH) * (clean - chance)
    low, high = arrays["lfc"], arrays["hfc"]
    kept = {name: _differences(result, name, "original") for name in ("lfc", "hfc")}
    enough = {name: lower >= -spare for name, (lower, _) in kept.items()}
    short = np.logical_and.reduce([upper < -spare for _, upper in kept.values()])
    # From the corner on LFC is the whole image, which tells nothing.
    inside = radii < result.corner
    sides = [side if inner else 0 for side, inner in zip(_ahead(result), inside, strict=True)]
    low_ahead = [k for k, side in enumerate(sides) if side > 0]
    high_ahead = [k for k, side in enumerate(sides) if side < 0]

    def both(k: int) -> str:
        return (
            f"frequencies up to {radii[k]:g} {unit} alone give {percent(float(low[k]))}, those "
            f"beyond alone {percent(float(high[k]))}"
        )

    def neither(where: str, k: int) -> str:
        shown = "enough" if short[k] else "shown to be enough"
        return (
            f"Neither low nor high frequencies alone are {shown} for this model{where}: {both(k)}"
        )

    if not inside.any():
        return (
            f"No radius lies within the spectrum, which ends at {result.corner:.3g} {unit}: LFC is "
            f"the whole image; original images give {percent(clean)}."
        )
    end = f"; original images give {percent(clean)} ({manner(result.settings)})."
    if not low_ahead and not high_ahead:
        k = int(inside.sum()) // 2
        if enough["lfc"][k] and enough["hfc"][k]:
            return f"Low or high frequencies alone are enough for this model: {both(k)}{end}"
        if short[k]:
            return neither(f" at {radii[k]:g} {unit}", k) + end
        return (
            "Low and high frequencies do not clearly differ in what they give this model: "
            f"{both(k)}{end}"
        )
    if low_ahead and high_ahead:
        below, above = max(high_ahead), min(low_ahead)
        if below < above:
            what = f"{radii[below]:g} and {radii[above]:g} {unit}"
            though = ""
            if short[below] or short[above]:
                where = " and ".join(f"{radii[n]:g}" for n in (below, above) if short[n])
                though = f", though neither low nor high ones alone are enough at {where}"
            return (
                f"This model relies most on frequencies between {what}{though}: {both(below)}; "
                f"{both(above)}{end}"
            )
        k = int(np.argmax(np.abs(low - high)))
        return f"This model relies on low and high frequencies in turn: {both(k)}{end}"
    # One part alone is ahead. The least of it that is enough, and what is on the other side.
    name, ahead = ("lfc", low_ahead) if low_ahead else ("hfc", high_ahead[::-1])
    step = -1 if low_ahead else 1
    first = next((n for n in ahead if enough[name][n]), None)
    if first is None:
        return neither(" at any radius measured", ahead[-1]) + end
    k = first
    if low_ahead and radii[k] >= result.corner / math.sqrt(2):
        # The circle that fills the image holds nearly everything: that is no reliance on part.
        text = neither(f" below {radii[k]:g} {unit}", max(0, k - 1))
        return f"{text}; {both(k)}{end}" if k else f"{_nearly(radii[k], unit)}: {both(k)}{end}"
    if 0 <= k + step < len(radii) and short[k + step]:
        where = "below" if low_ahead else "above"
        return f"{neither(f' {where} {radii[k]:g} {unit}', k + step)}; {both(k)}{end}"
    word = "low" if low_ahead else "high"
    return f"This model relies on {word} frequencies: {both(k)}{end}"


def _nearly(radius: float, unit: str) -> str:
    return f"Frequencies up to {radius:g} {unit}, nearly all there are, are enough for this model"


def _ahead(result: FrequencyAccuracyResult) -> list[int]:
    """Per radius: 1 if LFC accuracy is above HFC's, −1 if below, 0 if undecided."""
    lower, upper = _differences(result, "lfc", "hfc")
    return [int(a) - int(b) for a, b in zip(lower > 0, upper < 0, strict=True)]


def _differences(
    result: FrequencyAccuracyResult, first: str, second: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of one view's accuracy minus another's, per radius; paired if it can be."""
    if result.right is not None:
        views = {"original": slice(0, 1), "lfc": slice(1, None, 2), "hfc": slice(2, None, 2)}
        one, two = (result.right[views[name], 0] for name in (first, second))
        return paired_difference(one, two)
    totals = (result.counts[name][:, 0].sum(1) for name in (first, second))
    one, two = np.broadcast_arrays(*totals)
    return difference(one, result.samples, two, result.samples)


@dataclass(frozen=True)
class FrequencyAccuracy(ComponentMeasurement):
    """Accuracy on the original images, on LFC(r) and on HFC(r).

    Args:
        radii: cut-offs, increasing; None: the paper's 4, 8, 12, 16 at 32 pixels, scaled with
            the smaller image side (in Nyquist units: 0.25, 0.5, 0.75, 1).
        hfc_background: ``"zero"`` feeds the signed HFC as it is; ``"mean"`` adds the
            per-channel mean of the samples, so that the model sees zero-mean HFC after its
            own normalisation. The numbers differ a lot.
        closed: LFC holds ``d <= r``, as the paper; False: ``d < r``, as its code.
        units: of the radii, see :func:`hfc_probe.fourier.distance`.
        topk: a prediction counts as right when the target is among the k largest logits;
            the first k is the one that scalars and figures show.
        rescale: ``"max"`` divides every image that the model is shown by its own maximum, see
            :func:`hfc_probe.fourier.rescaled`; None feeds them as they are. The numbers differ
            a lot: :meth:`as_published` has the authors' choices.
        axes: of the frequencies: 2, the image's, or 3 for video and volumes ``(N, C, T, H, W)``.

    Raises:
        InputError: radii negative, not numbers or not increasing; unknown background, units
            or rescaling; k below 1.

    Source: Wang et al., CVPR 2020, §3.1 (components), §5.1 and Figure 5 (accuracy on both).
    """

    any_shape: ClassVar[bool] = True

    topk: tuple[int, ...] = (1,)

    @classmethod
    def as_published(
        cls, radii: tuple[float, ...] | None = None, *, topk: tuple[int, ...] = (1,)
    ) -> FrequencyAccuracy:
        """As the authors' published code: ``d < r``, zero background, divided by the maximum.

        Two differences remain. On sides of odd length DC is the centre here, where theirs is
        half a frequency off. And the original images are divided by their maximum, as LFC and
        HFC are and as the script does with the original training images; the accuracy on
        original test images that it prints is without.

        >>> FrequencyAccuracy.as_published().closed
        False
        """
        return cls(radii, "zero", closed=False, topk=topk, rescale="max")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.keep(self, topk=checks.wholes("topk", self.topk, increasing=False))

    def compute(self, subject: Subject) -> FrequencyAccuracyResult:
        samples = subject.samples
        radii = self.radii_for(*samples.image_shape[-2:])

        def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> _BatchOutcome:
            target_ranks, predicted = [], []
            for logits in self.logits(subject, start, images):
                target_ranks.append(target_rank(logits, targets))
                predicted.append(logits.argmax(1))
            same = torch.stack([guess == predicted[0] for guess in predicted[1:]])
            return _BatchOutcome(logits.shape[1], targets, torch.stack(target_ranks), same)

        tally: _Tally | None = None
        for seen in subject.map(evaluate_batch):
            if tally is None:
                tally = _Tally(len(radii), seen.classes, self.topk, subject.device)
            tally.add(seen)
        if tally is None:
            raise InputError("FrequencyAccuracy: expected samples, got none")
        counts, agreement = tally.counts.cpu().numpy(), tally.agreement.cpu().numpy()
        return FrequencyAccuracyResult(
            settings=settings_of(self) | {"radii": radii},
            samples=len(samples),
            radii=np.asarray(radii, dtype=np.float64),
            topk=self.topk,
            counts={"original": counts[:1], "lfc": counts[1::2], "hfc": counts[2::2]},
            agreement={"lfc": agreement[::2], "hfc": agreement[1::2]},
            class_counts=tally.classes.cpu().numpy(),
            right=torch.cat(tally.right, 2).cpu().numpy(),
            corner=fourier.corner(*samples.image_shape[-self.axes :], units=self.units),
        )


class _BatchOutcome(NamedTuple):
    """What one batch of n images shows in V views: the original, LFC and HFC of each radius.

    Attributes:
        classes: number of logits.
        targets: ``(n,)``.
        target_ranks: ``(V, n)`` the rank of the target among the logits, from 0.
        same: ``(V − 1, n)`` whether the prediction is that of the original.
    """

    classes: int
    targets: Tensor
    target_ranks: Tensor
    same: Tensor


class _Tally:
    """Counts on the model's device, so that nothing waits for it batch by batch."""

    def __init__(
        self, radii: int, classes: int, topk: tuple[int, ...], device: torch.device
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.ks = torch.tensor(topk, device=device)[:, None]
        self.counts = zeros(1 + 2 * radii, len(topk), classes)
        self.agreement = zeros(2 * radii)
        self.classes = zeros(classes)
        self.right: list[Tensor] = []

    def add(self, seen: _BatchOutcome) -> None:
        right = seen.target_ranks[:, None] < self.ks  # (V, k, n)
        self.right.append(right)
        self.counts.index_add_(2, seen.targets, right.long())
        self.agreement += seen.same.sum(1)
        self.classes += torch.bincount(seen.targets, minlength=seen.classes)


@dataclass(frozen=True, eq=False)
class FrequencyAccuracyResult(Result):
    """Counts of right predictions; everything else follows from them.

    ``arrays()``, R radii and K classes, proportions in [0, 1]:

    - ``radii`` (R,), in the settings' units;
    - ``original``, ``lfc`` (R,), ``hfc`` (R,) with ``_lower``, ``_upper`` (95 % Wilson),
      ``_correct``, ``_count``; for further k the same under ``original_top5`` and so on;
    - ``lfc_agreement``, ``hfc_agreement`` (R,), with the same variants: the share of
      predictions equal to the clean one;
    - ``original_class`` (K,), ``lfc_class``, ``hfc_class`` (R, K) and variants.

    Attributes:
        counts: right predictions by view, k and class: ``original`` (1, k, K), ``lfc`` and
            ``hfc`` (R, k, K).
        right: ``(1 + 2R, k, N)`` whether each image is right: originals, then LFC and HFC of
            each radius; see :meth:`per_image`.
        corner: largest distance in the spectrum, in the radii's units: from it on, LFC is the
            whole image.
    """

    inches: ClassVar[tuple[float, float]] = (6.4, 4.2)

    radii: NDArray[np.float64]
    topk: tuple[int, ...]
    counts: dict[str, NDArray[np.int64]]
    agreement: dict[str, NDArray[np.int64]]
    class_counts: NDArray[np.int64]
    right: NDArray[np.bool_] | None = None
    corner: float = math.inf

    def original(self) -> tuple[int, int, int]:
        return int(self.counts["original"][0, 0].sum()), self.samples, self.topk[0]

    def per_image(self) -> dict[str, NDArray[np.bool_]]:
        if self.right is None:
            return {}
        out = {}
        for index, k in enumerate(self.topk):
            top = "" if index == 0 else f"_top{k}"
            out[f"hfc_accuracy/original{top}"] = self.right[0, index]
            for row, radius in enumerate(self.radius_tags()):
                out[f"hfc_lfc{top}/{radius}"] = self.right[1 + 2 * row, index]
                out[f"hfc_hfc{top}/{radius}"] = self.right[2 + 2 * row, index]
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {"radii": self.radii}
        for index, k in enumerate(self.topk):
            suffix = "" if index == 0 else f"_top{k}"
            for name, counts in self.counts.items():
                right = counts[:, index].sum(1)
                right = right[0] if name == "original" else right
                out |= proportion_arrays(name + suffix, right, self.samples)
        for name, same in self.agreement.items():
            out |= proportion_arrays(f"{name}_agreement", same, self.samples)
        for name, counts in self.counts.items():
            right = counts[0, 0] if name == "original" else counts[:, 0]
            out |= proportion_arrays(f"{name}_class", right, self.class_counts)
        return out

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        out = {"hfc_accuracy/original": float(arrays["original"])}
        for index, k in enumerate(self.topk):
            top = "" if index == 0 else f"_top{k}"
            if top:
                out[f"hfc_accuracy/original{top}"] = float(arrays[f"original{top}"])
            for radius, low, high in zip(
                self.radius_tags(), arrays[f"lfc{top}"], arrays[f"hfc{top}"], strict=True
            ):
                out[f"hfc_lfc{top}/{radius}"] = float(low)
                out[f"hfc_hfc{top}/{radius}"] = float(high)
        gap = arrays["lfc"] - arrays["hfc"]
        for radius, value in zip(self.radius_tags(), gap, strict=True):
            out[f"hfc_gap/{radius}"] = float(value)
        out["hfc_gap/area"] = self.area()
        return out

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays = self.arrays()

        def of(name: str, at: tuple[int, ...] = ()) -> tuple[float, float]:
            return float(arrays[f"{name}_lower"][at]), float(arrays[f"{name}_upper"][at])

        out = {}
        for top in ("", *(f"_top{k}" for k in self.topk[1:])):
            out[f"hfc_accuracy/original{top}"] = of(f"original{top}")
            for k, radius in enumerate(self.radius_tags()):
                out[f"hfc_lfc{top}/{radius}"] = of(f"lfc{top}", (k,))
                out[f"hfc_hfc{top}/{radius}"] = of(f"hfc{top}", (k,))
        return out

    def labels(self) -> dict[str, Label]:
        low = ("rescale", "closed", "units", "axes")
        high = (*low, "hfc_background")
        radii = list(zip(self.radius_tags(), self.radii.tolist(), strict=True))
        out = {}
        for index, k in enumerate(self.topk):
            top = "" if index == 0 else f"_top{k}"
            own = () if top else ("topk",)  # further k have tags of their own
            of = partial(accuracy_label, quantity="accuracy" if k == 1 else f"top-{k} accuracy")
            out[f"hfc_accuracy/original{top}"] = of("original", settings=(*own, "rescale"))
            for tag, r in radii:
                out[f"hfc_lfc{top}/{tag}"] = of("lfc", r, settings=(*own, *low))
                out[f"hfc_hfc{top}/{tag}"] = of("hfc", r, settings=(*own, *high))
        for tag, r in radii:
            text = f"the gap between LFC({r:g}) and HFC({r:g}) accuracy"
            out[f"hfc_gap/{tag}"] = Label(text, "gap", radius=r, settings=("topk", *high))
        text = "the mean gap between LFC and HFC accuracy"
        out["hfc_gap/area"] = Label(text, "mean gap", settings=("topk", *high, "radii"))
        return out

    def area(self) -> float:
        """Mean of LFC − HFC over the radii measured (trapezoid rule), in [−1, 1]."""
        arrays = self.arrays()
        gap = arrays["lfc"] - arrays["hfc"]
        if len(gap) == 1:
            return float(gap[0])
        steps = np.diff(self.radii)
        return float(((gap[1:] + gap[:-1]) / 2 * steps).sum() / steps.sum())

    def radius_tags(self) -> list[str]:
        """``r08`` and the like, one for each radius."""
        return [radius_tag(float(radius)) for radius in self.radii]

    @property
    def background(self) -> str:
        return str(self.settings["hfc_background"])

    @property
    def rescale(self) -> str | None:
        return self.settings.get("rescale")  # absent in results of older versions

    def draw(self, axes: Axes) -> None:
        """Accuracy on LFC and HFC against radius, with intervals as bands."""
        arrays = self.arrays()
        radii = self.radii
        hfc = f"HFC, d > r ({self.background} background)"
        fed = fourier.rescale_note(self.settings["rescale"], "\n")
        for name, colour, style, label in (
            ("lfc", LFC, "-", "LFC, d ≤ r"),
            ("hfc", HFC, "--", hfc),
        ):
            if not self.settings["closed"]:
                label = label.replace("≤", "<").replace(">", "≥")
            axes.fill_between(
                radii,
                arrays[f"{name}_lower"],
                arrays[f"{name}_upper"],
                color=colour,
                alpha=0.18,
                lw=0,
            )
            axes.plot(radii, arrays[name], style, marker="o", color=colour, label=label)
        clean = float(arrays["original"])
        axes.axhline(clean, color=CLEAN, lw=1.2, ls=":")
        axes.annotate(
            f"original {percent(clean)}",
            (1, clean),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=CLEAN,
            fontsize=9,
        )
        radius_axis(axes, radii, radius_unit(self.settings))
        top = "" if self.topk[0] == 1 else f"top-{self.topk[0]} "
        axes.set_ylabel(f"{top}accuracy")
        axes.set_ylim(0, 1.08)
        axes.set_title(f"Accuracy by frequency ({self.samples} images, 95 % intervals){fed}")
        axes.legend(frameon=False, fontsize=9, loc="best")

    def axes(self) -> dict[str, dict[str, Any]]:
        axis = {"name": "radius", "unit": self.settings["units"], "values": self.radii.tolist()}
        fed = {"hfc_background": self.background, "rescale": self.rescale}
        one = {"unit": "accuracy", "axes": [axis], **fed}
        names = ("lfc", "hfc")
        variants = ("", "_lower", "_upper", "_correct", "_count")
        out = {f"{name}{variant}": one for name in names for variant in variants}
        original: dict[str, Any] = {"unit": "accuracy", "axes": [], "rescale": self.rescale}
        return out | {f"original{variant}": original for variant in variants}

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        top = "" if self.topk[0] == 1 else f", top {self.topk[0]}"
        heads = [
            f"radius ({radius_unit(self.settings)})",
            f"LFC accuracy{top}{' (rescaled)' if self.rescale else ''}",
            f"HFC accuracy{top} (background {self.background}"
            f"{', rescaled' if self.rescale else ''})",
        ]
        rows = [["original image", percent_at(arrays, "original"), ""]]
        for k, radius in enumerate(self.radii):
            rows.append([f"{radius:g}", percent_at(arrays, "lfc", k), percent_at(arrays, "hfc", k)])
        return heads, rows

    def _title(self) -> str:
        sign = "≤" if self.settings["closed"] else "<"
        return (
            f"Frequency accuracy, {self.samples} images, LFC holds d {sign} r"
            f"{fourier.rescale_note(self.settings['rescale'])}, 95 % Wilson intervals"
        )

    def verdict(self) -> str:

        return accuracy_sentence(self)

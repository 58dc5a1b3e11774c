"""Does a model follow amplitude or phase? (Chen et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC, image_tiles, show_pixels
from ..core.intervals import percent, proportion_arrays
from ..core.labels import Label, accuracy_label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, target_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AmplitudePhase", "AmplitudePhaseResult"]

Pairing = Literal["any", "same", "different"]
_PARTS = ("", "_lower", "_upper")


@dataclass(frozen=True)
class AmplitudePhase(Measurement):
    """Accuracy when amplitude comes from another image and phase stays, and the reverse.

    Every recombined image has two labels, its phase's and its amplitude's. A model that reads
    phase is right about the first, one that reads amplitude about the second.

    Args:
        pairing: with which image each exchanges: ``"any"`` other (a seeded permutation without
            fixed points), one of the ``"same"`` class, or one of a ``"different"`` class, where
            the two labels cannot agree by chance.
        over_channels: transform the colour axis too, as the authors' code does.
        clip: clip recombined images to [0, 1]; the authors' training code does not.
        examples: pairs kept for the figure.
        seed: of the pairing.

    Raises:
        InputError: an unknown pairing; when measuring, one that the labels make impossible
            (a single class for ``"different"``, no class twice for ``"same"``).

    Source: Chen et al., ICCV 2021, §3 and Figure 2.
    """

    pairing: Pairing = "different"
    over_channels: bool = False
    clip: bool = True
    examples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("pairing", self.pairing, ("any", "same", "different"))
        checks.keep(self, examples=checks.whole("examples", self.examples))

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return 3 * samples

    def compute(self, subject: Subject) -> AmplitudePhaseResult:
        samples = subject.samples
        own, other = pairs(samples.targets.numpy(), self.pairing, self.seed)
        counts: dict[str, int] = dict.fromkeys(("original", *KINDS), 0)
        kept: list[tuple[Any, ...]] = []
        size = subject.batch_size

        def evaluate_batch(start: int) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
            rows = torch.from_numpy(own[start : start + size])
            donors = torch.from_numpy(other[start : start + size])
            images = samples.pixels(rows).to(subject.device)
            others = samples.pixels(donors).to(subject.device)
            label = samples.targets[rows].to(subject.device)
            donor_label = samples.targets[donors].to(subject.device)
            # Without images left out, these are the samples' own batches.
            all_paired = len(own) == len(samples)
            clean = subject.original(start, images) if all_paired else subject.logits(images)
            if start == 0:
                subject.check_targets(clean.shape[1])
            found = {"original": int((target_rank(clean, label) < 1).sum())}
            views = {
                "phase_kept": fourier.recombine(others, images, over_channels=self.over_channels),
                "amplitude_kept": fourier.recombine(
                    images, others, over_channels=self.over_channels
                ),
            }
            shown: list[tuple[Any, ...]] = []
            for name, view in views.items():
                view = view.clamp(0, 1) if self.clip else view
                logits = subject.logits(view, "recombined")
                found[f"{name}_own"] = int((target_rank(logits, label) < 1).sum())
                found[f"{name}_other"] = int((target_rank(logits, donor_label) < 1).sum())
                if name == "phase_kept":
                    for k in range(min(self.examples - start, len(view))):
                        shown.append(
                            (
                                torch.stack([images[k], others[k], view[k]]).float().cpu(),
                                int(label[k]),
                                int(donor_label[k]),
                                int(logits[k].argmax()),
                            )
                        )
            return found, shown

        starts = range(0, len(own), size)
        with subject.progress(len(own), "image") as advance:
            for start, (found, shown) in zip(
                starts, subject.distribute(starts, evaluate_batch), strict=True
            ):
                for name, right in found.items():
                    counts[name] += right
                kept += shown
                advance(min(size, len(own) - start))
        return AmplitudePhaseResult(
            settings=settings_of(self),
            samples=len(own),
            left_out=len(samples) - len(own),
            counts=counts,
            example_images=torch.stack([e[0] for e in kept]).numpy(),
            example_labels=np.array([e[1:] for e in kept]),
        )


# What stays × whose label is asked for.
KINDS = ("phase_kept_own", "phase_kept_other", "amplitude_kept_own", "amplitude_kept_other")


def pairs(
    labels: NDArray[np.int64], pairing: Pairing, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which image exchanges with which, ``(own, other)``, each index once on either side.

    Images that have no partner are left out: alone in their class for ``"same"``; for
    ``"different"`` those of a class that has more than half of all.

    Raises:
        InputError: nobody has a partner.

    >>> own, other = pairs(np.array([0, 0, 1, 1]), "different")
    >>> bool((np.array([0, 0, 1, 1])[own] != np.array([0, 0, 1, 1])[other]).all())
    True
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    if pairing == "any":
        if len(order) < 2:
            raise InputError("AmplitudePhase: expected at least two images to pair, got one")
        own, other = order, np.roll(order, -1)
    else:
        # Classes as runs of the shuffled images.
        order = order[np.argsort(labels[order], kind="stable")]
        classes, sizes = np.unique(labels, return_counts=True)
        if pairing == "same":
            ends = np.split(order, np.cumsum(sizes)[:-1])
            runs = [run for run in ends if len(run) > 1]
            if not runs:
                raise InputError(
                    'pairing: expected a class with two images for "same", got one image of each '
                    "class; measure more samples"
                )
            own = np.concatenate(runs)
            other = np.concatenate([np.roll(run, -1) for run in runs])
        else:
            if len(classes) < 2:
                raise InputError(
                    'pairing: expected at least two classes for "different", got class '
                    f"{classes[0]} only; measure a random choice of samples"
                )
            # A shift by the largest class's size leaves every class, if it can be left.
            own, other = order, np.roll(order, -int(sizes.max()))
            fits = labels[own] != labels[other]
            own, other = own[fits], other[fits]
    back = np.argsort(own, kind="stable")
    return own[back], other[back]


@dataclass(frozen=True, eq=False)
class AmplitudePhaseResult(Result):
    """Counts of right predictions on recombined images, by the label asked for.

    ``arrays()``, proportions in [0, 1], each with ``_lower``, ``_upper``, ``_correct``,
    ``_count``:

    - ``original``: of the images that were paired, as they are;
    - ``phase_kept_own``: phase of the image, amplitude of its partner, scored against the
      image's label (the phase's); ``phase_kept_other``: against the partner's (the amplitude's);
    - ``amplitude_kept_own``, ``amplitude_kept_other``: the reverse;
    - ``example_images`` (E, 3, C, H, W): image, partner, phase of the one with amplitude of
      the other; ``example_labels`` (E, 3): both labels and the prediction.

    Attributes:
        left_out: samples without a partner.
    """

    left_out: int
    counts: dict[str, int]
    example_images: NDArray[np.float32]
    example_labels: NDArray[np.int64]

    def original(self) -> tuple[int, int, int]:
        return self.counts["original"], self.samples, 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {}
        for name, count in self.counts.items():
            out |= proportion_arrays(name, count, self.samples)
        return out | {"example_images": self.example_images, "example_labels": self.example_labels}

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`Result.to_dict`; pictures stay out of it (they are in the figure)."""
        out = super().to_dict()
        del out["arrays"]["example_images"]
        return out

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        return {f"hfc_phase/{name}": float(arrays[name]) for name in self.counts}

    def intervals(self) -> dict[str, tuple[float, float]]:
        return {f"hfc_phase/{name}": self.of(name)[1:] for name in self.counts}

    def labels(self) -> dict[str, Label]:
        texts = {
            "phase_kept_own": "accuracy with another image's amplitude",
            "phase_kept_other": "the share that follows another image's amplitude",
            "amplitude_kept_own": "accuracy with another image's phase",
            "amplitude_kept_other": "the share that follows another image's phase",
        }
        out = {f"hfc_phase/{name}": Label(text, "accuracy") for name, text in texts.items()}
        return {"hfc_phase/original": accuracy_label("original")} | out

    def of(self, name: str) -> tuple[float, float, float]:
        """A proportion with its bounds."""
        arrays = self.arrays()
        value, low, high = (float(arrays[name + part]) for part in _PARTS)
        return value, low, high

    def images(self) -> dict[str, Any]:
        """The example pairs: a row of the phase's images, the amplitude's and what they make."""
        views = np.moveaxis(self.example_images, 1, 0)
        rows = views.reshape(-1, *views.shape[2:])
        return {"hfc_phase/pictures": image_tiles(rows, columns=views.shape[1])}

    def figure_inches(self) -> tuple[float, float]:
        return 1.75 * len(self.example_images) + 5.2, 5.6

    def draw_panels(self, figure: Any) -> None:
        """Example pairs with their recombination, and accuracy by whose label is asked for."""
        shown = len(self.example_images)
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.75 * shown, 5.2))
        grid = parts[0].subplots(3, shown, squeeze=False)
        for column in range(shown):
            phase, amplitude, predicted = (int(n) for n in self.example_labels[column])
            follows = {phase: "phase", amplitude: "amplitude"}.get(predicted, "neither")
            if phase == amplitude == predicted:
                follows = "both"
            for row, label in enumerate(("phase of", "amplitude of", "recombined")):
                axes = grid[row][column]
                show_pixels(axes, self.example_images[column, row])
                axes.set_title(label, fontsize=9, pad=3, color=(LFC, HFC, CLEAN)[row])
                under = f"class {(phase, amplitude, predicted)[row]}"
                if row == 2:
                    under = f"predicted {predicted}\nfollows {follows}"
                axes.set_xlabel(under, fontsize=9)
        _phase_axes(parts[1].subplots(), self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["recombined image", "follows phase", "follows amplitude"]
        rows = [
            ["the original", percent(*self.of("original")), ""],
            [
                "phase kept, amplitude of another",
                percent(*self.of("phase_kept_own")),
                percent(*self.of("phase_kept_other")),
            ],
            [
                "amplitude kept, phase of another",
                percent(*self.of("amplitude_kept_other")),
                percent(*self.of("amplitude_kept_own")),
            ],
        ]
        return heads, rows

    def _title(self) -> str:
        names = {"any": "any other image", "same": "the same class", "different": "another class"}
        left = f", {self.left_out} left out without a partner" if self.left_out else ""
        return (
            f"Amplitude and phase, {self.samples} images paired with "
            f"{names[str(self.settings['pairing'])]}{left}, 95 % Wilson intervals"
        )

    def verdict(self) -> str:

        return amplitude_phase_sentence(self)


def amplitude_phase_sentence(result: AmplitudePhaseResult) -> str:
    """Which of the two a model follows, told by the intervals of both recombinations."""
    phase = [result.of(name) for name in ("phase_kept_own", "amplitude_kept_other")]
    amplitude = [result.of(name) for name in ("phase_kept_other", "amplitude_kept_own")]
    by_phase, by_amplitude = percent(phase[0][0]), percent(amplitude[0][0])
    figures = (
        f"recombined images are predicted as their phase's class in {by_phase} and as their "
        f"amplitude's in {by_amplitude} of cases, against {percent(result.of('original')[0])} "
        "right on the originals"
    )
    if result.settings["pairing"] == "same":
        return (
            f"With the amplitude of another image of the same class {by_phase} stay right, "
            f"against {percent(result.of('original')[0])} of the originals."
        )
    if all(p[1] > a[2] for p, a in zip(phase, amplitude, strict=True)):
        return f"The model follows phase: {figures}."
    if all(a[1] > p[2] for p, a in zip(phase, amplitude, strict=True)):
        return f"The model follows amplitude: {figures}."
    return f"The model follows neither phase nor amplitude clearly more: {figures}."


def _phase_axes(axes: Axes, result: AmplitudePhaseResult) -> None:
    groups = (
        ("original", (("original", CLEAN),)),
        (
            "phase kept,\namplitude of\nanother",
            (("phase_kept_own", LFC), ("phase_kept_other", HFC)),
        ),
        (
            "amplitude kept,\nphase of\nanother",
            (("amplitude_kept_other", LFC), ("amplitude_kept_own", HFC)),
        ),
    )
    for place, (_, bars) in enumerate(groups):
        for k, (name, colour) in enumerate(bars):
            value, low, high = result.of(name)
            where = place + (k - (len(bars) - 1) / 2) * 0.38
            axes.bar(
                where,
                value,
                0.36,
                color=colour,
                yerr=[[value - low], [high - value]],
                ecolor="black",
                capsize=3,
                label={LFC: "the phase's label", HFC: "the amplitude's label"}.get(colour)
                if place == 1
                else None,
            )
    axes.set_xticks(range(3), [label for label, _ in groups], fontsize=10)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy against")
    over = ", FFT over channels too" if result.settings["over_channels"] else ""
    axes.set_title(f"Amplitude or phase? ({result.samples} images{over})")
    axes.legend(frameon=False, fontsize=9, loc="upper right")

"""Images seen right by their high frequencies alone (Wang et al., CVPR 2020, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import checks, fourier
from ..errors import InputError
from ..proportions import percent, proportion_arrays
from .base import Measurement, Subject, rank, settings_of
from .common import CellResult
from .frequency_accuracy import Background, FrequencyAccuracy, radius_tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (LFC right, HFC right), of the images that are right as they are.
GROUPS = {
    "high_only": (False, True),
    "low_only": (True, False),
    "both": (True, True),
    "neither": (False, False),
}


@dataclass(frozen=True)
class ComponentExamples(Measurement):
    """Finds images predicted right on the original and on HFC(r) but wrong on LFC(r).

    Of the images that are predicted right as they are, each radius splits them into four
    groups by whether LFC(r) and HFC(r) alone are predicted right; the examples are of the
    group "high only", those with the most confident HFC first.

    Args:
        radii: as :class:`FrequencyAccuracy`.
        hfc_background: as :class:`FrequencyAccuracy`.
        closed: as :class:`FrequencyAccuracy`.
        radius: the radius whose examples are kept; None: the one with the most of them.
        group: which group's examples are kept: ``"high_only"`` (the paper's), ``"low_only"``,
            ``"both"`` or ``"neither"``.
        examples: at most so many.
        class_names: names for the figure and the table, by class index.
        rescale: as :class:`FrequencyAccuracy`.

    Raises:
        InputError: radii as :class:`FrequencyAccuracy`; a ``radius`` that is not among them,
            an unknown group, fewer than one example, fewer names than classes.

    Source: Wang et al., CVPR 2020, Figure 2.
    """

    radii: tuple[float, ...] | None = None
    hfc_background: Background = "zero"
    closed: bool = True
    radius: float | None = None
    group: str = "high_only"
    examples: int = 6
    class_names: tuple[str, ...] | None = None
    rescale: fourier.Rescale | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        same = FrequencyAccuracy(self.radii, self.hfc_background, self.closed, rescale=self.rescale)
        object.__setattr__(self, "radii", same.radii)
        checks.choice("group", self.group, tuple(GROUPS))
        checks.keep(self, examples=checks.whole("examples", self.examples))
        if self.radius is not None:
            checks.keep(self, radius=fourier.check_radius(self.radius))
        if self.class_names is not None:
            names = checks.listed(self.class_names)
            names = [name if isinstance(name, str) else checks.shown(name) for name in names]
            checks.keep(self, class_names=tuple(names))

    def radii_for(self, height: int, width: int) -> tuple[float, ...]:
        """The radii used for images of that size."""
        radii = FrequencyAccuracy(self.radii).radii_for(height, width)
        if self.radius is not None and self.radius not in radii:
            raise InputError(
                f"radius: expected one of the radii {', '.join(f'{r:g}' for r in radii)}, got "
                f"{self.radius:g}; add it to radii="
            )
        return radii

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.radii_for(*image_shape[1:])

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return samples * (1 + 2 * len(self.radii_for(*image_shape[1:])))

    def compute(self, subject: Subject) -> ComponentExamplesResult:
        samples = subject.samples
        radii = self.radii_for(*samples.image_shape[1:])
        options: Any = {"closed": self.closed, "rescale": self.rescale}
        options["background"] = samples.mean if self.hfc_background == "mean" else None
        count = len(samples)
        # Per view (original, LFC and HFC of each radius): predicted class and its confidence.
        predicted = np.zeros((1 + 2 * len(radii), count), np.int64)
        confidence = np.zeros((1 + 2 * len(radii), count), np.float32)

        def look(start: int, images: Tensor, targets: Tensor) -> tuple[slice, Tensor, Tensor]:
            guesses, sure = [], []
            for view in fourier.components(images, radii, **options):
                logits = subject.logits(view.images, str(view))
                if start == 0 and view.radius is None:
                    self._check_classes(subject, logits.shape[1])
                right = rank(logits, targets) < 1
                # Ties count as rank() counts them: right where the target ranks first.
                best = torch.where(right, targets, logits.argmax(1))
                guesses.append(best)
                sure.append(logits.softmax(1).gather(1, best[:, None])[:, 0])
            part = slice(start, start + len(images))
            return part, torch.stack(guesses).cpu(), torch.stack(sure).cpu()

        for part, guesses, sure in subject.map(look):
            predicted[:, part] = guesses.numpy()
            confidence[:, part] = sure.numpy()
        truth = samples.targets.numpy()
        hits = predicted == truth
        counts = {
            name: np.array(
                [
                    (hits[0] & (hits[1 + 2 * k] == with_low) & (hits[2 + 2 * k] == with_high)).sum()
                    for k in range(len(radii))
                ]
            )
            for name, (with_low, with_high) in GROUPS.items()
        }
        if self.radius is None:
            row = int(np.argmax(counts[self.group]))
        else:
            row = radii.index(self.radius)
        with_low, with_high = GROUPS[self.group]
        found = np.flatnonzero(
            hits[0] & (hits[1 + 2 * row] == with_low) & (hits[2 + 2 * row] == with_high)
        )
        shown_by = 2 + 2 * row if with_high else 1 + 2 * row
        chosen = found[np.argsort(-confidence[shown_by, found], kind="stable")][: self.examples]
        rows = [0, 1 + 2 * row, 2 + 2 * row]
        pictures = samples.pixels(torch.from_numpy(chosen))
        low_part, high_part = fourier.split(pictures, radii[row], closed=self.closed)
        return ComponentExamplesResult(
            settings=settings_of(self) | {"radii": radii},
            samples=count,
            radii=np.asarray(radii, np.float64),
            original_right=int(hits[0].sum()),
            counts=counts,
            example_row=row,
            example_index=chosen,
            example_target=truth[chosen],
            example_predicted=predicted[rows][:, chosen].T,
            example_confidence=confidence[rows][:, chosen].T,
            example_images=torch.stack([pictures, low_part, high_part], 1).float().numpy(),
        )

    def _check_classes(self, subject: Subject, classes: int) -> None:
        subject.check_targets(classes)
        if self.class_names is not None and len(self.class_names) < classes:
            raise InputError(
                f"class_names: expected {classes} names, one per logit, got {len(self.class_names)}"
            )


@dataclass(frozen=True, eq=False)
class ComponentExamplesResult(CellResult):
    """How many images each component alone keeps right, and examples.

    ``arrays()``, R radii, E examples:

    - ``radii`` (R,), ``original`` with ``_lower``, ``_upper``, ``_correct``, ``_count``;
    - ``high_only``, ``low_only``, ``both``, ``neither`` (R,) with the same variants: shares of
      the images that are predicted right as they are; they sum to 1;
    - ``example_index`` (E,) into the samples, ``example_target`` (E,);
    - ``example_predicted``, ``example_confidence`` (E, 3): class and softmax on the original,
      LFC and HFC; ``example_images`` (E, 3, C, H, W) in pixel space, HFC signed.
    """

    radii: NDArray[np.float64]
    original_right: int
    counts: dict[str, NDArray[np.int64]]
    example_row: int
    example_index: NDArray[np.int64]
    example_target: NDArray[np.int64]
    example_predicted: NDArray[np.int64]
    example_confidence: NDArray[np.float32]
    example_images: NDArray[np.float32]

    def original(self) -> tuple[int, int, int]:
        return self.original_right, self.samples, 1

    @property
    def example_radius(self) -> float:
        return float(self.radii[self.example_row])

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {"radii": self.radii}
        out |= proportion_arrays("original", self.original_right, self.samples)
        for name, counts in self.counts.items():
            out |= proportion_arrays(name, counts, self.original_right)
        out |= {
            "example_index": self.example_index,
            "example_target": self.example_target,
            "example_predicted": self.example_predicted,
            "example_confidence": self.example_confidence,
            "example_images": self.example_images,
        }
        return out

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`Result.to_dict`; pictures stay out of it (they are in the figure)."""
        out = super().to_dict()
        del out["arrays"]["example_images"]
        return out

    def cells(self) -> list[tuple[str, str, tuple[int]]]:
        return [
            (f"hfc_examples/{name}_{radius_tag(float(radius))}", name, (k,))
            for name in ("high_only", "low_only")
            for k, radius in enumerate(self.radii)
        ]

    def images(self) -> dict[str, Any]:
        return {"hfc_examples/pictures": self.figure()}

    def figure(self) -> Figure:
        from ..plots_papers import component_figure

        return component_figure(self)

    def class_name(self, index: int) -> str:
        names: Sequence[str] | None = self.settings["class_names"]
        return names[index] if names else f"class {index}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = ["radius (cycles/image)", "HFC only", "LFC only", "both", "neither"]
        rows = []
        for k, radius in enumerate(self.radii):
            cells = [
                f"{self.counts[name][k]}, "
                + percent(*(float(arrays[name + v][k]) for v in ("", "_lower", "_upper")))
                for name in GROUPS
            ]
            rows.append([f"{radius:g}", *cells])
        return heads, rows

    def _title(self) -> str:
        return (
            f"Which component alone keeps an image right: {self.original_right} of "
            f"{self.samples} images are right as they are, HFC on "
            f"{self.settings['hfc_background']} background"
            f"{fourier.rescale_note(self.settings['rescale'])}"
        )

    def verdict(self) -> str:
        from ..summary import manner

        row = int(np.argmax(self.counts["high_only"]))
        how = manner(self.settings)
        count = int(self.counts["high_only"][row])
        of = f"of the {self.original_right} images predicted right"
        if not count:
            return f"None {of} is right on HFC(r) and wrong on LFC(r) at any radius ({how})."
        share = percent(count / self.original_right)
        return (
            f"At r = {self.radii[row]:g} cycles/image, {count} {of} ({share}) are right on their "
            f"high frequencies alone and wrong on their low ones ({how})."
        )

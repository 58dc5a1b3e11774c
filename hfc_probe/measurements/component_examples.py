"""Images seen right by their high frequencies alone (Wang et al., CVPR 2020, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.components import ComponentMeasurement, radius_unit
from ..core.drawing import CLEAN, HFC, LFC, bare, image_tiles, show_pixels
from ..core.event_file import radius_tag
from ..core.intervals import percent, percent_at, proportion_arrays
from ..core.labels import Label
from ..core.measurement import settings_of
from ..core.result import CellResult, manner
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, target_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ComponentExamples", "ComponentExamplesResult"]

# (LFC right, HFC right), of the images that are right as they are.
GROUPS = {
    "high_only": (False, True),
    "low_only": (True, False),
    "both": (True, True),
    "neither": (False, False),
}


@dataclass(frozen=True)
class ComponentExamples(ComponentMeasurement):
    """Finds images predicted right on the original and on HFC(r) but wrong on LFC(r).

    Of the images that are predicted right as they are, each radius splits them into four
    groups by whether LFC(r) and HFC(r) alone are predicted right; the examples are of the
    group "high only", those with the most confident HFC first.

    Args:
        radii, hfc_background, closed, units, rescale, axes: as :class:`FrequencyAccuracy`.
        radius: the radius whose examples are kept; None: the one with the most of them.
        group: which group's examples are kept: ``"high_only"`` (the paper's), ``"low_only"``,
            ``"both"`` or ``"neither"``.
        examples: maximum number of pictures.
        class_names: names for the figure and the table, by class index.

    Raises:
        InputError: radii as :class:`FrequencyAccuracy`; a ``radius`` that is not among them,
            an unknown group, fewer than one example, fewer names than classes.

    Source: Wang et al., CVPR 2020, Figure 2.
    """

    radius: float | None = None
    group: str = "high_only"
    examples: int = 6
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("group", self.group, tuple(GROUPS))
        checks.keep(self, examples=checks.whole("examples", self.examples))
        if self.radius is not None:
            checks.keep(self, radius=fourier.check_radius(self.radius))
        if self.class_names is not None:
            names = checks.listed(self.class_names)
            names = [name if isinstance(name, str) else checks.shown(name) for name in names]
            checks.keep(self, class_names=tuple(names))

    def radii_for(self, height: int, width: int) -> tuple[float, ...]:
        radii = super().radii_for(height, width)
        if self.radius is not None and self.radius not in radii:
            raise InputError(
                f"radius: expected one of the radii {', '.join(f'{r:g}' for r in radii)}, got "
                f"{self.radius:g}; add it to radii="
            )
        return radii

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.radii_for(*image_shape[1:])

    def compute(self, subject: Subject) -> ComponentExamplesResult:
        samples = subject.samples
        radii = self.radii_for(*samples.image_shape[1:])
        count = len(samples)
        # Per view (original, LFC and HFC of each radius): predicted class and its confidence.
        predicted = np.zeros((1 + 2 * len(radii), count), np.int64)
        confidence = np.zeros((1 + 2 * len(radii), count), np.float32)

        def evaluate_batch(
            start: int, images: Tensor, targets: Tensor
        ) -> tuple[slice, Tensor, Tensor]:
            guesses, sure = [], []
            for logits in self.logits(subject, start, images):
                if start == 0:
                    subject.check_scale(logits)
                self._check_classes(logits.shape[1])
                right = target_rank(logits, targets) < 1
                # Ties count as target_rank() counts them: right if the target ranks first.
                best = torch.where(right, targets, logits.argmax(1))
                guesses.append(best)
                sure.append(logits.softmax(1).gather(1, best[:, None])[:, 0])
            part = slice(start, start + len(images))
            return part, torch.stack(guesses).cpu(), torch.stack(sure).cpu()

        for part, guesses, sure in subject.map(evaluate_batch):
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
        low_part, high_part = fourier.split(
            pictures, radii[row], closed=self.closed, units=self.units
        )
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

    def _check_classes(self, classes: int) -> None:
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
    - ``example_radius``, of the examples;
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
            "example_radius": np.asarray(self.example_radius),
            "example_index": self.example_index,
            "example_target": self.example_target,
            "example_predicted": self.example_predicted,
            "example_confidence": self.example_confidence,
            "example_images": self.example_images,
        }
        return out

    def axes(self) -> dict[str, dict[str, Any]]:
        return {"example_radius": {"unit": self.settings["units"], "axes": []}}

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

    def labels(self) -> dict[str, Label]:
        out = {}
        for tag, name, (k,) in self.cells():
            part, radius = name.partition("_")[0], float(self.radii[k])
            text = (
                f"the share of images that the {part} frequencies alone keep right at "
                f"r = {radius:g}"
            )
            out[tag] = Label(text, f"share right on {part} frequencies alone", radius=radius)
        return out

    def images(self) -> dict[str, Any]:
        """The examples: a row of originals, one of LFC and one of HFC on grey."""
        views = np.moveaxis(self.example_images, 1, 0).copy()
        for picture in views[2]:
            picture *= gain_for(picture)
        views[2] += 0.5
        count = len(self.example_index)
        shown = image_tiles(views.reshape(-1, *views.shape[2:]), columns=count) if count else None
        return {} if shown is None else {"hfc_examples/pictures": shown}

    def figure_inches(self) -> tuple[float, float]:
        return 2.05 * min(max(len(self.example_index), 3), 6) + 4.6, 6.9

    def draw_panels(self, figure: Any) -> None:
        """Examples with predicted class and confidence, and the groups' sizes."""
        shown = len(self.example_index)
        columns = min(max(shown, 3), 6)
        parts: Any = figure.subfigures(1, 2, width_ratios=(2.05 * columns, 4.6))
        left, right = parts
        fed = fourier.rescale_note(self.settings["rescale"], "; ")
        _group_axes(right.subplots(), self)
        said = ["Original right"]
        for name, hit in zip(("LFC", "HFC"), GROUPS[self.settings["group"]], strict=True):
            said.append(f"{name}({self.example_radius:g}) {'right' if hit else 'wrong'}")
        left.suptitle(", ".join(said) + fed)
        grid = left.subplots(3, columns, squeeze=False)
        for column in range(columns):
            for row, view in enumerate(("original", "LFC", "HFC")):
                axes = grid[row][column]
                bare(axes)
                if column >= shown:
                    continue
                pixels = self.example_images[column, row]
                gain = gain_for(pixels) if row == 2 else 1.0
                show_pixels(axes, 0.5 + gain * pixels if row == 2 else pixels)
                predicted = int(self.example_predicted[column, row])
                sure = percent(float(self.example_confidence[column, row])).replace(".0 %", " %")
                hit = predicted == int(self.example_target[column])
                label = f"{view} × {gain:g} on grey" if row == 2 else view
                axes.set_title(label, fontsize=9, pad=3, color=(CLEAN, LFC, HFC)[row])
                axes.set_xlabel(
                    f"{'✓' if hit else '✗'} {self.class_name(predicted)}\n{sure}",
                    fontsize=9,
                    fontweight="normal" if hit else "bold",
                )
        if not shown:
            grid[1][1].text(0.5, 0.5, "no such image", ha="center", va="center")

    def class_name(self, index: int) -> str:
        names: Sequence[str] | None = self.settings["class_names"]
        return names[index] if names else f"class {index}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = [
            f"radius ({radius_unit(self.settings)})",
            "HFC only",
            "LFC only",
            "both",
            "neither",
        ]
        rows = []
        for k, radius in enumerate(self.radii):
            cells = [f"{self.counts[name][k]}, " + percent_at(arrays, name, k) for name in GROUPS]
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
        row = int(np.argmax(self.counts["high_only"]))
        how = manner(self.settings)
        count = int(self.counts["high_only"][row])
        of = f"of the {self.original_right} images predicted right"
        if not count:
            return f"None {of} is right on HFC(r) and wrong on LFC(r) at any radius ({how})."
        share = percent(count / self.original_right)
        unit = radius_unit(self.settings)
        return (
            f"At r = {self.radii[row]:g} {unit}, {count} {of} ({share}) are right on their "
            f"high frequencies alone and wrong on their low ones ({how})."
        )


def gain_for(signed: NDArray[Any]) -> float:
    """A round gain at which a signed picture around grey just fills the range.

    >>> gain_for(np.array([0.06, -0.03]))
    8.0
    """
    peak = float(np.percentile(np.abs(signed), 99)) if signed.size else 0.0
    steps = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 20.0, 50.0, 100.0)
    fitting = [step for step in steps if peak * step <= 0.5]
    return fitting[-1] if fitting else 1.0


def _group_axes(axes: Axes, result: ComponentExamplesResult) -> None:
    arrays = result.arrays()
    bottom = np.zeros(len(result.radii))
    where = np.arange(len(result.radii))
    for name, colour, label in (
        ("both", "#999999", "both"),
        ("low_only", LFC, "LFC only"),
        ("high_only", HFC, "HFC only"),
        ("neither", "#E5E5E5", "neither"),
    ):
        axes.bar(where, arrays[name], bottom=bottom, color=colour, label=label, width=0.75)
        bottom = bottom + arrays[name]
    axes.set_xticks(where, [f"{r:g}" for r in result.radii])
    axes.set_xlabel(f"radius r ({radius_unit(result.settings)})")
    axes.set_ylabel(f"share of the {result.original_right} images right as they are")
    axes.set_ylim(0, 1)
    axes.set_title("What alone keeps them right")
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14))

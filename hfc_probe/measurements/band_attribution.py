"""Which radial bands a prediction rests on, by captum's attributions over DFT bands.

Long because a measurement is one file: settings, attribution, result, sentence and figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.drawing import HFC, LFC, bare, show_pixels
from ..core.event_file import radius_tag
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import Result
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject
from .gradients import reached

__all__ = ["BandAttribution", "BandAttributionResult"]

Method = Literal["feature_ablation", "shapley", "integrated_gradients"]
_METHODS = {
    "feature_ablation": "FeatureAblation",
    "shapley": "ShapleyValueSampling",
    "integrated_gradients": "IntegratedGradients",
}


@dataclass(frozen=True)
class BandAttribution(Measurement):
    """How much of a prediction's logit each band of frequencies brings.

    An image is the sum of its bands, ``edges[k−1] < d <= edges[k]``; the first is DC alone.
    Features are the bands' gains: 1 is the image, 0 an image without that band. ``shapley`` and
    ``integrated_gradients`` (along the gains from none to all) are complete: attributions sum
    to the logit of the image minus that of the baseline. ``feature_ablation`` is the logit
    lost when one band alone is taken away, which sums to something else if bands interact.
    Images are not rescaled here as :class:`FrequencyAccuracy` can: a gain would then change every
    band, since the maximum that is divided by depends on all of them.

    Args:
        edges: upper ends of the bands after DC, in cycles per image, increasing; None: 1, 2,
            4, … up to the corner.
        method: the attribution.
        of: the logit of the ``"predicted"`` class or of the ``"target"``.
        background: the image without any band: ``"zero"`` (black) or ``"mean"`` (the samples'
            mean colour, which the DC band is then counted from).
        permutations: of Shapley sampling; each costs a forward pass per band.
        steps: of integrated gradients (Gauss-Legendre), each a forward and a backward pass.
        samples: maximum number of images, a seeded random choice.
        seed: of that choice and of the permutations.

    Raises:
        InputError: settings outside those bounds; when measuring, a captum without the
            attribution, a model without gradients for ``integrated_gradients``.

    Source: Lundberg and Lee, NeurIPS 2017, and Castro et al., 2009 (Shapley sampling);
    Sundararajan et al., ICML 2017 (integrated gradients); features are ours.
    """

    edges: tuple[float, ...] | None = None
    method: Method = "shapley"
    of: str = "predicted"
    background: fourier.Background = "zero"
    permutations: int = 25
    steps: int = 32
    samples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("method", self.method, tuple(_METHODS))
        checks.choice("of", self.of, ("predicted", "target"))
        checks.choice("background", self.background, ("zero", "mean"))
        for name in ("permutations", "steps"):
            checks.keep(self, **{name: checks.whole(name, getattr(self, name))})
        if self.edges is not None:
            checks.keep(self, edges=checks.numbers("edges", self.edges, open_low=True))

    @property
    def variant(self) -> str:
        return self.method

    def edges_for(self, height: int, width: int) -> tuple[float, ...]:
        """Upper ends of the bands, DC's 0 first and the corner last.

        >>> [round(e, 1) for e in BandAttribution().edges_for(32, 32)]
        [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 22.6]
        """
        corner = fourier.corner(height, width)
        if self.edges is None:
            edges = [1.0]
            while 2 * edges[-1] <= min(height, width) / 2:
                edges.append(2 * edges[-1])
        else:
            edges = list(self.edges)
        inner = [edge for edge in edges if edge < corner]
        return (0.0, *inner, corner)

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        _captum(_METHODS[self.method])

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        bands = len(self.edges_for(*image_shape[1:]))
        each = {
            "feature_ablation": bands + 3,
            "shapley": bands * self.permutations + 3,
            "integrated_gradients": 3 * self.steps + 2,
        }[self.method]
        return min(samples, self.samples) * each

    def compute(self, subject: Subject) -> BandAttributionResult:
        subject = subject.subset(self.samples, self.seed)
        samples = subject.samples
        edges = self.edges_for(*samples.image_shape[1:])
        empty = torch.zeros(1, samples.image_shape[0], 1, 1, device=subject.device)
        if self.background == "mean":
            empty = samples.mean.to(subject.device, torch.float32).view(1, -1, 1, 1)

        def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> list[Tensor]:
            parts = parts_by_band(images - empty, edges)
            clean = subject.original(start, images)
            if start == 0:
                subject.check_scale(clean)
            chosen = clean.argmax(1) if self.of == "predicted" else targets
            without = subject.logits(empty.expand_as(images), "baseline")
            found = self._attributions(subject, parts, empty, chosen)
            picked = [logits.gather(1, chosen[:, None])[:, 0] for logits in (clean, without)]
            return [part.cpu() for part in (found, *picked, chosen, clean.argmax(1))]

        out = zip(*subject.map(evaluate_batch), strict=True)
        found, clean, without, chosen, predicted = (torch.cat(parts) for parts in out)
        return BandAttributionResult(
            settings=settings_of(self) | {"edges": edges},
            samples=len(samples),
            edges=np.asarray(edges),
            attribution=found.double().numpy(),
            logit=clean.double().numpy(),
            baseline=without.double().numpy(),
            explained=chosen.numpy(),
            predicted=predicted.numpy(),
            targets=samples.targets.numpy(),
            example_images=samples.pixels(slice(0, 4)).float().numpy(),
        )

    def _attributions(
        self, subject: Subject, parts: Tensor, empty: Tensor, chosen: Tensor
    ) -> Tensor:
        def forward(gains: Tensor, parts: Tensor) -> Tensor:
            images = torch.einsum("nb,nbchw->nchw", gains, parts) + empty
            return subject.logits(images, "banded")

        gains = torch.ones(parts.shape[:2], device=parts.device)
        attribution = _captum(_METHODS[self.method])(forward)
        options: dict[str, Any] = {
            "baselines": torch.zeros_like(gains),
            "target": chosen,
            "additional_forward_args": (parts,),
        }
        if self.method == "shapley":
            # The same permutations for every batch: results do not depend on its size.
            torch.manual_seed(self.seed)
            options["n_samples"] = self.permutations
        if self.method != "integrated_gradients":
            # captum draws on the default device: on the CPU, the permutations are the same for all.
            with torch.device("cpu"):
                result: Tensor = attribution.attribute(gains, **options)
            return result.detach()
        advice = 'use method="shapley"'
        with (
            torch.enable_grad(),
            torch.device(subject.device),
            reached("BandAttribution", advice),
        ):
            result = attribution.attribute(
                gains.requires_grad_(),
                n_steps=self.steps,
                internal_batch_size=max(len(gains), subject.batch_size),
                **options,
            )
        return result.detach()


def parts_by_band(images: Tensor, edges: tuple[float, ...]) -> Tensor:
    """Images as the sum of their bands.

    Args:
        images: ``(N, C, H, W)``.
        edges: upper ends of the bands, increasing, the last at the corner or beyond.

    Returns:
        ``(N, B, C, H, W)``; they sum to the images.
    """
    lows = [low for low, _ in fourier.bands(images, edges)]
    parts = [lows[0], *(b - a for a, b in pairwise(lows))]
    return torch.stack(parts, 1)


def _captum(name: str) -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise InputError(
            f"BandAttribution: expected captum, got none ({error}); "
            "pip install 'hfc_probe[attribution]'"
        ) from error
    found = getattr(captum.attr, name, None)
    if found is None:
        import captum

        raise InputError(
            f"BandAttribution: expected captum with {name}, got version "
            f"{getattr(captum, '__version__', 'unknown')} without it; pip install -U captum"
        )
    return found


@dataclass(frozen=True, eq=False)
class BandAttributionResult(Result):
    """Attributions in logits, N images and B bands.

    ``arrays()``:

    - ``edges`` (B,): upper end of each band in cycles per image, the first is DC alone;
    - ``attribution`` (N, B): logits that a band brings; ``logit``, ``baseline`` (N,): of the
      image and of the image without any band;
    - ``mean`` (B,), ``mean_lower``, ``mean_upper``: over images, with a 95 % interval of the
      mean (1.96 standard errors);
    - ``share`` (B,): mean over images of |attribution| divided by its sum over bands;
    - ``explained``, ``predicted``, ``targets`` (N,): classes.
    """

    edges: NDArray[np.float64]
    attribution: NDArray[np.float64]
    logit: NDArray[np.float64]
    baseline: NDArray[np.float64]
    explained: NDArray[np.int64]
    predicted: NDArray[np.int64]
    targets: NDArray[np.int64]
    example_images: NDArray[np.float32]

    def original(self) -> tuple[int, int, int]:
        return int((self.predicted == self.targets).sum()), self.samples, 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        mean = self.attribution.mean(0)
        spread = np.zeros_like(mean)
        if self.samples > 1:
            spread = 1.96 * self.attribution.std(0, ddof=1) / np.sqrt(self.samples)
        size = np.abs(self.attribution)
        total = size.sum(1, keepdims=True)
        return {
            "edges": self.edges,
            "attribution": self.attribution,
            "logit": self.logit,
            "baseline": self.baseline,
            "mean": mean,
            "mean_lower": mean - spread,
            "mean_upper": mean + spread,
            "share": (size / np.where(total > 0, total, 1)).mean(0),
            "explained": self.explained,
            "predicted": self.predicted,
            "targets": self.targets,
        }

    @property
    def bands(self) -> list[str]:
        """The bands' names."""
        ends = [f"{edge:.3g}" for edge in self.edges]
        return ["DC", *(f"{a}–{b}" for a, b in pairwise(ends))]

    @property
    def group(self) -> str:
        return f"{self.name}/{self.settings['method']}"

    def _tags(self) -> list[str]:
        return [f"hfc_bands/{radius_tag(float(edge))}" for edge in self.edges]

    def scalars(self) -> dict[str, float]:
        mean = self.arrays()["mean"]
        return {tag: float(value) for tag, value in zip(self._tags(), mean, strict=True)}

    def labels(self) -> dict[str, Label]:
        return {
            tag: Label(f"the mean attribution of the band {band} (cycles/image)", "logit")
            for tag, band in zip(self._tags(), self.bands, strict=True)
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays = self.arrays()
        low, high = arrays["mean_lower"], arrays["mean_upper"]
        return {
            tag: (float(a), float(b)) for tag, a, b in zip(self._tags(), low, high, strict=True)
        }

    def figure_inches(self) -> tuple[float, float]:
        return 6.2 + 2.9 * ((min(4, len(self.example_images)) + 1) // 2), 4.8

    def draw_panels(self, figure: Any) -> None:
        """Mean attribution by band, and the first images with theirs."""
        arrays = self.arrays()
        shown = min(4, len(self.example_images))
        where = np.arange(len(self.edges))
        parts: Any = figure.subfigures(1, 2, width_ratios=(6.2, 2.9 * ((shown + 1) // 2)))
        axes = parts[0].subplots()
        mean, low, high = (arrays[n] for n in ("mean", "mean_lower", "mean_upper"))
        axes.bar(
            where,
            mean,
            color=[LFC if value >= 0 else HFC for value in mean],
            yerr=[mean - low, high - mean],
            capsize=3,
            ecolor="black",
        )
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(where, self.bands, rotation=30, ha="right")
        axes.set_xlabel("band (cycles/image)")
        axes.set_ylabel("attribution (logits)")
        method = str(self.settings["method"]).replace("_", " ")
        axes.set_title(
            f"What the {self.settings['of']} class rests on\n"
            f"({method}, mean of {self.samples} images, 95 % intervals)",
            fontsize=11,
        )
        limit = max(1e-9, float(np.abs(self.attribution[:shown]).max()) * 1.05)
        grid = parts[1].subplots(
            4, (shown + 1) // 2, squeeze=False, height_ratios=(1.15, 1, 1.15, 1)
        )
        for k, cell in enumerate(np.ravel(grid)):
            if k >= 4 * ((shown + 1) // 2):
                bare(cell)
        for k in range(2 * ((shown + 1) // 2)):
            row, column = divmod(k, (shown + 1) // 2)
            picture, bars = grid[2 * row][column], grid[2 * row + 1][column]
            if k >= shown:
                bare(picture)
                bare(bars)
                continue
            show_pixels(picture, self.example_images[k])
            hit = "✓" if self.predicted[k] == self.targets[k] else "✗"
            picture.set_title(f"{hit} predicted class {self.predicted[k]}", fontsize=9, pad=3)
            values = self.attribution[k]
            bars.bar(where, values, color=[LFC if v >= 0 else HFC for v in values])
            bars.axhline(0, color="black", lw=0.6)
            bars.set_ylim(-limit, limit)
            bars.set_xticks(where, [])
            bars.tick_params(labelsize=8)
            if column == 0:
                bars.set_ylabel("logits", fontsize=9)

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = ["band (cycles/image)", "mean attribution (logits)", "95 % interval", "share"]
        rows = [
            [
                label,
                f"{arrays['mean'][k]:+.2f}",
                f"[{arrays['mean_lower'][k]:+.2f}, {arrays['mean_upper'][k]:+.2f}]",
                f"{100 * arrays['share'][k]:.0f} %",
            ]
            for k, label in enumerate(self.bands)
        ]
        return heads, rows

    def _title(self) -> str:
        return (
            f"Attribution to bands by {self.settings['method'].replace('_', ' ')}, "
            f"{self.samples} images, {self.settings['of']} class"
        )

    def _named(self, band: int) -> str:
        return "DC" if band == 0 else f"the band {self.bands[band]} cycles/image"

    def verdict(self) -> str:
        arrays = self.arrays()
        order = np.argsort(-arrays["mean"])
        first, second = int(order[0]), int(order[1])
        name = self._named(first)
        text = (
            f"{name[0].upper()}{name[1:]} contributes most to the "
            f"{self.settings['of']} class, {arrays['mean'][first]:+.2f} of "
            f"{(self.logit - self.baseline).mean():+.2f} logits"
        )
        if arrays["mean_lower"][first] <= arrays["mean_upper"][second]:
            return (
                f"{text}; the next, {self._named(second)}, does not clearly differ from it "
                f"({arrays['mean'][second]:+.2f})."
            )
        return f"{text}; the next is {self._named(second)} with {arrays['mean'][second]:+.2f}."

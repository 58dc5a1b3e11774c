"""Accuracy on leading and trailing singular components (Wang et al., CVPR 2020, §8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC
from ..core.intervals import percent, percent_at, proportion_arrays
from ..core.labels import Label, accuracy_label
from ..core.measurement import Measurement, settings_of
from ..core.result import CellResult, manner
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, is_correct
from ..model.subject import target_rank as target_rank

__all__ = ["TruncatedSVD", "TruncatedSVDResult"]

VIEWS = ("leading", "trailing", "lfc", "hfc")
# Right as it is and on the second view, wrong on the first: the images of the paper's Figure 2.
ONLY = {"trailing_only": ("leading", "trailing"), "hfc_only": ("lfc", "hfc")}


@dataclass(frozen=True)
class TruncatedSVD(Measurement):
    """Accuracy on leading and trailing singular components, beside LFC and HFC of their energy.

    Each channel is split at rank k into its leading singular components and the rest; for
    comparison the same images are split at the radius whose LFC holds, on average over the
    samples, the energy nearest to that of the leading components. If HFC were mere noise, the
    model would do no better on it than on as much of the trailing components.

    Args:
        ranks: increasing, from 1 to min(H, W); None: about 1/16, 1/8, 1/4, 1/2 of it.
        background: what HFC and the trailing components are fed on, as
            :class:`FrequencyAccuracy`'s ``hfc_background``.
        rescale: of all four and of the original, as :class:`FrequencyAccuracy`.

    Raises:
        InputError: ranks that are not whole, not increasing or below 1; when measuring, above
            min(H, W).

    Source: Wang et al., CVPR 2020, §8, who count images as in their Figure 2 (``trailing_only``
    against ``hfc_only``) and do not say at what rank; equal energy is ours.
    """

    ranks: tuple[int, ...] | None = None
    background: fourier.Background = "zero"
    rescale: fourier.Rescale | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fourier.check_rescale(self.rescale)
        checks.choice("background", self.background, ("zero", "mean"))
        if self.ranks is not None:
            checks.keep(self, ranks=checks.wholes("ranks", self.ranks))

    def ranks_for(self, height: int, width: int) -> tuple[int, ...]:
        """The ranks used for images of that size.

        >>> TruncatedSVD().ranks_for(32, 32)
        (2, 4, 8, 16)
        """
        largest = min(height, width)
        if self.ranks is None:
            return tuple(sorted({max(1, largest // n) for n in (16, 8, 4, 2)}))
        if self.ranks[-1] > largest:
            raise InputError(
                f"ranks: expected at most {largest} for images of {height}×{width} pixels, got "
                f"{self.ranks[-1]}"
            )
        return self.ranks

    def validate(self, model: Any, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.ranks_for(*image_shape[1:])

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return samples * (1 + 4 * len(self.ranks_for(*image_shape[1:])))

    def compute(self, subject: Subject) -> TruncatedSVDResult:
        samples = subject.samples
        ranks = self.ranks_for(*samples.image_shape[1:])
        energy, radii, kept = _matched(subject, ranks)
        mean = samples.mean.to(subject.device, torch.float32).view(1, -1, 1, 1)
        counts = {name: np.zeros(len(ranks), np.int64) for name in (*VIEWS, *ONLY)}
        original = 0

        def evaluate_batch(start: int, images: Tensor, targets: Tensor) -> tuple[int, Any]:
            logits = subject.original(start, images, rescale=self.rescale)
            right = target_rank(logits, targets) < 1
            # One decomposition serves every rank.
            u, s, vh = torch.linalg.svd(images.to(torch.float32), full_matrices=False)
            found = np.zeros((len(ranks), len(counts)), np.int64)
            by_radius = fourier.bands(images, radii)
            for k, (rank, (low, high)) in enumerate(zip(ranks, by_radius, strict=True)):
                leading = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
                views = zip(VIEWS, (leading, images - leading, low, high), strict=True)
                hits = {}
                for name, view in views:
                    if self.background == "mean" and name in ("trailing", "hfc"):
                        view = view + mean
                    view = fourier.rescaled(view, self.rescale)
                    hits[name] = is_correct(subject, view, targets, f"{name} at rank {rank}")
                for name, (most, rest) in ONLY.items():
                    hits[name] = right & hits[rest] & ~hits[most]
                found[k] = [int(hits[name].sum()) for name in counts]
            return int(right.sum()), found

        for hit, found in subject.map(evaluate_batch):
            original += hit
            for column, name in enumerate(counts):
                counts[name] += found[:, column]
        return TruncatedSVDResult(
            settings=settings_of(self) | {"ranks": ranks},
            samples=len(samples),
            ranks=np.asarray(ranks, np.int64),
            radii=np.asarray(radii),
            energy=energy,
            lfc_energy=kept,
            original_right=original,
            counts=counts,
        )


def _matched(
    subject: Subject, ranks: tuple[int, ...]
) -> tuple[NDArray[np.float64], list[float], NDArray[np.float64]]:
    """Mean energy share of the leading components per rank, and the radius that comes nearest.

    Energy is that of the image without its channels' means, which nearly all of it would be.
    """
    height, width = subject.samples.image_shape[1:]
    distance = fourier.distance(height, width, centred=False).flatten()
    order = torch.argsort(distance, stable=True)
    shares = torch.zeros(height * width, dtype=torch.float64, device="cpu")
    leading = torch.zeros(len(ranks), dtype=torch.float64, device="cpu")
    seen = 0
    for images, targets in subject.batches():
        images = images.to("cpu").double()  # not every device has float64
        centred = images - images.mean((-2, -1), keepdim=True)
        total = centred.square().sum((1, 2, 3)).clamp_min(1e-12)
        power = fourier.transform(torch.fft.fft2, centred).abs().square().sum(1).flatten(1)
        power /= height * width
        shares += (power / total[:, None]).sum(0)
        squares = torch.linalg.svdvals(images).square()
        for k, rank in enumerate(ranks):
            lost = squares[..., rank:].sum((1, 2)) / total
            leading[k] += (1 - lost).sum()
        seen += len(targets)
    leading /= seen
    cumulative = torch.cumsum(shares[order] / seen, 0)
    sorted_distance = distance[order]
    # Only whole circles can be cut: the last coefficient of each distance.
    last = torch.ones_like(sorted_distance, dtype=torch.bool)
    last[:-1] = sorted_distance[1:] > sorted_distance[:-1] + 1e-9
    circles, held = sorted_distance[last], cumulative[last]
    nearest = [int((held - share).abs().argmin()) for share in leading]
    # A hair beyond the circle, so that rounding does not lose it.
    radii = [float(circles[n]) + 1e-6 for n in nearest]
    return leading.numpy(), radii, held[nearest].numpy()


@dataclass(frozen=True, eq=False)
class TruncatedSVDResult(CellResult):
    """Counts of right predictions, K ranks.

    ``arrays()``:

    - ``ranks`` (K,), ``radii`` (K,) in cycles per image, matched by energy;
    - ``energy``, ``lfc_energy`` (K,): share of the energy about the channels' means that the
      leading components and the LFC hold, mean over images;
    - ``original``, ``leading``, ``trailing``, ``lfc``, ``hfc`` (K,) with ``_lower``,
      ``_upper`` (95 % Wilson), ``_correct``, ``_count``;
    - ``trailing_only``, ``hfc_only`` (K,) with the same variants: share of all images that are
      right as they are and on that view, but wrong on the leading components or the LFC.
    """

    inches: ClassVar[tuple[float, float]] = (10.4, 4.4)

    ranks: NDArray[np.int64]
    radii: NDArray[np.float64]
    energy: NDArray[np.float64]
    lfc_energy: NDArray[np.float64]
    original_right: int
    counts: dict[str, NDArray[np.int64]]

    def original(self) -> tuple[int, int, int]:
        return self.original_right, self.samples, 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {
            "ranks": self.ranks,
            "radii": self.radii,
            "energy": self.energy,
            "lfc_energy": self.lfc_energy,
        }
        out |= proportion_arrays("original", self.original_right, self.samples)
        for name, counts in self.counts.items():
            out |= proportion_arrays(name, counts, self.samples)
        return out

    def cells(self) -> list[tuple[str, str, tuple[int]]]:
        return [
            (f"hfc_svd/{name}_k{rank:02d}", name, (k,))
            for name in VIEWS
            for k, rank in enumerate(self.ranks)
        ]

    def labels(self) -> dict[str, Label]:
        out = {}
        for tag, name, (k,) in self.cells():
            rank, radius = int(self.ranks[k]), float(self.radii[k])
            if name in ("lfc", "hfc"):  # of the energy of that rank
                text = f"{accuracy_label(name, radius).text}, matched to rank {rank}"
                out[tag] = Label(text, "accuracy", name, radius)
            else:
                out[tag] = Label(f"accuracy on the {name} components, rank {rank}", "accuracy")
        return out

    def draw_panels(self, figure: Any) -> None:
        """Accuracy against rank beside LFC and HFC of the same energy."""
        arrays = self.arrays()
        where = np.arange(len(self.ranks))
        panels: Any = figure.subplots(1, 2, sharey=True)
        for axes, title, series in (
            (
                panels[0],
                "Most energy kept",
                (("leading", "#009E73", "-", "leading components"), ("lfc", LFC, "--", "LFC")),
            ),
            (
                panels[1],
                "The rest",
                (("trailing", "#CC79A7", "-", "trailing components"), ("hfc", HFC, "--", "HFC")),
            ),
        ):
            for name, colour, style, label in series:
                low, line, high = (arrays[name + v] for v in ("_lower", "", "_upper"))
                axes.fill_between(where, low, high, color=colour, alpha=0.18, lw=0)
                axes.plot(where, line, style, marker="o", color=colour, label=label)
            axes.axhline(float(arrays["original"]), color=CLEAN, ls=":", lw=1.2)
            axes.set_xticks(
                where,
                [
                    f"k = {rank}\nr = {radius:.1f}\n{100 * energy:.1f} %"
                    for rank, radius, energy in zip(
                        self.ranks, self.radii, self.energy, strict=True
                    )
                ],
                fontsize=9,
            )
            axes.set_xlabel("rank k; r (cycles/image) of the same energy; energy")
            axes.set_title(title)
            axes.legend(frameon=False, fontsize=9)
        panels[0].set_ylim(0, 1.02)
        panels[0].set_ylabel("accuracy")
        fed = fourier.rescale_note(self.settings["rescale"], "; ")
        figure.suptitle(
            f"{self.samples} images, {self.settings['background']} background{fed}", fontsize=11
        )
        note = f"original {percent(float(arrays['original']))}"
        panels[0].annotate(
            note,
            (0, float(arrays["original"])),
            xytext=(2, 3),
            textcoords="offset points",
            color=CLEAN,
            fontsize=9,
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        heads = ["rank", "energy", "leading", "trailing", "radius", "LFC", "HFC"]
        rows = []
        for k, rank in enumerate(self.ranks):
            cells = {name: percent_at(arrays, name, k) for name in VIEWS}
            rows.append(
                [
                    str(rank),
                    percent(float(self.energy[k])),
                    cells["leading"],
                    cells["trailing"],
                    f"{self.radii[k]:.1f}",
                    cells["lfc"],
                    cells["hfc"],
                ]
            )
        return heads, rows

    def _title(self) -> str:
        return (
            f"Singular components against frequencies of the same energy, {self.samples} images, "
            f"{self.settings['background']} background"
            f"{fourier.rescale_note(self.settings['rescale'])}, 95 % Wilson intervals"
        )

    def verdict(self) -> str:

        return svd_sentence(self)


def svd_sentence(result: TruncatedSVDResult) -> str:
    """Whether HFC tells the model more than as much of the trailing components."""
    arrays = result.arrays()
    ahead = [
        k for k in range(len(result.ranks)) if arrays["hfc_lower"][k] > arrays["trailing_upper"][k]
    ]
    behind = [
        k for k in range(len(result.ranks)) if arrays["trailing_lower"][k] > arrays["hfc_upper"][k]
    ]
    how = manner(result.settings, "background")
    if not ahead and not behind:
        return (
            "HFC and the trailing singular components of the same energy do not clearly differ at "
            f"any rank ({how})."
        )
    gap = np.abs(arrays["hfc"] - arrays["trailing"])
    k = max(ahead or behind, key=lambda n: float(gap[n]))
    word = "more" if ahead else "less"
    also = "" if not (ahead and behind) else " (and less at another)"
    high, rest = (percent(float(arrays[name][k])) for name in ("hfc", "trailing"))
    return (
        f"HFC tells this model {word} than trailing singular components of the same energy: "
        f"beyond r = {result.radii[k]:.1f} cycles/image it is right in {high}, beyond rank "
        f"{result.ranks[k]} in {rest}{also} ({how})."
    )

"""Accuracy under FGSM and PGD, also with smoothed kernels (Wang et al., CVPR 2020, Table 2).

Long because a measurement is one file: settings, attacks, result, sentence and figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import attacks, fourier, kernels
from ..core.drawing import CLEAN, HFC, LFC, radius_axis, spectrum_axes
from ..core.intervals import percent, percent_at, proportion_arrays
from ..core.labels import Label
from ..core.measurement import Measurement, settings_of
from ..core.result import CellResult
from ..data.noise import uniform_noise
from ..ground import checks
from ..ground.errors import InputError
from ..model.subject import Subject, is_correct, target_rank
from .gradients import reached

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AdversarialAccuracy", "AdversarialAccuracyResult"]

ATTACKS = ("fgsm", "pgd")


@dataclass(frozen=True)
class AdversarialAccuracy(Measurement):
    """Accuracy under L∞ attacks in pixel space, clean accuracy beside it.

    Both attacks raise the cross-entropy of the true class, within ε of the image and within
    [0, 1]; the model's normalisation is part of what is attacked. With several
    ``rhos`` the model's first layer is smoothed by each (its parameters are never written)
    and attacked anew, which is the paper's Table 2; its kernels are not normalised, so
    activations grow by up to 1 + 8ρ. With BatchNorm, whose statistics are those of training,
    that alone costs clean accuracy (the authors' published network runs without it);
    ``normalize=True`` keeps the scale.

    Args:
        epsilons: L∞ radii in pixel space, increasing, above 0 and at most 1.
        rhos: smoothing strengths; 0 is the model as it is.
        steps: gradient steps of PGD.
        step_size: of PGD, in pixel space; None: 2.5 ε / steps (Madry et al., ICLR 2018).
        random_start: start PGD at a point drawn uniformly within ε.
        normalize: keep the sum of a constant kernel when smoothing (:func:`kernels.smooth`).
        perturbation_radii: also measure accuracy when the perturbation of the first ρ is
            low-passed or high-passed at these radii, cycles per image.
        samples: maximum number of images, a seeded random choice.
        seed: of that choice and of the random start.

    Raises:
        InputError: settings outside those bounds; when measuring, a model that gives no
            gradient.

    Source: Wang et al., CVPR 2020, §6.3 and Table 2 (ε of 0.03, 0.06, 0.09); Goodfellow et
    al., ICLR 2015 (FGSM); Madry et al., ICLR 2018 (PGD).
    """

    epsilons: tuple[float, ...] = (0.03, 0.06, 0.09)
    rhos: tuple[float, ...] = (0.0,)
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    normalize: bool = False
    perturbation_radii: tuple[float, ...] = ()
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        epsilons = checks.numbers("epsilons", self.epsilons, high=1, open_low=True)
        rhos = checks.numbers("rhos", self.rhos, high=1000)
        checks.keep(self, epsilons=epsilons, rhos=rhos, steps=checks.whole("steps", self.steps))
        radii = checks.listed(self.perturbation_radii)
        numbers = checks.numbers("perturbation_radii", radii) if radii else ()
        checks.keep(self, perturbation_radii=numbers)
        if self.step_size is not None:
            step_size = checks.number("step_size", self.step_size, 0, 1, open_low=True)
            checks.keep(self, step_size=step_size)

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        if any(self.rhos):
            channels = image_shape[0] if image_shape else None
            with kernels.smoothed(model, max(self.rhos), channels=channels):
                pass

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        # The clean images are classified on the way to their gradient, which is FGSM's.
        each = 3 + len(self.epsilons) * (2 + 3 * self.steps)
        filtered = 4 * len(self.epsilons) * len(self.perturbation_radii)
        return min(samples, self.samples) * (each * len(self.rhos) + filtered)

    def compute(self, subject: Subject) -> AdversarialAccuracyResult:
        subject = subject.subset(self.samples, self.seed)
        count = len(subject.samples)
        rows = [self._tally(subject) for _ in self.rhos]
        with subject.progress(len(self.rhos) * count, "image") as advance:
            for row, rho in enumerate(self.rhos):
                with _smoothed(subject, rho, normalize=self.normalize) as smoothed:
                    for seen in smoothed.map(partial(self._evaluate_batch, smoothed, row), advance):
                        rows[row].add(seen)
        if not rows[0].moved:
            raise InputError(
                "AdversarialAccuracy: expected a model whose loss changes with its input, got a "
                f"gradient of zero for all {count} images (rounding, an argmax or saturated "
                "logits hide it); attack the model without that step"
            )
        return AdversarialAccuracyResult(
            settings=settings_of(self),
            samples=count,
            clean_right=np.array([row.clean for row in rows], np.int64),
            attacked_right={
                name: np.stack([row.attacked[name] for row in rows]) for name in ATTACKS
            },
            filtered_right=rows[0].filtered,
            spectra={name: power / count for name, power in rows[0].power.items()},
            without_gradient=np.array([count - row.moved for row in rows], np.int64),
        )

    def _tally(self, subject: Subject) -> _Tally:
        columns, radii = len(self.epsilons), len(self.perturbation_radii)
        size = subject.samples.image_shape[1:]
        pairs = [(name, part) for name in ATTACKS for part in ("lfc", "hfc")]
        return _Tally(
            attacked={name: np.zeros(columns, np.int64) for name in ATTACKS},
            filtered={pair: np.zeros((columns, radii), np.int64) for pair in pairs},
            power={name: np.zeros((columns, *size)) for name in ATTACKS},
        )

    def _evaluate_batch(
        self, subject: Subject, row: int, start: int, images: Tensor, targets: Tensor
    ) -> _Tally:
        tally = self._tally(subject)
        model = partial(subject.logits, what="attacked")
        with reached("AdversarialAccuracy", "attack the model without that"):
            direction, logits = attacks.fgsm_direction(model, images, targets)
        if row == 0 and start == 0:
            subject.check_targets(logits.shape[1])
            subject.check_scale(logits)
        tally.clean = int((target_rank(logits, targets) < 1).sum())
        tally.moved = int(direction.flatten(1).any(1).sum())
        noise = uniform_noise(self.seed, start, images) if self.random_start else None
        for column, epsilon in enumerate(self.epsilons):
            found = {
                "fgsm": (images + epsilon * direction).clamp(0, 1),
                "pgd": attacks.pgd(
                    model,
                    images,
                    targets,
                    epsilon=epsilon,
                    steps=self.steps,
                    step_size=self.step_size,
                    start=None if noise is None else epsilon * noise,
                ),
            }
            for name, adversarial in found.items():
                hits = is_correct(subject, adversarial, targets, f"{name.upper()} ε = {epsilon:g}")
                tally.attacked[name][column] = int(hits.sum())
                if row:
                    continue
                change = adversarial - images
                transform = fourier.transform(torch.fft.fft2, change).abs().square().mean(1).sum(0)
                tally.power[name][column] = torch.fft.fftshift(transform).cpu().double().numpy()
                for k, parts in enumerate(fourier.bands(change, self.perturbation_radii)):
                    for part, filtered in zip(("lfc", "hfc"), parts, strict=True):
                        again = (images + filtered).clamp(0, 1)
                        hits = is_correct(subject, again, targets, "filtered adversarial")
                        tally.filtered[name, part][column, k] = int(hits.sum())
        return tally


@dataclass
class _Tally:
    """Counts at one ρ: of right predictions, of gradients that are not zero; spectra's sums."""

    attacked: dict[str, NDArray[np.int64]]
    filtered: dict[tuple[str, str], NDArray[np.int64]]
    power: dict[str, NDArray[np.float64]]
    clean: int = 0
    moved: int = 0

    def add(self, other: _Tally) -> None:
        self.clean += other.clean
        self.moved += other.moved
        for name in self.attacked:
            self.attacked[name] += other.attacked[name]
            self.power[name] += other.power[name]
        for pair in self.filtered:
            self.filtered[pair] += other.filtered[pair]


@contextmanager
def _smoothed(subject: Subject, rho: float, *, normalize: bool) -> Iterator[Subject]:
    if rho == 0:
        yield subject
        return
    channels = subject.samples.image_shape[0]
    with kernels.smoothed(subject.model, rho, normalize=normalize, channels=channels) as stand_in:
        yield replace(subject, model=stand_in)


@dataclass(frozen=True, eq=False)
class AdversarialAccuracyResult(CellResult):
    """Counts of right predictions, P smoothing strengths and E radii.

    ``arrays()``:

    - ``rhos`` (P,), ``epsilons`` (E,);
    - ``clean`` (P,), ``fgsm`` and ``pgd`` (P, E): accuracy in [0, 1], with ``_lower``,
      ``_upper`` (95 % Wilson), ``_correct``, ``_count``;
    - ``fgsm_spectrum``, ``pgd_spectrum`` (E, H, W): mean over images and channels of the
      squared DFT of the perturbation, divided by (H·W)² so that it sums to the perturbation's
      mean square; of the first ρ, DC at ``[H // 2, W // 2]``;
    - ``perturbation_radii`` (R,) and, where there are any, ``fgsm_lfc``, ``fgsm_hfc``,
      ``pgd_lfc``, ``pgd_hfc`` (E, R) with the variants: accuracy of the first ρ when only
      that part of the perturbation is added.

    - ``without_gradient`` (P,): share of the images at which the gradient is exactly zero, so
      that no gradient attack can move them: masking, not robustness. Smoothing without
      ``normalize`` scales logits up, where there is no BatchNorm, until the softmax saturates.
    """

    clean_right: NDArray[np.int64]
    attacked_right: dict[str, NDArray[np.int64]]
    filtered_right: dict[tuple[str, str], NDArray[np.int64]]
    spectra: dict[str, NDArray[np.float64]]
    without_gradient: NDArray[np.int64]

    def original(self) -> tuple[int, int, int]:
        plain = self.rhos.index(0) if 0 in self.rhos else int(self.clean_right.argmax())
        return int(self.clean_right[plain]), self.samples, 1

    @property
    def rhos(self) -> tuple[float, ...]:
        return tuple(self.settings["rhos"])

    @property
    def epsilons(self) -> tuple[float, ...]:
        return tuple(self.settings["epsilons"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        radii = tuple(self.settings["perturbation_radii"])
        out: dict[str, NDArray[Any]] = {
            "rhos": np.asarray(self.rhos),
            "epsilons": np.asarray(self.epsilons),
            "perturbation_radii": np.asarray(radii, dtype=np.float64),
        }
        out |= proportion_arrays("clean", self.clean_right, self.samples)
        out["without_gradient"] = self.without_gradient / self.samples
        for name in ATTACKS:
            out |= proportion_arrays(name, self.attacked_right[name], self.samples)
            cells = self.spectra[name].shape[-1] * self.spectra[name].shape[-2]
            out[f"{name}_spectrum"] = self.spectra[name] / cells**2
        if radii:
            for (name, part), counts in self.filtered_right.items():
                out |= proportion_arrays(f"{name}_{part}", counts, self.samples)
        return out

    def cells(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Tag, array and index of every scalar."""
        for row, rho in enumerate(self.rhos):
            end = "" if row == 0 and rho == 0 else f"_rho{rho:g}"
            yield f"hfc_attack/clean{end}", "clean", (row,)
            for column, epsilon in enumerate(self.epsilons):
                for name in ATTACKS:
                    yield f"hfc_attack/{name}_e{epsilon:g}{end}", name, (row, column)

    def labels(self) -> dict[str, Label]:
        out = {}
        for tag, name, (row, *column) in self.cells():
            rho = self.rhos[row]
            smoothed = f" with kernels smoothed by ρ = {rho:g}" if rho else ""
            if name == "clean":
                text = f"clean accuracy{smoothed or ' beside the attacks'}"
                out[tag] = Label(text, "accuracy", "" if rho else "original")
            else:
                text = f"{name.upper()} accuracy at ε = {self.epsilons[column[0]]:g}{smoothed}"
                out[tag] = Label(text, f"{name.upper()} accuracy")
        return out

    def figure_inches(self) -> tuple[float, float]:
        return 14.2 if self.settings["perturbation_radii"] else 13.2, 4.3

    def draw_panels(self, figure: Any) -> None:
        """Accuracy against ε for every ρ under both attacks, and PGD's spectrum."""
        arrays = self.arrays()
        filtered = len(arrays["perturbation_radii"]) > 0
        panels: Any = figure.subplots(1, 4 if filtered else 3)
        for axes, name in zip(panels, ("fgsm", "pgd"), strict=False):
            _attack_axes(axes, self, arrays, name)
        panels[0].set_ylabel("accuracy")
        panels[0].legend(frameon=False, fontsize=9, title="kernel smoothing", title_fontsize=9)
        epsilon = self.epsilons[-1]
        spectrum_axes(
            panels[2],
            arrays["pgd_spectrum"][-1],
            f"PGD perturbation, ε = {epsilon:g}",
            "log10 of mean power",
        )
        if filtered:
            _filtered_axes(panels[3], self, arrays)

    def axes(self) -> dict[str, dict[str, Any]]:
        rho = {"name": "rho", "unit": "1", "values": list(self.rhos)}
        epsilon = {"name": "epsilon", "unit": "pixel value", "values": list(self.epsilons)}
        variants = ("", "_lower", "_upper")
        out = {f"clean{v}": {"unit": "accuracy", "axes": [rho]} for v in variants}
        for name in ATTACKS:
            out |= {f"{name}{v}": {"unit": "accuracy", "axes": [rho, epsilon]} for v in variants}
        return out

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()

        heads = ["ρ", "clean"]
        heads += [f"{n.upper()} ε = {e:g}" for n in ATTACKS for e in self.epsilons]
        rows = []
        for row, rho in enumerate(self.rhos):
            line = [f"{rho:g}", percent_at(arrays, "clean", row)]
            line += [
                percent_at(arrays, n, row, k) for n in ATTACKS for k in range(len(self.epsilons))
            ]
            rows.append(line)
        return heads, rows

    def _title(self) -> str:
        step = self.settings["step_size"]
        size = "2.5 ε / steps" if step is None else f"{step:g}"
        start = "random start" if self.settings["random_start"] else "no random start"
        return (
            f"Accuracy under L∞ attacks, {self.samples} images, PGD of {self.settings['steps']} "
            f"steps of {size}, {start}, 95 % Wilson intervals"
        )

    def verdict(self) -> str:

        return adversarial_sentence(self)


def adversarial_sentence(result: AdversarialAccuracyResult) -> str:
    """What attacks leave of the accuracy, and what kernel smoothing changes about it."""
    arrays = result.arrays()
    clean, left = (percent(float(arrays[n].flat[0])) for n in ("clean", "pgd"))
    epsilon = result.epsilons[0]
    text = f"PGD with ε = {epsilon:g} leaves {left} of {clean} clean accuracy"
    masked = float(arrays["without_gradient"].max())
    if masked:
        rho = result.rhos[int(arrays["without_gradient"].argmax())]
        where = f" at ρ = {rho:g}" if len(result.rhos) > 1 else ""
        text += f" (for {percent(masked)} of the images{where} the gradient is exactly 0: masked)"
    if len(result.rhos) == 1:
        return text + "."
    first, last = result.rhos[0], result.rhos[-1]
    changes = []
    for name, label in (("clean", "clean accuracy"), ("pgd", f"PGD accuracy at ε = {epsilon:g}")):
        before, after = (_first_of(arrays, name, row) for row in (0, -1))
        changes.append(
            f"{label} {_change(before, after)} ({percent(before[0])} to {percent(after[0])})"
        )
    return f"{text}; from ρ = {first:g} to {last:g}, {' and '.join(changes)}."


def _first_of(arrays: dict[str, NDArray[Any]], name: str, row: int) -> tuple[float, float, float]:
    """A proportion with its bounds; of a table the first column."""
    value, low, high = (
        float(np.ravel(arrays[name + part][row])[0]) for part in ("", "_lower", "_upper")
    )
    return value, low, high


def _change(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    """How a proportion changed, said only where two 95 % intervals do not overlap.

    >>> _change((0.9, 0.88, 0.92), (0.5, 0.45, 0.55)), _change((0.5, 0.4, 0.6), (0.55, 0.45, 0.6))
    ('falls', 'does not change measurably')
    """
    if after[2] < before[1]:
        return "falls"
    return "rises" if after[1] > before[2] else "does not change measurably"


# More of Okabe and Ito's colours, in the order in which series are drawn.
SERIES = (LFC, HFC, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", CLEAN)


_MARKERS = "os^Dvp*"


def _attack_axes(
    axes: Axes, result: AdversarialAccuracyResult, arrays: dict[str, NDArray[Any]], name: str
) -> None:
    x = np.concatenate([[0.0], arrays["epsilons"]])
    for row, rho in enumerate(result.rhos):
        colour = SERIES[row % len(SERIES)]
        line, low, high = (
            np.concatenate([arrays[f"clean{part}"][[row]], arrays[f"{name}{part}"][row]])
            for part in ("", "_lower", "_upper")
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(x, line, marker=_MARKERS[row % len(_MARKERS)], color=colour, label=f"ρ = {rho:g}")
    axes.set_xticks(x)
    axes.set_xlabel("ε, L∞ in pixel values (0: clean)")
    axes.set_ylim(0, 1.02)
    steps = f", {result.settings['steps']} steps" if name == "pgd" else ""
    axes.set_title(f"{name.upper()}{steps} ({result.samples} images)")


def _filtered_axes(
    axes: Axes, result: AdversarialAccuracyResult, arrays: dict[str, NDArray[Any]]
) -> None:
    radii = arrays["perturbation_radii"]
    for part, colour, style, label in (
        ("lfc", LFC, "-", "only d ≤ r of it"),
        ("hfc", HFC, "--", "only d > r of it"),
    ):
        low, line, high = (arrays[f"pgd_{part}{v}"][-1] for v in ("_lower", "", "_upper"))
        axes.fill_between(radii, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(radii, line, style, marker="o", color=colour, label=label)
    for value, label in (
        (float(arrays["clean"][0]), "clean"),
        (float(arrays["pgd"][0, -1]), "all of it"),
    ):
        axes.axhline(value, color=CLEAN, ls=":", lw=1.2)
        axes.annotate(
            label,
            (1, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=CLEAN,
            fontsize=9,
        )
    axes.set_ylim(0, 1.02)
    radius_axis(axes, radii, "cycles/image")
    axes.set_ylabel("accuracy")
    axes.set_title(f"Perturbation filtered, ε = {result.epsilons[-1]:g}")
    axes.legend(frameon=False, fontsize=9)

"""Figures of the measurements that follow the papers: attacks, amplitude and phase, bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .plots import CLEAN, HFC, LFC, _new_figure, _styled
from .proportions import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .measurements.adversarial_accuracy import AdversarialAccuracyResult
    from .measurements.component_examples import ComponentExamplesResult

# More of Okabe and Ito's colours, in the order in which series are drawn.
SERIES = (LFC, HFC, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", CLEAN)
_MARKERS = "os^Dvp*"


def show_pixels(axes: Axes, pixels: NDArray[Any]) -> None:
    """An image ``(C, H, W)`` in [0, 1] without ticks; other than three channels as grey."""
    picture = np.moveaxis(np.clip(pixels, 0, 1), 0, -1)
    if picture.shape[-1] == 3:
        axes.imshow(picture, interpolation="nearest")
    else:
        axes.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(axes)


def bare(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def gain_for(signed: NDArray[Any]) -> float:
    """A round gain at which a signed picture around grey just fills the range.

    >>> gain_for(np.array([0.06, -0.03]))
    8.0
    """
    peak = float(np.percentile(np.abs(signed), 99)) if signed.size else 0.0
    steps = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 20.0, 50.0, 100.0)
    fitting = [step for step in steps if peak * step <= 0.5]
    return fitting[-1] if fitting else 1.0


def spectrum_axes(axes: Axes, power: NDArray[Any], title: str, label: str) -> None:
    """A power spectrum in decades with DC in the middle."""
    rows, columns = power.shape
    extent = (
        -(columns // 2) - 0.5,
        columns - columns // 2 - 0.5,
        rows - rows // 2 - 0.5,
        -(rows // 2) - 0.5,
    )
    floor = power[power > 0].min() if (power > 0).any() else 1.0
    picture = axes.imshow(
        np.log10(np.maximum(power, floor)), cmap="magma", extent=extent, interpolation="nearest"
    )
    axes.set_xlabel("j, horizontal (cycles/image)")
    axes.set_ylabel("i, vertical (cycles/image)")
    axes.set_title(title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label(label)


def adversarial_figure(result: AdversarialAccuracyResult) -> Figure:
    """Accuracy against ε for every ρ under both attacks, and PGD's spectrum."""
    arrays = result.arrays()
    filtered = len(arrays["perturbation_radii"]) > 0
    with _styled():
        figure = _new_figure(14.2 if filtered else 13.2, 4.3)
        panels = figure.subplots(1, 4 if filtered else 3, sharey=False)
        for axes, name in zip(panels, ("fgsm", "pgd"), strict=False):
            _attack_axes(axes, result, arrays, name)
        panels[0].set_ylabel("accuracy")
        panels[0].legend(frameon=False, fontsize=9, title="kernel smoothing", title_fontsize=9)
        epsilon = result.epsilons[-1]
        spectrum_axes(
            panels[2],
            arrays["pgd_spectrum"][-1],
            f"PGD perturbation, ε = {epsilon:g}",
            "log10 of mean power",
        )
        if filtered:
            _filtered_axes(panels[3], result, arrays)
    return figure


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
        axes.plot(
            x, line, marker=_MARKERS[row % len(_MARKERS)], color=colour, label=f"ρ = {rho:g}"
        )
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
    axes.set_xticks(radii)
    axes.set_xlabel("radius r (cycles/image)")
    axes.set_ylabel("accuracy")
    axes.set_title(f"Perturbation filtered, ε = {result.epsilons[-1]:g}")
    axes.legend(frameon=False, fontsize=9)


def component_figure(result: ComponentExamplesResult) -> Figure:
    """Examples: original, LFC and HFC with predicted class and confidence; the groups' sizes."""
    shown = len(result.example_index)
    columns = min(max(shown, 3), 6)
    with _styled():
        figure = _new_figure(2.05 * columns + 4.6, 6.9)
        left: Any
        left, right = figure.subfigures(1, 2, width_ratios=(2.05 * columns, 4.6))
        _group_axes(right.subplots(), result)
        name = result.settings["group"].replace("_", " ").replace("high", "HFC")
        left.suptitle(
            f"Right as they are; {name.replace('low', 'LFC')} at r = {result.example_radius:g}"
        )
        grid = left.subplots(3, columns, squeeze=False)
        for column in range(columns):
            for row, view in enumerate(("original", "LFC", "HFC")):
                axes = grid[row][column]
                bare(axes)
                if column >= shown:
                    continue
                pixels = result.example_images[column, row]
                gain = gain_for(pixels) if row == 2 else 1.0
                show_pixels(axes, 0.5 + gain * pixels if row == 2 else pixels)
                predicted = int(result.example_predicted[column, row])
                sure = percent(float(result.example_confidence[column, row])).replace(".0 %", " %")
                hit = predicted == int(result.example_target[column])
                label = f"{view} × {gain:g} on grey" if row == 2 else view
                axes.set_title(label, fontsize=9, pad=3, color=(CLEAN, LFC, HFC)[row])
                axes.set_xlabel(
                    f"{'✓' if hit else '✗'} {result.class_name(predicted)}\n{sure}",
                    fontsize=9,
                    fontweight="normal" if hit else "bold",
                )
        if not shown:
            grid[1][1].text(0.5, 0.5, "no such image", ha="center", va="center")
    return figure


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
    axes.set_xlabel("radius r (cycles/image)")
    axes.set_ylabel(f"share of the {result.original_right} images right as they are")
    axes.set_ylim(0, 1)
    axes.set_title("What alone keeps them right")
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14))

"""Figures of the measurements that follow the papers: attacks, amplitude and phase, bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import fourier
from .plots import CLEAN, HFC, LFC, _new_figure, _styled
from .proportions import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .measurements.adversarial_accuracy import AdversarialAccuracyResult
    from .measurements.amplitude_phase import AmplitudePhaseResult
    from .measurements.band_attribution import BandAttributionResult
    from .measurements.calibration import CalibrationResult
    from .measurements.component_examples import ComponentExamplesResult
    from .measurements.corruption_accuracy import CorruptionAccuracyResult
    from .measurements.critical_band import CriticalBandResult
    from .measurements.input_spectrum import InputSpectrumResult
    from .measurements.truncated_svd import TruncatedSVDResult

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
        panels: Any = figure.subplots(1, 4 if filtered else 3)
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
        parts: Any = figure.subfigures(1, 2, width_ratios=(2.05 * columns, 4.6))
        left, right = parts
        fed = fourier.rescale_note(result.settings["rescale"], "; ")
        _group_axes(right.subplots(), result)
        name = result.settings["group"].replace("_", " ").replace("high", "HFC")
        left.suptitle(
            f"Right as they are; {name.replace('low', 'LFC')} at r = {result.example_radius:g}{fed}"
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


def amplitude_phase_figure(result: AmplitudePhaseResult) -> Figure:
    """Example pairs with their recombination, and accuracy by whose label is asked for."""
    shown = len(result.example_images)
    with _styled():
        figure = _new_figure(1.75 * shown + 5.2, 5.6)
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.75 * shown, 5.2))
        grid = parts[0].subplots(3, shown, squeeze=False)
        for column in range(shown):
            phase, amplitude, predicted = (int(n) for n in result.example_labels[column])
            follows = {phase: "phase", amplitude: "amplitude"}.get(predicted, "neither")
            if phase == amplitude == predicted:
                follows = "both"
            for row, label in enumerate(("phase of", "amplitude of", "recombined")):
                axes = grid[row][column]
                show_pixels(axes, result.example_images[column, row])
                axes.set_title(label, fontsize=9, pad=3, color=(LFC, HFC, CLEAN)[row])
                under = f"class {(phase, amplitude, predicted)[row]}"
                if row == 2:
                    under = f"predicted {predicted}\nfollows {follows}"
                axes.set_xlabel(under, fontsize=9)
        _phase_axes(parts[1].subplots(), result)
    return figure


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


def svd_figure(result: TruncatedSVDResult) -> Figure:
    """Accuracy against rank beside LFC and HFC of the same energy."""
    arrays = result.arrays()
    where = np.arange(len(result.ranks))
    with _styled():
        figure = _new_figure(10.4, 4.4)
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
                        result.ranks, result.radii, result.energy, strict=True
                    )
                ],
                fontsize=9,
            )
            axes.set_xlabel("rank k; r (cycles/image) of the same energy; energy")
            axes.set_title(title)
            axes.legend(frameon=False, fontsize=9)
        panels[0].set_ylim(0, 1.02)
        panels[0].set_ylabel("accuracy")
        fed = fourier.rescale_note(result.settings["rescale"], "; ")
        figure.suptitle(
            f"{result.samples} images, {result.settings['background']} background{fed}", fontsize=11
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
    return figure


def input_figure(result: InputSpectrumResult) -> Figure:
    """Mean spectrum, radial profile with its slope, and ADCS of each class."""
    shown = min(len(result.classes), int(result.settings["classes_shown"]))
    columns = min(shown, 5)
    rows = -(-shown // columns)
    with _styled():
        figure = _new_figure(13.4, 4.2)
        parts: Any = figure.subfigures(1, 2, width_ratios=(8.2, 5.2))
        left, middle = parts[0].subplots(1, 2)
        spectrum_axes(left, result.power, "Mean power spectrum", "log10 of power")
        half = min(result.power.shape) // 2
        x = np.arange(1, half + 1)
        middle.loglog(
            x, result.radial[1 : half + 1], "o-", color=LFC, ms=4, label="mean over rings"
        )
        centre = np.exp(np.log(result.radial[1 : half + 1]).mean())
        line = centre * (x / np.exp(np.log(x).mean())) ** -result.slope
        middle.loglog(x, line, "--", color=HFC, label=f"fit, 1/f^{result.slope:.2f}")
        middle.set_xlabel("frequency (cycles/image)")
        middle.set_ylabel("power")
        middle.set_title(f"Radial profile ({result.samples} images)")
        middle.legend(frameon=False, fontsize=9)
        bound = max(1, len(result.classes) - 1)
        grid = parts[1].subplots(rows, columns, squeeze=False)
        picture = None
        for k, axes in enumerate(np.ravel(grid)):
            bare(axes)
            if k < shown:
                picture = axes.imshow(
                    result.adcs[k], cmap="PuOr_r", vmin=-bound, vmax=bound, interpolation="nearest"
                )
                axes.set_title(f"class {result.classes[k]}", fontsize=9, pad=3)
        few = f" (first {shown} of {len(result.classes)})" if shown < len(result.classes) else ""
        parts[1].suptitle(f"ADCS by class{few}, DC in the middle")
        if picture is not None:
            bar = parts[1].colorbar(picture, ax=grid, shrink=0.8)
            bar.set_label("classes exceeded − classes above")
    return figure


def critical_band_figure(result: CriticalBandResult) -> Figure:
    """Accuracy by band and strength, and the channel fitted to the sensitivities."""
    arrays = result.arrays()
    centres = arrays["centres"]
    strengths = arrays["strengths"]
    with _styled():
        figure = _new_figure(11.0, 4.3)
        panels: Any = figure.subplots(1, 2, width_ratios=(1, 1.05))
        picture = panels[0].imshow(
            arrays["accuracy"][::-1], cmap="viridis", vmin=0, vmax=1, aspect="auto"
        )
        for row in range(len(strengths)):
            for column in range(len(centres)):
                value = arrays["accuracy"][len(strengths) - 1 - row, column]
                panels[0].text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="black" if value > 0.55 else "white",
                )
        panels[0].set_xticks(range(len(centres)), [f"{c:g}" for c in centres])
        panels[0].set_yticks(range(len(strengths)), [f"{s:g}" for s in strengths[::-1]])
        panels[0].set_xlabel("centre of the noise's octave (cycles/image)")
        panels[0].set_ylabel("noise (RMS, pixel values)")
        panels[0].set_title(f"Accuracy, {percent(float(arrays['clean']))} without noise")
        figure.colorbar(picture, ax=panels[0], pad=0.02).set_label("accuracy")
        _channel_axes(panels[1], result)
    return figure


def _channel_axes(axes: Axes, result: CriticalBandResult) -> None:
    centres = np.asarray(result.centres)
    axes.plot(centres, result.sensitivity, "o", color=LFC, label="model, measured")
    x = np.exp2(np.linspace(np.log2(centres[0]) - 0.5, np.log2(centres[-1]) + 0.5, 200))
    full = 2 * np.sqrt(np.log(4))
    if np.isfinite(result.centre):
        spread = result.bandwidth / full
        fit = np.exp(-(np.log2(x / result.centre) ** 2) / (2 * spread**2))
        label = f"model, {result.bandwidth:.1f} octaves about {result.centre:.1f}"
        axes.plot(x, result.peak * fit, "-", color=LFC, label=label)
    from .measurements.critical_band import HUMAN_BANDWIDTH

    spread = HUMAN_BANDWIDTH / full
    top = max(float(np.nanmax(result.sensitivity)), 1.0)
    human = np.exp(-(np.log2(x / result.human_centre) ** 2) / (2 * spread**2))
    label = f"people, {HUMAN_BANDWIDTH:g} octave about {result.human_centre:.1f} (height arbitrary)"
    axes.plot(x, top * human, "--", color=HFC, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(centres, [f"{c:g}" for c in centres])
    axes.set_xlabel("frequency (cycles/image)")
    axes.set_ylabel("sensitivity (octaves of noise)")
    axes.set_ylim(0, 1.45 * top)
    axes.set_title(f"Channel at a threshold of {percent(result.threshold)}")
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def band_figure(result: BandAttributionResult) -> Figure:
    """Mean attribution by band, and the first images with theirs."""
    arrays = result.arrays()
    shown = min(4, len(result.example_images))
    where = np.arange(len(result.edges))
    with _styled():
        figure = _new_figure(6.2 + 2.9 * ((shown + 1) // 2), 4.8)
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
        axes.set_xticks(where, result.labels, rotation=30, ha="right")
        axes.set_xlabel("band (cycles/image)")
        axes.set_ylabel("attribution (logits)")
        method = str(result.settings["method"]).replace("_", " ")
        axes.set_title(
            f"What the {result.settings['of']} class rests on\n"
            f"({method}, mean of {result.samples} images, 95 % intervals)",
            fontsize=11,
        )
        limit = max(1e-9, float(np.abs(result.attribution[:shown]).max()) * 1.05)
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
            show_pixels(picture, result.example_images[k])
            hit = "✓" if result.predicted[k] == result.targets[k] else "✗"
            picture.set_title(f"{hit} predicted class {result.predicted[k]}", fontsize=9, pad=3)
            values = result.attribution[k]
            bars.bar(where, values, color=[LFC if v >= 0 else HFC for v in values])
            bars.axhline(0, color="black", lw=0.6)
            bars.set_ylim(-limit, limit)
            bars.set_xticks(where, [])
            bars.tick_params(labelsize=8)
            if column == 0:
                bars.set_ylabel("logits", fontsize=9)
    return figure


def corruption_figure(result: CorruptionAccuracyResult) -> Figure:
    """Error by corruption and severity as a map, and the mean by corruption."""
    arrays = result.arrays()
    names = [name.replace("_", " ") for name in result.corruptions]
    clean = float(arrays["clean_error"])
    with _styled():
        figure = _new_figure(9.6, 1.8 + 0.34 * len(names))
        panels: Any = figure.subplots(1, 2, sharey=True, width_ratios=(1.1, 1))
        picture = panels[0].imshow(arrays["error"], cmap="viridis", vmin=0, vmax=1, aspect="auto")
        panels[0].set_xticks(range(len(result.severities)), [str(s) for s in result.severities])
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_xlabel("severity")
        panels[0].set_title("Error by severity")
        figure.colorbar(picture, ax=panels[0], pad=0.02).set_label("error rate")
        mean = arrays["error"].mean(1)
        section = "hfc_generated_corruption" if result.generated else "hfc_corruption"
        bounds = result.intervals()
        low, high = np.array([bounds[f"{section}/{name}"] for name in result.corruptions]).T
        panels[1].barh(
            range(len(names)),
            mean,
            color=LFC,
            xerr=[np.maximum(mean - low, 0), np.maximum(high - mean, 0)],
            capsize=3,
            ecolor="black",
        )
        panels[1].axvline(clean, color=CLEAN, ls=":", label=f"clean {percent(clean)}")
        panels[1].axvline(
            result.mean_error, color=HFC, ls="--", label=f"mean {percent(result.mean_error)}"
        )
        panels[1].set_xlim(0, 1)
        panels[1].set_xlabel("mean error over severities")
        kind = "generated" if result.generated else "published"
        panels[1].set_title(f"{kind} corruptions".capitalize())
        panels[1].legend(
            frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2
        )
    return figure


def calibration_figure(result: CalibrationResult) -> Figure:
    """ECE and AUROC against radius, with bootstrap intervals."""
    arrays = result.arrays()
    with _styled():
        figure = _new_figure(10.4, 4.3)
        panels: Any = figure.subplots(1, 2)
        for axes, kind, title, label in (
            (panels[0], "ece", "Calibration", "expected calibration error"),
            (panels[1], "auroc", "Told from the original by confidence", "AUROC"),
        ):
            for part, colour, style in (("lfc", LFC, "-"), ("hfc", HFC, "--")):
                low, line, high = (arrays[f"{kind}_{part}{v}"] for v in ("_lower", "", "_upper"))
                axes.fill_between(result.radii, low, high, color=colour, alpha=0.18, lw=0)
                name = f"{part.upper()}(r)"
                axes.plot(result.radii, line, style, marker="o", color=colour, label=name)
            axes.set_xticks(result.radii)
            axes.set_xlabel("radius r (cycles/image)")
            axes.set_ylabel(label)
            axes.set_title(title)
            axes.set_ylim(0, 1.02)
        original = float(arrays["ece_original"])
        panels[0].axhline(original, color=CLEAN, ls=":", label=f"original {original:.3f}")
        panels[1].axhline(0.5, color=CLEAN, ls=":", label="confidence says nothing")
        if "ood" in result.others:
            ood = float(arrays["auroc_ood"])
            panels[1].axhline(ood, color="#009E73", ls="-.", label=f"second data set {ood:.3f}")
        for axes in panels:
            axes.legend(frameon=False, fontsize=9)
        fed = fourier.rescale_note(result.settings["rescale"], "; ")
        figure.suptitle(
            f"{result.samples} images, HFC on {result.settings['hfc_background']} background{fed}",
            fontsize=11,
        )
    return figure

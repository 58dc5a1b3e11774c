"""Figures of a detection audit: AP by radius, and AP by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import fourier
from ..core.drawing import CLEAN, HFC, LFC, new_figure, radius_axis, styled
from .evaluation import METRICS
from .variants import ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SIZES = {
    "AP": "all objects",
    "AP_small": "small (< 32² px)",
    "AP_medium": "medium",
    "AP_large": "large (> 96² px)",
}


def draw_by_radius(figure: Any, result: Any) -> None:
    """AP of LFC and HFC against radius, overall and by size; bars for a single radius."""
    if len(result.radii) == 1:
        _bars(figure.subplots(), result)
    else:
        panels: Any = figure.subplots(1, 4, sharey=True, width_ratios=(1.5, 1, 1, 1))
        for axes, metric in zip(panels, _SIZES, strict=True):
            _curves(axes, result, metric)
        panels[0].set_ylabel("average precision (%)")
        panels[0].legend(frameon=False, fontsize=9, loc="best")
        panels[0].set_ylim(0, _top(result))
    bands = "; bands: 95 % intervals" if len(result.radii) > 1 else ""
    figure.suptitle(
        f"Average precision by frequency ({result.samples} images, HFC on "
        f"{result.background} background{fourier.rescale_note(result.rescale)}{bands})",
        fontsize=12,
    )


def _top(result: Any) -> float:
    """Upper end of the AP axis, with room for a legend."""
    columns = [METRICS.index(m) for m in _SIZES]
    values = np.stack([v[columns] for v in result.metrics.values()])
    bounds = np.stack([v[columns, 1] for v in result.intervals_of.values()])
    values = np.fmax(values, bounds)
    return max(5.0, 118 * float(np.nanmax(values, initial=0.0)))


def _curves(axes: Axes, result: Any, metric: str) -> None:
    arrays, radii, column = result.arrays(), np.asarray(result.radii), METRICS.index(metric)
    for part, colour, style, sign in (("lfc", LFC, "-", "≤"), ("hfc", HFC, "--", ">")):
        if not result.settings["closed"]:
            sign = {"≤": "<", ">": "≥"}[sign]
        values = 100 * arrays[part][:, column]
        low, high = (100 * arrays[f"{part}_{bound}"][:, column] for bound in ("lower", "upper"))
        axes.fill_between(radii, low, high, color=colour, alpha=0.18, lw=0)
        label = f"{part.upper()}, d {sign} r"
        axes.plot(radii, values, style, marker="o", ms=5, color=colour, label=label)
    original = 100 * float(arrays["original"][column])
    known = np.isfinite(original)
    if known:
        bounds = [100 * float(arrays[f"original_{b}"][column]) for b in ("lower", "upper")]
        axes.axhspan(*bounds, color=CLEAN, alpha=0.1, lw=0)
        axes.axhline(original, color=CLEAN, lw=1.2, ls=":", label="original")
    axes.set_title(
        f"{_SIZES[metric]}\n" + (f"original {original:.1f} %" if known else "no objects")
    )
    radius_axis(axes, result.radii, result.unit)


def _bars(axes: Axes, result: Any) -> None:
    columns = [METRICS.index(m) for m in _SIZES]
    colours = dict(zip(result.variants, (CLEAN, LFC, HFC), strict=True))
    for k, (name, colour) in enumerate(colours.items()):
        values = 100 * result.metrics[name][columns]
        places = np.arange(len(columns)) + 0.27 * (k - 1)
        axes.bar(places, np.nan_to_num(values), 0.25, color=colour, label=result.label(name))
        for m, (x, value) in enumerate(zip(places, values, strict=True)):
            above = value
            low, high = 100 * result.intervals_of[name][columns[m]]
            if np.isfinite(low):
                (line,) = axes.plot([x, x], [low, high], color="black", lw=1.4)
                if name == ORIGINAL and m == 0:
                    line.set_label("95 % interval")
                above = max(value, high)
            text = f"{value:.1f}" if np.isfinite(value) else "–"
            axes.annotate(
                text,
                (x, np.nan_to_num(above)),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    axes.set_xticks(np.arange(len(columns)), [_SIZES[m].replace(" (", "\n(") for m in _SIZES])
    axes.set_ylabel("average precision (%)")
    axes.set_ylim(0, _top(result))
    axes.legend(frameon=False, fontsize=9, title=f"r in {result.unit}", title_fontsize=9)
    axes.tick_params(axis="x", length=0)


def scatter_figure(result: Any, variant: str) -> Figure:
    """AP of each image alone, original against a variant; gains and drops in colour."""
    base, other = 100 * result.images_ap[ORIGINAL], 100 * result.images_ap[variant]
    gains, drops = result.changes(variant, "gain"), result.changes(variant, "drop")
    margin, floor = 100 * result.settings["margin"], 100 * result.settings["floor"]
    kinds = np.zeros(len(base), dtype=int)
    kinds[gains.images], kinds[drops.images] = 1, 2
    with styled():
        figure = new_figure(5.6, 6.3)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=CLEAN, lw=1)
        for kind, colour, marker, label in (
            (0, CLEAN, ".", "neither"),
            (1, LFC, "^", "better"),
            (2, HFC, "v", "worse"),
        ):
            chosen = kinds == kind
            known = chosen & np.isfinite(base)
            size = 14 if kind else 20
            axes.scatter(
                base[known],
                other[known],
                s=size,
                marker=marker,
                color=colour,
                alpha=0.65,
                lw=0,
                rasterized=len(base) > 1000,
                label=f"{label} ({int(known.sum())})",
            )
        axes.axvline(floor, color=CLEAN, lw=0.8, ls=":")
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_aspect("equal")
        axes.set_xlabel("AP of the image, original (%)")
        axes.set_ylabel(f"AP of the image, {result.label(variant)} (%)")
        unit = "cycles/image" if result.settings["units"] == "cycles" else "× Nyquist"
        axes.set_title(
            f"{int(np.isfinite(base).sum())} images; {len(gains.images_any)} with any gain, "
            f"{len(drops.images_any)} with any drop\n(r in {unit}; margin {margin:g}, "
            f"floor {floor:g} %)",
            fontsize=10,
        )
        figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


# Okabe and Ito's colours, as lines of their own dash too.
_KINDS = {
    "classification": ("#CC79A7", "o", "-"),
    "localization": ("#0072B2", "s", "-"),
    "both": ("#56B4E9", "D", "--"),
    "duplicate": ("#009E73", "^", "--"),
    "background": ("#E69F00", "v", "-"),
    "missed": ("#D55E00", "X", "-"),
}


def errors_figure(result: Any) -> Figure:
    """What each kind of mistake costs, on LFC and on HFC, against radius; the original dotted."""
    errors, radii = result.errors(), np.asarray(result.radii)
    count = len(radii)
    original = errors[ORIGINAL]
    with styled():
        figure = new_figure(9.6, 4.4)
        panels: Any = figure.subplots(1, 2, sharey=True)
        parts = {"LFC": result.variants[1 : 1 + count], "HFC": result.variants[1 + count :]}
        for axes, (part, names) in zip(panels, parts.items(), strict=True):
            for k, (kind, (colour, marker, style)) in enumerate(_KINDS.items()):
                costs = [100 * errors[name].cost[k] for name in names]
                axes.plot(radii, costs, style, color=colour, marker=marker, ms=5, label=kind)
                axes.axhline(100 * original.cost[k], color=colour, lw=0.9, ls=":")
            left = [100 * errors[name].ap50 for name in names]
            axes.plot(radii, left, color=CLEAN, lw=3, alpha=0.4, label="AP50 itself (%)")
            axes.set_title(part)
            radius_axis(axes, result.radii, result.unit)
        panels[0].set_ylabel("AP50 lost to this kind (points)")
        panels[0].set_ylim(bottom=0)
        handles = [line for line in panels[1].get_lines() if line.get_label()[0] != "_"]
        figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside right center")
        figure.suptitle(
            f"Errors by kind ({result.samples} images; dotted: original, AP50 "
            f"{100 * original.ap50:.1f} %)",
            fontsize=12,
        )
    return figure


_MOST = 10  # classes in a picture of confusions


def operating_figure(result: Any) -> Figure:
    """Precision, recall and F1 against radius, and what the main LFC confuses most."""
    points = {name: result.operating_point(name) for name in result.variants}
    radii, count = np.asarray(result.radii), len(result.radii)
    with styled():
        figure = new_figure(12.4, 4.6)
        axes, *panels = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
        parts = {"LFC": result.variants[1 : 1 + count], "HFC": result.variants[1 + count :]}
        for what, marker in (("F1", "o"), ("precision", "^"), ("recall", "s")):
            for (part, names), colour in zip(parts.items(), (LFC, HFC), strict=True):
                values, low, high = 100 * np.array([result.shares(n)[what] for n in names]).T
                style = "-" if part == "LFC" else "--"
                bars = np.maximum((values - low, high - values), 0)
                axes.errorbar(
                    radii, values, bars, fmt=style, marker=marker, ms=4, color=colour,
                    elinewidth=0.8, label=f"{what}, {part}",
                )  # fmt: skip
        value, *bounds = (100 * v for v in result.shares(ORIGINAL)["F1"])
        axes.axhspan(*bounds, color=CLEAN, alpha=0.1, lw=0)
        axes.axhline(value, color=CLEAN, ls=":", label="F1, original")
        axes.set_xlabel(f"radius r ({result.unit})")
        axes.set_ylabel("share (%)")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        names = [name for _, name in sorted(result.truth.categories.items())]
        base = points[ORIGINAL].confusion
        chosen = np.argsort(-base[:-1].sum(1), kind="stable")[:_MOST]
        shown = [*chosen.tolist(), len(names)]
        ticks = [names[k] for k in chosen]
        for panel, name in zip(panels, (ORIGINAL, result.main_variant), strict=True):
            matrix = points[name].confusion[np.ix_(shown, shown)]
            share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
            panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (row, column), number in np.ndenumerate(matrix):
                if number:
                    dark = share[row, column] > 0.6
                    panel.text(
                        column, row, str(number), ha="center", va="center", fontsize=7,
                        color="white" if dark else "black",
                    )  # fmt: skip
            panel.set_xticks(range(len(shown)), [*ticks, "missed"], rotation=90, fontsize=7)
            panel.set_yticks(range(len(shown)), [*ticks, "false"], fontsize=7)
            panel.set_title(result.label(name), fontsize=10)
            panel.set_xlabel("detected as")
        panels[0].set_ylabel("true class")
        figure.suptitle(
            f"At score ≥ {result.threshold:.2f} and IoU ≥ 0.5 ({result.samples} images; the "
            f"{len(chosen)} most frequent classes; bars: 95 % intervals)",
            fontsize=12,
        )
    return figure


__all__ = ["draw_by_radius", "errors_figure", "operating_figure", "scatter_figure"]

"""The result of a Fourier heatmap, and the names of what can make one.

Long because one result speaks for three estimators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.drawing import CLEAN, HFC, LFC, map_extent, map_pixels
from ...core.intervals import percent, wilson
from ...core.labels import Label
from ...core.result import Result
from .model import Memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Estimator = Literal["exhaustive", "sequential", "model", "rings"]

_ESTIMATORS: Mapping[str, str] = {
    "exhaustive": "every image in every cell",
    "sequential": "sampled until within the precision",
    "model": "smooth model over cells and images",
    "rings": "mean over rings",
}
# What an interval is about: images like these, of which these are a sample; or these.
_POPULATIONS: Mapping[str, str] = {
    "exhaustive": "images like these",
    "sequential": "these images",
    "model": "these images",
    "rings": "these images",
}


@dataclass(frozen=True, eq=False)
class FourierHeatmapResult(Result):
    """Error rate under noise of each frequency.

    ``arrays()``, all maps ``(H, W)`` (or the crop) with DC at ``[H // 2, W // 2]``, the same
    at (i, j) and (−i, −j):

    - ``error``, ``lower``, ``upper``: proportion with its 95 % interval; ``count``: images
      seen under that noise. With a score that is a loss: its mean;
    - ``clean_error`` and its ``_lower``, ``_upper`` (Wilson): without noise, numbers;
    - ``clean_loss``, and ``loss`` if every image was measured: mean cross-entropy;
    - ``error_top5`` and the like: if further k were asked for, and every image measured;
    - ``radius`` (R,) in cycles per image, ``radial_error``, ``radial_lower``,
      ``radial_upper``, ``radial_count``: of the rings estimator, whose maps show each
      cell its ring's mean.

    Attributes:
        estimator: ``"exhaustive"``, ``"sequential"``, ``"model"`` or ``"rings"``; see
            :class:`FourierHeatmap`. It decides what intervals speak of.
        quantity: ``"error"``, or ``"score"``, a loss.
        unsafe: frequencies that do not fit between their neighbours: the smooth model does
            not hold there, and they are shown as sampled.
        detectable: if a model made the map, how far an isolated cell must typically lie
            off its neighbours to be seen as such; a smaller spike may be smoothed away.
        passes: single-image forward passes of this call, the clean ones included.
        elapsed: seconds.
        memory: what a later map of the same images starts from, if a model made this one.
    """

    inches: ClassVar[tuple[float, float]] = (10.4, 4.7)

    image_size: tuple[int, int]
    estimator: Estimator
    quantity: Literal["error", "score"]
    axis_i: NDArray[np.int64]
    axis_j: NDArray[np.int64]
    error: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    count: NDArray[np.int64]
    clean_wrong: int
    clean_loss: float
    loss: NDArray[np.float64] | None
    further: dict[int, NDArray[np.float64]]
    unsafe: tuple[tuple[int, int], ...]
    detectable: float | None
    rings: dict[str, NDArray[Any]]
    passes: int
    elapsed: float
    memory: Memory | None = field(default=None, repr=False, metadata={"saved": False})

    def original(self) -> tuple[int, int, int] | None:
        if self.settings["score"] is not None:  # no guess is known that it could be held against
            return None
        return self.samples - self.clean_wrong, self.samples, int(self.settings["topk"][0])

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {
            "error": self.error,
            "lower": self.lower,
            "upper": self.upper,
            "count": self.count,
        }
        out |= dict(zip((f"clean_error{part}" for part in _PARTS), self.clean(), strict=True))
        if self.settings["score"] is None:
            out["clean_loss"] = np.asarray(self.clean_loss)
        if self.loss is not None and self.quantity == "error":
            out["loss"] = self.loss
        out |= {f"error_top{k}": values for k, values in self.further.items()}
        return out | self.rings

    @property
    def wrong(self) -> NDArray[np.int64]:
        """Number of errors of each cell among the images seen under its noise, as estimated."""
        counts: NDArray[np.int64] = np.rint(np.nan_to_num(self.error) * self.count).astype(np.int64)
        return counts

    def clean(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What the map shows, without noise, with its 95 % interval."""
        if self.quantity == "score":
            nothing = np.asarray(math.nan)
            return np.asarray(self.clean_loss), nothing, nothing
        lower, upper = wilson(self.clean_wrong, self.samples)
        return np.asarray(self.clean_wrong / self.samples), lower, upper

    @property
    def group(self) -> str:
        return f"{self.name}/{self.norm:.1f}"

    @property
    def norm(self) -> float:
        return float(self.settings["norm"])

    @property
    def unit(self) -> str:
        """What a cell's value is."""
        if self.quantity == "score":
            return f"mean {self.settings['score']}"
        return "error rate"

    @property
    def noise(self) -> str:
        """How strong the noise is, in words."""
        return f"norm {self.norm:.1f}"

    @property
    def without_noise(self) -> str:
        """What the colour bar says of the images without noise."""
        return f"no noise: {float(self.clean()[0]):.2f}"

    @property
    def section(self) -> str:
        """First part of the tags."""
        return f"hfc_heatmap/{self.norm:.1f}"

    def made_by(self) -> str:
        """The estimator and what its intervals speak of, in words."""
        kind = "95 % intervals"
        if self.estimator == "exhaustive":
            kind = f"95 % {'normal' if self.quantity == 'score' else 'Wilson'} intervals"
        return f"{_ESTIMATORS[self.estimator]}; {kind} for {_POPULATIONS[self.estimator]}"

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Signed i of each row and j of each column, cycles per image."""
        return self.axis_i, self.axis_j

    def scalars(self) -> dict[str, float]:
        section = self.section
        clean = float(self.clean()[0])
        return {
            f"{section}/clean_error": clean,
            f"{section}/mean_error": float(np.nanmean(self.error)),
            f"{section}/max_error": float(np.nanmax(self.error)),
        }

    def labels(self) -> dict[str, Label]:
        unit, noise = self.unit, f"under Fourier noise of norm {self.norm:.3g}"
        texts = {
            "clean_error": f"the {unit} without noise",
            "mean_error": f"the mean {unit} {noise}",
            "max_error": f"the largest {unit} {noise}",
        }
        return {f"{self.section}/{name}": Label(text, unit) for name, text in texts.items()}

    def images(self) -> dict[str, Any]:
        ends = (0.0, 1.0) if self.quantity == "error" else None
        return {self.section: map_pixels(self.error, ends)}

    def draw_panels(self, figure: Any) -> None:
        """The error map with DC in the middle, and the error against distance from DC."""
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        heatmap_axes(left, self)
        _radial_axes(right, self)
        figure.supxlabel(
            f"{self.passes:,} forward passes; {self.made_by()}", fontsize=9, color=CLEAN
        )

    def axes(self) -> dict[str, dict[str, Any]]:
        i, j = self.frequencies()
        cells = [
            {"name": name, "unit": "cycles/image", "values": values.tolist()}
            for name, values in (("i", i), ("j", j))
        ]
        what = {
            "norm": self.norm,
            "samples": self.samples,
            "estimator": self.estimator,
            "passes": self.passes,
        }
        maps = {
            name: {"unit": "samples" if name == "count" else self.unit, "axes": cells, **what}
            for name in ("error", "lower", "upper", "count")
        }
        clean: dict[str, Any] = {"unit": self.unit, "axes": [], **what}
        out = maps | {f"clean_error{part}": clean for part in _PARTS}
        if self.rings:
            radius = [
                {"name": "radius", "unit": "cycles/image", "values": self.rings["radius"].tolist()}
            ]
            out |= {
                name: {
                    "unit": "samples" if name == "radial_count" else self.unit,
                    "axes": radius,
                    **what,
                }
                for name in self.rings
                if name != "radius"
            }
        return out

    def extremes(self, count: int = 3) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The most and the least harmful frequencies, one of each pair ±(i, j), as cells."""
        i, j = (axis.tolist() for axis in self.frequencies())
        height, width = self.image_size
        own = []
        for row, a in enumerate(i):
            for column, b in enumerate(j):
                mirror = (
                    (-a + height // 2) % height - height // 2,
                    (-b + width // 2) % width - width // 2,
                )
                inside = mirror[0] in i and mirror[1] in j
                if not inside or (b, a) >= mirror[::-1]:  # the one with j > 0
                    own.append((row, column))
        known = [cell for cell in own if not math.isnan(self.error[cell])]
        ordered = sorted(known, key=lambda cell: (-float(self.error[cell]), cell))
        return ordered[:count], ordered[::-1][:count]

    def _value(self, value: float, lower: float | None = None, upper: float | None = None) -> str:
        if self.quantity == "error":
            return percent(value, lower, upper)
        if lower is None or upper is None or not math.isfinite(lower):
            return f"{value:.3g}"
        return f"{value:.3g} [{lower:.3g}, {upper:.3g}]"

    def table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["frequency", "(i, j) in cycles/image", self.unit.removesuffix(" rate"), "images"]
        clean = [float(value) for value in self.clean()]
        rows = [["no noise", "", self._value(*clean), str(self.samples)]]
        if self.rings:
            heads[1] = "distance in cycles/image"
            names = ("radial_error", "radial_lower", "radial_upper", "radial_count")
            for radius, *values, seen in zip(
                self.rings["radius"], *(self.rings[name] for name in names), strict=True
            ):
                rows.append(
                    ["ring", f"{radius:g}", self._value(*map(float, values)), str(int(seen))]
                )
            return heads, rows
        i, j = self.frequencies()
        for label, cells in zip(("most harmful", "least harmful"), self.extremes(), strict=True):
            for cell in cells:
                found = (float(a[cell]) for a in (self.error, self.lower, self.upper))
                where = f"({i[cell[0]]:+d}, {j[cell[1]]:+d})"
                rows.append([label, where, self._value(*found), str(int(self.count[cell]))])
        return heads, rows

    def _title(self) -> str:
        rows, columns = self.error.shape
        return (
            f"Fourier heatmap {rows}×{columns}, {self.noise}, {self.samples} images, "
            f"{self.passes} forward passes ({self.made_by()})"
        )

    def verdict(self) -> str:
        (worst, *_), (best, *_) = self.extremes(1)
        i, j = self.frequencies()

        def at(cell: tuple[int, int]) -> str:
            where = f"({i[cell[0]]:+d}, {j[cell[1]]:+d})"
            if self.rings:
                where = f"distance {math.hypot(i[cell[0]], j[cell[1]]) + 1e-9:.0f}"
            return f"{where} with {self._value(float(self.error[cell]))}"

        top = int(self.settings["topk"][0])
        noun = "" if self.quantity != "error" else " errors" if top == 1 else f" top-{top} errors"
        clean = self._value(float(self.clean()[0]))
        if not self._intervals_disjoint(worst, best):
            said = (
                f"{self.samples} images do not tell which frequency noise of {self.noise} harms "
                f"most; {self.unit.removesuffix(' rate')}s reach "
                f"{self._value(float(self.error[worst]))} against {clean} without noise."
            )
        else:
            said = (
                f"Noise of {self.noise} harms most at {at(worst)}{noun} and least at "
                f"{at(best)}, against {clean} without noise."
            )
        return said + self._caution()

    def _intervals_disjoint(self, worst: tuple[int, int], best: tuple[int, int]) -> bool:
        """Whether two cells differ, though they are the extremes of all the map's cells.

        Of many cells that are equal some lie far apart by chance: 95 % intervals are widened to
        hold for all cells at once (Bonferroni, as for a normal distribution).
        """
        cells = max(1, int(np.isfinite(self.error).sum()) // 2)
        wider = NormalDist().inv_cdf(1 - 0.025 / cells) / NormalDist().inv_cdf(0.975)
        down = float(self.error[worst] - self.lower[worst]) * wider
        up = float(self.upper[best] - self.error[best]) * wider
        return bool(self.error[worst] - down > self.error[best] + up)

    def _caution(self) -> str:
        if self.estimator != "model":
            return ""
        parts = []
        if self.unsafe:
            shown = ", ".join(f"±({i}, {j})" for i, j in self.unsafe[:3])
            rest = f" and {len(self.unsafe) - 3} more" if len(self.unsafe) > 3 else ""
            parts.append(
                f" Smoothing is unsafe at {shown}{rest}, which do not fit between their "
                "neighbours and are shown as sampled."
            )
        if self.detectable is not None:
            parts.append(
                f" An isolated frequency off its neighbours by less than about "
                f"{self.detectable:.2f} may have been smoothed."
            )
        return "".join(parts)


_PARTS = ("", "_lower", "_upper")


def heatmap_axes(axes: Axes, result: FourierHeatmapResult) -> None:
    i, j = result.frequencies()
    error = result.error
    is_error = result.quantity == "error"
    picture = axes.imshow(
        error,
        cmap="viridis",
        vmin=0 if is_error else None,
        vmax=1 if is_error else None,
        extent=map_extent(i, j),
        interpolation="nearest",
    )
    axes.set_xlabel("j, horizontal (cycles/image)")
    axes.set_ylabel("i, vertical (cycles/image)")
    what = "Error" if is_error else result.unit[0].upper() + result.unit[1:]
    axes.set_title(f"{what} under Fourier noise, {result.noise}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.92, pad=0.02)
    clean = float(result.clean()[0])
    bar.set_label(f"{result.unit} ({result.without_noise})")
    low, high = picture.get_clim()
    if low <= clean <= high:
        bar.ax.axhline(clean, color="white", lw=2)
    if result.unsafe:
        cells = [(a, b) for i_, j_ in result.unsafe for a, b in ((i_, j_), (-i_, -j_))]
        inside = [(a, b) for a, b in cells if i[0] <= a <= i[-1] and j[0] <= b <= j[-1]]
        size = 60 * (20 / max(len(i), 8)) ** 2
        axes.scatter(
            [b for _, b in inside],
            [a for a, _ in inside],
            s=size,
            marker="s",
            facecolors="none",
            edgecolors=HFC,
            linewidths=1.6,
        )


def _radial_axes(axes: Axes, result: FourierHeatmapResult) -> None:
    arrays = result.arrays()
    i, j = result.frequencies()
    distance = np.sqrt(i[:, None] ** 2 + j[None, :] ** 2)
    error = result.error
    if result.rings:
        radius, mean = arrays["radius"], arrays["radial_error"]
        half = [mean - arrays["radial_lower"], arrays["radial_upper"] - mean]
        axes.errorbar(
            radius,
            mean,
            np.maximum(half, 0),
            color=LFC,
            lw=2,
            elinewidth=1.2,
            capsize=2.5,
            marker="o",
            ms=4,
            label="mean over ring (95 % interval)",
        )
    else:
        axes.scatter(
            distance.ravel(), error.ravel(), s=5, color=CLEAN, alpha=0.25, lw=0, rasterized=True
        )
        ring = np.floor(distance + 0.5).astype(int).ravel()
        known = ~np.isnan(error.ravel())
        count = np.bincount(ring[known], minlength=ring.max() + 1)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(ring[known], error.ravel()[known], ring.max() + 1) / count
        full = np.flatnonzero(count)
        axes.plot(full, mean[full], color=LFC, lw=2.2, label="mean over ring")
    clean = [float(value) for value in result.clean()]
    if np.isfinite(clean[1]):
        axes.axhspan(clean[1], clean[2], color=HFC, alpha=0.18, lw=0)
    label = "no noise (95 % interval)" if np.isfinite(clean[1]) else "no noise"
    axes.axhline(clean[0], color=HFC, ls="--", label=label)
    axes.set_xlim(0, max(float(distance.max()), 1.0))
    if result.quantity == "error":
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("distance from DC (cycles/image)")
    axes.set_ylabel(result.unit)
    low, high = int(result.count.min()), int(result.count.max())
    each = f"{low}" if low == high else f"{low} to {high}"
    axes.set_title(f"By frequency ({each} of {result.samples} images each)")
    axes.legend(frameon=False, fontsize=9)

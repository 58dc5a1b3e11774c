"""Error under additive Fourier-basis noise, direction by direction (Yin et al., NeurIPS 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import fourier
from ..errors import InputError
from ..proportions import percent, proportion_arrays
from .base import Measurement, Result, Subject, rank, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FourierHeatmap(Measurement):
    """Error rate of ``clip(x + s·v·U_ij, 0, 1)`` for every frequency (i, j).

    Every pair ±(i, j), which is one direction, is measured once over all samples. The sign
    s is drawn per image and channel from ``seed`` and the direction alone: results do not
    depend on batch size, device or crop.

    Args:
        norm: v, the L2 norm of the perturbation of one channel in pixel space; None: by
            image size, the paper's 4.0 at 32×32 and 15.7 at 224×224
            (:func:`default_norm`).
        samples: at most so many images, a seeded random choice.
        crop: side (or height and width) of the centred window of frequencies that is
            measured; None: all of them. The paper shows 63 at 224×224.
        topk: a prediction is an error when the target is not among the k largest logits.
        seed: of the signs and the choice of samples.

    Raises:
        InputError: a norm that is not positive; samples, crop or k below 1; when measuring,
            a crop larger than the image or images smaller than 2 pixels.

    Source: Yin et al., NeurIPS 2019, §3.
    """

    norm: float | None = 4.0
    samples: int = 1000
    crop: int | tuple[int, int] | None = None
    topk: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm is not None and (
            isinstance(self.norm, (bool, str)) or not 0 < self.norm < math.inf
        ):
            raise InputError(f"norm: expected a finite number above 0, got {self.norm!r}")
        for name in ("samples", "topk"):
            value = getattr(self, name)
            if isinstance(value, bool) or value != int(value) or value < 1:
                raise InputError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.crop is not None:
            sides = self.crop if isinstance(self.crop, (tuple, list)) else (self.crop, self.crop)
            if len(sides) != 2 or any(int(s) != s or s < 1 for s in sides):
                raise InputError(
                    f"crop: expected a side or (height, width) of at least 1, got {self.crop!r}"
                )
            object.__setattr__(self, "crop", tuple(int(s) for s in sides))

    @property
    def variant(self) -> str:
        return "" if self.norm is None else f"{self.norm:.1f}"

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.window(*image_shape[1:])

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map for images of that size."""
        if height < 2 or width < 2:
            raise InputError(
                f"FourierHeatmap: expected images of at least 2×2 pixels, got {height}×{width}"
            )
        if self.crop is None:
            return height, width
        assert isinstance(self.crop, tuple)
        if self.crop[0] > height or self.crop[1] > width:
            raise InputError(
                f"crop: expected at most the image's {height}×{width}, got "
                f"{self.crop[0]}×{self.crop[1]}"
            )
        return self.crop

    def directions(self, height: int, width: int) -> list[tuple[int, int]]:
        """One (i, j) of every pair ±(i, j) that the map shows."""
        rows, columns = self.window(height, width)
        return [
            (i, j)
            for i, j in fourier.half_plane(height, width)
            if any(_inside(a, b, height, width, rows, columns) for a, b in ((i, j), (-i, -j)))
        ]

    def forwards(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        return min(samples, self.samples) * (1 + len(self.directions(*image_shape[1:])))

    def compute(self, subject: Subject) -> FourierHeatmapResult:
        samples = subject.samples.subset(self.samples, seed=self.seed)
        _, height, width = samples.image_shape
        norm = default_norm(height, width) if self.norm is None else float(self.norm)
        directions = self.directions(height, width)
        count = len(samples)
        images = samples.pixels().to(subject.device)
        targets = samples.targets.to(subject.device)
        wrong_clean = torch.zeros((), dtype=torch.long, device=subject.device)
        wrong = torch.zeros(len(directions), dtype=torch.long, device=subject.device)
        total = count * len(directions)
        with subject.progress(count + total, "forward") as advance:
            for start in range(0, count, subject.batch_size):
                part = slice(start, start + subject.batch_size)
                logits = subject.logits(images[part])
                if start == 0:
                    subject.check_targets(logits.shape[1])
                wrong_clean += (rank(logits, targets[part]) >= self.topk).sum()
                advance(len(logits))
            # All (direction, image) pairs in a row, cut into batches: many images of one
            # direction or many directions of few images, whichever fills a batch.
            noise = _Noise(self.seed, norm, samples.image_shape, count, subject.device)
            for start in range(0, total, subject.batch_size):
                runs = list(_runs(start, min(start + subject.batch_size, total), count))
                first = runs[0][0]
                parts = [images[part] + noise.of(k, *directions[k], part) for k, part in runs]
                logits = subject.logits(torch.cat(parts).clamp_(0, 1), "perturbed")
                expected = torch.cat([targets[part] for _, part in runs])
                which = [k for k, part in runs for _ in range(part.start, part.stop)]
                errors = (rank(logits, expected) >= self.topk).long()
                wrong.index_add_(0, torch.tensor(which, device=subject.device), errors)
                noise.forget_before(first)
                advance(len(logits))
        rows, columns = self.window(height, width)
        return FourierHeatmapResult(
            settings=settings_of(self) | {"norm": norm},
            samples=count,
            image_size=(height, width),
            wrong=_layout(wrong.cpu().numpy(), directions, height, width, rows, columns),
            clean_wrong=int(wrong_clean),
        )


def _runs(start: int, stop: int, count: int) -> Iterator[tuple[int, slice]]:
    """Pairs number ``start`` to ``stop`` as (direction, slice of the ``count`` images)."""
    while start < stop:
        direction, first = divmod(start, count)
        last = min(count, first + stop - start)
        yield direction, slice(first, last)
        start += last - first


class _Noise:
    """``s·v·U`` of the directions that the current batch needs, and no more in memory."""

    def __init__(
        self,
        seed: int,
        norm: float,
        image_shape: tuple[int, int, int],
        count: int,
        device: torch.device,
    ) -> None:
        self.seed, self.norm, self.count, self.device = seed, norm, count, device
        self.channels, self.height, self.width = image_shape
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, direction: int, i: int, j: int, part: slice) -> Tensor:
        """For some of the images, ``(n, C, H, W)``."""
        if direction not in self.held:
            size = self.height, self.width
            wave = self.norm * fourier.basis(i, j, *size, device=self.device)
            signs = direction_signs(self.seed, i, j, *size, self.count, self.channels)
            self.held[direction] = wave, signs.to(self.device)
        wave, signs = self.held[direction]
        return signs[part] * wave

    def forget_before(self, direction: int) -> None:
        self.held = {k: held for k, held in self.held.items() if k >= direction}


def direction_signs(
    seed: int, i: int, j: int, height: int, width: int, count: int, channels: int
) -> Tensor:
    """Random signs per image and channel for direction ±(i, j), ``(N, C, 1, 1)`` of ±1."""
    rng = np.random.default_rng((seed, i % height, j % width))
    signs = 2 * rng.integers(0, 2, size=(count, channels, 1, 1), dtype=np.int8) - 1
    return torch.from_numpy(signs.astype(np.float32))


def default_norm(height: int, width: int) -> float:
    """The perturbation's L2 norm for images of a size: a power law through the paper's two.

    >>> round(default_norm(32, 32), 2), round(default_norm(224, 224), 2)
    (4.0, 15.7)
    """
    exponent: float = math.log(15.7 / 4.0) / math.log(224 / 32)
    return float(4.0 * (math.sqrt(height * width) / 32) ** exponent)


def _inside(i: int, j: int, height: int, width: int, rows: int, columns: int) -> bool:
    row, column = _cell(i, j, height, width, rows, columns)
    return 0 <= row < rows and 0 <= column < columns


def _cell(i: int, j: int, height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Place of (i, j) in the centred window; outside it, an index outside its range."""
    row = (i + height // 2) % height - height // 2 + rows // 2
    column = (j + width // 2) % width - width // 2 + columns // 2
    return row, column


def _layout(
    values: NDArray[Any],
    directions: list[tuple[int, int]],
    height: int,
    width: int,
    rows: int,
    columns: int,
) -> NDArray[Any]:
    """One value per direction to a map with DC in the middle, both cells of a pair filled."""
    out = np.zeros((rows, columns), dtype=values.dtype)
    for value, (i, j) in zip(values, directions, strict=True):
        for a, b in ((i, j), (-i, -j)):
            row, column = _cell(a, b, height, width, rows, columns)
            if 0 <= row < rows and 0 <= column < columns:
                out[row, column] = value
    return out


@dataclass(frozen=True, eq=False)
class FourierHeatmapResult(Result):
    """Error rate under noise of each frequency.

    ``arrays()``, all maps ``(H, W)`` (or the crop) with DC at ``[H // 2, W // 2]``, the same
    at (i, j) and (−i, −j):

    - ``error``, ``lower``, ``upper``: proportion with its 95 % Wilson interval, ``count``;
    - ``clean_error`` and its ``_lower``, ``_upper``: without noise, numbers.
    """

    image_size: tuple[int, int]
    wrong: NDArray[np.int64]
    clean_wrong: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        cells = proportion_arrays("error", self.wrong, self.samples)
        clean = proportion_arrays("clean_error", self.clean_wrong, self.samples)
        return {
            "error": cells["error"],
            "lower": cells["error_lower"],
            "upper": cells["error_upper"],
            "count": cells["error_count"],
            **{f"clean_error{part}": clean[f"clean_error{part}"] for part in _PARTS},
        }

    @property
    def group(self) -> str:
        return f"{self.name}/{self.norm:.1f}"

    @property
    def norm(self) -> float:
        return float(self.settings["norm"])

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Signed i of each row and j of each column, cycles per image."""
        rows, columns = self.wrong.shape
        return np.arange(rows) - rows // 2, np.arange(columns) - columns // 2

    def scalars(self) -> dict[str, float]:
        arrays = self.arrays()
        section = f"hfc_heatmap/{self.norm:.1f}"
        return {
            f"{section}/clean_error": float(arrays["clean_error"]),
            f"{section}/mean_error": float(arrays["error"].mean()),
            f"{section}/max_error": float(arrays["error"].max()),
        }

    def images(self) -> dict[str, Any]:
        return {f"hfc_heatmap/{self.norm:.1f}": self.figure()}

    def figure(self) -> Figure:
        from ..plots import heatmap_figure

        return heatmap_figure(self)

    def axes(self) -> dict[str, dict[str, Any]]:
        i, j = self.frequencies()
        cells = [
            {"name": name, "unit": "cycles/image", "values": values.tolist()}
            for name, values in (("i", i), ("j", j))
        ]
        what = {"norm": self.norm, "samples": self.samples}
        maps = {
            name: {"unit": "samples" if name == "count" else "error rate", "axes": cells, **what}
            for name in ("error", "lower", "upper", "count")
        }
        clean = {"unit": "error rate", "axes": [], **what}
        return maps | {f"clean_error{part}": clean for part in _PARTS}

    def extremes(self, count: int = 3) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The most and the least harmful frequencies, one of each pair ±(i, j), as cells."""
        rows, columns = self.wrong.shape
        i, j = self.frequencies()
        height, width = self.image_size
        own = []
        for row in range(rows):
            for column in range(columns):
                mirror = _cell(-int(i[row]), -int(j[column]), height, width, rows, columns)
                inside = 0 <= mirror[0] < rows and 0 <= mirror[1] < columns
                if not inside or (column, row) >= mirror[::-1]:  # the one with j > 0
                    own.append((row, column))
        ordered = sorted(own, key=lambda cell: (-int(self.wrong[cell]), cell))
        return ordered[:count], ordered[::-1][:count]

    def table(self) -> tuple[list[str], list[list[str]]]:
        arrays = self.arrays()
        i, j = self.frequencies()
        clean = [float(arrays[f"clean_error{part}"]) for part in _PARTS]
        rows = [["no noise", "", percent(*clean)]]
        for label, cells in zip(("most harmful", "least harmful"), self.extremes(), strict=True):
            for cell in cells:
                error, low, high = (float(arrays[n][cell]) for n in ("error", "lower", "upper"))
                where = f"({i[cell[0]]:+d}, {j[cell[1]]:+d})"
                rows.append([label, where, percent(error, low, high)])
        return ["frequency", "(i, j) in cycles/image", "error"], rows

    def _title(self) -> str:
        rows, columns = self.wrong.shape
        return (
            f"Fourier heatmap {rows}×{columns}, norm {self.norm:.1f}, {self.samples} images, "
            "95 % Wilson intervals"
        )

    def sentence(self) -> str:
        arrays = self.arrays()
        (worst, *_), (best, *_) = self.extremes(1)
        i, j = self.frequencies()

        def at(cell: tuple[int, int]) -> str:
            return (
                f"({i[cell[0]]:+d}, {j[cell[1]]:+d}) with {percent(float(arrays['error'][cell]))}"
            )

        clean = percent(float(arrays["clean_error"]))
        if arrays["lower"][worst] <= arrays["upper"][best]:
            return (
                f"Noise of norm {self.norm:.1f} harms no frequency measurably more than another; "
                f"errors reach {percent(float(arrays['error'][worst]))} against {clean} without "
                "noise."
            )
        return (
            f"Noise of norm {self.norm:.1f} harms most at {at(worst)} errors and least at "
            f"{at(best)}, against {clean} without noise."
        )


_PARTS = ("", "_lower", "_upper")

"""Error under additive Fourier-basis noise, direction by direction (Yin et al., NeurIPS 2019)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import fourier
from ..errors import InputError
from ..proportions import percent, wilson
from . import heatmap_model
from . import heatmap_sequential as sequential
from .base import Measurement, Result, Subject, settings_of
from .heatmap_engine import Checkpoint, Engine, Outcome, Score, direction_signs, fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FourierHeatmap", "FourierHeatmapResult", "default_norm", "direction_signs"]

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


@dataclass(frozen=True)
class FourierHeatmap(Measurement):
    """Error rate of ``clip(x + s·v·U_ij, 0, 1)`` for every frequency (i, j).

    Every pair ±(i, j), which is one direction, is measured once. The sign s is drawn per
    image and channel from ``seed`` and the direction alone: results do not depend on batch
    size, device or crop.

    How much is spent decides the estimator, and the result says which it was:

    - nothing given: **exhaustive**, every image in every direction. Intervals are Wilson's
      and speak of images like the given ones.
    - ``precision``: **sequential**. Each cell looks at images in random order, without
      replacement, until its 95 % interval is within ± ``precision``; the most uncertain
      cells come first. Intervals speak of the given images, that is of what the exhaustive
      measurement would find, and are exact under this very stopping rule
      (:mod:`hfc_probe.measurements.heatmap_sequential`).
    - ``forwards`` or ``seconds``: **model**. A fixed effort is spread over all cells, and a
      model over cells and images (:mod:`hfc_probe.measurements.heatmap_model`) makes the
      most of it; cells where it does not hold are sampled more and shown as sampled.
      Intervals speak of the given images.
    - ``radial``: **rings**. Error against distance from DC only, from directions drawn at
      random within each ring one cycle wide.

    Args:
        norm: v, the L2 norm of the perturbation of one channel in pixel space; None: by
            image size, the paper's 4.0 at 32×32 and 15.7 at 224×224
            (:func:`default_norm`).
        samples: at most so many images, a seeded random choice.
        precision: half-width of the 95 % interval that every cell must reach, in (0, 0.5).
        forwards: number of single-image forward passes to spend, all included.
        seconds: time to spend, in place of a number of passes; a first round over all cells
            is made whatever it takes.
        crop: side (or height and width) of the centred window of frequencies that is
            measured; None: all of them. The paper shows 63 at 224×224.
        stride: measure every so many frequencies of each axis, DC among them.
        radial: rings in place of cells; with ``precision`` or ``forwards`` to that effort,
            else at a hundredth of the exhaustive one.
        topk: a prediction is an error when the target is not among the k largest logits;
            of several k the first is the one that figures, intervals and estimators use.
        score: ``score(model, inputs, targets) -> (n,)``, in place of top-k errors, for
            detectors, segmenters and others: a bool per image, True where right, or a
            number, a loss. ``inputs`` are what the model eats. Where targets are no class
            indices, give the samples their own numbers as targets and look things up by
            them. A loss is measured exhaustively only.
        autocast: run the model in bfloat16 where autocast allows. Changes predictions a little.
        channels_last: hand over images in that memory format. May change predictions a little.
        checkpoint: a file in which an interrupted map is kept, to be continued by the next
            call with the same model, images and settings; removed when the map is done.
        watch: called with the result so far whenever the map has sharpened.
        seed: of the signs, the choice of samples and their order.

    Raises:
        InputError: a norm that is not positive; samples, crop, stride, k, forwards or seconds
            out of range; two efforts at once; when measuring, a crop larger than the image,
            images smaller than 2 pixels, an effort that the samples cannot serve, a model
            that answers differently to identical calls.

    Source: Yin et al., NeurIPS 2019, §3.
    """

    norm: float | None = 4.0
    samples: int = 1000
    precision: float | None = None
    forwards: int | None = None
    seconds: float | None = None
    crop: int | tuple[int, int] | None = None
    stride: int = 1
    radial: bool = False
    topk: int | tuple[int, ...] = 1
    score: Score | None = None
    autocast: bool = False
    channels_last: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    watch: Callable[[FourierHeatmapResult], None] | None = field(default=None, repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm is not None and (
            isinstance(self.norm, (bool, str)) or not 0 < self.norm < math.inf
        ):
            raise InputError(f"norm: expected a finite number above 0, got {self.norm!r}")
        for name in ("samples", "stride"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if self.forwards is not None:
            object.__setattr__(self, "forwards", _whole("forwards", self.forwards))
        topk = self.topk if isinstance(self.topk, (tuple, list)) else (self.topk,)
        if not topk:
            raise InputError("topk: expected at least one k, got none")
        object.__setattr__(self, "topk", tuple(_whole("topk", k) for k in topk))
        if self.precision is not None and (
            isinstance(self.precision, (bool, str)) or not 0 < self.precision < 0.5
        ):
            raise InputError(
                "precision: expected a half-width above 0 and below 0.5, such as 0.05, got "
                f"{self.precision!r}"
            )
        if self.seconds is not None and (
            isinstance(self.seconds, (bool, str)) or not 0 < self.seconds < math.inf
        ):
            raise InputError(f"seconds: expected a time above 0, got {self.seconds!r}")
        efforts = [n for n in ("precision", "forwards", "seconds") if getattr(self, n) is not None]
        if len(efforts) > 1:
            raise InputError(
                f"FourierHeatmap: expected one of precision, forwards and seconds, got "
                f"{' and '.join(efforts)}; they say when to stop"
            )
        if self.radial and self.seconds is not None:
            raise InputError("radial: expected precision= or forwards= with it, got seconds=")
        if self.score is not None and not callable(self.score):
            raise InputError(
                "score: expected score(model, inputs, targets) -> one number per image, got "
                f"{type(self.score).__name__}"
            )
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

    @property
    def estimator(self) -> Estimator:
        """Which one the settings ask for."""
        if self.radial:
            return "rings"
        if self.precision is not None:
            return "sequential"
        return "exhaustive" if self.forwards is None and self.seconds is None else "model"

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.grid(*image_shape[1:])

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map for images of that size."""
        return self.grid(height, width).shape

    def grid(self, height: int, width: int) -> Grid:
        """The cells of the map for images of that size."""
        if height < 2 or width < 2:
            raise InputError(
                f"FourierHeatmap: expected images of at least 2×2 pixels, got {height}×{width}"
            )
        rows, columns = (height, width) if self.crop is None else self.crop  # type: ignore[misc]
        if rows > height or columns > width:
            raise InputError(
                f"crop: expected at most the image's {height}×{width}, got {rows}×{columns}"
            )
        return Grid(height, width, rows, columns, self.stride)

    def directions(self, height: int, width: int) -> list[tuple[int, int]]:
        """One (i, j) of every pair ±(i, j) that the map shows."""
        return self.grid(height, width).directions

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        if self.forwards is not None:
            return self.forwards
        count = min(samples, self.samples)
        whole = count * (1 + len(self.directions(*image_shape[1:])))
        if self.radial:
            return count + whole // 100
        if self.precision is not None:
            return min(whole, int(whole * sequential.share(count, self.precision)))
        return whole

    def compute(self, subject: Subject) -> FourierHeatmapResult:
        began = time.perf_counter()
        samples = subject.samples.subset(self.samples, seed=self.seed)
        _, height, width = samples.image_shape
        grid = self.grid(height, width)
        norm = default_norm(height, width) if self.norm is None else float(self.norm)
        assert isinstance(self.topk, tuple)
        self._check_effort(len(samples), len(grid.directions))
        engine = Engine(
            subject,
            samples,
            grid.directions,
            norm=norm,
            seed=self.seed,
            topk=self.topk,
            score=self.score,
            autocast=self.autocast,
            channels_last=self.channels_last,
        )
        run = _Run(self, engine, grid, norm, began)
        if self.estimator == "exhaustive":
            return run.exhaustive()
        if self.estimator == "sequential":
            return run.sequential()
        return run.rings() if self.estimator == "rings" else run.model()

    def _check_effort(self, count: int, directions: int) -> None:
        """Raise :class:`InputError` for an effort that the samples cannot serve."""
        if self.precision is not None:
            finest = sequential.finest(count)
            if self.precision < finest:
                need = sequential.samples_for(self.precision)
                raise InputError(
                    f"precision: expected at least ±{finest:.3f}, which is how well {count} images "
                    f"stand for others, got ±{self.precision:g}; that takes {need} images"
                )
        if self.forwards is not None and not self.radial:
            least = count + _FEWEST_PER_CELL * directions
            if self.forwards < least:
                raise InputError(
                    f"forwards: expected at least {least} ({count} clean images and "
                    f"{_FEWEST_PER_CELL} for each of {directions} directions), got "
                    f"{self.forwards}; use fewer samples, a crop or a stride, or radial=True"
                )


_FEWEST_PER_CELL = 4


def _whole(name: str, value: Any) -> int:
    try:
        good = not isinstance(value, (bool, str)) and value == int(value) and value >= 1
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(f"{name}: expected a whole number of at least 1, got {value!r}")
    return int(value)


def default_norm(height: int, width: int) -> float:
    """The perturbation's L2 norm for images of a size: a power law through the paper's two.

    >>> round(default_norm(32, 32), 2), round(default_norm(224, 224), 2)
    (4.0, 15.7)
    """
    exponent: float = math.log(15.7 / 4.0) / math.log(224 / 32)
    return float(4.0 * (math.sqrt(height * width) / 32) ** exponent)


@dataclass(frozen=True)
class Grid:
    """Cells of a centred map of frequencies, and the directions that fill them.

    Args:
        height, width: of the images, in pixels.
        rows, columns: of the window of frequencies.
        stride: between measured frequencies of one axis.
    """

    height: int
    width: int
    rows: int
    columns: int
    stride: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of the map along i and j; DC is at half of each, rounded down."""
        return len(self._axis(self.rows)), len(self._axis(self.columns))

    def _axis(self, size: int) -> NDArray[np.int64]:
        low, high = (size // 2) // self.stride, ((size - 1) // 2) // self.stride
        return np.arange(-low, high + 1) * self.stride

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Signed i of each row and j of each column, cycles per image."""
        return self._axis(self.rows), self._axis(self.columns)

    @cached_property
    def directions(self) -> list[tuple[int, int]]:
        """One (i, j) of every pair ±(i, j) that has a cell."""
        return [(i, j) for i, j in fourier.half_plane(self.height, self.width) if self.cells(i, j)]

    def cells(self, i: int, j: int) -> list[tuple[int, int]]:
        """Cells of ±(i, j): one, two, or none outside the window."""
        found = []
        for a, b in ((i, j), (-i, -j)):
            # At an even size −N/2 and N/2 are one frequency, kept as the negative one.
            a = (a + self.height // 2) % self.height - self.height // 2
            b = (b + self.width // 2) % self.width - self.width // 2
            inside = -(self.rows // 2) <= a < (self.rows + 1) // 2
            inside = inside and -(self.columns // 2) <= b < (self.columns + 1) // 2
            if inside and a % self.stride == 0 and b % self.stride == 0:
                cell = (
                    a // self.stride + (self.rows // 2) // self.stride,
                    b // self.stride + (self.columns // 2) // self.stride,
                )
                if cell not in found:
                    found.append(cell)
        return found

    def layout(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per direction, ``(D, …)``, to a map with DC in the middle."""
        values = np.asarray(values)
        out = np.zeros((*self.shape, *values.shape[1:]), dtype=values.dtype)
        for value, (i, j) in zip(values, self.directions, strict=True):
            for cell in self.cells(i, j):
                out[cell] = value
        return out

    def distances(self) -> NDArray[np.float64]:
        """Distance from DC of each direction, cycles per image, ``(D,)``."""
        return np.array([math.hypot(i, j) for i, j in self.directions])


class _Run:
    """One measurement under way: the engine, what it has found, and the estimators."""

    def __init__(
        self, settings: FourierHeatmap, engine: Engine, grid: Grid, norm: float, began: float
    ) -> None:
        self.settings, self.engine, self.grid = settings, engine, grid
        self.norm, self.began = norm, began
        self.count = len(engine.samples)
        self.cells = len(grid.directions)
        self.clean: Outcome | None = None
        path = settings.checkpoint
        key = fingerprint(engine, settings.estimator) if path is not None else ""
        self.checkpoint = Checkpoint(path, key)

    @property
    def subject(self) -> Subject:
        return self.engine.subject

    def look_at_clean(self) -> Outcome:
        self.clean = self.engine.clean()
        return self.clean

    def exhaustive(self) -> FourierHeatmapResult:
        """Every image of every direction, in a row, cut into batches: many images of one
        direction or many directions of few images, whichever fills a batch.
        """
        total = self.count * self.cells
        clean = self.clean or self.look_at_clean()
        columns = clean.wrong.shape[1]
        device = self.engine.device
        wrong = torch.zeros(self.cells, columns, dtype=torch.long, device=device)
        # One tuple, replaced at once: an interruption finds counts and place in step.
        at = (0, wrong, torch.zeros(self.cells, 2, dtype=torch.float64))
        state = self.checkpoint.load()
        if state is not None:
            kept = torch.from_numpy(state["wrong"]).to(device)
            at = (int(state["done"]), kept, torch.from_numpy(state["loss"]))

        def keep() -> None:
            self.checkpoint.save(
                {"done": at[0], "wrong": at[1].cpu().numpy(), "loss": at[2].numpy()}
            )

        shown = time.monotonic()
        try:
            with self.subject.progress(total, "forward") as advance:
                advance(at[0])
                while at[0] < total:
                    stop = min(at[0] + self.engine.batch_size, total)
                    cells, images = np.divmod(np.arange(at[0], stop), self.count)
                    found = self.engine.run(cells, images)
                    index = torch.from_numpy(cells)
                    advance(stop - at[0])
                    at = (
                        stop,
                        at[1].index_add(0, index.to(device), found.wrong.long()),
                        at[2].index_add(0, index, _moments(found.loss)),
                    )
                    if self.checkpoint.due():
                        keep()
                    if self.settings.watch and time.monotonic() - shown > _WATCH_SECONDS:
                        self.settings.watch(self._counted(*at))
                        shown = time.monotonic()
        except BaseException:
            keep()
            raise
        self.checkpoint.remove()
        return self._counted(*at)

    def _counted(self, done: int, wrong: Tensor, loss: Tensor) -> FourierHeatmapResult:
        full, rest = divmod(done, self.count)
        seen = np.full(self.cells, 0, np.int64)
        seen[:full] = self.count
        if rest:
            seen[full] = rest
        counts = wrong.cpu().numpy()
        sums = loss.numpy()
        return self.result(seen, counts, sums)

    def result(
        self, seen: NDArray[np.int64], counts: NDArray[np.int64], sums: NDArray[np.float64]
    ) -> FourierHeatmapResult:
        """From counts of errors and sums of losses and their squares, per direction."""
        safe = np.maximum(seen, 1)
        mean = np.where(seen > 0, sums[:, 0] / safe, np.nan)
        if counts.shape[1] == 0:  # the score is a loss: normal intervals of its mean
            variance = np.maximum(sums[:, 1] / safe - mean**2, 0) * safe / np.maximum(safe - 1, 1)
            half = 1.96 * np.sqrt(variance / safe)
            half = np.where(seen > 1, half, np.inf)
            return self.make(
                mean,
                mean - half,
                mean + half,
                seen,
                loss=mean,
                quantity="score",
                estimator="exhaustive",
            )
        lower, upper = wilson(counts[:, 0], seen)
        error = np.where(seen > 0, counts[:, 0] / safe, np.nan)
        assert isinstance(self.settings.topk, tuple)
        further = {
            k: np.where(seen > 0, counts[:, column + 1] / safe, np.nan)
            for column, k in enumerate(self.settings.topk[1 : counts.shape[1]])
        }
        plain_score = self.settings.score is None
        return self.make(
            error,
            lower,
            upper,
            seen,
            loss=mean if plain_score else None,
            further=further,
            estimator="exhaustive",
        )

    def make(
        self,
        error: NDArray[np.float64],
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        seen: NDArray[np.int64],
        *,
        loss: NDArray[np.float64] | None = None,
        further: Mapping[int, NDArray[np.float64]] | None = None,
        quantity: Literal["error", "score"] = "error",
        estimator: Estimator | None = None,
        unsafe: NDArray[np.bool_] | None = None,
        detectable: float | None = None,
        radial: Mapping[str, NDArray[Any]] | None = None,
    ) -> FourierHeatmapResult:
        assert self.clean is not None
        settings = {
            name: value
            for name, value in settings_of(self.settings).items()
            if name not in ("checkpoint", "watch", "score")
        }
        score = self.settings.score
        settings |= {
            "norm": self.norm,
            "score": None if score is None else getattr(score, "__name__", type(score).__name__),
            "estimator": estimator or self.settings.estimator,
        }
        layout = self.grid.layout
        clean_wrong, clean_loss = self.clean.wrong.cpu().numpy(), self.clean.loss.cpu().numpy()
        return FourierHeatmapResult(
            settings=settings,
            samples=self.count,
            image_size=(self.grid.height, self.grid.width),
            estimator=estimator or self.settings.estimator,
            quantity=quantity,
            axis_i=self.grid.frequencies()[0],
            axis_j=self.grid.frequencies()[1],
            error=layout(error),
            lower=layout(lower),
            upper=layout(upper),
            count=layout(seen),
            clean_wrong=int(clean_wrong[:, 0].sum()) if clean_wrong.shape[1] else 0,
            clean_loss=float(clean_loss.mean(dtype=np.float64)),
            loss=None if loss is None else layout(loss),
            further={k: layout(values) for k, values in (further or {}).items()},
            unsafe=tuple(
                self.grid.directions[k] for k in np.flatnonzero(unsafe) if unsafe is not None
            )
            if unsafe is not None
            else (),
            detectable=detectable,
            rings=dict(radial or {}),
            passes=self.engine.forwards,
            elapsed=time.perf_counter() - self.began,
        )

    # Sampled estimators

    def table(self) -> _Table:
        if self.clean is None:
            self.look_at_clean()
        assert self.clean is not None
        if self.clean.wrong.shape[1] == 0:
            raise InputError(
                "score: expected a bool per image (True where right) for a sampled map, got a "
                "loss; leave precision, forwards, seconds and radial out to measure it in full"
            )
        return _Table(self)

    def sequential(self) -> FourierHeatmapResult:
        precision = self.settings.precision
        assert precision is not None
        z = sequential.calibrated_z(self.count, precision)
        table = self.table()
        stops = sequential.looks(self.count)
        pending = np.ones(self.cells, bool)
        planned = np.full(self.cells, stops[0])
        expected = int(self.cells * self.count * sequential.share(self.count, precision))

        def state() -> FourierHeatmapResult:
            lower, upper = sequential.interval(table.errors, table.seen, self.count, z)
            return self.sampled(table, table.rate(), lower, upper)

        with self.subject.progress(expected, "forward") as advance:
            while pending.any():
                # A round: the more uncertain half of the unfinished cells, one look further.
                lower, upper = sequential.interval(table.errors, table.seen, self.count, z)
                width = np.where(pending, upper - lower, -1.0)
                chosen = np.flatnonzero(width >= max(float(np.median(width[pending])), 0.0))
                chosen = chosen[: max(1, -(-_ROUND // sequential.STEP))]
                table.extend(chosen, planned[chosen] - table.seen[chosen], advance)
                lower, upper = sequential.interval(table.errors, table.seen, self.count, z)
                done = (upper - lower) / 2 <= precision
                pending &= ~((done | (table.seen == self.count)) & (table.seen >= stops[0]))
                after = np.minimum(np.searchsorted(stops, table.seen, "right"), len(stops) - 1)
                planned = stops[after]
                table.show(state)
        self.checkpoint.remove()
        return state()

    def sampled(
        self,
        table: _Table,
        error: NDArray[np.float64],
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        **more: Any,
    ) -> FourierHeatmapResult:
        return self.make(error, lower, upper, table.seen, **more)

    def model(self) -> FourierHeatmapResult:
        table = self.table()
        budget, deadline = self.settings.forwards, None
        if budget is None:
            assert self.settings.seconds is not None
            deadline = self.began + self.settings.seconds
        whole = self.cells * self.count
        rest = whole if budget is None else budget - self.engine.forwards
        if rest >= whole and budget is not None:
            return self.exhaustive()
        with self.subject.progress(rest if budget is not None else 0, "forward") as advance:
            # Nine tenths go evenly to all cells, the rest to those that stick out.
            even = min(self.count, max(1, int(0.9 * rest) // self.cells))
            if deadline is not None:
                even = self._until(deadline, table, advance)
            else:
                while int(table.target.min()) < even:
                    step = min(_ROUND_PER_CELL, even - int(table.target.min()))
                    table.extend(np.arange(self.cells), np.full(self.cells, step), advance)
                    table.show(lambda: self.fitted(table))
            fit = self._fit(table, None)
            extra = rest - even * self.cells if budget is not None else even * self.cells // 9
            table.extend(*self._suspects(fit, table, extra), advance)
        self.checkpoint.remove()
        return self.fitted(table)

    def _until(self, deadline: float, table: _Table, advance: Callable[[int], Any]) -> int:
        """Rounds over all cells, each half as large again, until the time is nearly used up."""
        step, even = _FEWEST_PER_CELL, 0
        while True:
            began = time.perf_counter()
            step = min(step, self.count - even)
            table.extend(np.arange(self.cells), np.full(self.cells, step), advance)
            even += step
            table.show(lambda: self.fitted(table))
            now = time.perf_counter()
            per_image = (now - began) / step
            # A fit at the end and the second look at suspects take about a quarter.
            left = 0.75 * (deadline - now)
            step = min(max(even // 2, 1), int(left / per_image))
            if step < 1 or even >= self.count:
                return even

    def _suspects(
        self, fit: heatmap_model.Fit, table: _Table, extra: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells with the largest residuals and how many more images each is given."""
        order = np.argsort(-np.abs(fit.residual), kind="stable")
        most = max(1, self.cells // 20)
        suspicious = order[: max(1, min(most, int((np.abs(fit.residual) > 2).sum())))]
        each = max(1, extra // len(suspicious))
        more = np.minimum(np.minimum(each, 4 * int(table.seen.max())), self.count - table.seen)
        cells, counts = suspicious, more[suspicious]
        left = extra - int(counts.sum())
        # What they do not need goes to the cells after them, one image each.
        others = order[len(suspicious) :][: max(0, left)]
        others = others[table.seen[others] < self.count]
        cells = np.concatenate([cells, others])
        return cells, np.concatenate([counts, np.ones(len(others), np.int64)])

    def _fit(self, table: _Table, apart: NDArray[np.bool_] | None) -> heatmap_model.Fit:
        assert self.clean is not None
        cells, images = np.nonzero(table.known >= 0)
        full = self.grid.height, self.grid.width
        window = self.grid.rows, self.grid.columns
        periods = tuple(float(a if a == b else 2 * b) for a, b in zip(full, window, strict=True))
        return heatmap_model.fit(
            np.array(self.grid.directions, dtype=np.float64),
            (periods[0], periods[1]),
            (float(window[0]), float(window[1])),
            cells,
            images,
            table.known[cells, images],
            self.patterns(),
            self.engine.samples.targets.numpy(),
            self.clean.margin.cpu().numpy().astype(np.float64),
            apart,
        )

    def patterns(self) -> NDArray[np.int64]:
        if self._patterns is None:
            self._patterns = self.engine.sign_patterns()
        return self._patterns

    _patterns: NDArray[np.int64] | None = None

    def fitted(self, table: _Table) -> FourierHeatmapResult:
        """The model's map; cells where it does not hold as sampled."""
        limit = heatmap_model.threshold(self.cells)
        apart = np.zeros(self.cells, bool)
        fit = self._fit(table, None)
        for _ in range(4):
            found = (np.abs(fit.residual) > limit) & ~apart
            if not found.any():
                break
            # One at a time of neighbours: a spike pulls those beside it out of line.
            apart |= found & (np.abs(fit.residual) >= 0.8 * np.abs(fit.residual[~apart]).max())
            fit = self._fit(table, apart)
        apart &= np.abs(fit.residual) > limit / 2
        lower, upper = heatmap_model.interval(fit, self.count)
        alone = sequential.interval(table.errors, table.seen, self.count, 1.96)
        error = np.where(apart, table.rate(), fit.error)
        lower = np.where(apart, alone[0], lower)
        upper = np.where(apart, alone[1], upper)
        p = np.clip(fit.error, 0.05, 0.95)
        typical = np.sqrt(p * (1 - p) / np.maximum(table.seen, 1))
        detectable = float(min(1.0, limit * np.median(typical)))
        return self.sampled(table, error, lower, upper, unsafe=apart, detectable=detectable)

    def rings(self) -> FourierHeatmapResult:
        """Error against distance from DC, from random directions of each ring."""
        settings = self.settings
        ring = np.floor(self.grid.distances() + 0.5).astype(np.int64)
        kinds = np.unique(ring)
        table = self.table()
        whole = self.count * self.cells
        budget = max(len(kinds), whole // 100)
        if settings.forwards is not None:
            budget = settings.forwards - self.engine.forwards
            if budget < _FEWEST_PER_CELL * len(kinds):
                raise InputError(
                    "forwards: expected at least "
                    f"{self.engine.forwards + _FEWEST_PER_CELL * len(kinds)} for {len(kinds)} "
                    f"rings, got {settings.forwards}"
                )
        z, precision = 1.96, settings.precision
        if precision is not None:
            z = sequential.calibrated_z(self.count, precision)
            budget = int(len(kinds) * self.count * sequential.share(self.count, precision))
        # One walk per ring: images in the shared order, each with a direction of the ring
        # drawn at random; so the images of a ring are distinct, as for a single cell.
        rng = np.random.default_rng((settings.seed, 7))
        members = [np.flatnonzero(ring == kind) for kind in kinds]
        walks = np.stack([rng.choice(own, self.count) for own in members])
        orders = np.stack(
            [np.roll(table.order, -k * self.count // len(kinds)) for k in range(len(kinds))]
        )
        seen = np.zeros(len(kinds), np.int64)
        wrong = np.zeros(len(kinds), np.int64)
        stops = sequential.looks(self.count)

        def state() -> FourierHeatmapResult:
            lower, upper = sequential.interval(wrong, seen, self.count, z)
            rate = np.where(seen > 0, wrong / np.maximum(seen, 1), np.nan)
            place = np.searchsorted(kinds, ring)
            radial = {
                "radius": kinds.astype(np.float64),
                "radial_error": rate,
                "radial_lower": lower,
                "radial_upper": upper,
                "radial_count": seen.copy(),
            }
            return self.make(rate[place], lower[place], upper[place], seen[place], radial=radial)

        with self.subject.progress(budget, "forward") as advance:
            spent = 0
            while True:
                lower, upper = sequential.interval(wrong, seen, self.count, z)
                open_ = seen < self.count
                if precision is not None:
                    open_ &= ~(((upper - lower) / 2 <= precision) & (seen >= stops[0]))
                elif spent >= budget:
                    break
                if not open_.any():
                    break
                # Coarse to fine: the widest rings first.
                order = np.argsort(np.where(open_, lower - upper, 1.0), kind="stable")
                chosen = order[: int(open_.sum())]
                chosen = chosen[: max(1, -(-len(chosen) // 2))]
                pairs = []
                for k in chosen:
                    nxt = int(stops[np.searchsorted(stops, seen[k], "right")])
                    if precision is None:
                        nxt = min(nxt, int(seen[k]) + budget - spent)
                    spent += nxt - int(seen[k])
                    part = slice(int(seen[k]), nxt)
                    pairs.append((k, walks[k, part], orders[k, part]))
                found = table.evaluate(
                    np.concatenate([p[1] for p in pairs]),
                    np.concatenate([p[2] for p in pairs]),
                    advance,
                )
                start = 0
                for k, cells, _ in pairs:
                    wrong[k] += int(found[start : start + len(cells)].sum())
                    seen[k] += len(cells)
                    start += len(cells)
                table.show(state)
        self.checkpoint.remove()
        return state()


# Passes of one round of the sequential estimator, images a cell of one of the model's.
_ROUND, _ROUND_PER_CELL = 2048, 8
_WATCH_SECONDS = 5.0


class _Table:
    """Which (direction, image) pairs have been looked at, and what was found.

    All cells go through the images in one random order, each from a start of its own: the
    same images recur everywhere, and neighbouring cells see different ones.
    """

    def __init__(self, run: _Run) -> None:
        self.run = run
        rng = np.random.default_rng((run.settings.seed, 3))
        self.order = rng.permutation(run.count)
        self.start = rng.permutation(run.cells) * run.count // run.cells
        self.target = np.zeros(run.cells, np.int64)
        self.known = np.full((run.cells, run.count), -1, np.int8)
        self._kept = self.known
        state = run.checkpoint.load()
        if state is not None:
            self._kept = state["known"]
        self._shown = time.monotonic()

    @property
    def seen(self) -> NDArray[np.int64]:
        return self.target

    @property
    def errors(self) -> NDArray[np.int64]:
        total: NDArray[np.int64] = (self.known == 1).sum(1)
        return total

    def rate(self) -> NDArray[np.float64]:
        seen = (self.known >= 0).sum(1)
        return np.where(seen > 0, self.errors / np.maximum(seen, 1), np.nan)

    def extend(
        self, cells: NDArray[np.int64], counts: NDArray[np.int64], advance: Callable[[int], Any]
    ) -> None:
        """The next so many images of each cell's walk."""
        which = np.repeat(cells, counts)
        first = np.repeat(self.start[cells] + self.target[cells], counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.evaluate(which, self.order[(first + within) % self.run.count], advance)
        self.target = self.target.copy()
        self.target[cells] += counts

    def evaluate(
        self, cells: NDArray[np.int64], images: NDArray[np.int64], advance: Callable[[int], Any]
    ) -> NDArray[np.int8]:
        """Errors of pairs, from the checkpoint where it has them."""
        found = self._kept[cells, images]
        missing = np.flatnonzero(found < 0)
        size = 8 * self.run.engine.batch_size
        start = 0
        try:
            while start < len(missing):
                part = missing[start : start + size]
                outcome = self.run.engine.run(cells[part], images[part])
                found[part] = outcome.wrong[:, 0].cpu().numpy()
                self.known[cells[part], images[part]] = found[part]
                start += size
                advance(len(part))
                if self.run.checkpoint.due():
                    self._save()
        except BaseException:
            self._save()
            raise
        self.known[cells, images] = found
        return found

    def _save(self) -> None:
        self.run.checkpoint.save({"known": np.maximum(self.known, self._kept)})

    def show(self, result: Callable[[], FourierHeatmapResult]) -> None:
        watch = self.run.settings.watch
        if watch is not None and time.monotonic() - self._shown > _WATCH_SECONDS:
            watch(result())
            self._shown = time.monotonic()


def _moments(loss: Tensor) -> Tensor:
    values = loss.detach().to("cpu", torch.float64)
    return torch.stack([values, values**2], 1)


@dataclass(frozen=True, eq=False)
class FourierHeatmapResult(Result):
    """Error rate under noise of each frequency.

    ``arrays()``, all maps ``(H, W)`` (or the crop) with DC at ``[H // 2, W // 2]``, the same
    at (i, j) and (−i, −j):

    - ``error``, ``lower``, ``upper``: proportion with its 95 % interval; ``count``: images
      seen under that noise. With a score that is a loss: its mean;
    - ``clean_error`` and its ``_lower``, ``_upper`` (Wilson): without noise, numbers;
    - ``clean_loss``, and ``loss`` where every image was measured: mean cross-entropy;
    - ``error_top5`` and the like: where further k were asked for, and every image measured;
    - ``radius`` (R,) in cycles per image, ``radial_error``, ``radial_lower``,
      ``radial_upper``, ``radial_count``: of the rings estimator, whose maps show each
      cell its ring's mean.

    Attributes:
        estimator: ``"exhaustive"``, ``"sequential"``, ``"model"`` or ``"rings"``; see
            :class:`FourierHeatmap`. It decides what intervals speak of.
        quantity: ``"error"``, or ``"score"``, a loss.
        unsafe: frequencies that do not fit between their neighbours: the smooth model does
            not hold there, and they are shown as sampled.
        detectable: where a model made the map, how far an isolated cell must typically lie
            off its neighbours to be seen as such; a smaller spike may be smoothed away.
        passes: single-image forward passes in all, the clean ones included.
        elapsed: seconds.
    """

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

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {
            "error": self.error,
            "lower": self.lower,
            "upper": self.upper,
            "count": self.count,
        }
        out |= dict(zip((f"clean_error{part}" for part in _PARTS), self._clean(), strict=True))
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

    def _clean(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
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

    def made_by(self) -> str:
        """The estimator and what its intervals speak of, in words."""
        if self.quantity == "score":
            return f"{_ESTIMATORS[self.estimator]}; 95 % normal intervals"
        kind = "95 % Wilson intervals" if self.estimator == "exhaustive" else "95 % intervals"
        return f"{_ESTIMATORS[self.estimator]}; {kind} for {_POPULATIONS[self.estimator]}"

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Signed i of each row and j of each column, cycles per image."""
        return self.axis_i, self.axis_j

    def scalars(self) -> dict[str, float]:
        section = f"hfc_heatmap/{self.norm:.1f}"
        clean = float(self._clean()[0])
        return {
            f"{section}/clean_error": clean,
            f"{section}/mean_error": float(np.nanmean(self.error)),
            f"{section}/max_error": float(np.nanmax(self.error)),
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
        clean = {"unit": self.unit, "axes": [], **what}
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
        clean = [float(value) for value in self._clean()]
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
            f"Fourier heatmap {rows}×{columns}, norm {self.norm:.1f}, {self.samples} images, "
            f"{self.passes} forward passes ({self.made_by()})"
        )

    def sentence(self) -> str:
        (worst, *_), (best, *_) = self.extremes(1)
        i, j = self.frequencies()

        def at(cell: tuple[int, int]) -> str:
            where = f"({i[cell[0]]:+d}, {j[cell[1]]:+d})"
            if self.rings:
                where = f"distance {math.hypot(i[cell[0]], j[cell[1]]) + 1e-9:.0f}"
            return f"{where} with {self._value(float(self.error[cell]))}"

        noun = " errors" if self.quantity == "error" else ""
        clean = self._value(float(self._clean()[0]))
        if self.lower[worst] <= self.upper[best]:
            said = (
                f"Noise of norm {self.norm:.1f} harms no frequency measurably more than another; "
                f"{self.unit.removesuffix(' rate')}s reach {self._value(float(self.error[worst]))} "
                f"against {clean} without noise."
            )
        else:
            said = (
                f"Noise of norm {self.norm:.1f} harms most at {at(worst)}{noun} and least at "
                f"{at(best)}, against {clean} without noise."
            )
        return said + self._caution()

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

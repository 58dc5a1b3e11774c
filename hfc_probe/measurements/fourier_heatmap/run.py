"""One Fourier heatmap in progress: which samples to evaluate next, and how to build the result.

Long because the estimators share one run: its state, its checkpoints and its choice of samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.intervals import wilson
from ...core.measurement import settings_of
from ...core.provenance import images_hash
from ...data.samples import Samples
from ...ground.devices import sent
from ...ground.errors import InputError
from ...model.subject import Subject
from ..score_targets import name_of
from . import model as heatmap_model
from . import sequential
from .checkpoint import Checkpoint, run_digest
from .engine import Engine, Outcome
from .grid import Grid
from .mean import MeanModel
from .result import Estimator, FourierHeatmapResult

# The least that the model is asked to make a map from, images a cell.
FEWEST_PER_CELL = 4
# Passes of one round of the sequential estimator, images a cell of one of the model's.
_ROUND, _ROUND_PER_CELL = 2048, 8
_WATCH_SECONDS = 5.0
# Directions up to which intervals were found to hold what they say: twice those of a 32×32 map.
_WIDE = 1025
# Noisy passes for each image of the first looks of a later map. They suffice if the standard
# deviation of the cells is at most _SURE times that of the first map, and the images' departures
# correlate with those before by more than _SAME. Beyond _OTHER, both, it is another network.
_LOOKS, _SURE, _SAME, _OTHER = (1, 4), 1.15, 0.9, (2, 0.1)
# Below this correlation a further look would not suffice either.
_UNLIKE = 0.8
# A look takes all passes that are left if they are no more than this many times its own.
_ALL = 1.25
# Settings that say what is spent, and not on what.
_EFFORT = ("precision", "forwards", "seconds", "radial", "autocast", "channels_last")
_NOT_DESCRIBED = ("checkpoint", "watch")
# Images of each cell that was not smooth in the last map.
_ALONE = 48
# Images of a later map, as a share of all, for the cells that may not be smooth.
_DOUBTED = 4
# Batches whose losses stay on the device before the host reads them, and waits.
_BATCHES_ON_DEVICE = 64
# Cells within this distance from DC get this many times the images of others.
_NEAR, _MORE_NEAR = 1.5, 4


# Pairs done, errors by cell and k, sums of losses and squares by cell, and what is not in the sums
# yet: cells and losses of the latest batches.
_Counts = tuple[int, Tensor, Tensor, tuple[tuple[Tensor, Tensor], ...]]


def _settled(at: _Counts) -> _Counts:
    """All losses in the sums."""
    done, wrong, sums, waiting = at
    if waiting:
        cells, losses = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        sums = sums.index_add(0, cells, _moments(losses))
    return done, wrong, sums, ()


class Run:
    """One measurement under way: the engine, what it has found, and the estimators."""

    def __init__(
        self,
        settings: Any,
        engine: Engine,
        grid: Grid,
        norm: float,
        began: float,
        memory: heatmap_model.Memory | None = None,
    ) -> None:
        self.settings, self.engine, self.grid = settings, engine, grid
        self.norm, self.began, self.memory = norm, began, memory
        self.count = len(engine.samples)
        self.cells = len(grid.directions)
        self.clean: Outcome | None = None
        leads = self.subject.leads
        path = settings.checkpoint if leads else None
        self.watch = settings.watch if leads else None
        self.targets = name_of(settings.targets)
        what = (settings.estimator, *filter(None, (self.targets, engine.about)))
        key = run_digest(engine, what if what[1:] else what[0]) if path is not None else ""
        self.checkpoint = Checkpoint(path, key)

    @property
    def subject(self) -> Subject:
        return self.engine.subject

    def look_at_clean(self) -> Outcome:
        self.clean = self.engine.clean()
        return self.clean

    @property
    def scored(self) -> bool:
        """Whether the clean images have a number each, a loss, in place of right and wrong."""
        return self.clean is not None and self.clean.wrong.shape[1] == 0

    def described(self) -> dict[str, Any]:
        """The settings as a result carries them."""
        score = self.settings.score
        own = settings_of(self.settings) | {
            "norm": self.norm,
            "targets": self.targets,
            "score": score
            if score is None or isinstance(score, str)
            else getattr(score, "__name__", type(score).__name__),
        }
        return {name: value for name, value in own.items() if name not in _NOT_DESCRIBED}

    def remember(self, last: Any, samples: Samples) -> None:
        """Start from an earlier result of these samples, if it is of them under this noise.

        On several ranks from rank 0's: one that missed a map remembers another.
        """
        memory = None
        if self.clean is None:
            self.look_at_clean()
        if isinstance(last, FourierHeatmapResult):
            own = self.described()
            own |= {"images": images_hash(samples), "classes": self.subject.tally.classes}
            found = {**last.provenance, **last.settings}
            if all(found.get(name) == value for name, value in own.items() if name not in _EFFORT):
                memory = last.memory
        self.memory = self.subject.agree(memory)

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
        at: _Counts = (0, wrong, torch.zeros(self.cells, 2, dtype=torch.float64, device="cpu"), ())
        state = self.subject.agree(self.checkpoint.load())
        if state is not None:
            kept = torch.from_numpy(state["wrong"]).to(device)
            at = (int(state["done"]), kept, torch.from_numpy(state["loss"]), ())
            self.engine.forwards += at[0]

        size = self.subject.batch_size

        def pairs(start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            return np.divmod(np.arange(start, min(start + size, total)), self.count)

        def keep() -> None:
            done, wrong, sums, _ = _settled(at)
            self.checkpoint.save({"done": done, "wrong": wrong.cpu().numpy(), "loss": sums.numpy()})

        shown = time.monotonic()
        try:
            with self.subject.progress(total, "forward") as advance:
                advance(at[0])
                starts = range(at[0], total, size)
                found_by_batch = self.engine.distribute(
                    starts, lambda k: self.engine.run(*pairs(k))
                )
                for start, found in zip(starts, found_by_batch, strict=True):
                    cells, _ = pairs(start)
                    stop = start + len(cells)
                    index = torch.from_numpy(cells)
                    advance(stop - start)
                    at = (
                        stop,
                        at[1].index_add(0, sent(index, device), found.wrong.long()),
                        at[2],
                        (*at[3], (index, found.loss)),
                    )
                    if len(at[3]) >= _BATCHES_ON_DEVICE:
                        at = _settled(at)
                    if self.checkpoint.due():
                        keep()
                    if self.watch and time.monotonic() - shown > _WATCH_SECONDS:
                        self.watch(self._counted(at))
                        shown = time.monotonic()
        except BaseException:
            keep()
            raise
        self.checkpoint.remove()
        return self._counted(at)

    def _counted(self, at: _Counts) -> FourierHeatmapResult:
        done, wrong, loss, _ = _settled(at)
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
        memory: heatmap_model.Memory | None = None,
    ) -> FourierHeatmapResult:
        assert self.clean is not None
        settings = self.described() | {"estimator": estimator or self.settings.estimator}
        layout = self.grid.layout
        flagged = np.zeros(self.cells, bool) if unsafe is None else unsafe
        clean_wrong, clean_loss = self.clean.wrong.cpu().numpy(), self.clean.loss.cpu().numpy()
        loss_alone = quantity == "score" and not self.engine.differences
        if loss_alone and (clean_loss >= 0).all() and not (error < 0).any():
            lower = np.maximum(lower, 0)
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
            unsafe=tuple(where for k, where in enumerate(self.grid.directions) if flagged[k]),
            detectable=detectable,
            rings=dict(radial or {}),
            passes=self.engine.forwards,
            elapsed=time.perf_counter() - self.began,
            memory=memory,
        )

    # Sampled estimators

    def table(self) -> Table:
        if self.clean is None:
            self.look_at_clean()
        assert self.clean is not None
        if self.scored and self.settings.estimator != "model":
            raise InputError(
                "score: expected a bool per image (True if right) for precision and radial, got a "
                "loss; use forwards or seconds, or measure it in full"
            )
        return Table(self)

    def sequential(self) -> FourierHeatmapResult:
        precision = self.settings.precision
        assert precision is not None
        z = sequential.calibrated_z(self.count, precision)
        table = self.table()
        stops = sequential.looks(self.count)
        pending = np.ones(self.cells, bool)
        planned = np.full(self.cells, stops[0])
        expected = int(self.cells * self.count * sequential.expected_share(self.count, precision))

        def state() -> FourierHeatmapResult:
            lower, upper = sequential.sampled_interval(table.errors, table.seen, self.count, z)
            return self.sampled(table, table.rate(), lower, upper)

        with self.subject.progress(expected, "forward") as advance:
            while pending.any():
                # A round: the more uncertain half of the unfinished cells, one look further.
                lower, upper = sequential.sampled_interval(table.errors, table.seen, self.count, z)
                order = np.argsort(np.where(pending, lower - upper, 1.0), kind="stable")
                half = -(-int(pending.sum()) // 2)
                chosen = np.sort(order[: min(half, _ROUND // sequential.STEP)])
                table.extend(chosen, planned[chosen] - table.seen[chosen], advance)
                lower, upper = sequential.sampled_interval(table.errors, table.seen, self.count, z)
                done = (upper - lower) / 2 <= precision
                pending &= ~((done | (table.seen == self.count)) & (table.seen >= stops[0]))
                after = np.minimum(np.searchsorted(stops, table.seen, "right"), len(stops) - 1)
                planned = stops[after]
                table.show(state)
        self.checkpoint.remove()
        return state()

    def sampled(
        self,
        table: Table,
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
            fit = self._glance(table, rest, advance) if deadline is None else None
            if fit is None:
                # Nine tenths go evenly to all cells, the rest to those that stick out.
                share = self._share()
                evenly = np.outer(np.arange(1, self.count + 1), share)
                evenly = np.maximum(evenly, table.seen).sum(1)
                even = int(np.searchsorted(evenly, int(0.9 * rest), "right"))
                even = max(even, int(not table.seen.any()))
                if deadline is not None:
                    self._until(deadline, table, share, advance)
                stops = range(_ROUND_PER_CELL, even + _ROUND_PER_CELL, _ROUND_PER_CELL)
                for stop in stops if deadline is None else ():
                    counts = np.maximum(min(stop, even) * share - table.seen, 0)
                    self._further(table, counts, advance)
                    table.show(lambda: self.fitted(table))
                spent = int(table.seen.sum())
                extra = rest - spent if budget is not None else spent // 9
                if extra > 0:
                    residuals = self._models().residuals(table.observations())
                    suspects = self._suspects(residuals, table, extra)
                    table.extend(*self.subject.agree(suspects), advance)
        self.checkpoint.remove()
        if self.cells > _WIDE:
            self.subject.caveats.append(
                f"this map of {self.cells:,} frequencies is modelled from few passes: of a window "
                "of 63×63 frequencies at 224 pixels such 95 % intervals held 81 % of the "
                "exhaustive values, and single cells are off by 0.02 (root mean square)"
            )
        return self.fitted(table, fit)

    def _share(self) -> NDArray[np.int64]:
        """Around DC, where the error changes most from cell to cell, each gets four times as
        many images: they are few cells.
        """
        return np.where(self.grid.distances() < _NEAR, _MORE_NEAR, 1)

    def _glance(
        self, table: Table, rest: int, advance: Callable[[int], Any]
    ) -> heatmap_model.Fit | None:
        """In a later map: a few passes, and more until it is about as sure as the first was.

        Returns:
            The fit, or None for a first map and if what is left has to be spent as for one.
        """
        if self.memory is None:
            return None
        nearest = np.argsort(np.argsort(self.grid.distances(), kind="stable"))
        apart = self._known_apart()
        single = min(_ALONE, self.count, rest // (2 * max(1, int(apart.sum()))))
        self._further(table, np.where(apart, single, 0), advance)
        rest -= single * int(apart.sum())
        for look in _LOOKS:
            most = look * self.count
            if rest < _ALL * most:
                most = rest
            each, left = divmod(most, self.cells)
            counts = np.maximum(each + (nearest < left) - table.seen, 0)
            self._further(table, np.where(apart, 0, counts), advance)
            model, seen = self._models(), table.observations()
            made = model.smoothed(seen, apart)
            alike = self.subject.agree(made.resemblance)
            if most < rest and _OTHER[1] <= alike <= _SAME:  # a map would decide nothing
                if alike < _UNLIKE:
                    return None
                continue
            fit = model.mapped(made, seen)
            wider = self.subject.agree(fit.memory.deviation) / self.memory.deviation
            if alike > _SAME and wider <= _SURE:
                return self._doubted(fit, table, apart, rest, advance)
            if most == rest:  # too little is left to learn another network anew
                return fit
            if alike < _OTHER[1]:
                if wider > _OTHER[0]:
                    self.memory = self._model = None
                return None
        return None

    def _doubted(
        self,
        fit: heatmap_model.Fit,
        table: Table,
        apart: NDArray[np.bool_],
        rest: int,
        advance: Callable[[int], Any],
    ) -> heatmap_model.Fit:
        """A few more images of cells that may not be smooth, by this map or the last ones."""
        doubt = np.maximum(np.abs(fit.residual), np.abs(fit.memory.doubt)) * ~apart
        extra = min(self.count // _DOUBTED, rest - int(table.seen[~apart].sum()))
        cells = np.argsort(-doubt, kind="stable")[: int((doubt > 2).sum())]
        cells = self.subject.agree(cells[: max(0, extra)])
        if not len(cells):
            return fit
        counts = np.zeros(self.cells, np.int64)
        counts[cells] = min(_ALONE, extra // len(cells))
        self._further(table, counts, advance)
        return self._fit(table, apart)

    def _known_apart(self) -> NDArray[np.bool_]:
        """Cells that were not smooth in the last map: they are sampled by themselves again."""
        known = None if self.memory is None else self.memory.apart
        return np.zeros(self.cells, bool) if known is None else known.copy()

    def _further(
        self, table: Table, counts: NDArray[np.int64], advance: Callable[[int], Any]
    ) -> None:
        """That many more images of every cell, as far as there are any."""
        counts = np.minimum(counts, self.count - table.seen)
        table.extend(np.arange(self.cells), counts, advance)

    def _until(
        self,
        deadline: float,
        table: Table,
        share: NDArray[np.int64],
        advance: Callable[[int], Any],
    ) -> int:
        """Rounds over all cells, each half as large again, until the time is nearly used up."""
        step, even = FEWEST_PER_CELL, 0
        while True:
            began = time.perf_counter()
            step = min(step, self.count - even)
            self._further(table, step * share, advance)
            even += step
            table.show(lambda: self.fitted(table))
            # A fit at the end and the second look at suspects take about a quarter.
            now = time.perf_counter()
            per_image, left = (now - began) / step, 0.75 * (deadline - now)
            fits = min(max(even // 2, 1), int(left / per_image))
            step = self.subject.agree(int(fits))
            if step < 1 or even >= self.count:
                return even

    def _suspects(
        self, residuals: NDArray[np.float64], table: Table, extra: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells with the largest residuals and how many more images each is given."""
        order = np.argsort(-np.abs(residuals), kind="stable")
        most = max(1, self.cells // 20)
        suspicious = order[: max(1, min(most, int((np.abs(residuals) > 2).sum())))]
        suspicious = suspicious[:extra]
        each = extra // len(suspicious)
        more = np.minimum(np.minimum(each, 4 * int(np.median(table.seen))), self.count - table.seen)
        cells, counts = suspicious, more[suspicious]
        left = extra - int(counts.sum())
        # What they do not need goes to the cells after them, evenly.
        others = order[len(suspicious) :][: max(0, left)]
        each = -(-left // max(1, len(others)))
        further = np.minimum(each, self.count - table.seen[others])
        further = np.diff(np.minimum(np.cumsum(further), max(0, left)), prepend=0)
        return np.concatenate([cells, others]), np.concatenate([counts, further])

    def _fit(self, table: Table, apart: NDArray[np.bool_] | None) -> heatmap_model.Fit:
        return self._models().fit(table.observations(), apart)

    def _models(self) -> heatmap_model.Model:
        assert self.clean is not None
        full = self.grid.height, self.grid.width
        window = self.grid.rows, self.grid.columns
        periods = tuple(float(a if a == b else 2 * b) for a, b in zip(full, window, strict=True))
        if self._model is None:
            kind = MeanModel if self.scored else heatmap_model.Model
            self._model = kind(
                np.array(self.grid.directions, dtype=np.float64),
                (periods[0], periods[1]),
                (float(window[0]), float(window[1])),
                self.engine.sign_patterns(),
                self.engine.samples.targets.numpy(),
                self.clean.margin.cpu().numpy().astype(np.float64),
                self.memory,
            )
        return self._model

    _model: heatmap_model.Model | None = None

    def fitted(self, table: Table, fit: heatmap_model.Fit | None = None) -> FourierHeatmapResult:
        """The model's map; cells where it does not hold as sampled."""
        limit = heatmap_model.threshold(self.cells)
        apart = self._known_apart()
        fit = fit or self._fit(table, apart)
        for _ in range(4):
            found = (np.abs(fit.residual) > limit) & ~apart
            if not found.any():
                break
            # One at a time of neighbours: a spike pulls those beside it out of line.
            apart |= found & (np.abs(fit.residual) >= 0.8 * np.abs(fit.residual[~apart]).max())
            fit = self._fit(table, apart)
        apart &= np.abs(fit.residual) > limit / 2
        memory = replace(fit.memory, apart=apart, walked=table.walked + int(np.median(table.seen)))
        if self.memory is not None:  # as sure as the first map was is sure enough
            memory = replace(memory, deviation=self.memory.deviation)
        if self.scored:
            (rate, *alone), deviation = table.means()
            lower, upper = heatmap_model.mean_intervals(fit)
            detectable = limit * float(np.median(deviation / np.sqrt(np.maximum(table.seen, 1))))
        else:
            rate, alone = table.rate(), list(table.intervals())
            lower, upper = heatmap_model.cell_intervals(fit, self.count)
            p = np.clip(fit.error, 0.05, 0.95)
            typical = np.sqrt(p * (1 - p) / np.maximum(table.seen, 1))
            detectable = float(min(1.0, limit * np.median(typical)))
        return self.sampled(
            table,
            np.where(apart, rate, fit.error),
            np.where(apart, alone[0], lower),
            np.where(apart, alone[1], upper),
            quantity="score" if self.scored else "error",
            unsafe=apart,
            detectable=detectable,
            memory=memory,
        )

    def rings(self) -> FourierHeatmapResult:
        """Error against distance from DC, from random directions of each ring."""
        settings = self.settings
        ring = self.grid.rings()
        kinds = np.unique(ring)
        table = self.table()
        whole = self.count * self.cells
        budget = max(len(kinds), whole // 100)
        if settings.forwards is not None:
            budget = settings.forwards - self.engine.forwards
            if budget < FEWEST_PER_CELL * len(kinds):
                raise InputError(
                    "forwards: expected at least "
                    f"{self.engine.forwards + FEWEST_PER_CELL * len(kinds)} for {len(kinds)} "
                    f"rings, got {settings.forwards}"
                )
        z, precision = 1.96, settings.precision
        if precision is not None:
            z = sequential.calibrated_z(self.count, precision)
            budget = int(len(kinds) * self.count * sequential.expected_share(self.count, precision))
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
            lower, upper = sequential.sampled_interval(wrong, seen, self.count, z)
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
                lower, upper = sequential.sampled_interval(wrong, seen, self.count, z)
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


class Table:
    """Which (direction, image) pairs have been looked at, and what was found.

    All cells go through the images in one random order, each from a start of its own: the
    same images recur everywhere, and neighbouring cells see different ones.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        rng = np.random.default_rng((run.settings.seed, 3))
        self.order = rng.permutation(run.count)
        self.start = rng.permutation(run.cells) * run.count // run.cells
        self.target = np.zeros(run.cells, np.int64)
        self.known = np.full((run.cells, run.count), -1, np.int8)
        self.margins = np.full((run.cells, run.count), np.nan, np.float32)
        self._kept = self.known, self.margins
        self.walked = 0 if run.memory is None else run.memory.walked
        self.start = self.start + self.walked
        state = run.subject.agree(run.checkpoint.load())
        if state is not None:
            self._kept = state["known"], state["margins"]
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

    def observations(self) -> heatmap_model.Observations:
        """The pairs that are known."""
        cells, images = np.nonzero(self.known >= 0)
        margins = self.margins[cells, images].astype(np.float64)
        wrong = self.known[cells, images]
        return heatmap_model.Observations(cells, images, margins, wrong)

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """95 % intervals of the error rates of all images, each cell by itself."""
        return sequential.sampled_interval(self.errors, self.seen, self.run.count, 1.96)

    def means(self) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """Of losses: mean, lower and upper bound of each cell by itself, and their deviation.

        The deviation is that of the cell's images, or of all if the cell has one.
        """
        scores = np.where(self.known >= 0, self.margins.astype(np.float64), np.nan)
        seen = np.maximum(self.seen, 1)
        mean = np.nansum(scores, 1) / seen
        square = np.nansum((scores - mean[:, None]) ** 2, 1)
        pooled = square.sum() / max(1, int((seen - 1).sum()))
        # A few images may be alike by chance: the cell's variance and four images' of all.
        deviation = np.sqrt((square + 4 * pooled) / (seen + 3))
        left = 1 - seen / self.run.count  # none is left out: the mean is known
        half = 1.96 * deviation * np.sqrt(left / seen)
        return [mean, mean - half, mean + half], deviation

    def extend(
        self, cells: NDArray[np.int64], counts: NDArray[np.int64], advance: Callable[[int], Any]
    ) -> None:
        """The next images of each cell's walk."""
        which = np.repeat(cells, counts)
        first = np.repeat(self.start[cells] + self.target[cells], counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.evaluate(which, self.order[(first + within) % self.run.count], advance)
        self.target = self.target.copy()
        self.target[cells] += counts

    def evaluate(
        self, cells: NDArray[np.int64], images: NDArray[np.int64], advance: Callable[[int], Any]
    ) -> NDArray[np.int8]:
        """Errors of pairs, from the checkpoint if it has them."""
        known, margins = self._kept
        found, margins = known[cells, images], margins[cells, images]
        missing = np.flatnonzero(found < 0)
        self.run.engine.forwards += len(found) - len(missing)
        engine, size = self.run.engine, self.run.subject.batch_size
        parts = [missing[k : k + size] for k in range(0, len(missing), size)]
        pairs = [(cells[part], images[part]) for part in parts]
        outcomes = engine.distribute(pairs, lambda pair: engine.run(*pair))
        try:
            for part, outcome in zip(parts, outcomes, strict=True):
                # A loss is neither right nor wrong: only that it was looked at is kept.
                found[part] = 0 if self.run.scored else outcome.wrong[:, 0].cpu().numpy()
                margins[part] = outcome.margin.cpu().numpy()
                self.known[cells[part], images[part]] = found[part]
                self.margins[cells[part], images[part]] = margins[part]
                advance(len(part))
                if self.run.checkpoint.due():
                    self._save()
        except BaseException:
            self._save()
            raise
        self.known[cells, images] = found
        self.margins[cells, images] = margins
        return found

    def _save(self) -> None:
        known, margins = self._kept
        self.run.checkpoint.save(
            {
                "known": np.maximum(self.known, known),
                "margins": np.where(self.known < 0, margins, self.margins),
            }
        )

    def show(self, result: Callable[[], FourierHeatmapResult]) -> None:
        watch = self.run.watch
        if watch is not None and time.monotonic() - self._shown > _WATCH_SECONDS:
            watch(result())
            self._shown = time.monotonic()


def _moments(loss: Tensor) -> Tensor:
    values = loss.detach().to("cpu", torch.float64)
    return torch.stack([values, values**2], 1)

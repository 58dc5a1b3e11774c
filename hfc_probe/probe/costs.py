"""What measurements cost: how long one should take, and whether that fits the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import nn

from ..ground.devices import waited
from ..measurements import Result
from ..model.subject import Predict, subject_of
from .journal import Entry
from .schedule import Budget
from .sets import ImageSet


class Costs:
    """Estimates the seconds of measurements, and holds them against the budget."""

    def __init__(
        self,
        budget: Budget,
        model: nn.Module,
        predict: Predict | None,
        results: Mapping[str, Result],
        warn_once: Callable[[str, str], None],
    ) -> None:
        self._budget = budget
        self._model = model
        self._predict = predict
        self._results = results
        self._warn_once = warn_once
        self._seconds_per_forward: dict[str, float] = {}  # by the name of the set
        self._trial_seconds = 0.0

    def fits(self, entry: Entry, elapsed: float) -> bool:
        """Whether a measurement may run now, after ``elapsed`` seconds of training."""
        entry.estimate = self.estimate(entry)
        # What failed is tried again whatever it took, until it works or is switched off.
        fits = entry.failures > 0 or self._budget.fits(entry.key, entry.estimate, elapsed)
        # Booked now and not before: a trial is no reason to put off what asked for it.
        self._budget.spent += self._trial_seconds
        self._trial_seconds = 0.0
        if not fits and not entry.runs:
            self._warn_once(
                f"late {entry.key}",
                f"{entry.key} should take about {entry.estimate:.1f} s and is put off until that "
                f"fits the budget of {100 * self._budget.share:g} % of the training time; raise "
                "budget= to see it earlier",
            )
        return fits

    def estimate(self, entry: Entry) -> float:
        """Seconds that a measurement should take: as the last time, else from a trial.

        After a checkpoint the larger of both, since the last result, from which the next one
        may start at a part of the passes, is not there.
        """
        known = self._budget.seconds.get(entry.key, 0.0)
        if entry.key in self._results:
            return known
        if entry.forwards is None:
            entry.forwards, entry.overhead = self._cost(entry)
        forwards = entry.forwards * self._forward_seconds(entry.images) if entry.forwards else 0.0
        return max(known, forwards + entry.overhead)

    def _cost(self, entry: Entry) -> tuple[int, float]:
        """Forward passes and further seconds that a measurement expects to take."""
        measurement, samples = entry.measurement, entry.images.samples
        if samples is None or not measurement.needs_data:
            return 0, 0.0
        count, shape = len(samples), samples.image_shape
        try:
            return measurement.cost(count, shape), measurement.overhead(count, shape)
        except Exception:
            return 0, 0.0  # let the measurement run and report it

    def _forward_seconds(self, images: ImageSet) -> float:
        """Seconds per image of a forward pass, from a trial of one batch."""
        if images.name not in self._seconds_per_forward:
            start = time.perf_counter()
            count = 1
            try:
                with subject_of(
                    self._model, images.samples, pixels=images.pixels, predict=self._predict
                ) as subject:
                    batch, _ = next(subject.batches())
                    subject.answer(batch)  # the first pass warms up
                    waited(subject.device)
                    begin, count = time.perf_counter(), len(batch)
                    subject.answer(batch)
                    waited(subject.device)
                took = (time.perf_counter() - begin) / count
            except Exception:
                took = 0.0  # let the measurement run and report it
            self._seconds_per_forward[images.name] = took
            self._trial_seconds += time.perf_counter() - start
        return self._seconds_per_forward[images.name]

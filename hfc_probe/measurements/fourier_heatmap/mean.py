"""The model of :mod:`.model` for a score that is a number: its mean in each cell.

The score of image n under noise of direction c takes the margin's place, on its own scale. No link
is needed: the mean of a cell is that of the scores seen and of what is expected of the others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .model import Fit, Floats, Ints, Model, Observations, Smoothed

# Bound of a single observation's residual: scores have heavier tails than a normal distribution.
_MOST = 3.0
# Variance of what a cell has of its own, at least, as a share of that of single scores about the
# model: two or three images a cell do not show that it has nothing. Chosen on one map of a real
# detector, where 95 % intervals cover 0.73 of the exhaustive cells without it and 0.93 with it.
_OWN = 0.06


class MeanModel(Model):
    """As :class:`.model.Model`; the ``margins`` are scores."""

    def _bounded(self, margins: Floats) -> Floats:
        found: Floats = margins / self.unit
        return found

    def mapped(self, made: Smoothed, observed: Observations) -> Fit:
        """As :meth:`.model.Model.mapped`; ``error`` is the mean score, ``wrong`` is not read."""
        cells, images, margins, _ = observed
        scores = self._bounded(margins)
        known = np.full((len(self.design.correlation), self.design.total), np.nan)
        known[cells, images] = scores
        expected, spread, mean, deviation = self._of_pairs(made, known)
        away = scores - expected[cells, images]
        grey = self.design.grey[cells[made.used], images[made.used]]
        amount = self.design.amounts(made.amounts.mean)[cells[made.used], grey]
        away[made.used] = made.away * amount
        own = max(_shared(cells[made.used], away[made.used]), _OWN * float(np.var(away)))
        deviation = np.sqrt(deviation**2 + own * np.isnan(known).mean(1) ** 2)
        z = away / spread[cells, images]
        z[made.used] = made.away / made.spread
        residual = self._standardised(cells, z)
        memory = made.memory(self.design.flat_link(), residual, deviation)
        return Fit(self.unit * mean, self.unit * deviation, residual, memory, made.resemblance)

    def smoothed(self, observed: Observations, apart: NDArray[np.bool_] | None = None) -> Smoothed:
        if self._first:  # the clean scores may be on another scale, and all alike
            self.unit = float(np.sqrt((observed.margins**2).mean())) or 1.0
            self._first = False
        return super().smoothed(observed, apart)

    _first = True

    def residuals(self, observed: Observations) -> Floats:
        made = self.smoothed(observed)
        return self._standardised(observed.cells, made.away / made.spread)

    def _standardised(self, cells: Ints, z: Floats) -> Floats:
        count = np.bincount(cells, minlength=len(self.design.correlation))
        total = np.bincount(cells, np.clip(z, -_MOST, _MOST), len(count))
        found: Floats = total / np.sqrt(np.maximum(count, 1))
        return found

    def _of_pairs(self, made: Smoothed, known: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Expectation and deviation of every pair ``(D, N)`` and of every cell's mean ``(D,)``."""
        design, total = self.design, known.shape[1]
        expected, spread = design.expected(made.found.weights), np.empty(known.shape)
        amount = np.take_along_axis(design.amounts(made.amounts.mean), design.grey, 1)
        slopes = np.isnan(known) / total
        gradient = design.gradients(slopes)
        for part, of in made.predict():
            images = part.images
            expected[:, images] += amount[:, images] * of.mean.numpy().T
            spread[:, images] = amount[:, images] * np.sqrt(
                of.variance.numpy().T * made.own[images]
            )
            pull = torch.from_numpy((slopes * amount)[:, images].T).float()
            change = (of.cross * pull[of.at]).T @ of.white
            for of_these, of_all in part.runs:
                gradient[:, of_all] -= change[:, of_these].numpy()
        mean = np.where(np.isnan(known), expected, known).mean(1)
        variance = ((gradient @ made.found.covariance) * gradient).sum(1)
        variance += ((slopes * spread) ** 2).sum(1)
        return expected, spread, mean, np.sqrt(variance)


def _shared(cells: Ints, away: Floats) -> float:
    """Variance that images of one cell share: the mean product of two of them."""
    total = np.bincount(cells, away)
    square, count = np.bincount(cells, away**2), np.bincount(cells)
    pairs = float((count * (count - 1)).sum())
    return float((total**2 - square).sum()) / pairs if pairs else 0.0

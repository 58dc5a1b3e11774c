"""The best map for a fixed effort: a model of the margins of the Fourier heatmap.

The margin of image n under noise of direction c (the target's logit minus the largest other,
below 0 is an error) says far more than whether it is an error. It is taken, on a scale that
bounds large ones, as

    margin(n, c) = μ(c) + g_s(c) + h_y(c) + β(c)·m_n + σ_s(c)·z_n(c, s)

where μ is a smooth function of the frequency, g_s one for each way s in which the noise's signs
differ between channels (grey noise and coloured noise harm differently), h_y one for each class
y (noise pushes predictions towards few classes), β one that weighs the clean margin m_n, and z_n
how the image departs from all that (:mod:`.field`), by an amount σ that is smooth as well. Smooth
functions are cosines on the frequency plane, symmetric under (i, j) → (−i, −j), with prior
variances that fall with their own frequency as for a Matérn process, plus bumps in log distance
from DC. The prior variances are estimated from the data (empirical Bayes).

The probability of an error is a normal distribution's of the margin predicted, in its deviations,
with a level, a slope and a smooth function of the frequency fitted to what each observation is
expected to be from the others: the model need not be right for it to be calibrated. The error rate
of a cell is the mean over all N images: what was seen where it was seen, the probability elsewhere.
A cell that does not fit between its neighbours shows in its :attr:`Fit.residual`.

A later map of the same images starts from the memory of this one. How far the weights have moved
and how much the images' departures still resemble the ones before is estimated, each by the
likelihood of what is seen now.

Sources: Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, §2.7 and §5.4;
MacKay, "Bayesian interpolation", Neural Computation 1992, for the variances; West and Harrison,
*Bayesian Forecasting and Dynamic Models*, 1997, §6.3, for what is carried on.

Long because the model, its fit and its intervals are one derivation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from .design import Design, Gaussian, amount_rows
from .field import Field, Prediction, Seen

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Candidates: share of what no other observation tells, minus the log of the departures'
# correlation with the last map's, and growth of the weights' prior variances since.
_NUGGETS = (0.05, 0.2, 1.0)
_DRIFTS = (0.02, 0.06, 0.15, 0.4, 1.0, 3.0)
_GROWTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Observations of each image that a later map remembers.
_KEPT = 16
# Variance of a margin's departure, at least: margins that are all equal have none.
_LEAST = 1e-4
# Weight of the last maps' residuals against this one's.
_FADE = 0.8
# Rounds of weights, amounts and images' scales.
_ROUNDS = 3
# How many times the variance of a proportion from as many observations the form of the expectation
# adds where all is explained: measured on planted margins that are nearly certain.
_FORM = 1.2
# Intervals of first and of later maps are this much wider than the model makes them, for what it
# leaves out: measured on the trainings it was made with (tests/benchmarks/heatmap_memory.py).
_WIDER, _WIDER_LATER = 1.05, 1.15


@dataclass(frozen=True)
class Memory:
    """What a later map of the same images starts from.

    Attributes:
        weights, covariance: of the margins' expectation, with the prior ``variances`` of blocks.
        amounts, links: Gaussians of the other two functions' weights.
        seen: the latest observations.
        nugget: share of the variance that no other observation tells of.
        doubt: ``(D,)`` residuals of the maps so far, standardised, the latest ones most.
        deviation: mean standard deviation of the map's cells.
        walked: images that every cell has gone through.
        apart: ``(D,)`` cells that were not smooth; None before they are known.
    """

    weights: Floats
    covariance: Floats
    variances: Floats
    amounts: Gaussian
    links: Gaussian
    seen: Seen
    nugget: float
    doubt: Floats
    deviation: float = 0.0
    walked: int = 0
    apart: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Fit:
    """What the model makes of the observations, D directions.

    Attributes:
        error: ``(D,)`` mean error rate over all N images.
        deviation: ``(D,)`` posterior standard deviation of it.
        residual: ``(D,)`` standardised: errors seen less errors expected from the other
            observations, in standard deviations; about N(0, 1) if the map is smooth.
        memory: for the next map.
        resemblance: correlation of the images' departures with the last map's; 0 without one.
    """

    error: Floats
    deviation: Floats
    residual: Floats
    memory: Memory
    resemblance: float


def cell_intervals(fit: Fit, total: int) -> tuple[Floats, Floats]:
    """95 % intervals of the cells' error rates, ``(lower, upper)``.

    The posterior's Gaussian on the scale of the error rate or on that of its log odds, whichever
    reaches further on each side: the first is too short above a rate near 0, the second does
    not hold 0 itself.

    Args:
        fit: the model.
        total: N, the number of images.
    """
    half = 1.96 * (_WIDER_LATER if fit.resemblance else _WIDER) * fit.deviation
    inner = np.clip(fit.error, 0.5 / total, 1 - 0.5 / total)
    centre = np.log(inner / (1 - inner))
    reach = half / (inner * (1 - inner))
    odds = [1 / (1 + np.exp(-np.clip(centre + side * reach, -40, 40))) for side in (-1, 1)]
    lower = np.minimum(odds[0], fit.error - half)
    upper = np.maximum(odds[1], fit.error + half)
    return np.clip(lower, 0, 1), np.clip(upper, 0, 1)


def mean_intervals(fit: Fit) -> tuple[Floats, Floats]:
    """95 % intervals of the cells' mean scores, ``(lower, upper)``."""
    half = 1.96 * (_WIDER_LATER if fit.resemblance else _WIDER) * fit.deviation
    return fit.error - half, fit.error + half


def threshold(directions: int, level: float = 0.05) -> float:
    """The residual beyond which a cell of a smooth map is flagged by chance with that level.

    Bonferroni over the map's directions.

    >>> round(threshold(514), 2)
    3.9
    """
    return NormalDist().inv_cdf(1 - level / (2 * directions))


class Model:
    """The model of one map, fitted as often as there is more to learn from.

    Args:
        positions: ``(D, 2)`` frequency (i, j) of each direction.
        periods: of the frequency plane along i and j, in cycles per image.
        scale: width of the map along i and j: lengths are relative to it.
        patterns: ``(D, N)`` sign pattern of each pair.
        classes: ``(N,)`` class of each image.
        margins: ``(N,)`` of the clean predictions; NaN if there are none.
        memory: of the last map of these images.
    """

    def __init__(
        self,
        positions: Floats,
        periods: tuple[float, float],
        scale: tuple[float, float],
        patterns: Ints,
        classes: Ints,
        margins: Floats,
        memory: Memory | None = None,
    ) -> None:
        finite = margins[np.isfinite(margins)]
        # Without margins, or if all are 0, any unit will do.
        self.unit = float(np.sqrt((finite**2).sum() / max(len(finite), 1))) or 1.0
        clean = self._bounded(np.nan_to_num(margins))
        self.design = Design(positions, periods, scale, patterns, classes, clean)
        self.memory = memory
        self._amounts: Gaussian | None = None if memory is None else memory.amounts

    def _bounded(self, margins: Floats) -> Floats:
        found: Floats = np.arcsinh(np.clip(margins / self.unit, -1e3, 1e3))
        return found

    def smoothed(
        self,
        cells: Ints,
        images: Ints,
        margins: Floats,
        wrong: NDArray[np.int8],
        apart: NDArray[np.bool_] | None = None,
    ) -> Smoothed:
        """The margins' expectation and how images depart from it; arguments of :meth:`fit`."""
        design, past = self.design, self.memory
        used = np.ones(len(cells), bool) if apart is None else ~apart[cells]
        if not used.any():
            used[:] = True
        at, of = cells[used], images[used]
        y = np.where(np.isnan(margins), 1.0 - 2.0 * wrong, self._bounded(margins))[used]
        rows, grey = design.rows(at, of), design.grey[at, of]
        flat = design.flat_amounts(max(float(np.var(y)) / 2, _LEAST))
        amounts, rounds = self._amounts or flat, _ROUNDS - (self._amounts is not None)
        amount = design.amounts(amounts.mean)[at, grey]
        nugget, drift = (_NUGGETS[0], _DRIFTS[-1]) if past is None else (past.nugget, _DRIFTS[2])
        now = Seen(at, of, y / amount, np.zeros(len(at)))
        seen = now if past is None else past.seen.later(drift, _KEPT) + now
        old = len(seen.cells) - len(at)
        field = self._field(seen, len(at), nugget)
        own, growth = np.ones(design.total), None
        for turn in range(rounds):
            scaled = rows / amount[:, None]
            values = np.append(seen.values[:old], y / amount)
            square, pull = field.gram(scaled, values, 1 / own)
            found = _posterior(design, square, pull, past, growth)
            growth = found.growth
            rest = y - rows @ found.weights
            if turn < rounds - 1:
                prior = (
                    flat if past is None else past.amounts.faded(float(np.exp(-2 * drift)), flat)
                )
                squares = np.maximum(rest**2 / own[of], _LEAST)
                amounts = _amounts(design.basis[at], grey, squares, prior)
                amount = design.amounts(amounts.mean)[at, grey]
            seen = replace(seen, values=np.append(seen.values[:old], rest / amount))
            if turn == 0:
                field, nugget, drift = self._chosen(seen, old, nugget, drift)
                seen = replace(seen, times=field.observed)
            own = field.scale(seen.values)
        self._amounts = amounts
        resemblance = 0.0 if past is None else float(np.exp(-drift))
        mean, spread = (x[old:] for x in field.others(seen.values))
        expected, spread = (y - rest) / amount + mean, np.sqrt(spread * own[of])
        return Smoothed(
            used, field, seen, scaled, own, amounts, found, nugget, resemblance,
            expected, y / amount - expected, spread,
        )  # fmt: skip

    def fit(
        self,
        cells: Ints,
        images: Ints,
        margins: Floats,
        wrong: NDArray[np.int8],
        apart: NDArray[np.bool_] | None = None,
    ) -> Fit:
        """Fit it to observations.

        Args:
            cells, images, margins, wrong: ``(n,)`` observations; margins are NaN if there are none.
            apart: ``(D,)`` cells known not to be smooth, which the model does not learn from.
        """
        design, past = self.design, self.memory
        made = self.smoothed(cells, images, margins, wrong, apart)
        used, resemblance = made.used, made.resemblance
        at = cells[used]

        # The probability of an error, by what the others make of each observation.
        deviations = -made.expected / made.spread
        before = design.flat_link()
        if past is not None:
            before = past.links.faded(resemblance**2, before)
        links = _link(design, design.link[at], deviations, wrong[used].astype(float), before)
        known = np.full((len(self.design.correlation), design.total), -1, np.int8)
        known[cells, images] = wrong
        error, deviation, p = self._of_cells(made, links, known)
        p = p[cells, images]  # of those used, from the other observations alone
        p[used] = _normal(links.mean[0] + links.mean[1] * deviations)
        excess = np.bincount(cells, wrong - p, len(error))
        noise = np.bincount(cells, p * (1 - p), len(error))
        residual = excess / np.sqrt(np.maximum(noise, 0.25))
        doubt = residual
        if past is not None:
            doubt = (_FADE * past.doubt + residual) / (1 + _FADE**2) ** 0.5
        return Fit(error, deviation, residual, made.memory(links, doubt, deviation), resemblance)

    def _field(self, seen: Seen, recent: int, nugget: float) -> Field:
        return Field(seen, recent, self.design.patterns, self.design.correlation, nugget)

    def _chosen(
        self, seen: Seen, old: int, nugget: float, drift: float
    ) -> tuple[Field, float, float]:
        """The likeliest nugget of a first map, the likeliest drift of a later one."""
        tried = []
        if self.memory is None:
            tried = [(seen, each, drift) for each in _NUGGETS]
        else:
            start = np.append(seen.times[:old] - drift, np.zeros(len(seen.times) - old))
            for each in _DRIFTS:
                times = start + each * (np.arange(len(start)) < old)
                tried.append((replace(seen, times=times), nugget, each))
        fields = [self._field(one, len(seen.times) - old, share) for one, share, _ in tried]
        best = int(np.argmax([field.likelihood(seen.values) for field in fields]))
        return fields[best], tried[best][1], tried[best][2]

    def _of_cells(
        self, made_of: Smoothed, links: Gaussian, known: NDArray[np.int8]
    ) -> tuple[Floats, Floats, Floats]:
        """Error rate and its deviation ``(D,)``, and the probabilities ``(D, N)``."""
        design, own, found, amounts = self.design, made_of.own, made_of.found, made_of.amounts
        count, total = known.shape
        expected = design.expected(found.weights)
        amount = np.take_along_axis(design.amounts(amounts.mean), design.grey, 1)
        level = (links.mean[0] + design.link @ links.mean[2:])[:, None]
        p, slopes = np.empty(known.shape), np.empty(known.shape)
        of_link = np.zeros((count, len(links.mean)))
        gradient = np.zeros((count, design.size))
        for part, made in made_of.predict():
            spread = np.sqrt(made.variance.numpy().T * own[part])
            away = -(expected[:, part] / amount[:, part] + made.mean.numpy().T) / spread
            eta = level + links.mean[1] * away
            p[:, part] = _normal(eta)
            density = np.where(known[:, part] >= 0, 0.0, np.exp(-(eta**2) / 2) / 2.5066 / total)
            of_link[:, 1] += (density * away).sum(1)
            of_link[:, 0] += density.sum(1)
            density *= -links.mean[1] / spread
            slopes[:, part] = density / amount[:, part]
            cross = made.cross * torch.from_numpy(density.T).float()[:, None, :]
            gradient -= (cross.flatten(0, 1).T @ made.white.flatten(0, 1)).double().numpy()
        of_link[:, 2:] = of_link[:, :1] * design.link
        gradient += design.gradients(slopes)
        variance = ((gradient @ found.covariance) * gradient).sum(1)
        variance += (of_link * np.linalg.solve(links.precision, of_link.T).T).sum(1)
        seen_here = known >= 0
        error = np.where(seen_here, known, p).mean(1)
        variance += np.where(seen_here, 0.0, p * (1 - p)).sum(1) / total**2
        # The form of the expectation is not quite the network's. It matters if most is explained.
        whole = error * (1 - error)
        explained = max(0.0, 1 - float((p * (1 - p)).mean() / max(whole.mean(), 1e-9)))
        variance += _FORM * whole * explained**3 / len(made_of.seen.cells)
        return error, np.sqrt(variance), p


def _normal(x: Floats) -> Floats:
    import torch

    found: Floats = np.clip(torch.special.ndtr(torch.from_numpy(x)).numpy(), 1e-7, 1 - 1e-7)
    return found


@dataclass(frozen=True)
class Smoothed:
    """The margins' expectation and the images' departures from it, n observations in use.

    Attributes:
        used: which of the observations the model learns from.
        field, seen: the departures, those remembered first.
        rows: of the design, over the amounts.
        own: ``(N,)`` variances of the images' departures, relative to the mean one.
        amounts: of the departures.
        found: the weights of the expectation.
        nugget, resemblance: as of :class:`Memory` and :class:`Fit`.
        expected: ``(n,)`` by the other observations, over the amounts.
        away: ``(n,)`` what was seen less that.
        spread: ``(n,)`` its standard deviation.
    """

    used: NDArray[np.bool_]
    field: Field
    seen: Seen
    rows: Floats
    own: Floats
    amounts: Gaussian
    found: _Posterior
    nugget: float
    resemblance: float
    expected: Floats
    away: Floats
    spread: Floats

    def predict(self) -> Iterator[tuple[slice, Prediction]]:
        """Every pair, a few images at a time."""
        return self.field.predict(self.seen.values, self.rows)

    def memory(self, links: Gaussian, doubt: Floats, deviation: Floats) -> Memory:
        """For the next map."""
        found = self.found
        return Memory(
            found.weights, found.covariance, found.variances, self.amounts, links, self.seen,
            self.nugget, doubt, float(deviation.mean()),
        )  # fmt: skip


@dataclass(frozen=True)
class _Posterior:
    """Of the weights of the margins' expectation."""

    weights: Floats
    covariance: Floats
    variances: Floats
    growth: float | None


def _posterior(
    design: Design, square: Floats, pull: Floats, past: Memory | None, growth: float | None
) -> _Posterior:
    """From the whitened rows' outer squares and their products with the observations."""
    widths = [block.stop - block.start for block in design.blocks]
    if past is None:
        variances = np.where(design.learnt, 0.3, 1.0)
        for turn in range(6):
            covariance = _inverse(square + np.diag(np.repeat(1 / variances, widths)))
            weights = covariance @ pull
            if turn < 5:  # EM: a mean square of weights plus their posterior variance
                moment = weights**2 + np.diag(covariance)
                means = np.array([moment[block].mean() for block in design.blocks])
                variances = np.where(design.learnt, np.clip(means, 1e-3, 30.0), variances)
        return _Posterior(weights, covariance, variances, None)
    away = pull - square @ past.weights

    def after(growth: float) -> tuple[Floats, Floats, float]:
        """Covariance and step of the weights, and the log evidence, up to a constant."""
        prior = past.covariance + np.diag(np.repeat(growth * past.variances, widths))
        tried = _inverse(square + _inverse(prior))
        step: Floats = tried @ away
        evidence = (float(away @ step) + _log_volume(tried) - _log_volume(prior)) / 2
        return tried, step, evidence

    if growth is None:  # the mean over its posterior: a few observations do not tell that it is 0
        evidence = np.array([after(each)[2] for each in _GROWTHS])
        weight = np.exp(evidence - evidence.max())
        growth = float(weight @ _GROWTHS / weight.sum())
    covariance, step, _ = after(growth)
    return _Posterior(past.weights + step, covariance, past.variances, growth)


def _inverse(matrix: Floats) -> Floats:
    found: Floats = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(matrix))).numpy()
    return found


def _log_volume(matrix: Floats) -> float:
    return float(2 * torch.linalg.cholesky(torch.from_numpy(matrix)).diagonal().log().sum())


def _amounts(basis: Floats, grey: Ints, squares: Floats, prior: Gaussian) -> Gaussian:
    """Log variances as a smooth function of the cell, by Newton steps.

    Observations of an image resemble each other, so each counts for half.
    """
    rows = amount_rows(basis, grey)
    weights = prior.mean
    for _ in range(5):
        ratio = squares / np.exp(np.clip(rows @ weights, -12, 12))
        slope = 0.25 * rows.T @ (ratio - 1) - prior.precision @ (weights - prior.mean)
        # Expected curvature, which is positive whatever the ratios are.
        precision = 0.25 * rows.T @ rows + prior.precision
        step = np.linalg.solve(precision, slope)
        weights = weights + step * min(1.0, 1 / float(np.abs(step).max() + 1e-12))
    return Gaussian(weights, precision)


def _link(
    design: Design, basis: Floats, deviations: Floats, wrong: Floats, before: Gaussian
) -> Gaussian:
    """Level, slope and smooth function of a probit regression of errors on the deviations."""
    rows = np.column_stack([np.ones(len(basis)), deviations, basis])
    weights = before.mean
    for _ in range(6):
        eta = np.clip(rows @ weights, -6, 6)
        p, density = _normal(eta), np.exp(-(eta**2) / 2) / 2.5066
        pull = density / (p * (1 - p))
        slope = rows.T @ (pull * (wrong - p)) - before.precision @ (weights - before.mean)
        precision = (rows * (density * pull)[:, None]).T @ rows + before.precision
        weights = weights + np.linalg.solve(precision, slope)
    return Gaussian(weights, precision)

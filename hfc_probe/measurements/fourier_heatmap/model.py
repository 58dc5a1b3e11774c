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
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .design import Design, Gaussian, amount_rows
from .field import NOTHING, Field, Part, Past, Prediction, Seen

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


class Observations(NamedTuple):
    """n pairs of a cell and an image that were looked at, ``(n,)`` each.

    Attributes:
        cells, images: positions.
        margins: logit margins, NaN if there are none; or scores.
        wrong: 1 for an error, 0 for none.
    """

    cells: Ints
    images: Ints
    margins: Floats
    wrong: NDArray[np.int8]


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
        # Where the next fit starts: from the last one.
        self._amounts: Gaussian | None = None if memory is None else memory.amounts
        self._variances: Floats | None = None
        self._warm = False
        if memory is None:
            self._drift, self._past = 0.0, self._before(NOTHING, _NUGGETS[0])
        else:
            self._drift = _DRIFTS[2]
            self._past = self._before(memory.seen.later(0.0, _KEPT), memory.nugget)

    def _before(self, seen: Seen, nugget: float) -> Past:
        return Past(seen, self.design.patterns, self.design.correlation, nugget)

    def _bounded(self, margins: Floats) -> Floats:
        found: Floats = np.arcsinh(np.clip(margins / self.unit, -1e3, 1e3))
        return found

    def smoothed(self, observed: Observations, apart: NDArray[np.bool_] | None = None) -> Smoothed:
        """The margins' expectation and how images depart from it; arguments of :meth:`fit`."""
        cells, images, margins, wrong = observed
        design, past = self.design, self.memory
        used = np.ones(len(cells), bool) if apart is None else ~apart[cells]
        if not used.any():
            used[:] = True
        at, of = cells[used], images[used]
        y = np.where(np.isnan(margins), 1.0 - 2.0 * wrong, self._bounded(margins))[used]
        rows, grey = design.rows(at, of), design.grey[at, of]
        flat = design.flat_amounts(max(float(np.var(y)) / 2, _LEAST))
        amounts = self._amounts or flat
        rounds, self._warm = _ROUNDS - self._warm, True
        amount = design.amounts(amounts.mean)[at, grey]
        nugget, drift = (_NUGGETS[0] if past is None else past.nugget), self._drift
        field = Field(self._past, at, of).assume(nugget, drift)
        own, posterior = np.ones(design.total), _Posteriors(design, past, self._variances)
        for turn in range(rounds):
            scaled = rows / amount[:, None]
            square, pull = field.gram(scaled, y / amount, 1 / own, design.parts, design.size)
            weights = posterior.weights(square, pull)
            rest = y - design.product(rows, of, weights)
            if turn < rounds - 1:
                prior = (
                    flat if past is None else past.amounts.faded(float(np.exp(-2 * drift)), flat)
                )
                squares = np.maximum(rest**2 / own[of], _LEAST)
                amounts = _amounts(design.basis[at], grey, squares, prior)
                amount = design.amounts(amounts.mean)[at, grey]
            values = rest / amount
            if turn == 0:
                nugget, drift = self._chosen(field, values, nugget)
                field.assume(nugget, drift)
            own = field.scale(values)
        found, kept = posterior.whole(), self._past.seen
        self._amounts, self._drift, self._variances = amounts, drift, found.variances
        seen = replace(kept, times=kept.times + drift) + Seen(at, of, values, np.zeros(len(at)))
        resemblance = 0.0 if past is None else float(np.exp(-drift))
        mean, spread = field.others(values)
        expected, spread = (y - rest) / amount + mean, np.sqrt(spread * own[of])
        return Smoothed(
            used, field, seen, values, scaled, own, amounts, found, nugget, resemblance,
            expected, y / amount - expected, spread, design.parts,
        )  # fmt: skip

    def fit(self, observed: Observations, apart: NDArray[np.bool_] | None = None) -> Fit:
        """Fit it to observations.

        Args:
            apart: ``(D,)`` cells known not to be smooth, which the model does not learn from.
        """
        return self.mapped(self.smoothed(observed, apart), observed)

    def mapped(self, made: Smoothed, observed: Observations) -> Fit:
        """The map of what :meth:`smoothed` made of the observations."""
        cells, images, _, wrong = observed
        links, expected = self._linked(made, cells, wrong)
        known = np.full((len(self.design.correlation), self.design.total), -1, np.int8)
        known[cells, images] = wrong
        error, deviation, p = self._of_cells(made, links, known)
        own = p[cells, images].astype(np.float64)
        own[made.used] = expected  # of those used, from the other observations alone
        residual = self._residual(cells, wrong, own)
        past, doubt = self.memory, residual
        if past is not None:
            doubt = (_FADE * past.doubt + residual) / (1 + _FADE**2) ** 0.5
        memory = made.memory(links, doubt, deviation)
        return Fit(error, deviation, residual, memory, made.resemblance)

    def residuals(self, observed: Observations) -> Floats:
        """The :attr:`Fit.residual` of observations alone, without a map."""
        cells, _, _, wrong = observed
        return self._residual(cells, wrong, self._linked(self.smoothed(observed), cells, wrong)[1])

    def _linked(
        self, made: Smoothed, cells: Ints, wrong: NDArray[np.int8]
    ) -> tuple[Gaussian, Floats]:
        """The link, and the probability of an error by what the others make of each in use."""
        design, past = self.design, self.memory
        deviations = -made.expected / made.spread
        before = design.flat_link()
        if past is not None:
            before = past.links.faded(made.resemblance**2, before)
        errors = wrong[made.used].astype(float)
        links = _link(design.link[cells[made.used]], deviations, errors, before)
        return links, _normal(links.mean[0] + links.mean[1] * deviations)

    def _residual(self, cells: Ints, wrong: NDArray[np.int8], p: Floats) -> Floats:
        count = len(self.design.correlation)
        excess = np.bincount(cells, wrong - p, count)
        noise = np.bincount(cells, p * (1 - p), count)
        found: Floats = excess / np.sqrt(np.maximum(noise, 0.25))
        return found

    def _chosen(self, field: Field, values: Floats, nugget: float) -> tuple[float, float]:
        """The likeliest nugget of a first map, the likeliest drift of a later one."""
        tried = [(nugget, each) for each in _DRIFTS]
        if self.memory is None:
            tried = [(each, 0.0) for each in _NUGGETS]
        return max(tried, key=lambda each: field.assume(*each).likelihood(values))

    def _of_cells(
        self, made_of: Smoothed, links: Gaussian, known: NDArray[np.int8]
    ) -> tuple[Floats, Floats, NDArray[np.float32]]:
        """Error rate and its deviation ``(D,)``, and the probabilities ``(D, N)``."""
        design, found = self.design, made_of.found
        count, total = known.shape
        # Images first, in single precision: these are all pairs.
        expected = torch.from_numpy(design.expected(found.weights).T).float()
        amount = torch.from_numpy(design.amounts(made_of.amounts.mean)).float()
        grey, new = torch.from_numpy(design.grey.T), torch.from_numpy(known.T < 0)
        own = torch.from_numpy(made_of.own).float()
        level = torch.from_numpy(links.mean[0] + design.link @ links.mean[2:]).float()
        slope = float(links.mean[1])
        p, slopes = np.empty((2, total, count), np.float32)
        of_link = np.zeros((count, len(links.mean)))
        gradient = np.zeros((count, design.size))
        for part, made in made_of.predict():
            images = part.images
            scale = torch.where(grey[images] == 1, amount[:, 1], amount[:, 0])
            spread = (made.variance * own[images, None]).sqrt()
            away = -(expected[images] / scale + made.mean) / spread
            eta = level + slope * away
            p[images] = torch.special.ndtr(eta).clamp(1e-7, 1 - 1e-7)
            density = (eta**2 / -2).exp() * new[images] / (2.5066 * total)
            of_link[:, 1] += (density * away).sum(0).double().numpy()
            of_link[:, 0] += density.sum(0).double().numpy()
            density *= -slope / spread
            slopes[images] = density / scale
            change = (made.cross * density[made.at]).T @ made.white
            for of_these, of_all in part.runs:
                gradient[:, of_all] -= change[:, of_these].numpy()
        p, slopes = p.T, slopes.T
        of_link[:, 2:] = of_link[:, :1] * design.link
        gradient += design.gradients(slopes.astype(np.float64))
        variance = ((gradient @ found.covariance) * gradient).sum(1)
        variance += (of_link * np.linalg.solve(links.precision, of_link.T).T).sum(1)
        unknown = p * (1 - p)
        error = np.where(known >= 0, known, p).mean(1, dtype=np.float64)
        variance += np.where(known >= 0, 0.0, unknown).sum(1, dtype=np.float64) / total**2
        # The form of the expectation is not quite the network's. It matters if most is explained.
        whole = error * (1 - error)
        explained = max(0.0, 1 - float(unknown.mean(dtype=np.float64) / max(whole.mean(), 1e-9)))
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
        field, values: the departures.
        seen: the same, those remembered first.
        rows: of the design, over the amounts.
        own: ``(N,)`` variances of the images' departures, relative to the mean one.
        amounts: of the departures.
        found: the weights of the expectation.
        nugget, resemblance: as of :class:`Memory` and :class:`Fit`.
        expected: ``(n,)`` by the other observations, over the amounts.
        away: ``(n,)`` what was seen less that.
        spread: ``(n,)`` its standard deviation.
        parts: of the images.
    """

    used: NDArray[np.bool_]
    field: Field
    seen: Seen
    values: Floats
    rows: Floats
    own: Floats
    amounts: Gaussian
    found: _Posterior
    nugget: float
    resemblance: float
    expected: Floats
    away: Floats
    spread: Floats
    parts: list[Part]

    def predict(self) -> Iterator[tuple[Part, Prediction]]:
        """Every pair, a few images at a time."""
        return self.field.predict(self.values, self.rows, self.parts)

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


class _Posteriors:
    """Of the weights, by the whitened rows' outer squares and products with the observations.

    Args:
        design: which weights have one prior variance.
        past: the last map's; without one the prior variances are estimated.
        variances: where their estimate starts.
    """

    def __init__(self, design: Design, past: Memory | None, variances: Floats | None) -> None:
        self.design, self.past = design, past
        self.widths = [block.stop - block.start for block in design.blocks]
        self.turns = 5 if variances is None else 1
        self.growth: float | None = None
        if past is not None:
            variances = past.variances
        elif variances is None:
            variances = np.where(design.learnt, 0.3, 1.0)
        self.variances: Floats = np.array(variances, np.float64)

    def weights(self, square: Floats, pull: Floats) -> Floats:
        """The posterior's mean."""
        self.square = square
        past, prior = self.past, self._prior()
        if past is None:
            return self._anew(pull)
        away = pull - square @ past.weights
        told, spread = square @ past.covariance, square * prior
        unit = np.eye(len(square))

        def after(growth: float) -> tuple[Floats, float]:
            """Step of the weights and log evidence, up to a constant: P(1 + S P)⁻¹ a."""
            system = torch.from_numpy(unit + told + growth * spread)
            factors, order = torch.linalg.lu_factor(system)
            solved = torch.linalg.lu_solve(factors, order, torch.from_numpy(away)[:, None])
            one = solved[:, 0].numpy()
            step: Floats = past.covariance @ one + growth * prior * one
            volume = float(factors.diagonal().abs().log().sum())
            return step, (float(away @ step) - volume) / 2

        if self.growth is None:  # the mean over its posterior: a few do not tell that it is 0
            evidence = np.array([after(each)[1] for each in _GROWTHS])
            weight = np.exp(evidence - evidence.max())
            self.growth = float(weight @ _GROWTHS / weight.sum())
        self.mean: Floats = past.weights + after(self.growth)[0]
        return self.mean

    def _prior(self) -> Floats:
        found: Floats = np.repeat(self.variances, self.widths)
        return found

    def _anew(self, pull: Floats) -> Floats:
        for _ in range(self.turns):  # EM: a mean square of weights plus their posterior variance
            covariance = _inverse(self.square + np.diag(1 / self._prior()))
            moment = (covariance @ pull) ** 2 + np.diag(covariance)
            means = np.array([moment[block].mean() for block in self.design.blocks])
            np.copyto(self.variances, means.clip(1e-3, 30.0), where=self.design.learnt)
        self.turns = 1
        system = self.square + np.diag(1 / self._prior())
        self.mean = np.linalg.solve(system, pull).astype(np.float64)
        return self.mean

    def whole(self) -> _Posterior:
        """With the covariance."""
        precision = np.diag(1 / self._prior())
        if self.past is not None:
            assert self.growth is not None
            precision = _inverse(self.past.covariance + np.diag(self.growth * self._prior()))
        return _Posterior(self.mean, _inverse(self.square + precision), self.variances)


def _inverse(matrix: Floats) -> Floats:
    found: Floats = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(matrix))).numpy()
    return found


def _amounts(basis: Floats, grey: Ints, squares: Floats, prior: Gaussian) -> Gaussian:
    """Log variances as a smooth function of the cell, by Newton steps.

    Observations of an image resemble each other, so each counts for half.
    """
    rows = amount_rows(basis, grey)
    weights = prior.mean
    # Expected curvature, which is positive whatever the ratios are.
    precision = 0.25 * rows.T @ rows + prior.precision
    for _ in range(5):
        ratio = squares / np.exp(np.clip(rows @ weights, -12, 12))
        slope = 0.25 * rows.T @ (ratio - 1) - prior.precision @ (weights - prior.mean)
        step = np.linalg.solve(precision, slope)
        weights = weights + step * min(1.0, 1 / float(np.abs(step).max() + 1e-12))
    return Gaussian(weights, precision)


def _link(basis: Floats, deviations: Floats, wrong: Floats, before: Gaussian) -> Gaussian:
    """Level, slope and smooth function of a probit regression of errors on the deviations."""
    rows = np.column_stack([np.ones(len(basis)), deviations, basis])
    weights = before.mean
    for _ in range(6):
        eta = np.clip(rows @ weights, -6, 6)
        p, density = _normal(eta), np.exp(-(eta**2) / 2) / 2.5066
        pull = density / (p * (1 - p))
        slope = rows.T @ (pull * (wrong - p)) - before.precision @ (weights - before.mean)
        precision = (rows * (density * pull)[:, None]).T @ rows + before.precision
        step = np.linalg.solve(precision, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-3:
            break
    return Gaussian(weights, precision)

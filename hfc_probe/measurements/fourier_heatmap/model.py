"""The best map for a fixed effort: a model over cells and images of the Fourier heatmap.

Whether image n is misclassified under noise of direction c is taken as Bernoulli with

    logit P(wrong) = μ + f(c) + g_s(c) + h_y(c) + β·m_n + b_n

where f is a smooth function of the frequency, g_s one for each way s in which the noise's signs
differ between channels (grey noise and coloured noise harm differently), h_y one for each class
y (noise pushes predictions towards few classes), m_n the margin of the clean prediction and b_n
how hard image n is: the same images recur in all cells. Smooth functions are cosines on
the frequency plane, symmetric under (i, j) → (−i, −j), with prior variances that fall with
their own frequency as for a Matérn process, plus bumps in log distance from DC. The prior
variances are estimated from the data (empirical Bayes, EM steps within the Newton iteration of
the posterior mode), and the posterior is Gaussian around the mode (Laplace).

The error rate of a cell is the mean over all N images: what was seen where it was seen, the
model's probability elsewhere. A cell that does not fit between its neighbours shows in its
residuals; see :attr:`Fit.residual`.

Sources: Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, §3.4; MacKay,
"Bayesian interpolation", Neural Computation 1992, for the variances; Rasch, 1960, for b_n.

Long because the model, its fit and its intervals are one derivation.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Correlation length of the smooth functions and their number, for a map 32 cells wide.
_LENGTH = 5.0
_MAIN, _PATTERN, _CLASS = 110, 40, 24
_RINGS = 8
# More classes or sign patterns than this have no functions of their own.
_MOST_GROUPS = 20
_ITERATIONS = 12
_INTERCEPT = 3.0  # prior deviation of μ
# Roughness between cells that the smooth functions do not reach widens the intervals: by a
# tenth, measured on networks that the model was not made with (tests/benchmarks).
_WIDER = 1.1


@dataclass(frozen=True)
class Fit:
    """What the model makes of the observations, D directions.

    Attributes:
        error: ``(D,)`` mean error rate over all N images.
        deviation: ``(D,)`` posterior standard deviation of it.
        residual: ``(D,)`` standardised: errors seen less errors expected from the
            *other* cells and images, in standard deviations; about N(0, 1) if the map
            is smooth.
        posterior: a later fit may start from it.
    """

    error: Floats
    deviation: Floats
    residual: Floats
    posterior: Posterior


def interval(fit: Fit, total: int) -> tuple[Floats, Floats]:
    """95 % intervals of the cells' error rates, ``(lower, upper)``.

    The posterior's Gaussian on the scale of the error rate or on that of its log odds, whichever
    reaches further on each side: the first is too short above a rate near 0, the second does
    not hold 0 itself. Both are widened by ``_WIDER`` for what the model leaves out.

    Args:
        fit: the model.
        total: N, the number of images.
    """
    half = 1.96 * _WIDER * fit.deviation
    inner = np.clip(fit.error, 0.5 / total, 1 - 0.5 / total)
    centre = np.log(inner / (1 - inner))
    reach = half / (inner * (1 - inner))
    odds = [1 / (1 + np.exp(-np.clip(centre + side * reach, -40, 40))) for side in (-1, 1)]
    lower = np.minimum(odds[0], fit.error - half)
    upper = np.maximum(odds[1], fit.error + half)
    return np.clip(lower, 0, 1), np.clip(upper, 0, 1)


def threshold(directions: int, level: float = 0.05) -> float:
    """The residual beyond which a cell of a smooth map is flagged by chance with that level.

    Bonferroni over the map's directions.

    >>> round(threshold(514), 2)
    3.9
    """
    return NormalDist().inv_cdf(1 - level / (2 * directions))


def fit(
    positions: Floats,
    periods: tuple[float, float],
    scale: tuple[float, float],
    cells: NDArray[np.int64],
    images: NDArray[np.int64],
    wrong: NDArray[np.int8],
    patterns: NDArray[np.int64],
    classes: NDArray[np.int64],
    margins: Floats,
    apart: NDArray[np.bool_] | None = None,
    start: Posterior | None = None,
) -> Fit:
    """Fit the model to observations.

    Args:
        positions: ``(D, 2)`` frequency (i, j) of each direction.
        periods: of the frequency plane along i and j, in cycles per image.
        scale: width of the map along i and j: lengths are relative to it.
        cells, images, wrong: ``(n,)`` observations.
        patterns: ``(D, N)`` sign pattern of each pair.
        classes: ``(N,)`` class of each image.
        margins: ``(N,)`` of the clean predictions; NaN if there are none.
        apart: ``(D,)`` cells known not to be smooth, which the model does not learn from.
        start: of an earlier fit to much the same observations, which saves time.
    """
    count, total = patterns.shape
    design = _Design(positions, periods, scale, patterns, classes, margins)
    used = np.ones(len(cells), bool) if apart is None else ~apart[cells]
    if not used.any():
        used[:] = True
    seen = cells[used], images[used], wrong[used].astype(np.float64)
    posterior = _posterior(design, *seen, start)
    known = np.full((count, total), -1, np.int8)
    known[cells, images] = wrong
    learnt = np.ones(count, bool) if apart is None else ~apart
    return Fit(*_of_cells(design, posterior, known, learnt), posterior)


@dataclass(frozen=True)
class Posterior:
    """Gaussian posterior around the mode.

    Attributes:
        weights: ``(P,)`` of the columns of the design.
        effect: ``(N,)`` how hard each image is.
        root: ``(P, P)``; ``rootᵀ root`` is the covariance of the weights.
        coupling: ``(N, P)`` how an image's effect answers to the weights.
        information: ``(N,)`` precision of each image's effect, given the weights.
        variances: prior variances of the design's blocks, and of the effects last.
    """

    weights: Floats
    effect: Floats
    root: Floats
    coupling: Floats
    information: Floats
    variances: Floats

    def variance(self, gradients: Floats, of_images: Floats) -> Floats:
        """Of linear functions, ``(F,)``, of weights ``(F, P)`` and effects ``(F, N)``."""
        total = gradients - _product(of_images, self.coupling)
        spread: Floats = (_product(total, self.root.T) ** 2).sum(1)
        return spread + _product(of_images**2, 1 / self.information)


def _posterior(
    design: _Design,
    cells: NDArray[np.int64],
    images: NDArray[np.int64],
    wrong: Floats,
    start: Posterior | None,
) -> Posterior:
    """Mode by damped Newton steps, the images' effects eliminated; variances by EM on the way."""
    from scipy.special import expit

    total, size = len(design.classes), design.size
    rows = _Rows(design, cells, images)
    weights, effect = np.zeros(size), np.zeros(total)
    rate = float(np.clip(wrong.mean(), 0.01, 0.99))
    weights[0] = np.log(rate / (1 - rate)) / _INTERCEPT
    variance = np.ones(len(design.blocks))  # of each block's weights
    image_variance = 1.0
    if start is not None:
        weights, effect = start.weights, start.effect
        variance, image_variance = start.variances[:-1].copy(), float(start.variances[-1])
    settled = 3 if start is None else 0
    widths = [block.stop - block.start for block in design.blocks]
    for iteration in range(_ITERATIONS):
        eta = rows.times(weights) + effect[images]
        p = expit(eta)
        w = np.maximum(p * (1 - p), 1e-5)
        z = w * eta + (wrong - p)
        prior = np.repeat(1 / variance, widths)
        cross = rows.by_image(w)
        information = np.bincount(images, w, total).astype(np.float64) + 1 / image_variance
        pull = np.bincount(images, z, total).astype(np.float64)
        coupling = cross / information[:, None]
        reduced = rows.gram(w) - _product(cross.T, coupling)
        reduced[np.diag_indices(size)] += prior
        # Its inverse's root serves the step, the variances and the posterior.
        root = _inverse_root(reduced)
        aim = rows.total(z) - _product(coupling.T, pull)
        move = _product(root.T, _product(root, aim)) - weights
        move_effect = (pull - _product(cross, weights + move)) / information - effect
        eta_move = rows.times(move) + move_effect[images]
        # Halved until it helps: if classes separate, a full step can lead astray.
        step = 1.0
        before = _minus_log(eta, wrong, weights, effect, prior, image_variance)
        while step > 1e-3:
            ahead = weights + step * move, effect + step * move_effect
            after = _minus_log(eta + step * eta_move, wrong, *ahead, prior, image_variance)
            if after <= before:
                break
            step /= 2
        weights, effect = ahead
        if iteration > settled and step * float(np.abs(eta_move).max()) < 0.05:
            break
        if settled - 2 < iteration < _ITERATIONS - 1:
            # EM: a variance is the mean square of its weights plus their posterior variance.
            spread = (root**2).sum(0)
            for k, block in enumerate(design.blocks):
                if design.learnt[k]:
                    moment = float((weights[block] ** 2 + spread[block]).mean())
                    variance[k] = np.clip(moment, 1e-3, 30.0)
            own = 1 / information + (_product(coupling, root.T) ** 2).sum(1)
            image_variance = float(np.clip((effect**2 + own).mean(), 1e-2, 30.0))
    variances = np.append(variance, image_variance)
    return Posterior(weights, effect, root, coupling, information, variances)


def _product(left: Floats, right: Floats) -> Floats:
    """A matrix product on as many threads as torch has.

    NumPy's own takes every core, and if they are busy with training and its loaders waits
    for them far longer than it computes.
    """
    found: Floats = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
    return found


def _inverse_root(matrix: Floats) -> Floats:
    """R with ``Rᵀ R`` the inverse of a positive definite matrix."""
    factor = torch.linalg.cholesky(torch.from_numpy(matrix))
    unit = torch.eye(len(matrix), dtype=factor.dtype, device=factor.device)
    found: Floats = torch.linalg.solve_triangular(factor, unit, upper=False).numpy()
    return found


def _minus_log(
    eta: Floats,
    wrong: Floats,
    weights: Floats,
    effect: Floats,
    prior: Floats,
    image_variance: float,
) -> float:
    """Minus the log posterior, up to a constant."""
    fit_loss = float((np.logaddexp(0, eta) - wrong * eta).sum())
    penalty = float((prior * weights**2).sum() + (effect**2).sum() / image_variance)
    return fit_loss + penalty / 2


def _of_cells(
    design: _Design, posterior: Posterior, known: NDArray[np.int8], learnt: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Error rate, its deviation and the residual of the cells, ``(D,)`` each.

    Args:
        known: ``(D, N)`` 1 for an error, −1 if not seen.
        learnt: ``(D,)`` cells that the posterior has learnt from.
    """
    from scipy.special import expit

    count, total = known.shape
    eta = np.stack([design.eta(cell, posterior.weights) for cell in range(count)])
    p: Floats = expit(eta + posterior.effect)
    v = p * (1 - p)
    seen = known >= 0
    found = (known == 1).sum(1)
    error = (found + np.where(seen, 0.0, p).sum(1)) / total
    rest = np.where(seen, 0.0, v)
    spread = posterior.variance(design.gradients(rest / total), rest / total)
    deviation = np.sqrt(spread + rest.sum(1) / total**2)
    own = np.where(seen, v, 0.0)
    model = posterior.variance(design.gradients(own), own)
    noise = own.sum(1)
    excess = found - np.where(seen, p, 0.0).sum(1)
    # What the fit has taken up of a cell's own errors is given back: about the residual that
    # leaving the cell out would have shown.
    taken = np.minimum(model / np.where(noise > 0, noise, 1.0), 0.9)
    noise = np.where(learnt, np.where(noise > 0, noise * (1 - taken), 1.0), noise + model)
    residual = np.where(seen.any(1), excess / np.sqrt(np.maximum(noise, 0.25)), 0.0)
    return error, deviation, residual


class _Design:
    """Columns of the model: smooth functions of the cell, for all, per pattern, per class."""

    def __init__(
        self,
        positions: Floats,
        periods: tuple[float, float],
        scale: tuple[float, float],
        patterns: NDArray[np.int64],
        classes: NDArray[np.int64],
        margins: Floats,
    ) -> None:
        count = len(positions)
        distance = np.hypot(positions[:, 0], positions[:, 1])
        rings = _bumps(np.log1p(distance))
        smooth = _cosines(positions, periods, scale, min(_MAIN, count))
        ones = np.ones((count, 1))
        self.main = np.concatenate([_INTERCEPT * ones, rings, smooth], 1).astype(np.float32)
        self.pattern = np.concatenate([0.5 * ones, 0.5 * rings, smooth[:, :_PATTERN]], 1).astype(
            np.float32
        )
        self.by_class = np.concatenate([0.7 * ones, 0.5 * rings, smooth[:, :_CLASS]], 1).astype(
            np.float32
        )
        self.patterns = self._groups(patterns)
        self.classes = self._groups(classes)
        spread = float(np.nanstd(margins)) if np.isfinite(margins).any() else 0.0
        centred = np.nan_to_num(margins - np.nanmean(margins)) if spread > 0 else margins * 0
        self.margins = np.nan_to_num(np.tanh(centred / (spread or 1.0)))
        sizes = [1, rings.shape[1], smooth.shape[1]]
        self.learnt = [0.0, 1.0, 1.0]
        self.pattern_count = int(self.patterns.max()) + 1
        self.class_count = int(self.classes.max()) + 1
        if self.pattern_count > 1:
            sizes.append(self.pattern.shape[1] * self.pattern_count)
            self.learnt.append(1.0)
        if self.class_count > 1:
            sizes.append(self.by_class.shape[1] * self.class_count)
            self.learnt.append(1.0)
        sizes.append(1)
        self.learnt.append(0.0)
        ends = np.cumsum(sizes)
        self.blocks = [slice(int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True)]
        self.size = int(ends[-1])

    @staticmethod
    def _groups(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels numbered from 0; one group for all if there are too many."""
        found, numbered = np.unique(labels, return_inverse=True)
        if len(found) > _MOST_GROUPS:
            return np.zeros_like(labels)
        return numbered.reshape(labels.shape).astype(np.int64)

    def eta(self, cell: int, weights: Floats) -> Floats:
        """Log odds without the images' own effects for every image of a cell, ``(N,)``."""
        width = self.main.shape[1]
        out = np.full(len(self.classes), float(self.main[cell] @ weights[:width]))
        start = width
        if self.pattern_count > 1:
            stop = start + self.pattern.shape[1] * self.pattern_count
            table = weights[start:stop].reshape(self.pattern_count, -1) @ self.pattern[cell]
            out += table[self.patterns[cell]]
            start = stop
        if self.class_count > 1:
            stop = start + self.by_class.shape[1] * self.class_count
            table = weights[start:stop].reshape(self.class_count, -1) @ self.by_class[cell]
            out += table[self.classes]
            start = stop
        return out + self.margins * weights[start]

    def gradients(self, slopes: Floats) -> Floats:
        """``Σ_n slopes[c, n] · row(c, n)`` of every cell c, ``(D, size)``."""
        return np.stack([self._gradient(cell, slopes[cell]) for cell in range(len(slopes))])

    def _gradient(self, cell: int, slopes: Floats) -> Floats:
        parts = [self.main[cell] * slopes.sum()]
        if self.pattern_count > 1:
            share = np.bincount(self.patterns[cell], slopes, self.pattern_count)
            parts.append(np.outer(share, self.pattern[cell]).ravel())
        if self.class_count > 1:
            share = np.bincount(self.classes, slopes, self.class_count)
            parts.append(np.outer(share, self.by_class[cell]).ravel())
        parts.append(np.array([float(self.margins @ slopes)]))
        return np.concatenate(parts).astype(np.float64)


class _Rows:
    """The design matrix of observations, n of them, without its n × P numbers.

    A row holds functions of its cell, each kind of them in the place of the row's group
    (one for all, its sign pattern, its class), zeros elsewhere, and a margin. So products with
    the matrix are sums over cells and groups, which are far fewer than observations and columns.
    """

    def __init__(
        self, design: _Design, cells: NDArray[np.int64], images: NDArray[np.int64]
    ) -> None:
        self.cells, self.images, self.size = cells, images, design.size
        self.count, self.total_images = len(design.main), len(design.classes)
        self.margins = design.margins[images]
        # Per kind: its functions (D, width), how many groups, and the group of each row.
        self.kinds = [(design.main.astype(np.float64), 1, np.zeros_like(cells))]
        if design.pattern_count > 1:
            groups = design.patterns[cells, images]
            self.kinds.append((design.pattern.astype(np.float64), design.pattern_count, groups))
        if design.class_count > 1:
            groups = design.classes[images]
            self.kinds.append((design.by_class.astype(np.float64), design.class_count, groups))
        ends = np.cumsum([features.shape[1] * count for features, count, _ in self.kinds])
        self.starts = [0, *(int(end) for end in ends[:-1])]

    def times(self, weights: Floats) -> Floats:
        """The matrix times weights ``(P,)``: ``(n,)``."""
        out: Floats = self.margins * weights[-1]
        for start, (features, count, groups) in zip(self.starts, self.kinds, strict=True):
            part = weights[start : start + features.shape[1] * count].reshape(count, -1)
            out = out + _product(features, part.T)[self.cells, groups]
        return out

    def total(self, values: Floats) -> Floats:
        """The sum of the rows, each times its value: ``(P,)``."""
        parts = []
        for features, count, groups in self.kinds:
            index = groups * self.count + self.cells
            sums = np.bincount(index, values, count * self.count).astype(np.float64)
            parts.append(_product(sums.reshape(count, -1), features).ravel())
        return np.append(np.concatenate(parts), self.margins @ values)

    def gram(self, values: Floats) -> Floats:
        """The sum of the rows' outer squares, each times its value: ``(P, P)``."""
        out = np.zeros((self.size, self.size))
        for a, (left, left_count, left_groups) in enumerate(self.kinds):
            for b, (right, right_count, right_groups) in enumerate(self.kinds[: a + 1]):
                index = (left_groups * right_count + right_groups) * self.count + self.cells
                sums = np.bincount(index, values, left_count * right_count * self.count)
                sums = sums.reshape(left_count, right_count, self.count)
                for s, t in zip(*np.nonzero(sums.any(2)), strict=True):
                    rows = self.starts[a] + int(s) * left.shape[1]
                    columns = self.starts[b] + int(t) * right.shape[1]
                    block = _product(left.T, sums[s, t, :, None] * right)
                    out[rows : rows + left.shape[1], columns : columns + right.shape[1]] = block
        out[-1, :] = self.total(values * self.margins)
        lower = np.tril(out, -1)
        full: Floats = lower + lower.T
        full[np.diag_indices(self.size)] = np.diag(out)
        return full

    def by_image(self, values: Floats) -> Floats:
        """The sum of each image's rows, each times its value: ``(N, P)``."""
        from scipy.sparse import csr_array

        parts = []
        for features, count, groups in self.kinds:
            place = self.images * count + groups, self.cells
            sums = csr_array((values, place), shape=(self.total_images * count, self.count))
            parts.append((sums @ features).reshape(self.total_images, -1))
        margins = np.bincount(self.images, values * self.margins, self.total_images)
        return np.concatenate([*parts, margins[:, None]], 1)


def _bumps(x: Floats) -> Floats:
    """Gaussian bumps over the range of x, ``(D, _RINGS)``."""
    centres = np.linspace(x.min(), x.max(), _RINGS)
    width = max(float(centres[1] - centres[0]) * 0.8, 1e-6)
    return np.exp(-((x[:, None] - centres) ** 2) / (2 * width**2))


def _cosines(
    positions: Floats, periods: tuple[float, float], scale: tuple[float, float], count: int
) -> Floats:
    """Even functions on the frequency plane, smoothest first, scaled by their prior deviation.

    A sum of them with independent standard normal weights has variance 1 at every cell, up
    to what the number of functions cuts off.
    """
    reach = int(np.ceil(np.sqrt(count))) + 1
    grid = np.meshgrid(np.arange(0, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    a, b = (axis.ravel() for axis in grid)
    own = (a > 0) | (b > 0)  # one of each pair ±(a, b), without the constant
    a, b = a[own], b[own]
    turn = [np.array(k) / p for k, p in zip((a, b), periods, strict=True)]
    bend = sum((2 * np.pi * t * s / 32) ** 2 for t, s in zip(turn, scale, strict=True))
    fall = (1 + _LENGTH**2 * np.asarray(bend)) ** -2.0
    order = np.argsort(-fall, kind="stable")[:count]
    deviation = np.sqrt(fall[order] / fall[order].sum())
    phase = 2 * np.pi * (np.outer(positions[:, 0], turn[0]) + np.outer(positions[:, 1], turn[1]))
    out: Floats = np.sqrt(2) * np.cos(phase[:, order]) * deviation
    return out

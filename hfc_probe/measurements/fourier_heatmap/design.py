"""Smooth functions of the frequency, and the rows they make of observations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .field import Part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Images of one part.
_CHUNK = 128
# Correlation length of the smooth functions and their number, for a map 32 cells wide.
_LENGTH = 5.0
_MAIN, _PATTERN, _CLASS, _CLEAN, _AMOUNT = 80, 24, 12, 10, 24
_CORRELATION = 400
_RINGS = 8
# More classes or sign patterns than this have no functions of their own.
_MOST_GROUPS = 20
_INTERCEPT = 3.0  # prior deviation of μ
# Prior variance of what the link varies by over the frequencies, on the probit scale.
_LINK_VARIANCE = 0.008


class Design:
    """Smooth functions for all, per sign pattern, per class and times the clean margin.

    Args:
        positions, periods, scale, patterns, classes: as of :class:`.model.Model`.
        clean: ``(N,)`` clean margins, bounded.

    Attributes:
        parts: the images, a few at a time.
        blocks: columns whose weights have one prior variance, and whether it is ``learnt``.
        correlation: ``(D, D)`` of the images' own departures.
        grey: ``(D, N)`` 1 if the noise has the same sign in all channels.
    """

    def __init__(
        self,
        positions: Floats,
        periods: tuple[float, float],
        scale: tuple[float, float],
        patterns: Ints,
        classes: Ints,
        clean: Floats,
    ) -> None:
        count = len(positions)
        rings = _bumps(np.log1p(np.hypot(positions[:, 0], positions[:, 1])))
        wave = _cosines(positions, periods, scale, min(max(_MAIN, _CORRELATION), 2 * count))
        norm = np.sqrt((wave**2).sum(1, keepdims=True))
        self.correlation: Floats = (wave / norm) @ (wave / norm).T
        smooth = _cosines(positions, periods, scale, min(_MAIN, count))
        one = np.ones((count, 1))
        self.patterns, self.classes = _groups(patterns), _groups(classes)
        self.grey = (patterns == 0).astype(np.int64)
        self.clean, self.total = clean, len(classes)
        # Per kind: its functions (D, width), how many groups, and the group of each pair.
        self.kinds = [(np.hstack([_INTERCEPT * one, rings, smooth]), 1)]
        sizes, self.learnt = [1, rings.shape[1] + smooth.shape[1]], [False, True]
        for groups, width, level in (
            (self.patterns, _PATTERN, 0.5),
            (self.classes, _CLASS, 0.7),
        ):
            number = int(groups.max()) + 1
            own = np.hstack([level * one, 0.5 * rings, smooth[:, :width]])
            self.kinds.append((own, number if number > 1 else 0))
            if number > 1:
                sizes.append(own.shape[1] * number)
                self.learnt.append(True)
        self.kinds.append((np.hstack([one, 0.3 * rings, 0.3 * smooth[:, :_CLEAN]]), 1))
        sizes += [1, self.kinds[-1][0].shape[1] - 1]
        self.learnt += [False, True]
        ends = np.cumsum(sizes)
        self.blocks = [slice(int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True)]
        self.size = int(ends[-1])
        self.parts = self._parts()
        self.basis = np.hstack([rings, smooth[:, :_AMOUNT]])
        self.link = np.hstack([rings, smooth[:, :60]])

    def _parts(self) -> list[Part]:
        """A few images of one class at a time: of the classes' columns only theirs are not 0."""
        functions, number = self.kinds[2]
        width, end = functions.shape[1], self.size - self.kinds[3][0].shape[1]
        start = end - width * number
        found = []
        for k in range(max(number, 1)):
            own = start + k * width + np.arange(width if number else 0)
            columns = np.concatenate([np.arange(start), own, np.arange(end, self.size)])
            images = np.flatnonzero(self.classes == k)
            found += [Part(images[n : n + _CHUNK], columns) for n in range(0, len(images), _CHUNK)]
        return found

    def rows(self, cells: Ints, images: Ints) -> Floats:
        """Of observations, ``(n, width)``: in the columns of the image's :class:`Part`."""
        functions, number = self.kinds[1]
        own = np.zeros((len(cells), number, functions.shape[1]))
        if number:
            own[np.arange(len(cells)), self.patterns[cells, images]] = functions[cells]
        parts = [self.kinds[0][0][cells], own.reshape(len(cells), -1)]
        if self.kinds[2][1]:
            parts.append(self.kinds[2][0][cells])
        parts.append(self.kinds[3][0][cells] * self.clean[images][:, None])
        return np.hstack(parts)

    def product(self, rows: Floats, images: Ints, weights: Floats) -> Floats:
        """Of rows and weights, ``(n,)``."""
        own = np.empty((int(self.classes.max()) + 1, rows.shape[1]))
        for part in self.parts:
            own[self.classes[part.images[0]]] = weights[part.columns]
        found: Floats = np.einsum("nk,nk->n", rows, own[self.classes[images]])
        return found

    def expected(self, weights: Floats) -> Floats:
        """Of every pair, ``(D, N)``."""
        main, pattern, by_class, slope = self._split(weights)
        out: Floats = main + slope * self.clean
        if pattern.shape[1]:
            out = out + np.take_along_axis(pattern, self.patterns, 1)
        if by_class.shape[1]:
            out += by_class[:, self.classes]
        return out

    def amounts(self, weights: Floats) -> Floats:
        """Standard deviations of the departures, ``(D, 2)``: coloured noise, grey noise."""
        kinds = (amount_rows(self.basis, np.full(len(self.basis), grey)) for grey in (0, 1))
        found: Floats = np.exp(np.clip(np.stack([k @ weights for k in kinds], 1), -12, 12) / 2)
        return found

    def flat_amounts(self, variance: float) -> Gaussian:
        """What is held of the amounts' weights beforehand."""
        size = 2 * (self.basis.shape[1] + 1)
        mean, precision = np.zeros(size), np.full(size, 4.0)
        mean[0], precision[0] = np.log(variance), 1e-3
        return Gaussian(mean, np.diag(precision))

    def flat_link(self) -> Gaussian:
        """What is held of the link's weights beforehand: the model is about right."""
        size = 2 + self.link.shape[1]
        mean, precision = np.zeros(size), np.full(size, 1 / _LINK_VARIANCE)
        mean[1], precision[0], precision[1] = 1.0, 1.0, 10.0
        return Gaussian(mean, np.diag(precision))

    def _split(self, weights: Floats) -> list[Floats]:
        """Values of each kind's functions, ``(D, groups)``."""
        found, start = [], 0
        for functions, number in self.kinds:
            stop = start + functions.shape[1] * number
            found.append(functions @ weights[start:stop].reshape(number, functions.shape[1]).T)
            start = stop
        return found

    def gradients(self, slopes: Floats) -> Floats:
        """``Σ_n slopes[c, n] · row(c, n)`` of every cell c, ``(D, size)``."""
        shares = [slopes.sum(1, keepdims=True)]
        for group, number in ((self.patterns, self.kinds[1][1]), (None, self.kinds[2][1])):
            if group is None:
                shares.append(slopes @ (self.classes[:, None] == np.arange(number)))
            else:
                shares.append(
                    np.stack([(slopes * (group == k)).sum(1) for k in range(number)], 1)
                    if number
                    else np.zeros((len(slopes), 0))
                )
        shares.append((slopes @ self.clean)[:, None])
        return np.hstack(
            [
                (share[:, :, None] * functions[:, None, :]).reshape(len(slopes), -1)
                for share, (functions, _) in zip(shares, self.kinds, strict=True)
            ]
        )


@dataclass(frozen=True)
class Gaussian:
    """Of some weights."""

    mean: Floats
    precision: Floats

    def faded(self, resemblance: float, prior: Gaussian) -> Gaussian:
        """Between this and a prior, by how much the past resembles the present."""
        precision = resemblance * self.precision + (1 - resemblance) * prior.precision
        aim = resemblance * self.precision @ self.mean
        aim = aim + (1 - resemblance) * prior.precision @ prior.mean
        return Gaussian(np.linalg.solve(precision, aim).astype(np.float64), precision)


def amount_rows(basis: Floats, grey: Ints) -> Floats:
    """Of the amounts: a level and smooth functions, for all and for grey noise against others."""
    rows = np.column_stack([np.ones(len(basis)), basis])
    return np.hstack([rows, rows * np.where(grey == 1, 0.7, -0.2)[:, None]])


def _groups(labels: Ints) -> Ints:
    """Labels numbered from 0; one group for all if there are too many."""
    found, numbered = np.unique(labels, return_inverse=True)
    if len(found) > _MOST_GROUPS:
        return np.zeros_like(labels)
    return numbered.reshape(labels.shape).astype(np.int64)


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

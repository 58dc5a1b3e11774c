"""How each image departs from what images have in common: a Gaussian process of its own.

Under noise of neighbouring frequencies, with the same sign pattern, the margin of one image is
nearly the same (correlation 0.95), under another pattern it is similar (0.6), and an epoch later
it still is (0.7 to 0.98). So a few margins of an image tell much about the others. The covariance
of two standardised margins of an image, at directions c and c′ and times t and t′, is

    e^−|t − t′| · (a + k(c, c′)·(b + s·[same pattern])) + nugget·[same observation]

with k a Matérn-like correlation on the frequency plane. Images are independent, given what they
share; each is a system of a few equations (kriging), and all are solved in one batch.

Source: Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, §2.2 and §5.4.2 for
what is expected of an observation from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Shares of the variance: an image as such, its field, its field under one pattern.
_IMAGE, _FIELD, _PATTERN = 0.25, 0.35, 0.40
# Images of one batch of predictions.
_CHUNK = 128
# Rows beyond this have squares too large for float32: of margins that are nearly all alike.
_LARGE = 30.0
# Prior count of an image's own scale: the observations that it counts for.
_SCALE_COUNT = 4.0


@dataclass(frozen=True)
class Seen:
    """Observations of standardised margins.

    Attributes:
        cells, images: ``(n,)``.
        values: ``(n,)`` margins less their expectation, in standard deviations.
        times: ``(n,)`` how long ago, 0 for now: minus the log of the correlation since.
    """

    cells: Ints
    images: Ints
    values: Floats
    times: Floats

    def later(self, drift: float, most: int) -> Seen:
        """As seen from the next map: of each image the latest ``most``, of any directions."""
        chance = np.random.default_rng(0).permutation(len(self.images))
        order = np.lexsort((chance, -self.times, self.images))
        last = np.searchsorted(self.images[order], self.images[order], "right")
        keep = order[last - np.arange(len(order)) <= most]
        return Seen(
            self.cells[keep], self.images[keep], self.values[keep], self.times[keep] + drift
        )

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            np.concatenate([self.cells, other.cells]),
            np.concatenate([self.images, other.images]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.times, other.times]),
        )


class Field:
    """The images' processes, given where they were observed.

    Args:
        seen: the observations; their values are not looked at.
        recent: how many of them, the last ones, are of the present map.
        patterns: ``(D, N)`` sign pattern of each pair.
        correlation: ``(D, D)`` k.
        nugget: share of the variance that no other observation tells of.
    """

    def __init__(
        self, seen: Seen, recent: int, patterns: Ints, correlation: Floats, nugget: float
    ) -> None:
        self.patterns, self.correlation = patterns, correlation
        self.total = patterns.shape[1]
        self.images, self.observed = seen.images, seen.times
        # The remembered ones come first, in places of their own: what is seen now is whitened
        # by the last rows and columns of the root alone.
        old = len(seen.images) - recent
        places, self.first = [], 0
        for part in (seen.images[:old], seen.images[old:]):
            count = np.bincount(part, minlength=self.total)
            order = np.argsort(part, kind="stable")
            place = np.empty(len(part), np.int64)
            place[order] = np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count)
            places.append(place + self.first)
            past, self.first = self.first, self.first + int(count.max())
        self.place, self.shape, self.first = np.concatenate(places), (self.total, self.first), past
        self.count = np.bincount(seen.images, minlength=self.total)
        self.recent = np.argsort(part, kind="stable") + old
        self.ends = np.append(0, np.cumsum(count))
        self.known = self.spread(np.ones(len(self.images))) > 0
        self.cells = self.spread(seen.cells).astype(np.int64)
        own = patterns[self.cells, np.arange(self.total)[:, None]]
        self.own = np.where(self.known, own, -1)
        self.times = self.spread(seen.times)
        same = self.own[:, :, None] == self.own[:, None, :]
        near = correlation[self.cells[:, :, None], self.cells[:, None, :]]
        matrix = _IMAGE + near * (_FIELD + _PATTERN * same)
        matrix *= np.exp(-np.abs(self.times[:, :, None] - self.times[:, None, :]))
        matrix *= self.known[:, :, None] & self.known[:, None, :]
        diagonal = np.arange(self.shape[1])
        matrix[:, diagonal, diagonal] = np.where(self.known, 1 + nugget, 1.0)
        self.variance = 1 + nugget
        self.root = torch.linalg.cholesky(torch.from_numpy(matrix))

    def spread(self, values: NDArray[np.generic]) -> Floats:
        """Values of observations, ``(n, …)``, to their images and places, zeros elsewhere."""
        out = np.zeros((*self.shape, *values.shape[1:]))
        out[self.images, self.place] = values
        return out

    def whiten(self, values: Floats) -> Floats:
        """``(n, …)`` of correlated observations to as many uncorrelated ones."""
        table = torch.from_numpy(self.spread(values).reshape(*self.shape, -1))
        solved = torch.linalg.solve_triangular(self.root, table, upper=False).numpy()
        found: Floats = solved[self.images, self.place].reshape(values.shape)
        return found

    def scale(self, values: Floats) -> Floats:
        """Variance of each image's process, relative to the mean one, ``(N,)``."""
        square = np.bincount(self.images, self.whiten(values) ** 2, self.total)
        found: Floats = (_SCALE_COUNT + square) / (_SCALE_COUNT + self.count)
        return found

    def likelihood(self, values: Floats) -> float:
        """Log density of the observations, each image's scale integrated out, up to a constant."""
        square = np.bincount(self.images, self.whiten(values) ** 2, self.total)
        volume = torch.diagonal(self.root, dim1=1, dim2=2).log().sum()
        power = (_SCALE_COUNT + self.count) / 2
        return -float(volume) - float((power * np.log(_SCALE_COUNT + square)).sum())

    def others(self, values: Floats) -> tuple[Floats, Floats]:
        """What the other observations of its image make of each: mean and variance, ``(n,)``."""
        inverse = torch.cholesky_inverse(self.root)
        table = torch.from_numpy(self.spread(values))[:, :, None]
        pull = (inverse @ table)[:, :, 0].numpy()[self.images, self.place]
        own = torch.diagonal(inverse, dim1=1, dim2=2).numpy()[self.images, self.place]
        return values - pull / own, 1 / own

    def gram(self, rows: Floats, values: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Of what is seen now: ``Rᵀ V⁻¹ R`` and ``Rᵀ V⁻¹ v``, V given what is remembered.

        Args:
            rows: R, ``(recent, P)``.
            values: ``(n,)``, the remembered ones too.
            weights: ``(N,)`` of each image.
        """
        white = self._solve(values)[:, self.first :]
        square = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        pull = torch.zeros(rows.shape[1], dtype=torch.float64)
        kind = torch.float64 if np.abs(rows).max() > _LARGE else torch.float32
        for part, table in self._tables(rows):
            own = torch.from_numpy(np.sqrt(weights[part])).to(kind)[:, None]
            flat = (table * own[:, :, None]).flatten(0, 1)
            square += flat.T @ flat
            pull += flat.T @ (white[part].to(kind) * own).flatten()
        return square.numpy(), pull.numpy()

    def _solve(self, values: Floats) -> Tensor:
        table = torch.from_numpy(self.spread(values))[:, :, None]
        found: Tensor = torch.linalg.solve_triangular(self.root, table, upper=False)[:, :, 0]
        return found

    def _tables(self, rows: Floats) -> Iterator[tuple[slice, Tensor]]:
        """Whitened rows of a few images at a time, ``(images, recent places, P)``."""
        single = rows.astype(np.float32)
        old = len(self.images) - len(rows)
        for start in range(0, self.total, _CHUNK):
            part = slice(start, min(start + _CHUNK, self.total))
            index = self.recent[self.ends[part.start] : self.ends[part.stop]]
            table = torch.zeros(part.stop - start, self.shape[1] - self.first, rows.shape[1])
            table[self.images[index] - start, self.place[index] - self.first] = torch.from_numpy(
                single[index - old]
            )
            root = self.root[part, self.first :, self.first :].float()
            yield part, torch.linalg.solve_triangular(root, table, upper=False)

    def predict(self, values: Floats, rows: Floats) -> Iterator[tuple[slice, Prediction]]:
        """Every pair now, a few images at a time.

        Args:
            values, rows: ``(n,)`` of all observations and ``(recent, P)`` of those seen now.
        """
        near = torch.from_numpy(self.correlation).float()
        cells, age = torch.from_numpy(self.cells), torch.from_numpy(np.exp(-self.times)).float()
        age = age * torch.from_numpy(self.known)
        own, patterns = torch.from_numpy(self.own), torch.from_numpy(self.patterns)
        white = self._solve(values).float()
        for part, table in self._tables(rows):
            cross = near[cells[part]]
            same = own[part, :, None] == patterns.T[part, None, :]
            cross *= torch.where(same, _FIELD + _PATTERN, _FIELD)
            cross += _IMAGE
            cross *= age[part, :, None]
            cross = torch.linalg.solve_triangular(self.root[part].float(), cross, upper=False)
            mean = torch.einsum("nmd,nm->nd", cross, white[part])
            spread = self.variance - torch.einsum("nmd,nmd->nd", cross, cross)
            recent = cross[:, self.first :]
            yield part, Prediction(mean.double(), spread.double().clamp(min=1e-3), recent, table)


@dataclass(frozen=True)
class Prediction:
    """Of a few images: mean and variance, ``(images, D)``, and what they come from.

    How the mean answers to the weights of the rows is minus ``crossᵀ white``.
    """

    mean: Tensor
    variance: Tensor
    cross: Tensor
    white: Tensor

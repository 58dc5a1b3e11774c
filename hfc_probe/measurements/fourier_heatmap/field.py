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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Shares of the variance: an image as such, its field, its field under one pattern.
_IMAGE, _FIELD, _PATTERN = 0.25, 0.35, 0.40
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


NOTHING = Seen(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


class _Places:
    """Observations by image: each has a place of its own among those of its image."""

    def __init__(self, cells: Ints, images: Ints, patterns: Ints) -> None:
        total = patterns.shape[1]
        self.images, self.count = images, np.bincount(images, minlength=total)
        self.order = np.argsort(images, kind="stable")
        self.ends = np.append(0, np.cumsum(self.count))
        self.place = np.empty(len(images), np.int64)
        self.place[self.order] = np.arange(len(images)) - np.repeat(self.ends[:-1], self.count)
        self.shape = total, int(self.count.max(initial=0))
        self.known = self.spread(np.ones(len(images))) > 0
        self.cells = self.spread(cells).astype(np.int64)
        self.own = np.where(self.known, patterns[self.cells, np.arange(total)[:, None]], -1)

    def spread(self, values: NDArray[np.generic]) -> Floats:
        """Values of observations, ``(n,)``, to their images and places, zeros elsewhere."""
        out = np.zeros(self.shape)
        out[self.images, self.place] = values
        return out

    def members(self, images: Ints) -> Ints:
        """Numbers of the observations of some images."""
        return np.concatenate([self.order[self.ends[k] : self.ends[k + 1]] for k in images])

    def covariance(self, other: _Places, correlation: Floats) -> Floats:
        """Of the fields at one time, ``(N, own places, other places)``; 0 where there is none."""
        matrix = correlation[self.cells[:, :, None], other.cells[:, None, :]]
        matrix *= _FIELD + _PATTERN * (self.own[:, :, None] == other.own[:, None, :])
        matrix += _IMAGE
        matrix *= self.known[:, :, None] & other.known[:, None, :]
        return matrix


class Past:
    """What is remembered of the images' processes: the same for all that is seen of one map.

    Args:
        seen: the observations; ``times`` as they were in the last map.
        patterns: ``(D, N)`` sign pattern of each pair.
        correlation: ``(D, D)`` k.
        nugget: share of the variance that no other observation tells of.
    """

    def __init__(self, seen: Seen, patterns: Ints, correlation: Floats, nugget: float) -> None:
        self.seen, self.patterns, self.correlation = seen, patterns, correlation
        self.at = _Places(seen.cells, seen.images, patterns)
        times = self.at.spread(seen.times)
        matrix = self.at.covariance(self.at, correlation)
        matrix *= np.exp(-np.abs(times[:, :, None] - times[:, None, :]))
        self.root = _root(matrix, self.at.known, nugget)
        self.fading = np.exp(-times) * self.at.known
        white = self.at.spread(seen.values)[:, :, None]
        self.white = torch.linalg.solve_triangular(self.root, torch.from_numpy(white), upper=False)
        self.square = (self.white**2).sum((1, 2)).numpy()


class Field:
    """The images' processes, given where they were observed.

    What is remembered is whitened first, so what is seen now needs the last rows and columns of
    the root alone, and another drift or nugget changes only the last block.

    Args:
        past: what is remembered.
        cells, images: ``(n,)`` what is seen now.
    """

    def __init__(self, past: Past, cells: Ints, images: Ints) -> None:
        self.past, self.at = past, _Places(cells, images, past.patterns)
        self.own = torch.from_numpy(self.at.covariance(self.at, past.correlation))
        cross = past.at.covariance(self.at, past.correlation) * past.fading[:, :, None]
        self.cross = torch.linalg.solve_triangular(past.root, torch.from_numpy(cross), upper=False)
        self.told = self.cross.mT @ self.cross
        self.expected = (self.cross.mT @ past.white)[:, :, 0]
        self.count = past.at.count + self.at.count

    def assume(self, nugget: float, drift: float) -> Field:
        """Share of the variance that is an observation's own, and how far the images moved."""
        self.variance, self.fade = 1 + nugget, float(np.exp(-drift))
        matrix = (self.own - self.fade**2 * self.told).numpy()
        self.root = _root(matrix, self.at.known, nugget)
        return self

    def whiten(self, values: Floats) -> Tensor:
        """``(n,)`` of what is seen now to uncorrelated ones of their images, ``(N, places)``."""
        table = torch.from_numpy(self.at.spread(values)) - self.fade * self.expected
        found: Tensor = torch.linalg.solve_triangular(self.root, table[:, :, None], upper=False)
        return found[:, :, 0]

    def _square(self, values: Floats) -> Floats:
        found: Floats = self.past.square + (self.whiten(values) ** 2).sum(1).numpy()
        return found

    def scale(self, values: Floats) -> Floats:
        """Variance of each image's process, relative to the mean one, ``(N,)``."""
        found: Floats = (_SCALE_COUNT + self._square(values)) / (_SCALE_COUNT + self.count)
        return found

    def likelihood(self, values: Floats) -> float:
        """Log density of the observations, each image's scale integrated out, up to a constant."""
        volume = torch.diagonal(self.root, dim1=1, dim2=2).log().sum()
        power = (_SCALE_COUNT + self.count) / 2
        return -float(volume) - float((power * np.log(_SCALE_COUNT + self._square(values))).sum())

    def others(self, values: Floats) -> tuple[Floats, Floats]:
        """What the other observations of its image make of each: mean and variance, ``(n,)``."""
        inverse = torch.linalg.solve_triangular(self.root, _unit(self.root), upper=False)
        own = (inverse**2).sum(1).numpy()[self.at.images, self.at.place]
        pull = (inverse.mT @ self.whiten(values)[:, :, None])[:, :, 0].numpy()
        return values - pull[self.at.images, self.at.place] / own, 1 / own

    def gram(
        self, rows: Floats, values: Floats, weights: Floats, parts: Sequence[Part], size: int
    ) -> tuple[Floats, Floats]:
        """Of what is seen now: ``Rᵀ V⁻¹ R`` and ``Rᵀ V⁻¹ v``, V given what is remembered.

        Args:
            rows: R, ``(n, width)``: columns that its images can have.
            values: ``(n,)``.
            weights: ``(N,)`` of each image.
            parts: images that have the same columns.
            size: P, how many columns there are.
        """
        white = self.whiten(values)
        square, pull = np.zeros((size, size)), np.zeros(size)
        kind = torch.float64 if np.abs(rows).max() > _LARGE else torch.float32
        for part in parts:
            table, at = self._table(rows, part.images)
            own = torch.from_numpy(np.sqrt(weights[part.images])).to(kind)
            table = table.to(kind) * own[at, None]
            target = (white[part.images].to(kind) * own[:, None])[self._known(part.images)]
            products, pulls = (table.T @ table).numpy(), (table.T @ target).numpy()
            for i, row in part.runs:
                pull[row] += pulls[i]
                for j, column in part.runs:
                    square[row, column] += products[i, j]
        return square, pull

    def _known(self, images: Ints) -> Tensor:
        """Which places of a few images have an observation, ``(images, places)``."""
        return torch.from_numpy(self.at.known[images])

    def _table(self, rows: Floats, images: Ints) -> tuple[Tensor, Tensor]:
        """Whitened rows of a few images, ``(n, width)``, and which of the images each is of."""
        members, known = self.at.members(images), self._known(images)
        line = known.nonzero()[:, 0]
        table = torch.zeros(len(images), self.at.shape[1], rows.shape[1])
        table[line, self.at.place[members]] = torch.from_numpy(rows[members]).float()
        root = self.root[images].float()
        white = torch.linalg.solve_triangular(root, table, upper=False)
        return white[known], line

    def predict(
        self, values: Floats, rows: Floats, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Prediction]]:
        """Every pair now, a few images at a time; arguments as of :meth:`gram`."""
        near = torch.from_numpy(self.past.correlation).float()
        patterns = torch.from_numpy(np.ascontiguousarray(self.past.patterns.T))
        told = [self.past.at, self.at]
        cells, own = (
            torch.from_numpy(np.concatenate([getattr(x, name) for x in told], 1))
            for name in ("cells", "own")
        )
        ages = np.concatenate([self.past.fading * self.fade, self.at.known], 1)
        fading = torch.from_numpy(ages).float()
        white = torch.cat([self.past.white[:, :, 0], self.whiten(values)], 1).float()
        first = self.past.at.shape[1]
        for part in parts:
            images = part.images
            root = torch.zeros(len(images), cells.shape[1], cells.shape[1])
            root[:, :first, :first] = self.past.root[images]
            root[:, first:, :first] = self.fade * self.cross[images].mT
            root[:, first:, first:] = self.root[images]
            cross = near[cells[images]]
            same = own[images, :, None] == patterns[images, None, :]
            cross *= torch.where(same, _FIELD + _PATTERN, _FIELD)
            cross += _IMAGE
            cross *= fading[images, :, None]
            cross = torch.linalg.solve_triangular(root, cross, upper=False)
            mean = (white[images, None] @ cross)[:, 0]
            spread = self.variance - cross.square().sum(1)
            told, at = cross[:, first:][self._known(images)], self._table(rows, images)
            yield part, Prediction(mean, spread.clamp(min=1e-3), told, *at)


@dataclass(frozen=True)
class Part:
    """A few images whose rows have entries in the same columns, ``(width,)`` of them."""

    images: Ints
    columns: Ints

    @cached_property
    def runs(self) -> list[tuple[slice, slice]]:
        """Columns in a row: which they are of these, and which of all."""
        starts = np.flatnonzero(np.diff(self.columns, prepend=-2) > 1)
        return [
            (slice(a, b), slice(int(self.columns[a]), int(self.columns[b - 1]) + 1))
            for a, b in pairwise([*starts.tolist(), len(self.columns)])
        ]


@dataclass(frozen=True)
class Prediction:
    """Of a few images: mean and variance, ``(images, D)``, and what they come from.

    How the mean answers to the weights of the rows is minus ``crossᵀ white``, of observations
    ``(n, D)`` and ``(n, width)`` of the images ``at``, ``(n,)``.
    """

    mean: Tensor
    variance: Tensor
    cross: Tensor
    white: Tensor
    at: Tensor


def _unit(like: Tensor) -> Tensor:
    return torch.eye(like.shape[1], dtype=like.dtype).expand_as(like)


def _root(matrix: Floats, known: NDArray[np.bool_], nugget: float) -> Tensor:
    """Of covariances, ``(N, places, places)``, with what each observation has of its own."""
    diagonal = np.arange(matrix.shape[1])
    matrix[:, diagonal, diagonal] += np.where(known, nugget, 1.0)
    found: Tensor = torch.linalg.cholesky(torch.from_numpy(matrix))
    return found

"""Sampling a proportion until its interval is narrow enough, with the stopping counted in.

A cell of the heatmap has N given images, of which an unknown number K is misclassified under
its noise. Images are looked at in random order, without replacement, until Wilson's interval,
with the finite-population correction (N − n) / (N − 1) and some z in place of 1.96, is within
the precision asked for. Looking repeatedly and stopping at a favourable moment would make a
plain z = 1.96 cover too rarely. Here the probability of every way to stop is computed exactly,
as a Markov chain on (n, k) for each K, and z is the smallest for which every K from 0 to N is
covered with at least the confidence asked for. Nothing is asymptotic.

The interval is about K / N: about what all N images would have shown.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.intervals import wilson

FIRST_LOOK, STEP = 16, 8
_MOST_Z = 3.5
# 5 % quantiles of the mean of a Poisson variable that was 0, 1, 2 or 3.
_POISSON = np.array([0.0, 0.0513, 0.3554, 0.8177])


def sampled_interval(
    wrong: ArrayLike, seen: ArrayLike, total: int, z: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval for the proportion in a finite population.

    Args:
        wrong: errors among the images seen, any shape.
        seen: number of images seen, broadcast against it. 0 gives [0, 1].
        total: N, the images there are. All of them seen gives the proportion itself.
        z: normal quantile.

    Returns:
        ``(lower, upper)``. Up to three errors (or all but three) the near end is Poisson's, since
        Wilson's misses rates near 0 (Brown, Cai and DasGupta, Statistical Science 2001). Neither
        is further out than what is still possible: the errors seen, and
        those plus all images not seen.

    >>> lower, upper = sampled_interval(30, 100, 400, 1.96)
    >>> print(f"{lower:.3f} {upper:.3f}")
    0.229 0.383
    """
    k, n = np.broadcast_arrays(np.asarray(wrong, np.float64), np.asarray(seen, np.float64))
    square = z**2 * (total - n) / max(total - 1, 1)
    safe = np.maximum(n, 1.0)
    p = k / safe
    spread = 1 + square / safe
    centre = (p + square / (2 * safe)) / spread
    half = np.sqrt(square * (p * (1 - p) / safe + square / (4 * safe**2))) / spread
    few = np.append(_POISSON, np.inf)
    lower = np.minimum(centre - half, few[np.minimum(k, len(_POISSON)).astype(int)] / safe)
    rest = np.minimum(n - k, len(_POISSON)).astype(int)
    upper = np.maximum(centre + half, 1 - few[rest] / safe)
    lower = np.where(n == 0, 0.0, np.maximum(lower, k / total))
    upper = np.where(n == 0, 1.0, np.minimum(upper, (k + total - n) / total))
    return lower, upper


def looks(total: int) -> NDArray[np.int64]:
    """Numbers of images after which a cell is looked at; the last is all of them.

    >>> looks(40).tolist()
    [16, 24, 32, 40]
    """
    return np.unique(np.append(np.arange(min(FIRST_LOOK, total), total, STEP), total))


@lru_cache(maxsize=64)
def calibrated_z(total: int, precision: float, confidence: float = 0.95) -> float:
    """The smallest z, on a grid of 0.01, with exact coverage for every possible proportion.

    Args:
        total: N, the images there are.
        precision: half-width at which a cell stops.
        confidence: least coverage, over all K from 0 to N.
    """
    counts = np.arange(total // 2 + 1)  # K and N − K are mirror images
    if len(counts) > 120:  # coverage changes slowly with K in large populations
        counts = np.unique(np.round(np.linspace(0, total // 2, 120)).astype(np.int64))
    z = 1.96
    while z < _MOST_Z:
        if coverage(total, precision, z, counts)[0].min() >= confidence:
            break
        z += 0.01
    return round(z, 2)


def coverage(
    total: int, precision: float, z: float, errors: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact coverage and mean number of images of the stopping rule.

    Args:
        total: N, the images there are.
        precision: half-width at which a cell stops.
        z: normal quantile of the intervals.
        errors: values of K to compute it for, ``(M,)``.

    Returns:
        ``(coverage, images)``, each ``(M,)``.
    """
    reached = np.zeros((len(errors), total + 2))
    reached[:, 0] = 1.0
    covered, images = np.zeros(len(errors)), np.zeros(len(errors))
    true = errors[:, None] / total
    stops = set(looks(total).tolist())
    for n in range(1, total + 1):
        k = np.arange(n)
        chance = np.clip((errors[:, None] - k) / (total - n + 1), 0.0, 1.0)
        moved = reached[:, :n] * chance
        reached[:, :n] -= moved
        reached[:, 1 : n + 1] += moved
        if n not in stops:
            continue
        lower, upper = sampled_interval(np.arange(n + 1), n, total, z)
        stop = ((upper - lower) / 2 <= precision) | (n == total)
        inside = (lower - 1e-12 <= true) & (true <= upper + 1e-12)
        ended = reached[:, : n + 1] * stop
        covered += (ended * inside).sum(1)
        images += n * ended.sum(1)
        reached[:, : n + 1] -= ended
        if reached.sum() < 1e-12:
            break
    return covered, images


def finest(samples: int) -> float:
    """Half-width at an error rate of one half of the Wilson interval of that many images.

    >>> print(f"{finest(1000):.3f}")
    0.031
    """
    lower, upper = wilson(samples / 2, samples)
    return float(upper - lower) / 2


def samples_for(precision: float) -> int:
    """How many images have that half-width at an error rate of one half.

    >>> samples_for(0.05)
    381
    """
    z = 1.959964
    return max(1, math.ceil(z**2 * (1 / (4 * precision**2) - 1)))


def expected_share(samples: int, precision: float) -> float:
    """At most so much of the exhaustive measurement does a precision take, as a proportion."""
    square = calibrated_z(samples, precision) ** 2
    alone = square / (4 * precision**2)
    return min(1.0, (alone / (1 + alone / samples) + STEP) / samples)

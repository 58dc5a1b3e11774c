"""Confidence intervals of measured proportions, and of differences between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson(
    successes: ArrayLike, count: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson score interval of a binomial proportion, without continuity correction.

    Args:
        successes: number of successes, any shape.
        count: number of trials, broadcast against ``successes``. If it is 0 the
            interval is [0, 1]: nothing is known.
        confidence: coverage, between 0 and 1.

    Returns:
        ``(lower, upper)``, each in [0, 1] and of the broadcast shape.

    Source: Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 1927.

    >>> lower, upper = wilson(85, 100)
    >>> print(f"{lower:.3f} {upper:.3f}")
    0.767 0.907
    """
    k, n = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(count, dtype=np.float64)
    )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    safe = np.maximum(n, 1.0)
    p = np.clip(k / safe, 0.0, 1.0)  # a mean over cells is a rounding beyond 0 or n at times
    spread = 1.0 + z**2 / safe
    centre = (p + z**2 / (2 * safe)) / spread
    half = z * np.sqrt(p * (1 - p) / safe + z**2 / (4 * safe**2)) / spread
    # At 0 and n successes the bound is exactly 0 or 1; rounding would miss it.
    lower = np.where(k <= 0, 0.0, centre - half)
    upper = np.where(k >= n, 1.0, centre + half)
    return np.where(n == 0, 0.0, lower), np.where(n == 0, 1.0, upper)


def difference(
    successes1: ArrayLike,
    count1: ArrayLike,
    successes2: ArrayLike,
    count2: ArrayLike,
    confidence: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the first proportion minus the second, of two independent samples.

    Two intervals may overlap while the interval of their difference excludes 0, so this is what
    tells whether two proportions differ.

    Args:
        successes1, count1, successes2, count2: successes and trials of either sample, broadcast
            against one another. If a count is 0, nothing is known of that proportion.
        confidence: coverage, between 0 and 1.

    Returns:
        ``(lower, upper)``, each in [−1, 1] and of the broadcast shape.

    Source: Newcombe, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", Statistics in Medicine 1998, method 10 (hybrid score).

    >>> lower, upper = difference(139, 512, 104, 512)
    >>> print(f"{lower:.3f} {upper:.3f}")
    0.016 0.120
    """
    arrays = (successes1, count1, successes2, count2)
    k1, n1, k2, n2 = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arrays))
    p1, p2 = k1 / np.maximum(n1, 1), k2 / np.maximum(n2, 1)
    low1, high1 = wilson(k1, n1, confidence)
    low2, high2 = wilson(k2, n2, confidence)
    lower, upper = square_and_add(p1, low1, high1, p2, low2, high2)
    known = (n1 > 0) & (n2 > 0)
    return np.where(known, lower, -1.0), np.where(known, upper, 1.0)


def square_and_add(
    first: ArrayLike,
    low1: ArrayLike,
    high1: ArrayLike,
    second: ArrayLike,
    low2: ArrayLike,
    high2: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the difference of two independent estimates, from the interval of each.

    With Wilson intervals it is :func:`difference`; any other kind of interval will do, such as
    one by bootstrap.

    Source: Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach", Statistics in Medicine 2008.
    """
    arrays = (first, low1, high1, second, low2, high2)
    p1, l1, u1, p2, l2, u2 = (np.asarray(a, dtype=np.float64) for a in arrays)
    gap = p1 - p2
    return np.asarray(gap - np.hypot(p1 - l1, u2 - p2)), np.asarray(
        gap + np.hypot(u1 - p1, p2 - l2)
    )


def paired_difference(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the first proportion minus the second, of the same images seen twice.

    Only images on which the two differ count, so it is much narrower than :func:`difference` if
    most outcomes agree. It excludes 0 exactly if McNemar's test is significant.

    Args:
        first, second: outcomes (true or false), ``(..., N)``, image by image in one order.
        confidence: coverage, between 0 and 1.

    Returns:
        ``(lower, upper)``, each in [−1, 1] and of shape ``(...)``; [−1, 1] without images.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 1998 (score interval).

    >>> lower, upper = paired_difference([True] * 20 + [False] * 80, [True] * 12 + [False] * 88)
    >>> print(f"{lower:.3f} {upper:.3f}")
    0.040 0.150
    """
    one, two = np.broadcast_arrays(np.asarray(first, dtype=bool), np.asarray(second, dtype=bool))
    only_first = np.asarray((one & ~two).sum(axis=-1), dtype=np.float64)
    only_second = np.asarray((two & ~one).sum(axis=-1), dtype=np.float64)
    n = one.shape[-1]
    if n == 0:
        return np.full(only_first.shape, -1.0), np.full(only_first.shape, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    # The upper bound is the lower one of the difference the other way round.
    return _tango(only_first, only_second, n, z), -_tango(only_second, only_first, n, z)


def _tango(b: NDArray[np.float64], c: NDArray[np.float64], n: int, z: float) -> NDArray[np.float64]:
    """Tango's lower bound: the smallest difference whose score is at most z, by bisection."""
    outside, inside = np.full(b.shape, -1.0), (b - c) / n
    for _ in range(50):
        middle = (outside + inside) / 2
        linear = (2 * n - b + c) * middle - b - c
        root = np.sqrt(np.maximum(linear**2 + 8 * n * c * middle * (1 - middle), 0))
        q = (root - linear) / (4 * n)  # likeliest share of c if the difference is `middle`
        variance = n * (2 * q + middle * (1 - middle))
        fits = (b - c - n * middle) ** 2 <= z**2 * variance
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    return inside


def percent(proportion: float, lower: float | None = None, upper: float | None = None) -> str:
    """``91.2 %`` or ``91.2 % [88.5, 93.4]``; a dash if nothing was measured.

    >>> percent(0.912, 0.885, 0.934)
    '91.2 % [88.5, 93.4]'
    """
    if not np.isfinite(proportion):
        return "–"
    text = f"{100 * proportion:.1f} %"
    if lower is None or upper is None:
        return text
    return f"{text} [{100 * lower:.1f}, {100 * upper:.1f}]"


def percent_at(arrays: Mapping[str, NDArray[Any]], name: str, *at: int) -> str:
    """:func:`percent` of one cell of an array, with the bounds that stand beside it.

    >>> percent_at(proportion_arrays("hit", [4, 8], 10), "hit", 1)
    '80.0 % [49.0, 94.3]'
    """
    return percent(*(float(arrays[name + part][at]) for part in ("", "_lower", "_upper")))


def proportion_arrays(name: str, correct: ArrayLike, count: ArrayLike) -> dict[str, NDArray[Any]]:
    """``name``, ``name_lower``, ``name_upper``, ``name_correct``, ``name_count`` as arrays."""
    k, n = np.broadcast_arrays(np.asarray(correct), np.asarray(count))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(n > 0, k / np.maximum(n, 1), np.nan)
    lower, upper = wilson(k, n)
    return {
        name: rate,
        f"{name}_lower": lower,
        f"{name}_upper": upper,
        f"{name}_correct": k.astype(np.int64),
        f"{name}_count": n.astype(np.int64),
    }

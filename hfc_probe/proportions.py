"""Confidence intervals of measured proportions."""

from __future__ import annotations

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
        count: number of trials, broadcast against ``successes``. Where it is 0 the
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
    p = k / safe
    spread = 1.0 + z**2 / safe
    centre = (p + z**2 / (2 * safe)) / spread
    half = z * np.sqrt(p * (1 - p) / safe + z**2 / (4 * safe**2)) / spread
    # At 0 and n successes the bound is exactly 0 or 1; rounding would miss it.
    lower = np.where(k == 0, 0.0, centre - half)
    upper = np.where(k == n, 1.0, centre + half)
    return np.where(n == 0, 0.0, lower), np.where(n == 0, 1.0, upper)


def percent(proportion: float, lower: float | None = None, upper: float | None = None) -> str:
    """``91.2 %`` or ``91.2 % [88.5, 93.4]``; a dash where nothing was measured.

    >>> percent(0.912, 0.885, 0.934)
    '91.2 % [88.5, 93.4]'
    """
    if not np.isfinite(proportion):
        return "–"
    text = f"{100 * proportion:.1f} %"
    if lower is None or upper is None:
        return text
    return f"{text} [{100 * lower:.1f}, {100 * upper:.1f}]"


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

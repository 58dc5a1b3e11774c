"""Intervals against scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hfc_probe.proportions import proportion_arrays, wilson


@pytest.mark.parametrize("n", [1, 2, 7, 50, 512, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_equals_scipy(n, confidence):
    successes = sorted({0, 1, n // 3, n // 2, n - 1, n})
    lower, upper = wilson(successes, n, confidence)
    for k, low, high in zip(successes, lower, upper, strict=True):
        interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_nothing_measured_is_nothing_known():
    arrays = proportion_arrays("x", np.array([0, 3]), np.array([0, 4]))
    assert np.isnan(arrays["x"][0])
    assert arrays["x"][1] == 0.75
    assert (arrays["x_lower"][0], arrays["x_upper"][0]) == (0, 1)


def test_wilson_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for p in (0.1, 0.5, 0.93):
        lower, upper = wilson(rng.binomial(100, p, 20_000), 100)
        assert 0.93 < np.mean((lower <= p) & (p <= upper)) < 0.98

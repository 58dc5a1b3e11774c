"""Intervals against scipy."""

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binom, binomtest, multinomial

from hfc_probe.core.intervals import difference, paired_difference, proportion_arrays, wilson


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


def test_counts_a_rounding_beyond_the_trials_are_at_the_end():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower, upper = wilson([10 + 1e-9, -1e-9, 3], [10, 10, 0])
    np.testing.assert_allclose(lower, [wilson(10, 10)[0], 0, 0])
    np.testing.assert_allclose(upper, [1, wilson(0, 10)[1], 1])


def test_wilson_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for p in (0.1, 0.5, 0.93):
        lower, upper = wilson(rng.binomial(100, p, 20_000), 100)
        assert 0.93 < np.mean((lower <= p) & (p <= upper)) < 0.98


# Newcombe 1998 (Statistics in Medicine 17:873-890), Table II: method 10, the eight contrasts.
PUBLISHED = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((5, 56, 0, 29), (-0.0381, 0.1926)),
    ((0, 10, 0, 20), (-0.1611, 0.2775)),
    ((0, 10, 0, 10), (-0.2775, 0.2775)),
    ((10, 10, 0, 20), (0.6791, 1.0)),
    ((10, 10, 0, 10), (0.6075, 1.0)),
]


def test_difference_equals_the_published_table():
    counts = np.array([counts for counts, _ in PUBLISHED]).T
    expected = np.array([bounds for _, bounds in PUBLISHED]).T
    assert np.array(difference(*counts)) == pytest.approx(expected, abs=6e-5)


def test_overlapping_intervals_may_differ():
    """Two real runs: 27.1 and 20.3 % of 512 images."""
    (_, high), (low, _) = np.transpose(wilson([104, 139], 512))
    assert low < high
    lower, upper = difference(139, 512, 104, 512)
    assert (round(100 * float(lower), 1), round(100 * float(upper), 1)) == (1.6, 12.0)


def test_differences_turn_round_and_know_nothing_without_images():
    lower, upper = difference([3, 5], 20, [9, 5], 30)
    assert np.array(difference([9, 5], 30, [3, 5], 20)) == pytest.approx(np.array([-upper, -lower]))
    assert np.array(difference(0, 0, [1, 5], 5)).tolist() == [[-1, -1], [1, 1]]
    assert np.array(paired_difference(np.zeros((2, 0)), np.zeros(0))).tolist() == [[-1, -1], [1, 1]]


def bits(both, first, second, neither):
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    return np.array(pairs, dtype=bool).reshape(-1, 2).T


TABLES = [(1, 1, 7, 12), (59, 6, 16, 80), (36, 12, 2, 0), (450, 0, 6, 56), (30, 0, 0, 5)]
TABLES += [(0, 0, 9, 0), (0, 4, 4, 0), (3, 40, 2, 1)]


def score(table, theta):
    """Squared score statistic of a difference, its likelihood maximised by brute force."""
    both, b, c, neither = table
    n = sum(table)

    def loss(q):
        return -(xlogy(b, q + theta) + xlogy(c, q) + xlogy(both + neither, 1 - 2 * q - theta))

    low, high = max(0.0, -theta), (1 - theta) / 2
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (b - c - n * theta) ** 2 / (n * (2 * q + theta - theta**2))


@pytest.mark.parametrize("table", TABLES)
def test_paired_bounds_are_where_the_score_test_turns(table):
    """An independent likelihood search gives z² at both bounds, unless they are ±1."""
    for bound in paired_difference(*bits(*table)):
        if abs(bound) < 1 - 1e-9:
            assert score(table, float(bound)) == pytest.approx(1.959964**2, rel=1e-4)


@pytest.mark.parametrize(
    ("table", "bounds"),
    [((1, 1, 7, 12), (-0.517, -0.026)), ((59, 6, 16, 80), (-0.124, -0.0054))],
)
def test_paired_interval_of_published_tables(table, bounds):
    """Bentur et al. 2009 and Cavo et al. 2012, in Fagerland, Lydersen and Laake, "Statistical
    Analysis of Contingency Tables", 2017, chapter 8.
    """
    assert np.array(paired_difference(*bits(*table))) == pytest.approx(bounds, abs=6e-4)


def test_paired_excludes_zero_if_mcnemar_is_significant():
    for b in range(16):
        for c in range(16):
            lower, upper = paired_difference(*bits(40, b, c, 20))
            significant = (b - c) ** 2 > 1.959964**2 * (b + c)
            assert (lower > 0 or upper < 0) == significant, (b, c)


def test_pairs_tell_more_apart_than_independent_samples():
    table = bits(90, 0, 12, 98)
    lower, upper = paired_difference(*table)
    assert upper < 0
    apart = difference(90, 200, 102, 200)
    assert apart[0] < 0 < apart[1]
    many = paired_difference(np.stack([table[0]] * 3), table[1])
    assert np.array(many) == pytest.approx(np.array([[lower] * 3, [upper] * 3]))


@pytest.mark.parametrize(
    ("n1", "n2", "p1", "p2"), [(40, 40, 0.5, 0.5), (60, 30, 0.2, 0.4), (100, 100, 0.93, 0.9)]
)
def test_difference_covers_the_truth_by_exact_enumeration(n1, n2, p1, p2):
    k1, k2 = np.meshgrid(np.arange(n1 + 1), np.arange(n2 + 1), indexing="ij")
    lower, upper = difference(k1, n1, k2, n2)
    weight = np.outer(binom.pmf(np.arange(n1 + 1), n1, p1), binom.pmf(np.arange(n2 + 1), n2, p2))
    covered = weight[(lower <= p1 - p2) & (p1 - p2 <= upper)].sum()
    assert 0.94 < covered < 0.97


@pytest.mark.parametrize(("b", "c"), [(0.1, 0.1), (0.2, 0.05), (0.3, 0.3), (0.03, 0.08)])
def test_paired_covers_the_truth_by_exact_enumeration(b, c):
    n, covered = 40, 0.0
    for only_first in range(n + 1):
        for only_second in range(n + 1 - only_first):
            table = (n - only_first - only_second, only_first, only_second)
            chance = multinomial.pmf(table, n, (1 - b - c, b, c))
            if chance > 1e-9:
                lower, upper = paired_difference(*bits(table[0], only_first, only_second, 0))
                covered += chance * bool(lower <= b - c <= upper)
    assert 0.93 < covered < 0.975

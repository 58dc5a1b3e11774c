"""The best permutation of classes and the sign test, against SciPy's."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from hfc_probe.detection.doubts import best_assignment
from hfc_probe.detection.result import sign_test


@pytest.mark.parametrize("seed", range(20))
def test_the_best_assignment_has_scipys_sum(seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, rng.choice([3, 50]), rng.integers(1, 30, 2)).astype(float)
    rows, columns = best_assignment(table)
    assert len(rows) == min(table.shape) == len(set(columns.tolist())) == len(set(rows.tolist()))
    assert table[rows, columns].sum() == table[linear_sum_assignment(-table)].sum()


@pytest.mark.parametrize("counts", [(0, 5), (5, 5), (36, 30), (900, 1), (20000, 19000)])
def test_the_sign_test_is_scipys(counts):
    expected = binomtest(counts[0], sum(counts)).pvalue
    assert sign_test(*counts) == pytest.approx(expected, rel=1e-9, abs=1e-300)

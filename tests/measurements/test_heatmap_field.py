"""The images' processes of the modelled heatmap, against dense kriging of each image by itself."""

from __future__ import annotations

import numpy as np
import pytest

from hfc_probe.measurements.fourier_heatmap.field import Field, Part, Past, Seen

CELLS, IMAGES, NUGGET = 12, 3, 0.2
RNG = np.random.default_rng(5)
PLACE = RNG.uniform(0, 4, (CELLS, 2))
NEAR = np.exp(-np.linalg.norm(PLACE[:, None] - PLACE[None], axis=2))
PATTERNS = RNG.integers(0, 3, (CELLS, IMAGES))


def observations(each: int, times: float) -> Seen:
    cells = np.concatenate([RNG.choice(CELLS, each, replace=False) for _ in range(IMAGES)])
    images = np.repeat(np.arange(IMAGES), each)
    ages = RNG.uniform(0, 1, len(cells)) * times
    return Seen(cells, images, RNG.normal(size=len(cells)), ages)


OLD, NOW = observations(4, 0.8), observations(5, 0.0)


def covariance(image, cells, times, others, their_times):
    """As the module's docstring says it, without the nugget."""
    own, theirs = PATTERNS[cells, image], PATTERNS[others, image]
    alike = 0.25 + NEAR[np.ix_(cells, others)] * (0.35 + 0.4 * (own[:, None] == theirs[None]))
    return alike * np.exp(-np.abs(times[:, None] - their_times[None]))


def dense(image: int, drift: float):
    """Cells, times, values and covariance of all that is known of an image, the newest last."""
    a, b = OLD.images == image, NOW.images == image
    cells = np.concatenate([OLD.cells[a], NOW.cells[b]])
    times = np.concatenate([OLD.times[a] + drift, NOW.times[b]])
    values = np.concatenate([OLD.values[a], NOW.values[b]])
    return cells, times, values, covariance(image, cells, times, cells, times) + NUGGET * np.eye(9)


def field(drift: float) -> Field:
    made = Field(Past(OLD, PATTERNS, NEAR, NUGGET), NOW.cells, NOW.images)
    made.assume(NUGGET, 3.0)  # of which nothing must be left
    return made.assume(NUGGET, drift)


@pytest.mark.parametrize("drift", [0.02, 0.4])
def test_every_pair_is_predicted_as_by_kriging(drift):
    parts = [Part(np.array([2, 0]), np.zeros(0, np.int64)), Part(np.array([1]), np.arange(0))]
    rows, everywhere = np.zeros((len(NOW.cells), 0)), np.arange(CELLS)
    for part, found in field(drift).predict(NOW.values, rows, parts):
        for k, image in enumerate(part.images):
            cells, times, values, whole = dense(image, drift)
            cross = covariance(image, cells, times, everywhere, np.zeros(CELLS))
            pull = np.linalg.solve(whole, cross)
            assert np.allclose(found.mean[k], pull.T @ values, atol=1e-5)
            assert np.allclose(found.variance[k], 1 + NUGGET - (cross * pull).sum(0), atol=1e-5)


@pytest.mark.parametrize("drift", [0.02, 0.4])
def test_each_observation_is_expected_from_the_others(drift):
    mean, variance = field(drift).others(NOW.values)
    for n, image in enumerate(NOW.images):
        cells, times, values, whole = dense(image, drift)
        own = int(np.flatnonzero((cells == NOW.cells[n]) & (times == 0))[0])
        rest = np.arange(9) != own
        pull = np.linalg.solve(whole[np.ix_(rest, rest)], whole[rest, own])
        assert np.isclose(mean[n], pull @ values[rest])
        assert np.isclose(variance[n], whole[own, own] - pull @ whole[rest, own])


def test_the_likelihood_of_two_drifts_differs_as_the_dense_one():
    def slow(drift: float) -> float:
        total = 0.0
        for image in range(IMAGES):
            _, _, values, whole = dense(image, drift)
            square = values @ np.linalg.solve(whole, values)
            total -= np.linalg.slogdet(whole)[1] / 2 + (4 + 9) / 2 * np.log(4 + square)
        return total

    found = [field(drift).likelihood(NOW.values) for drift in (0.02, 0.4)]
    assert np.isclose(found[1] - found[0], slow(0.4) - slow(0.02))

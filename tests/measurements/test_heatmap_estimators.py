"""Heatmaps from a fraction of the passes: known answers, coverage, isolated spikes."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import FourierHeatmap, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.fourier_heatmap import sequential

SIZE, N, NORM = 16, 500, 1.0


class Linear(nn.Module):
    """Two classes by the sign of a weighted sum of Fourier coefficients, one channel.

    Noise of norm v in direction c moves the sum by ± v·w_c, nothing being clipped. So an
    image whose sum is t is misclassified, for one of the two signs, where |t| < v·w_c.
    """

    def __init__(self, weights: dict[tuple[int, int], float]) -> None:
        super().__init__()
        image = sum(w * fourier.basis(i, j, SIZE, SIZE) for (i, j), w in weights.items())
        self.register_buffer("image", image)

    def forward(self, x):
        total = ((x[:, 0] - 0.5) * self.image).sum((1, 2))
        return torch.stack([-total, total], 1)


def images_for(model: Linear) -> Samples:
    generator = torch.Generator().manual_seed(1)
    noise = 0.05 * torch.randn(N, 1, SIZE, SIZE, generator=generator)
    images = 0.5 + noise.clamp(-0.2, 0.2)
    return Samples(images, (model(images)[:, 1] > 0).long())


def smooth_weights() -> dict[tuple[int, int], float]:
    return {
        (i, j): 0.02 + 0.15 * float(np.exp(-((np.hypot(i, j) - 5) ** 2) / 8))
        for i, j in fourier.half_plane(SIZE, SIZE)
    }


@functools.cache
def planted() -> tuple[Linear, Samples, np.ndarray]:
    """The model, its samples, and the exact mean over both signs of each cell's error."""
    weights = smooth_weights()
    model = Linear(weights)
    samples = images_for(model)
    totals = ((samples.pixels()[:, 0] - 0.5) * model.image).sum((1, 2)).abs().numpy()
    expected = np.zeros((SIZE, SIZE))
    for i in range(-SIZE // 2, SIZE // 2):
        for j in range(-SIZE // 2, SIZE // 2):
            w = weights.get((i, j), weights.get((-i, -j)))
            if w is None:  # a Nyquist row or column, whose mirror has one sign only
                a, b = (-i if i > -SIZE // 2 else i), (-j if j > -SIZE // 2 else j)
                w = weights[(a, b)]
            expected[i + SIZE // 2, j + SIZE // 2] = 0.5 * (totals < NORM * w).mean()
    return model, samples, expected


@functools.cache
def exhaustive():
    model, samples, _ = planted()
    return FourierHeatmap(norm=NORM, samples=N).measure(model, samples)


def test_a_loss_is_modelled_from_a_few_passes():
    model, samples, _ = planted()

    def doubt(model, inputs, targets):
        logits = model(inputs)
        return torch.sigmoid(-3 * logits.gather(1, targets[:, None]) / NORM)[:, 0]

    settings = FourierHeatmap(norm=NORM, samples=250, crop=11, score=doubt)
    full = settings.measure(model, samples)
    few = replace(settings, forwards=1500).measure(model, samples)
    assert few.quantity == "score"
    assert few.passes <= 1500 < 0.1 * full.passes
    away = few.error - full.error
    alone = (full.upper - full.lower).mean() / 3.92 * np.sqrt(250 / few.count.mean())
    assert np.sqrt((away**2).mean()) < 0.8 * alone  # than of as many images, cell by cell
    assert ((few.lower <= full.error) & (full.error <= few.upper)).mean() > 0.9


def test_the_exhaustive_map_of_a_linear_model_is_the_closed_form():
    _, _, expected = planted()
    error = exhaustive().error
    assert expected.min() < 0.12
    assert expected.max() > 0.4
    # The signs drawn differ from one half each by chance; nothing else does.
    noise = np.sqrt(expected * (1 - 2 * expected) / 2 / N + 1e-6)
    assert np.abs(error - expected).max() < 4.5 * noise.max()
    assert abs((error - expected).mean()) < 0.005


def test_exact_coverage_agrees_with_simulated_walks():
    total, precision, z, k = 200, 0.08, 2.0, 60
    exact, images = sequential.coverage(total, precision, z, np.array([k]))
    rng = np.random.default_rng(0)
    population = np.arange(total) < k
    covered, seen = [], []
    for _ in range(2000):
        walk = np.cumsum(rng.permutation(population))
        for n in sequential.looks(total):
            low, high = sequential.sampled_interval(walk[n - 1], n, total, z)
            if (high - low) / 2 <= precision or n == total:
                covered.append(low <= k / total <= high)
                seen.append(n)
                break
    assert np.mean(covered) == pytest.approx(float(exact[0]), abs=0.02)
    assert np.mean(seen) == pytest.approx(float(images[0]), rel=0.02)


@pytest.mark.parametrize(("total", "precision"), [(1000, 0.05), (500, 0.1), (128, 0.1)])
def test_the_calibrated_interval_covers_every_proportion(total, precision):
    z = sequential.calibrated_z(total, precision)
    assert 1.96 <= z < 2.4
    covered, _ = sequential.coverage(total, precision, z, np.arange(0, total + 1, 3))
    assert covered.min() > 0.945
    plain, _ = sequential.coverage(total, precision, 1.96, np.arange(0, total + 1, 3))
    assert plain.min() < 0.945  # what peeking costs a plain interval


def test_precision_is_reached_everywhere_and_covers_the_exhaustive_map():
    model, samples, _ = planted()
    result = FourierHeatmap(norm=NORM, samples=N, precision=0.06).measure(model, samples)
    arrays, truth = result.arrays(), exhaustive().error
    assert ((arrays["upper"] - arrays["lower"]) / 2 <= 0.06 + 1e-12).all()
    inside = (arrays["lower"] <= truth) & (truth <= arrays["upper"])
    assert inside.mean() >= 0.93
    assert result.passes < 0.4 * exhaustive().passes
    seen = arrays["count"]
    sure, unsure = truth < np.quantile(truth, 0.2), truth > np.quantile(truth, 0.8)
    assert seen[sure].mean() < 0.8 * seen[unsure].mean()
    assert "precision" in str(result)


def test_the_model_makes_a_map_from_few_passes_and_its_intervals_cover():
    model, samples, expected = planted()
    budget = N + 12 * 130
    result = FourierHeatmap(norm=NORM, samples=N, forwards=budget).measure(model, samples)
    truth = exhaustive().error
    assert result.passes <= budget
    rmse = np.sqrt(((result.error - truth) ** 2).mean())
    raw = np.sqrt((truth * (1 - truth) / 12).mean())
    assert rmse < 0.5 * raw
    assert np.sqrt(((result.error - expected) ** 2).mean()) < 0.06
    assert ((result.lower <= truth) & (truth <= result.upper)).mean() >= 0.93
    assert result.unsafe == ()
    assert "smooth model" in str(result)
    np.testing.assert_array_equal(result.error[1:, 1:], result.error[1:, 1:][::-1, ::-1])


def test_a_constant_model_errs_alike_everywhere():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    samples = Samples(torch.rand(300, 3, 12, 12), torch.arange(300) % 3)
    for effort in ({}, {"precision": 0.1}, {"forwards": 2000}, {"radial": True}):
        result = FourierHeatmap(norm=1.0, **effort).measure(Constant(), samples)
        truth = 2 / 3
        inside = (result.lower - 1e-9 <= truth) & (truth <= result.upper + 1e-9)
        assert inside.mean() >= 0.9, effort
        assert "do not tell which frequency noise of norm 1.0 harms most" in result.verdict()


def test_an_isolated_spike_is_found_kept_and_reported():
    weights = dict.fromkeys(fourier.half_plane(SIZE, SIZE), 0.0)
    weights[(3, 4)] = 1.0  # its neighbours on the grid do no harm at all
    model = Linear(weights)
    samples = images_for(model)
    result = FourierHeatmap(norm=NORM, samples=N, forwards=N + 12 * 130).measure(model, samples)
    at = (SIZE // 2 + 3, SIZE // 2 + 4)
    truth = FourierHeatmap(norm=NORM, samples=N).measure(model, samples).error
    assert 0.4 < truth[at] < 0.6
    assert np.count_nonzero(truth) == 2
    assert result.unsafe == ((3, 4),)
    assert result.lower[at] <= truth[at] <= result.upper[at]
    assert abs(result.error[at] - truth[at]) < 0.15
    elsewhere = truth == 0
    assert result.error[elsewhere].max() < 0.05
    assert "unsafe at ±(3, 4)" in result.sentence()
    # It was looked at more than the others.
    assert result.count[at] > 2 * np.median(result.count)


def test_rings_give_the_error_against_radius_at_a_hundredth_of_the_cost():
    model, samples, _ = planted()
    result = FourierHeatmap(norm=NORM, samples=N, radial=True, forwards=2500).measure(
        model, samples
    )
    arrays = result.arrays()
    truth = exhaustive()
    directions = fourier.half_plane(SIZE, SIZE)
    ring = np.array([int(np.hypot(a, b) + 0.5) for a, b in directions])
    values = np.array([truth.error[a + SIZE // 2, b + SIZE // 2] for a, b in directions])
    means = np.array([values[ring == r].mean() for r in arrays["radius"].astype(int)])
    inside = (arrays["radial_lower"] <= means) & (means <= arrays["radial_upper"])
    assert inside.mean() >= 0.8
    assert np.abs(arrays["radial_error"] - means).mean() < 0.04
    assert result.passes <= 2500
    assert result.error[SIZE // 2 + 3, SIZE // 2 + 4] == arrays["radial_error"][5]
    cheap = FourierHeatmap(norm=NORM, samples=N, radial=True).measure(model, samples)
    assert cheap.passes - N - 16 <= 0.011 * (truth.passes - N)


def test_the_map_sharpens_as_it_goes(monkeypatch):
    from hfc_probe.measurements.fourier_heatmap import run as heatmap_run

    monkeypatch.setattr(heatmap_run, "_WATCH_SECONDS", 0.0)
    model, samples, _ = planted()
    seen = []
    final = FourierHeatmap(norm=NORM, samples=N, forwards=N + 40 * 130, watch=seen.append).measure(
        model, samples
    )
    widths = [float((r.upper - r.lower).mean()) for r in (*seen, final)]
    assert len(widths) >= 3
    assert widths[-1] < 0.8 * widths[0]
    assert [r.passes for r in seen] == sorted({r.passes for r in seen})


def test_a_time_limit_gives_a_whole_map():
    model, samples, _ = planted()
    result = FourierHeatmap(norm=NORM, samples=N, seconds=0.5).measure(model, samples)
    assert not np.isnan(result.error).any()
    assert result.count.min() >= 4
    assert result.estimator == "model"


def test_a_larger_effort_than_the_exhaustive_one_is_the_exhaustive_one():
    model, samples, _ = planted()
    few = Samples(samples.images[:20], samples.targets[:20])
    result = FourierHeatmap(norm=NORM, forwards=10**6).measure(model, few)
    assert result.estimator == "exhaustive"
    np.testing.assert_array_equal(result.error, FourierHeatmap(norm=NORM).measure(model, few).error)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": 0.05, "forwards": 1000}, "precision and forwards"),
        ({"precision": 0.6}, "below 0.5"),
        ({"precision": 0}, "precision: expected a number of at least 0.0001 and below 0.5"),
        ({"forwards": 0}, "at least 1"),
        ({"seconds": -1}, "above 0"),
        ({"stride": 0}, "at least 1"),
        ({"radial": True, "seconds": 3}, "with it, got seconds"),
        ({"score": 3}, "score: expected .*, got 3"),
    ],
)
def test_settings_that_contradict_are_told_in_a_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        FourierHeatmap(**settings)


def test_an_effort_that_the_samples_cannot_serve_says_what_can():
    model, samples, _ = planted()
    few = Samples(samples.images[:100], samples.targets[:100])
    with pytest.raises(InputError, match=r"at least ±0\.096.*100 images.*takes 381 images"):
        FourierHeatmap(norm=NORM, precision=0.05).measure(model, few)
    with pytest.raises(InputError, match=r"at least 620 \(100 clean images and 4 for each of 130"):
        FourierHeatmap(norm=NORM, forwards=300).measure(model, few)


@pytest.mark.slow
def test_a_real_network_from_a_part_of_the_passes(resnet20, cifar):
    # 5×5 frequencies of 128 images: 13 directions, 1,664 passes in full. The cells of one map are
    # off together, so coverage is that of several maps.
    covered, off = [], []
    for start in (0, 128, 256):
        part = slice(start, start + 128)
        samples, pixels = Samples(cifar.images[part], cifar.targets[part]), PixelSpace.imagenet()
        whole = FourierHeatmap(crop=5, samples=128).measure(resnet20, samples, pixels=pixels)
        few = FourierHeatmap(crop=5, samples=128, forwards=400).measure(
            resnet20, samples, pixels=pixels
        )
        assert few.passes <= 400
        covered.append((few.lower <= whole.error) & (whole.error <= few.upper))
        off.append(few.error - whole.error)
    assert np.mean(covered) >= 0.88
    assert np.sqrt(np.mean(np.square(off))) < 0.09


def test_a_modelled_map_of_very_many_frequencies_says_what_its_intervals_hold():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    samples = Samples(torch.rand(8, 1, 50, 50), torch.arange(8) % 2)
    for crop, passes, said in ((31, 2_200, 0), (49, 5_500, 1)):
        result = FourierHeatmap(crop=crop, forwards=passes).measure(nn.Sequential(*layers), samples)
        assert result.estimator == "model"
        assert sum("held 81 %" in one for one in result.caveats) == said

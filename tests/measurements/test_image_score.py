"""Scores of single images by radius: a planted truth for each kind of score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe
from hfc_probe import FrequencyAccuracy, ImageScore, InputError, Samples
from hfc_probe.measurements.image_score import SCORES

N, SIDE = 24, 16


def images():
    """A low wave (2 cycles along H) and a high one (7 along W); sizes and signs differ by image."""
    torch.manual_seed(0)
    low, high = (torch.rand(N, 1, 1, 1) * 0.1 + 0.1 for _ in range(2))
    at = 2 * torch.pi * torch.arange(SIDE) / SIDE
    signs = torch.tensor([1.0, -1.0])[torch.randint(2, (2, N, 1, 1, 1))]
    slow = signs[0] * low * torch.cos(2 * at)[:, None].expand(SIDE, SIDE)
    fast = signs[1] * high * torch.cos(7 * at).expand(SIDE, SIDE)
    return 0.5 + slow + fast, slow, fast


class Same(nn.Module):
    def forward(self, x):
        return x


def measured(score, targets=None, model=None, **options):
    pixels, *_ = images()
    samples = Samples(pixels, torch.arange(N))
    measurement = ImageScore((4,), score=score, targets=targets, **options)
    return measurement.measure(model or Same(), samples, limit=None, batch_size=5)


def test_image_to_image_error_is_the_energy_that_was_taken_away():
    pixels, slow, fast = images()
    arrays = measured("psnr", pixels).arrays()
    psnr = -10 * fast.square().flatten(1).mean(1).log10()
    assert arrays["original"] == pytest.approx(100)
    np.testing.assert_allclose(arrays["values"][1], psnr, rtol=1e-4)
    without = -10 * (0.5 + slow).square().flatten(1).mean(1).log10()
    np.testing.assert_allclose(arrays["values"][2], without, rtol=1e-4)


def test_regression_of_a_high_frequency_needs_it():
    _, _, fast = images()
    amplitude = fast.flatten(1).abs().amax(1)

    class Amplitude(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x)[:, 0, 0, 7:8].abs() * 2 / SIDE**2

    arrays = measured("absolute_error", amplitude[:, None], Amplitude()).arrays()
    assert arrays["original"] == pytest.approx(0, abs=1e-5)
    assert arrays["hfc"] == pytest.approx(0, abs=1e-5)
    assert arrays["lfc"] == pytest.approx(float(amplitude.mean()), rel=1e-4)


def test_segmentation_by_the_sign_of_a_wave():
    _, slow, _ = images()

    class Sign(nn.Module):
        def forward(self, x):
            return torch.cat([-(x - 0.5), x - 0.5], 1)

    truth = (slow[:, 0] > 1e-6).long()
    truth[slow[:, 0].abs() <= 1e-6] = 255
    arrays = measured("mean_iou", truth, Sign()).arrays()
    assert arrays["lfc"] == pytest.approx(1)
    # HFC has no mean: all is below 0.5, so one class is right in half of the image.
    assert arrays["hfc"] == pytest.approx(0.25, abs=0.05)


def test_multi_label_by_both_signs():
    _, slow, fast = images()
    truth = torch.stack([slow[:, 0, 0, 0] > 0, fast[:, 0, 0, 0] > 0], 1)

    class Both(nn.Module):
        def forward(self, x):
            found = torch.fft.fft2(x)[:, 0].real
            return torch.stack([found[:, 2, 0], found[:, 0, 7]], 1) - 1e-3

    arrays = measured("exact_match", truth, Both()).arrays()
    assert arrays["original"] == 1
    assert arrays["lfc"] == pytest.approx(float((~truth[:, 1]).float().mean()))
    assert arrays["hfc"] == pytest.approx(float((~truth[:, 0]).float().mean()))


def test_embeddings_against_the_clean_one():
    _, slow, fast = images()
    arrays = measured("cosine", "clean", nn.Flatten()).arrays()
    assert arrays["original"] == pytest.approx(1)
    whole = (0.5 + slow + fast).flatten(1).norm(dim=1)
    np.testing.assert_allclose(arrays["values"][2], fast.flatten(1).norm(dim=1) / whole, rtol=1e-4)


def test_accuracy_is_frequency_accuracy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    samples = Samples(torch.rand(40, 1, 12, 12), torch.arange(40) % 4)
    for options in ({}, {"hfc_background": "mean", "rescale": "max", "closed": False}):
        ours = ImageScore((2, 4), score="accuracy", **options).measure(model, samples).arrays()
        theirs = FrequencyAccuracy((2, 4), **options).measure(model, samples).arrays()
        for name in ("original", "lfc", "hfc"):
            np.testing.assert_allclose(ours[name], theirs[name])


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    from hfc_probe.measurements.image_score import ImageScoreResult

    hits, settings = [], {"seed": 0, "bootstrap": 300, "label": "x"}
    for _ in range(200):
        shared = rng.normal(size=60)
        values = np.stack([shared, shared + 0.3 + 0.1 * rng.normal(size=60), shared])
        found = ImageScoreResult(settings, 60, radii=np.array([4.0]), values=values).arrays()
        hits.append(found["lfc_difference_lower"][0] < 0.3 < found["lfc_difference_upper"][0])
        # Paired: far narrower than the interval of either mean.
        width = found["lfc_difference_upper"] - found["lfc_difference_lower"]
        assert width < 0.3 * (found["lfc_upper"] - found["lfc_lower"])
    assert 0.88 < np.mean(hits) < 0.99


def test_it_is_shown_saved_and_attached(tmp_path):
    pixels, *_ = images()
    result = measured(SCORES["psnr"], pixels, label="PSNR")
    assert "PSNR on LFC" in str(result)
    assert result.labels()["hfc_PSNR_lfc/r04"].text == "PSNR on LFC(4)"
    loaded = hfc_probe.load(result.save(tmp_path / "r.json"))
    assert str(loaded) == str(result)
    assert loaded.figure().axes[0].get_ylabel() == "PSNR"
    chosen = [ImageScore((4,), score="psnr", targets=pixels)]
    samples = Samples(pixels, torch.arange(N))
    with hfc_probe.attach(nn.Conv2d(1, 1, 1), samples, measurements=chosen, strict=True) as probe:
        assert probe.measure()["image_score"].samples == N


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score": "auc"}, "score: expected .* got 'auc'"),
        (
            {"score": "psnr", "targets": torch.zeros(3, 1, SIDE, SIDE)},
            "a row for each image, got 3",
        ),
        ({"score": lambda outputs, targets: outputs}, "a finite number for each of 5 images"),
    ],
)
def test_mistakes_are_told(options, sentence):
    with pytest.raises(InputError, match=sentence):
        measured(**options)

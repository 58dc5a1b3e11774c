"""The Fourier heatmap: closed-form models, a slow loop with the same signs, a real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import FourierHeatmap, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.fourier_heatmap.settings import direction_signs

from .planted import ReadsFrequencies, coded


def cells(result):
    """Error by signed frequency."""
    i, j = result.frequencies()
    error = result.arrays()["error"]
    return {(int(a), int(b)): error[r, c] for r, a in enumerate(i) for c, b in enumerate(j)}


@pytest.mark.parametrize("size", [(12, 12), (11, 14)])
def test_a_model_of_one_direction_errs_there_and_nowhere_else(size):
    # The class is the sign of coefficient (2, 3) with amplitude a; noise of norm v > a in
    # that direction flips it for one of the two signs, in half the images; others cannot.
    samples = coded(2, 3, *size, n=200, strength=0.02)
    model = ReadsFrequencies([(2, 3)], *size)
    amplitude = float(model(samples.pixels())[:, 1].abs().min())
    assert 1.2 * amplitude < 1.0
    result = FourierHeatmap(norm=1.0, samples=200).measure(model, samples)
    for frequency, error in cells(result).items():
        if frequency in ((2, 3), (-2, -3)):
            signs = direction_signs(0, 2, 3, *size, 200, 3)[:, 0, 0, 0]
            against = signs != 2 * samples.targets - 1
            assert error == pytest.approx(float(against.float().mean()))
            assert 0.35 < error < 0.65
        else:
            assert error == 0, frequency
    assert result.arrays()["clean_error"] == 0


def test_a_model_that_ignores_a_band_keeps_its_clean_error_there():
    size = (16, 16)

    class LowPassed(nn.Module):
        """A random linear classifier of what lies within 4 cycles."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 256, 5, bias=False)
            self.head.weight.data -= self.head.weight.data.mean(1, keepdim=True)

        def forward(self, x):
            return self.head(fourier.split(x, 4)[0].flatten(1))

    images = 0.3 + 0.4 * torch.rand(60, 3, *size)  # far from 0 and 1: nothing is clipped
    model = LowPassed()
    targets = model(images).argmax(1)
    targets[:6] = (targets[:6] + 1) % 5  # a clean error of exactly 0.1
    samples = Samples(images, targets)
    result = FourierHeatmap(norm=1.5, samples=60).measure(model, samples)
    arrays = result.arrays()
    assert arrays["clean_error"] == 0.1
    outside = fourier.distance(*size).numpy() > 4
    assert (arrays["error"][outside] == arrays["clean_error"]).all()
    assert (arrays["error"][~outside] != arrays["clean_error"]).any()


def slow_heatmap(model, images, targets, norm, seed, crop):
    """One direction and one image at a time, full complex inverse DFT as basis."""
    n, channels, height, width = images.shape
    rows, columns = crop or (height, width)
    out = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            i, j = row - rows // 2, column - columns // 2
            spectrum = np.zeros((height, width), dtype=complex)
            spectrum[i % height, j % width] += 1
            spectrum[-i % height, -j % width] += 1
            u = np.fft.ifft2(spectrum).real
            u = torch.from_numpy(u / np.linalg.norm(u)).float()
            # signs belong to the pair: those of the member that the half plane names
            a, b = (i % height, j % width), (-i % height, -j % width)
            signs = direction_signs(seed, *min(a, b), height, width, n, channels)
            wrong = 0
            for k in range(n):
                noisy = (images[k] + norm * signs[k] * u).clamp(0, 1)
                wrong += int(model(noisy[None]).argmax() != targets[k])
            out[row, column] = wrong / n
    return out


@pytest.mark.parametrize(
    ("size", "crop", "batch"),
    [((6, 6), None, 5), ((5, 7), None, 64), ((8, 6), (5, 4), 7), ((6, 6), (4, 4), 3)],
)
def test_every_cell_equals_a_slow_loop_with_the_same_signs(size, crop, batch):
    images, targets = torch.rand(9, 2, *size), torch.randint(0, 4, (9,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * size[0] * size[1], 4))
    result = FourierHeatmap(norm=0.8, samples=9, crop=crop, seed=3).measure(
        model, Samples(images, targets), batch_size=batch
    )
    with torch.no_grad():
        expected = slow_heatmap(model, images, targets, 0.8, 3, crop)
    np.testing.assert_allclose(result.arrays()["error"], expected, atol=1e-12)


def test_the_map_is_symmetric_and_independent_of_batch_size():
    images, targets = torch.rand(12, 3, 8, 8), torch.randint(0, 4, (12,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    measure = FourierHeatmap(norm=1.0).measure
    maps = [measure(model, Samples(images, targets), batch_size=b) for b in (1, 5, 12, 1000)]
    for other in maps[1:]:
        np.testing.assert_array_equal(maps[0].wrong, other.wrong)
    values = cells(maps[0])
    for (i, j), error in values.items():
        mirrored = (-i if i != -4 else i, -j if j != -4 else j)
        assert values[mirrored] == error


def test_a_crop_is_the_middle_of_the_whole_map():
    samples = Samples(torch.rand(10, 3, 9, 9), torch.randint(0, 4, (10,)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 4))
    whole = FourierHeatmap(norm=1.0).measure(model, samples).wrong
    cropped = FourierHeatmap(norm=1.0, crop=5).measure(model, samples).wrong
    np.testing.assert_array_equal(cropped, whole[2:7, 2:7])


def test_the_most_harmful_frequency_is_named_once_of_each_pair():
    samples = coded(2, 3, 12, 12, n=100, strength=0.02)
    model = ReadsFrequencies([(2, 3)], 12, 12)
    result = FourierHeatmap(norm=1.0).measure(model, samples)
    i, j = result.frequencies()
    worst = [(int(i[r]), int(j[c])) for r, c in result.extremes(2)[0]]
    assert worst[0] == (2, 3)
    assert worst[1] != (-2, -3)
    assert "(+2, +3)" in result.sentence()


def test_counts_samples_and_intervals_belong_together():
    samples = Samples(torch.rand(50, 3, 8, 8), torch.randint(0, 4, (50,)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    arrays = FourierHeatmap(norm=1.0, samples=20).measure(model, samples).arrays()
    assert (arrays["count"] == 20).all()
    assert ((arrays["lower"] <= arrays["error"]) & (arrays["error"] <= arrays["upper"])).all()


def test_a_real_network_is_most_robust_at_the_lowest_frequencies(resnet20, cifar):
    result = FourierHeatmap(samples=24, crop=9).measure(
        resnet20, cifar, pixels=PixelSpace.imagenet()
    )
    error = result.arrays()["error"]
    assert error[4, 4] < 0.4  # DC: a change of brightness
    assert error[0].mean() > 0.5  # four cycles and more
    assert error.shape == (9, 9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: FourierHeatmap(norm=0), "above 0"),
        (lambda: FourierHeatmap(norm=float("nan")), "above 0"),
        (lambda: FourierHeatmap(samples=0), "at least 1"),
        (lambda: FourierHeatmap(topk=0), "at least 1"),
        (lambda: FourierHeatmap(crop=0), "at least 1"),
        (lambda: FourierHeatmap(crop=9).window(8, 8), "at most the image's 8×8, got 9×9"),
        (lambda: FourierHeatmap().window(1, 8), "at least 2×2 pixels"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()

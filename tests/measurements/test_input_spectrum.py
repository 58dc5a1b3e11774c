"""What the data offers: closed forms and CIFAR-10."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, InputSpectrum, Samples, fourier


def test_planted_power_slope_and_dominant_frequencies():
    i = 0.5 + 0.3 * 16 / 16 * fourier.basis(0, 2, 16, 16)
    j = 0.5 + 0.3 * 16 / 16 * fourier.basis(5, 0, 16, 16)
    data = Samples(torch.stack([i, i, j]).unsqueeze(1), torch.tensor([3, 3, 7]))
    result = InputSpectrum().measure(nn.Identity(), data)
    arrays = result.arrays()
    # Parseval: the spectrum sums to the mean square of the pixels.
    assert arrays["power"].sum() == pytest.approx(float(data.images.square().mean()))
    assert arrays["power"][8, 8] == pytest.approx(0.25)
    assert arrays["power"][8, 10] == pytest.approx(2 / 3 * 0.09 / 256 / 2)
    assert arrays["classes"].tolist() == [3, 7]
    assert arrays["adcs"][0, 8, 10] == 1
    assert arrays["adcs"][1, 8, 10] == -1
    assert arrays["adcs"][1, 13, 8] == 1
    assert result.share_within(3) == pytest.approx(2 / 3)


def test_a_class_that_is_below_the_others_everywhere_stands_out_nowhere():
    noise = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    faint = Samples(torch.cat([noise, 0.3 + 0.01 * noise]), torch.arange(16) // 8)
    _, rows = InputSpectrum().measure(nn.Identity(), faint).table()
    assert rows[0][3].startswith("+")
    assert rows[1][2:] == ["nowhere", ""]


@pytest.mark.parametrize("alpha", [0.0, 2.0, 3.0])
def test_planted_slope(alpha):
    d = fourier.distance(64, 64, centred=False).clamp_min(1)
    phase = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    noise = torch.fft.ifft2(torch.polar((d ** (-alpha / 2)).float().expand_as(phase), phase)).real
    noise = 0.5 + 0.05 * noise / noise.std((2, 3), keepdim=True)
    data = Samples(noise.clamp(0, 1), torch.zeros(8, dtype=torch.long))
    result = InputSpectrum().measure(nn.Identity(), data)
    assert result.slope == pytest.approx(alpha, abs=0.15)


def test_adcs_equals_a_slow_reference_and_averages_over_a_class(cifar):
    some = Samples(cifar.images[:60], cifar.targets[:60])
    arrays = InputSpectrum().measure(nn.Identity(), some).arrays()
    x = some.pixels().double().numpy()
    energy = {}
    for label in np.unique(some.targets):
        own = x[some.targets.numpy() == label]
        spectra = np.abs(np.fft.fftshift(np.fft.fft2(own), axes=(-2, -1)))
        energy[label] = spectra.mean((0, 1))
    for k, label in enumerate(arrays["classes"]):
        expected = sum(np.sign(energy[label] - other) for other in energy.values())
        agree = np.isclose(arrays["adcs"][k], expected)
        assert agree.mean() > 0.999  # a tie within rounding may fall either way
    assert 2 < float(arrays["slope"]) < 3.5


def test_bad_input():
    with pytest.raises(InputError, match="at least 8×8"):
        InputSpectrum().measure(
            nn.Identity(), Samples(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
        )

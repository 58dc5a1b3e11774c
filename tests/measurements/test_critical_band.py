"""The channel of models that read one band, the Gaussian fit against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from torch import nn

from hfc_probe import CriticalBand, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.critical_band import fit_channel, octave, sensitivities


class ReadsBand(nn.Module):
    """Right while little energy is in one octave: noise there, and only there, fools it."""

    def __init__(self, centre, size=32):
        super().__init__()
        d = fourier.distance(size, size, centred=False)
        inside = (d * math.sqrt(2) > centre + 1e-6) & (d <= centre * math.sqrt(2) + 1e-6)
        self.register_buffer("inside", inside)

    def forward(self, x):
        energy = (torch.fft.fft2(x).abs().square() * self.inside).mean((1, 2, 3))
        rms = (energy / (32 * 32)).sqrt()
        return torch.stack([0.03 - rms, rms - 0.03], 1)


@pytest.mark.parametrize("centre", [4.0, 8.0])
def test_planted_noise_in_its_band_alone_fools_a_reader_of_one_octave(centre):
    data = Samples(torch.full((8, 3, 32, 32), 0.5), torch.zeros(8, dtype=torch.long))
    measurement = CriticalBand(centres=(2, 4, 8, 16), strengths=(0.02, 0.04, 0.08))
    result = measurement.measure(ReadsBand(centre), data)
    arrays = result.arrays()
    column = [2, 4, 8, 16].index(int(centre))
    expected = np.ones((3, 4))
    expected[1:, column] = 0  # 0.04 and 0.08 are above 0.03, in this band and no other
    np.testing.assert_array_equal(arrays["accuracy"], expected)
    # Halfway between 1 and chance (0.5) is 0.75, a quarter of the way from 0.02 to 0.04.
    assert result.threshold == 0.75
    assert arrays["sensitivity"][column] == pytest.approx(1.75)
    assert result.centre == pytest.approx(centre, rel=0.01)
    assert result.bandwidth < 1
    assert result.band_limited


def test_band_noise_has_unit_rms_and_lies_in_its_octave():
    noise = octave(torch.randn(3, 2, 33, 48), 6.0)
    torch.testing.assert_close(noise.square().mean((1, 2, 3)), torch.ones(3))
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    d = fourier.distance(33, 48, centred=False)
    inside = (d > 6 / math.sqrt(2)) & (d <= 6 * math.sqrt(2))
    assert power[~inside].max() < 1e-6 * power[inside].mean()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    mu=st.floats(0.5, 5.5),
    sigma=st.floats(0.4, 2.0),
    peak=st.floats(0.5, 4.0),
    seed=st.integers(0, 99),
)
def test_the_fit_is_no_worse_than_scipys(mu, sigma, peak, seed):
    x = np.arange(7.0)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(7)
    y = np.maximum(peak * np.exp(-((x - mu) ** 2) / (2 * sigma**2)) + noise, 0)

    def gauss(x, a, m, s):
        return a * np.exp(-((x - m) ** 2) / (2 * s**2))

    bounds = ((0, -0.5, 0.15), (np.inf, 6.5, 24.0))
    try:
        theirs, _ = curve_fit(gauss, x, y, p0=(peak, mu, sigma), bounds=bounds, maxfev=20000)
    except RuntimeError:  # SciPy's own search does not settle: nothing to compare with
        reject()
    top, centre, width = fit_channel(x, y)
    mine = gauss(x, top, centre, width / (2 * math.sqrt(math.log(4))))
    assert ((mine - y) ** 2).sum() <= ((gauss(x, *theirs) - y) ** 2).sum() + 1e-4


def test_sensitivities_at_the_ends():
    strengths = np.array([0.02, 0.04, 0.08, 0.16])
    rates = np.array([[0.9, 0.1, 0.9], [0.9, 0.1, 0.9], [0.9, 0.1, 0.6], [0.9, 0.1, 0.4]])
    found = sensitivities(0.9, rates, strengths, 0.5)
    # Never below; halfway between nothing and the weakest; halfway between the last two.
    np.testing.assert_allclose(found, [0.0, 3.5, 0.5])


def test_resnet20_is_hurt_by_the_strongest_noise_most(resnet20, cifar):
    result = CriticalBand(samples=32, strengths=(0.02, 0.16)).measure(
        resnet20, cifar, pixels=PixelSpace.imagenet()
    )
    accuracy = result.arrays()["accuracy"]
    assert accuracy[0].mean() > accuracy[1].mean() + 0.3
    assert accuracy[1, 0] > accuracy[1, -1]
    assert "people's is 1 octave wide at about 6 cycles/image" in result.sentence()


def test_grey_low_contrast_as_in_the_paper():
    prepared = CriticalBand(contrast=0.2, grayscale=True).prepared(torch.rand(2, 3, 16, 16))
    assert torch.equal(prepared[:, 0], prepared[:, 2])
    torch.testing.assert_close(prepared.mean((1, 2, 3)), torch.full((2,), 0.449))
    assert prepared.std() < 0.05


def test_bad_input(cifar):
    with pytest.raises(InputError, match="centres: expected at most 16"):
        CriticalBand(centres=(4, 8, 20)).measure(nn.Identity(), cifar)
    with pytest.raises(InputError, match="at least 3 bands"):
        CriticalBand(centres=(4, 8)).measure(nn.Identity(), cifar)
    with pytest.raises(InputError, match="strengths: expected"):
        CriticalBand(strengths=(0.0,))
    with pytest.raises(InputError, match="contrast: expected"):
        CriticalBand(contrast=0)

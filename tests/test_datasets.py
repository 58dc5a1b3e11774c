"""The planted images: the class is where it is said to be, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from hfc_probe import FrequencyAccuracy, InputError, Samples, fourier
from hfc_probe.datasets import PlantedFrequencies, PlantedWaves


def all_of(data):
    return default_collate([data[k] for k in range(len(data))])


class Matched(torch.nn.Module):
    """The best classifier of planted waves: the strongest of the known frequencies."""

    def __init__(self, waves: PlantedWaves, band: str):
        super().__init__()
        size = waves.size
        pairs = waves.where[band]
        self.register_buffer(
            "basis", torch.stack([fourier.basis(i, j, size, size) for i, j in pairs])
        )

    def forward(self, x):
        found = torch.einsum("nchw,khw->nk", x, self.basis).abs()
        return torch.where(found < 1e-3, 0.0, found)  # rounding is nothing; ties are class 0


@pytest.mark.parametrize(
    ("band", "low", "high"),
    [("low", [1, 1, 1, 1], [0, 0, 0, 0]), ("high", [0, 0, 0, 1], [1, 1, 1, 0])],
)
def test_the_right_classifier_needs_the_planted_band_and_it_alone(band, low, high):
    data = PlantedFrequencies(256, band=band, strength=5.0)
    images, targets = all_of(data)
    result = FrequencyAccuracy().measure(Matched(data.waves, band), Samples(images, targets))
    arrays = result.arrays()
    assert arrays["original"] > 0.97
    for name, expected in (("lfc", low), ("hfc", high)):
        for value, present in zip(arrays[name], expected, strict=True):
            assert (value > 0.97) if present else (value == 1 / 8), (name, arrays[name])


def test_in_both_bands_either_is_enough():
    data = PlantedFrequencies(256, band="both", strength=5.0)
    samples = Samples(*all_of(data))
    for band in ("low", "high"):
        arrays = FrequencyAccuracy(radii=(8,)).measure(Matched(data.waves, band), samples).arrays()
        kept = "lfc" if band == "low" else "hfc"
        assert arrays[kept][0] > 0.97


def test_the_noise_falls_with_frequency_as_in_photographs():
    images, _ = all_of(PlantedFrequencies(200, band="low", strength=0))
    power = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)).abs().square().mean((0, 1))
    profile = fourier.radial_profile(power)
    x = torch.log(torch.arange(2.0, 13.0))
    y = torch.log(profile[2:13])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert slope == pytest.approx(-2, abs=0.25)  # power as 1/f², amplitude as 1/f


def test_items_are_the_same_whenever_they_are_read_and_splits_differ():
    data = PlantedFrequencies(20, seed=1)
    images, targets = all_of(data)
    loader = DataLoader(data, 7, num_workers=2)
    assert torch.equal(torch.cat([x for x, _ in loader]), images)
    assert torch.equal(data[-1][0], images[-1])
    torch.rand(5)
    assert torch.equal(data[3][0], PlantedFrequencies(20, seed=1)[3][0])
    assert not torch.equal(data[3][0], PlantedFrequencies(20, seed=1, train=False)[3][0])
    assert not torch.equal(data[3][0], PlantedFrequencies(20, seed=2)[3][0])
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert targets.tolist() == [k % 8 for k in range(20)]
    assert len(data.classes) == 8
    with pytest.raises(IndexError):
        data[20]


@pytest.mark.parametrize("size", [16, 32, 48])
def test_planted_frequencies_lie_where_they_are_said_to(size):
    for band, share in (("low", 3 / 16), ("high", 14 / 16)):
        for i, j in PlantedWaves(band, 4, size).where[band]:
            assert math.hypot(i, j) == pytest.approx(share * size / 2, abs=0.75)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"band": "middle"}, '"low", "high" or "both"'),
        ({"classes": 1}, "classes: expected a whole number from 2"),
        ({"classes": 60}, "few enough"),
        ({"size": 8}, "size: expected a whole number of pixels from 16"),
        ({"count": 0}, "number of images from 1"),
        ({"strength": -1}, "at least 0"),
        ({"noise": math.nan}, "at least 0"),
    ],
)
def test_wrong_settings_are_told(options, sentence):
    with pytest.raises(InputError, match=sentence):
        PlantedFrequencies(**options)

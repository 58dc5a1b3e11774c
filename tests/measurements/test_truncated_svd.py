"""Singular components against frequencies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, PixelSpace, Samples, TruncatedSVD, fourier


class ReadsPixels(nn.Module):
    """Class 1 where the inner product with a fixed pattern is clearly positive."""

    def __init__(self, pattern):
        super().__init__()
        self.register_buffer("pattern", pattern)

    def forward(self, x):
        score = (x[:, 0] * self.pattern).sum((1, 2)) - 1e-3
        return torch.stack([-score, score], 1)


def outer(k, n=16):
    t = torch.arange(n) * 2 * torch.pi / n
    a, b = torch.cos(k * t), torch.sin(k * t)
    return torch.outer(a / a.norm(), b / b.norm())


def test_planted_the_class_is_in_the_second_component():
    # Rank-2 images whose first component is strong and common, the second weak and the class.
    signs = torch.tensor([1.0, -1.0] * 4)
    images = 2.0 * outer(2) + 0.5 * signs.view(-1, 1, 1) * outer(5)
    images = Samples(0.5 + images.unsqueeze(1) / 6, (signs > 0).long())
    # The mean is a component of its own (rank 3 in all), the strongest.
    result = TruncatedSVD(ranks=(1, 2, 3)).measure(ReadsPixels(outer(5)), images)
    arrays = result.arrays()
    assert arrays["leading"].tolist() == [0.5, 0.5, 1.0]
    assert arrays["trailing"].tolist() == [1.0, 1.0, 0.5]
    np.testing.assert_allclose(arrays["energy"], [0, 4 / 4.25, 1], atol=1e-5)
    # Wrong on the leading components and right on the rest: the images of class 1, up to rank 2.
    assert arrays["trailing_only"].tolist() == [0.5, 0.5, 0.0]


def test_counts_and_energy_equal_a_slow_reference_on_resnet20(resnet20, cifar):
    pixels = PixelSpace.imagenet()
    some = Samples(cifar.images[:24], cifar.targets[:24])
    result = TruncatedSVD(ranks=(3, 8), background="mean").measure(resnet20, some, pixels=pixels)
    x = some.pixels()
    mean = x.mean((0, 2, 3)).view(1, 3, 1, 1)
    for k, rank in enumerate((3, 8)):
        lead = np.empty(x.shape)
        for n in range(len(x)):
            for c in range(3):
                u, s, vh = np.linalg.svd(x[n, c].double().numpy())
                lead[n, c] = sum(s[r] * np.outer(u[:, r], vh[r]) for r in range(rank))
        lead = torch.from_numpy(lead).float()
        low, high = fourier.split(x, float(result.radii[k]))
        views = {"leading": lead, "trailing": x - lead + mean, "lfc": low, "hfc": high + mean}
        for name, view in views.items():
            with torch.no_grad():
                found = resnet20(pixels.normalize(view)).argmax(1) == some.targets
            assert result.counts[name][k] == int(found.sum()), name
        centred = x - x.mean((2, 3), keepdim=True)
        total = centred.square().sum((1, 2, 3))
        share = 1 - (x - lead).square().sum((1, 2, 3)) / total
        assert result.energy[k] == pytest.approx(float(share.mean()), abs=1e-4)
        held = fourier.split(centred, float(result.radii[k]))[0].square().sum((1, 2, 3)) / total
        assert result.lfc_energy[k] == pytest.approx(float(held.mean()), abs=1e-4)
        assert abs(result.lfc_energy[k] - result.energy[k]) < 0.02


def test_planted_a_high_wave_of_most_energy_is_in_hfc_but_not_in_the_trailing_components():
    # The class is a high wave with 60 % of the energy: leading at rank 2 (the mean is rank 1),
    # while the radius of the nearest energy holds the two low waves, 40 %.
    signs = torch.tensor([1.0, -1.0] * 40).view(-1, 1, 1)
    waves = 0.6**0.5 * signs * outer(6) + 0.2**0.5 * (outer(1) + outer(2))
    images = Samples((0.5 + waves).unsqueeze(1), (signs.flatten() > 0).long())
    result = TruncatedSVD(ranks=(2,)).measure(ReadsPixels(outer(6)), images)
    arrays = result.arrays()
    np.testing.assert_allclose(
        [arrays["energy"][0], arrays["lfc_energy"][0]], [0.6, 0.4], atol=1e-5
    )
    assert [arrays[n][0] for n in ("leading", "trailing", "lfc", "hfc")] == [1.0, 0.5, 0.5, 1.0]
    assert result.sentence().startswith("HFC tells this model more than trailing")


def test_bad_input(cifar):
    with pytest.raises(InputError, match="ranks: expected at most 32"):
        TruncatedSVD(ranks=(40,)).measure(nn.Identity(), cifar)
    with pytest.raises(InputError, match="ranks: expected a whole number"):
        TruncatedSVD(ranks=(0,))
    with pytest.raises(InputError, match="ranks: expected increasing"):
        TruncatedSVD(ranks=(4, 2))

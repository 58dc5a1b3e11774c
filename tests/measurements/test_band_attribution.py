"""All weight on the planted band; completeness; exact Shapley values."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import BandAttribution, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.band_attribution import parts_by_band

from ..conftest import needs_captum

pytestmark = needs_captum

METHODS = ["feature_ablation", "shapley", "integrated_gradients"]


class ReadsWave(nn.Module):
    """Logits ∓ the coefficient of one wave (DC: the mean)."""

    def __init__(self, i, j, size=16):
        super().__init__()
        self.register_buffer("wave", fourier.basis(i, j, size, size))

    def forward(self, x):
        score = (x[:, 0] * self.wave).sum((1, 2))
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("i", "j", "band"), [(0, 0, 0), (1, 0, 1), (0, 3, 2), (-5, 5, 3)])
def test_planted_all_weight_is_on_the_band_that_is_read(method, i, j, band):
    data = Samples(torch.rand(5, 1, 16, 16), torch.zeros(5, dtype=torch.long))
    model = ReadsWave(i, j)
    result = BandAttribution(edges=(1, 4, 8), method=method, permutations=3, steps=8).measure(
        model, data
    )
    arrays = result.arrays()
    expected = np.zeros((5, 5))
    logits = model(data.images)
    expected[:, band] = logits.max(1).values  # a linear reader: the whole logit
    np.testing.assert_allclose(arrays["attribution"], expected, atol=1e-4)


@pytest.mark.parametrize("method", ["shapley", "integrated_gradients"])
@pytest.mark.parametrize("background", ["zero", "mean"])
def test_attributions_sum_to_what_the_image_adds_on_resnet20(resnet20, cifar, method, background):
    result = BandAttribution(
        method=method, background=background, samples=4, permutations=2, steps=150
    ).measure(resnet20, cifar, pixels=PixelSpace.imagenet())
    gap = result.attribution.sum(1) - (result.logit - result.baseline)
    # Shapley sampling telescopes, exactly; the integral over ReLUs is a sum over steps.
    bound = 1e-3 if method == "shapley" else 0.05 * np.abs(result.logit - result.baseline).max()
    assert np.abs(gap).max() < bound


@pytest.mark.slow
def test_shapley_sampling_approaches_the_exact_values(resnet20, cifar):
    pixels = PixelSpace.imagenet()
    measurement = BandAttribution(edges=(4, 10), samples=3, permutations=60, of="target")
    result = measurement.measure(resnet20, cifar, pixels=pixels)
    some = cifar.subset(3, seed=0)
    parts = parts_by_band(some.pixels(), measurement.edges_for(32, 32))
    count = parts.shape[1]

    def value(chosen):
        x = parts[:, list(chosen)].sum(1) if chosen else torch.zeros_like(parts[:, 0])
        with torch.no_grad():
            return resnet20(pixels.normalize(x)).gather(1, some.targets[:, None])[:, 0].double()

    exact = np.zeros((3, count))
    for band in range(count):
        others = [k for k in range(count) if k != band]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for chosen in itertools.combinations(others, size):
                exact[:, band] += weight * (value((*chosen, band)) - value(chosen)).numpy()
    scale = np.abs(exact).max()
    assert np.abs(result.attribution - exact).max() < 0.25 * scale
    ablation = BandAttribution(
        edges=(4, 10), samples=3, method="feature_ablation", of="target"
    ).measure(resnet20, cifar, pixels=pixels)
    for band in range(count):
        rest = tuple(k for k in range(count) if k != band)
        lost = (value(tuple(range(count))) - value(rest)).numpy()
        np.testing.assert_allclose(ablation.attribution[:, band], lost, atol=1e-3)


def test_bands_sum_to_the_image_and_do_not_overlap():
    x = torch.rand(2, 3, 15, 20)
    edges = BandAttribution().edges_for(15, 20)
    parts = parts_by_band(x, edges)
    torch.testing.assert_close(parts.sum(1), x)
    d = fourier.distance(15, 20, centred=False)
    lower = -1.0
    for k, edge in enumerate(edges):
        power = torch.fft.fft2(parts[:, k].double()).abs().amax((0, 1))
        outside = (d <= lower) | (d > edge)
        assert power[outside].max() < 1e-3 if bool(outside.any()) else True
        lower = edge


def test_results_do_not_depend_on_batch_size(resnet20, cifar):
    settings = BandAttribution(samples=6, permutations=2)
    runs = [
        settings.measure(resnet20, cifar, pixels=PixelSpace.imagenet(), batch_size=n)
        for n in (4, 6)
    ]
    np.testing.assert_allclose(runs[0].attribution, runs[1].attribution, atol=1e-3)


def test_bad_input(monkeypatch):
    with pytest.raises(InputError, match="method: expected"):
        BandAttribution(method="saliency")
    with pytest.raises(InputError, match="edges: expected"):
        BandAttribution(edges=(0, 4))
    data = Samples(torch.rand(2, 1, 16, 16), torch.zeros(2, dtype=torch.long))

    class Cut(ReadsWave):
        def forward(self, x):
            return super().forward(x.detach())

    with pytest.raises(InputError, match="through which gradients reach the image"):
        BandAttribution(method="integrated_gradients").measure(Cut(0, 1), data)
    import captum.attr

    monkeypatch.delattr(captum.attr, "ShapleyValueSampling")
    with pytest.raises(InputError, match="expected captum with ShapleyValueSampling"):
        BandAttribution().measure(ReadsWave(0, 1), data)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"pip install 'hfc_probe\[attribution\]'"):
        BandAttribution().measure(ReadsWave(0, 1), data)

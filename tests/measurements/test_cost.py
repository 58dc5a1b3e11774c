"""What a measurement says it costs is what really goes through the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe as h
from hfc_probe.measurements.registry import MEASUREMENTS

from ..conftest import needs_captum
from ..toys import QUICK, Tally

N, SHAPE, CLASSES = 20, (3, 16, 16), 4


class _Tap(torch.autograd.Function):
    """The identity; tells how many images come back through it."""

    @staticmethod
    def forward(ctx, images, passes):
        ctx.passes, ctx.count = passes, len(images)
        passes["forward"] += len(images)
        return images.view_as(images)

    @staticmethod
    def backward(ctx, gradient):
        ctx.passes["backward"] += ctx.count
        return gradient, None


class Counting(nn.Module):
    """A classifier that counts the images that go through it, in either direction."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.features = nn.Conv2d(SHAPE[0], 4, 3)
        self.head = nn.Linear(4, classes)
        self.passes = Tally(forward=0, backward=0)

    def forward(self, images):
        images = _Tap.apply(images, self.passes)
        return self.head(self.features(images).relu().mean((2, 3)))

    @property
    def cost(self):
        return self.passes["forward"] + 2 * self.passes["backward"]


def counted(measurement):
    model = Counting()
    samples = h.Samples(torch.rand(N, *SHAPE), torch.arange(N) % CLASSES)
    # The first measurement of a model tries it on a few images, and looks for its first layer.
    h.FrequencyAccuracy(radii=(1,)).measure(model, samples)
    h.KernelSpectra().measure(model, samples)
    model.passes.update(forward=0, backward=0)
    measurement.measure(model, samples)
    return model.cost


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_costs_what_it_says(name):
    if name == "band_attribution":
        pytest.importorskip("captum", reason="pip install 'hfc_probe[attribution]'")
    measurement = MEASUREMENTS[name](**QUICK.get(name, {}))
    assert measurement.cost(N, SHAPE) == counted(measurement)


@pytest.mark.parametrize(
    "measurement",
    [
        h.AdversarialAccuracy(
            epsilons=(0.03, 0.1), rhos=(0, 0.5), steps=3, perturbation_radii=(2,), samples=7
        ),
        h.AmplitudePhase(pairing="any"),
        pytest.param(h.BandAttribution(method="feature_ablation", samples=7), marks=needs_captum),
        pytest.param(h.BandAttribution(edges=(3,), permutations=4), marks=needs_captum),
        pytest.param(h.BandAttribution(method="integrated_gradients", steps=5), marks=needs_captum),
        h.ComponentExamples(radii=(2, 4)),
        h.CriticalBand(strengths=(0.1,), samples=7),
        h.FourierHeatmap(stride=3, samples=7),
        h.FourierHeatmap(radial=True),
        h.FourierHeatmap(radial=True, forwards=150),
        h.FourierHeatmap(crop=3, forwards=10_000),  # more than there are
        h.FrequencyAccuracy(radii=(1, 2, 3), hfc_background="mean"),
        h.TruncatedSVD(ranks=(1, 3)),
    ],
    ids=str,
)
def test_other_settings_too(measurement):
    assert measurement.cost(N, SHAPE) == counted(measurement)


@pytest.mark.parametrize(
    "measurement",
    [
        h.FourierHeatmap(crop=3, precision=0.25),
        h.FourierHeatmap(radial=True, precision=0.25),
        h.FourierHeatmap(crop=5, forwards=200),
    ],
    ids=str,
)
def test_where_the_cost_depends_on_what_is_found_it_is_the_most(measurement):
    found = counted(measurement)
    assert 0.5 * measurement.cost(N, SHAPE) < found <= measurement.cost(N, SHAPE)


@pytest.mark.parametrize("samples", [6, 1000])
def test_published_corruptions_bring_images_of_their_own(samples, tmp_path):
    count = 15  # in the files, of each severity
    np.save(tmp_path / "labels.npy", np.tile(np.arange(count) % CLASSES, 5))
    images = np.random.default_rng(0).integers(0, 256, (5 * count, *SHAPE[1:], 3), np.uint8)
    np.save(tmp_path / "fog.npy", images)
    measurement = h.CorruptionAccuracy(folder=tmp_path, corruptions="fog", samples=samples)
    assert measurement.cost(N, SHAPE) == counted(measurement)

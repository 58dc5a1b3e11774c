"""Probabilities in the place of logits: said if softmax, a loss or a gradient is taken of them."""

import pytest
import torch
from torch import nn

from hfc_probe import (
    AdversarialAccuracy,
    Calibration,
    ComponentExamples,
    FourierHeatmap,
    FourierSensitivity,
    FrequencyAccuracy,
    Samples,
)

MEASUREMENTS = [
    Calibration(radii=(2,)),
    ComponentExamples(radii=(2,)),
    FourierSensitivity(),
    FourierHeatmap(crop=3),
    AdversarialAccuracy(samples=8, steps=1),
]


def network(*last):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    return nn.Sequential(*layers, *last).eval()


def caveats(measurement, model, **options):
    torch.manual_seed(1)
    samples = Samples(torch.rand(16, 3, 8, 8), torch.arange(16) % 4)
    found = measurement.measure(model, samples, **options).caveats
    return [one for one in found if "look like probabilities" in one]


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda one: type(one).__name__)
def test_probabilities_are_said_and_logits_are_not(measurement):
    softmax = network(nn.Softmax(1))
    assert len(caveats(measurement, softmax)) == 1
    assert not caveats(measurement, network())
    assert not caveats(measurement, network(nn.LogSoftmax(1)))
    assert not caveats(measurement, softmax, predict=lambda model, images: model(images).log())


def test_after_a_sigmoid_too():
    strong = network(nn.LayerNorm(4), nn.Sigmoid())
    assert len(caveats(Calibration(radii=(2,)), strong)) == 1


def test_accuracy_does_not_ask_for_the_scale():
    assert not caveats(FrequencyAccuracy(radii=(2,)), network(nn.Softmax(1)))

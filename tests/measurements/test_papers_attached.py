"""The measurements of the papers in a probe: logged, on schedule, without a trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hfc_probe
from hfc_probe.measurements.registry import MEASUREMENTS

from ..conftest import needs_captum

SMALL = {
    "adversarial_accuracy": {"rhos": (0, 0.5), "steps": 2, "samples": 8},
    "band_attribution": {"method": "integrated_gradients", "samples": 4, "steps": 4},
    "calibration": {"resamples": 10},
    "corruption_accuracy": {"severities": (1,), "samples": 8},
    "critical_band": {"strengths": (0.1,), "samples": 8},
}
NAMES = sorted(set(MEASUREMENTS) - {"fourier_heatmap", "frequency_accuracy", "kernel_spectra"})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.bn(self.conv(x))).mean((2, 3))))


def train(measurements, log_dir=None):
    """Three epochs; the model, its optimizer and the random state at the end."""
    torch.manual_seed(0)
    np.random.seed(0)
    data = TensorDataset(torch.rand(24, 3, 16, 16), torch.arange(24) % 4)
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    probe = None
    if measurements:
        probe = hfc_probe.attach(
            model,
            DataLoader(data, batch_size=8),
            optimizer=optimizer,
            log_dir=log_dir,
            measurements={m: hfc_probe.Every(epochs=2) for m in measurements},
            budget=1.0,
            strict=True,
            final=False,
        )
    for _ in range(3):  # one epoch of training after the measurements
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if probe is not None:
            probe.end_epoch()
    if probe is not None:
        probe.close()
    gradients = [p.grad.clone() for p in model.parameters()]
    return copy.deepcopy(model.state_dict()), gradients, torch.get_rng_state(), probe


@pytest.mark.filterwarnings("ignore::UserWarning")
@needs_captum
def test_training_is_the_same_bit_for_bit_and_everything_is_logged(tmp_path):
    measurements = [MEASUREMENTS[name](**SMALL.get(name, {})) for name in NAMES]
    plain = train([])
    probed = train(measurements, tmp_path)
    for key, value in plain[0].items():
        assert torch.equal(value, probed[0][key]), key
    for a, b in zip(plain[1], probed[1], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain[2], probed[2])
    results = probed[3].results
    assert set(results) == {
        "band_attribution" if k == "band_attribution_integrated_gradients" else k for k in NAMES
    }
    events = EventAccumulator(str(tmp_path), {"tensors": 0, "images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    for result in results.values():
        assert set(result.scalars()) <= set(tags["scalars"])
        assert set(result.images()) <= set(tags["images"])
        assert set(result.axes()) <= set(result.arrays())
        for tag, (low, high) in result.intervals().items():
            assert low - 1e-9 <= result.scalars()[tag] <= high + 1e-9, tag
    assert "adversarial_accuracy/pgd" in tags["tensors"]


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_hashable_and_costs_are_estimated(name):
    measurement = MEASUREMENTS[name](**SMALL.get(name, {}))
    assert {measurement: 1}
    assert measurement.cost(100, (3, 32, 32)) >= 0
    assert measurement.name == name

"""A small classification task that every host trains on."""

from __future__ import annotations

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hfc_probe import Every, FrequencyAccuracy, KernelSpectra

MEASUREMENTS = {
    FrequencyAccuracy(radii=(2, 4)): Every(epochs=1),
    KernelSpectra(): Every(steps=2),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def dataset(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(n, 3, 12, 12, generator=generator), torch.arange(n) % 4)


@pytest.fixture
def loaders():
    return (
        DataLoader(dataset(24, 0), 4, shuffle=True),
        DataLoader(dataset(16, 1), 8),
    )


def scalars(path):
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

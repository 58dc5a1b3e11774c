"""What the budget reckons with before a measurement has run, and what it is charged."""

from __future__ import annotations

import re
import time

import pytest
import torch
from torch import nn

import hfc_probe
from hfc_probe import Every, FourierHeatmap, FrequencyAccuracy, Samples


class Slow(nn.Sequential):
    """A classifier whose forward pass takes a while."""

    def forward(self, images):
        time.sleep(0.02)
        return super().forward(images)


def network(kind=nn.Sequential):
    return kind(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


@pytest.fixture
def samples():
    return Samples(torch.rand(16, 3, 12, 12), torch.arange(16) % 4)


def test_a_map_of_a_minute_is_no_quick_first_run(samples, caplog):
    measurement = FourierHeatmap(crop=3, seconds=60)  # few passes, all the same
    with hfc_probe.attach(network(), samples, measurements=[measurement]) as probe:
        probe.end_epoch()
        assert not probe.results
    assert re.search(r"fourier_heatmap should take about 6\d\.\d s and is put off", caplog.text)


def test_a_measurement_that_cannot_tell_its_cost_is_let_run(samples):
    class Untold(FrequencyAccuracy):
        def cost(self, samples, image_shape):
            raise RuntimeError("no idea")

    with hfc_probe.attach(network(), samples, measurements=[Untold()], strict=True) as probe:
        probe.end_epoch()
        assert set(probe.results) == {"untold"}


def test_the_trial_of_what_is_put_off_is_charged(samples):
    class Expensive(FrequencyAccuracy):
        def cost(self, samples, image_shape):
            return 10**12

    with hfc_probe.attach(network(Slow), samples, measurements=[Expensive()]) as probe:
        probe.end_epoch()
        assert probe.state_dict()["spent"] >= 0.04  # two passes
        assert not probe.results


class SlowToFlush:
    """A user's writer on a slow disk."""

    def add_scalar(self, tag, value, step):
        pass

    def flush(self):
        time.sleep(0.05)


def test_every_flush_is_charged(samples):
    with hfc_probe.attach(
        network(),
        samples,
        writer=SlowToFlush(),
        measurements={FrequencyAccuracy(radii=(2,)): Every(epochs=1)},
        budget=1,
        strict=True,
    ) as probe:
        probe.end_epoch()  # imports what logging needs
        before, began = probe.state_dict()["spent"], time.perf_counter()
        probe.end_epoch()
        took = time.perf_counter() - began
        spent = probe.state_dict()["spent"] - before
    assert 0.1 <= spent <= took  # of the results and of the costs

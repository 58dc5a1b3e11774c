"""Measurements that are due together show the model each view once, and find the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe as h
from hfc_probe.model import shared_logits
from hfc_probe.model.shared_logits import SharedLogits

from ..toys import Tally

N, CLASSES, RADII = 40, 5, (1, 2, 4)
VIEWS = 1 + 2 * len(RADII)
BY_RADIUS = [
    h.FrequencyAccuracy(RADII, "mean"),
    h.ComponentExamples(RADII, "mean"),
    h.Calibration(RADII, "mean", resamples=5),
]
WITH_A_CLEAN_PASS = [
    h.AmplitudePhase(pairing="any"),
    h.CorruptionAccuracy(severities=(2,)),
    h.CriticalBand(strengths=(0.1,)),
    h.FourierHeatmap(crop=3, norm=1.0),
    h.TruncatedSVD(ranks=(2,)),
]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
        )
        self.net(torch.zeros(1, 3, 16, 16))
        self.tally = Tally(passes=0)

    def forward(self, images):
        self.tally["passes"] += len(images)
        return self.net(images)


def samples(count=N):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return h.Samples(images, torch.arange(count) % CLASSES)


def passes(model, measurements, data, *, shared=None, batch_size=16):
    """Images shown to the model, and the results."""
    h.FrequencyAccuracy((1,)).measure(model, data)  # the first one tries the model
    before = model.tally["passes"]
    results = [one.run(model, data, shared=shared, batch_size=batch_size) for one in measurements]
    return model.tally["passes"] - before, results


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert set(one.arrays()) == set(other.arrays())
        for name, array in other.arrays().items():
            np.testing.assert_array_equal(one.arrays()[name], array, err_msg=f"{one.name} {name}")


@pytest.mark.parametrize("measurements", [BY_RADIUS, [*BY_RADIUS, *WITH_A_CLEAN_PASS]], ids=len)
def test_the_same_numbers_to_the_last_bit_from_fewer_passes(measurements):
    model, data = Counting(), samples()
    apart, expected = passes(model, measurements, data)
    together, found = passes(model, measurements, data, shared=SharedLogits(model))
    assert_same(found, expected)
    # Two of the three see nothing new; five more have their clean pass from the first.
    clean = (len(measurements) - 3) * N
    assert apart - together == 2 * VIEWS * N + clean
    assert [r.provenance["passes"] for r in found[:3]] == [VIEWS * N, 0, 0]


def test_a_probe_shares_passes_at_each_time_it_measures_and_forgets_them_before_the_next():
    model, data = Counting(), samples()
    with h.attach(model, data, measurements=BY_RADIUS, budget=1.0, strict=True) as probe:
        before = model.tally["passes"]
        first = probe.measure()["frequency_accuracy"].arrays()["lfc_correct"]
        assert model.tally["passes"] - before == VIEWS * N
        with torch.no_grad():
            model.net[-1].weight.neg_()
            model.net[-1].bias.neg_()
        second = probe.measure()["frequency_accuracy"].arrays()["lfc_correct"]
        assert model.tally["passes"] - before == 2 * VIEWS * N
        assert (first != second).any()
        assert_same([probe.results["calibration"]], [BY_RADIUS[2].measure(model, data)])


@pytest.mark.parametrize(
    ("other", "new"),
    [
        (h.FrequencyAccuracy((2, 8), "mean"), 2),  # LFC(8) and HFC(8)
        (h.FrequencyAccuracy(RADII, "zero"), 3),  # the three HFC
        (h.FrequencyAccuracy(RADII, "mean", closed=False), 6),
        (h.FrequencyAccuracy(RADII, "mean", units="nyquist"), 6),
        (h.FrequencyAccuracy(RADII, "mean", rescale="max"), 7),
    ],
    ids=str,
)
def test_only_views_made_in_the_same_way_are_shared(other, new):
    model, data = Counting(), samples()
    shared = SharedLogits(model)
    passes(model, BY_RADIUS[:1], data, shared=shared)
    count, found = passes(model, [other], data, shared=shared)
    assert count == new * N
    assert_same(found, passes(model, [other], data)[1])


def test_nothing_is_shared_between_batches_of_another_size_or_with_other_images():
    model, data = Counting(), samples()
    shared = SharedLogits(model)
    passes(model, BY_RADIUS[:1], data, shared=shared)
    assert passes(model, BY_RADIUS[:1], data, shared=shared, batch_size=8)[0] == VIEWS * N
    assert passes(model, BY_RADIUS[:1], samples(), shared=shared)[0] == VIEWS * N


def test_a_smoothed_stand_in_has_logits_of_its_own():
    model, data = Counting(), samples()
    with h.kernels.smoothed(model, 1.0) as stand_in:
        expected = h.FrequencyAccuracy(RADII, "mean").measure(stand_in, data)
        shared = SharedLogits(model)
        passes(model, BY_RADIUS[:1], data, shared=shared)
        found = h.FrequencyAccuracy(RADII, "mean").run(stand_in, data, shared=shared)
    assert_same([found], [expected])


def test_views_beyond_the_room_there_is_are_shown_again(monkeypatch):
    model, data = Counting(), samples()
    monkeypatch.setattr(shared_logits, "_HELD_BYTES", 3 * N * CLASSES * 4)  # three views
    count, found = passes(model, BY_RADIUS[:2], data, shared=SharedLogits(model))
    assert count == (2 * VIEWS - 3) * N
    assert_same(found, passes(model, BY_RADIUS[:2], data)[1])

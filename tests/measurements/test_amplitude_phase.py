"""Classifiers that read only amplitude or only phase, and ResNet-20."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hfc_probe import AmplitudePhase, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.amplitude_phase import pairs

WAVE = (0, 3)


class Reads(nn.Module):
    """Two classes by the amplitude of coefficient (0, 3), or by the sign of its real part."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        coefficient = torch.fft.fft2(x)[:, 0, WAVE[0], WAVE[1]]
        if self.what == "amplitude":
            score = coefficient.abs() - 18
        else:
            score = coefficient.angle().cos()
        return torch.stack([-score, score], 1)


def data():
    """Class by both amplitude (12 or 24) and phase (π or 0) of one coefficient of 16×16."""
    wave = fourier.basis(*WAVE, 16, 16)
    unit = 16 * 16 / 2 * float(wave.max())  # the wave's own |coefficient|
    images = [0.5 - 12 / unit * wave, 0.5 + 24 / unit * wave]
    x = torch.stack(images * 6).unsqueeze(1)
    return Samples(x, torch.tensor([0, 1] * 6))


@pytest.mark.parametrize("what", ["amplitude", "phase"])
def test_planted_a_reader_of_one_follows_it_alone(what):
    samples = data()
    assert Reads(what)(samples.images).argmax(1).tolist() == samples.targets.tolist()
    result = AmplitudePhase(pairing="different").measure(Reads(what), samples)
    follows_phase = what == "phase"
    assert result.of("original")[0] == 1.0
    assert result.of("phase_kept_own")[0] == float(follows_phase)
    assert result.of("phase_kept_other")[0] == float(not follows_phase)
    assert result.of("amplitude_kept_other")[0] == float(follows_phase)
    assert result.of("amplitude_kept_own")[0] == float(not follows_phase)
    assert result.sentence().startswith(f"The model follows {what}")


def test_same_class_pairs_keep_both_labels():
    for what in ("amplitude", "phase"):
        result = AmplitudePhase(pairing="same").measure(Reads(what), data())
        assert result.of("phase_kept_own") == result.of("phase_kept_other")
        assert result.of("phase_kept_own")[0] == 1.0


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=40),
    pairing=st.sampled_from(["any", "same", "different"]),
    seed=st.integers(0, 100),
)
def test_pairs_hold_what_they_promise(labels, pairing, seed):
    labels = np.array(labels)
    sizes = np.bincount(labels)
    possible = {"any": True, "same": sizes.max() > 1, "different": (sizes > 0).sum() > 1}
    if not possible[pairing]:
        with pytest.raises(InputError, match="pairing: expected"):
            pairs(labels, pairing, seed)
        return
    own, other = pairs(labels, pairing, seed)
    assert len(set(own)) == len(own) == len(set(other))
    assert (own != other).all()
    if pairing == "same":
        assert (labels[own] == labels[other]).all()
        assert len(own) == sizes[sizes > 1].sum()
    if pairing == "different":
        assert (labels[own] != labels[other]).all()
        if sizes.max() * 2 <= len(labels):
            assert len(own) == len(labels)
    if pairing == "any":
        assert len(own) == len(labels)


@pytest.mark.parametrize("over_channels", [False, True])
def test_accuracy_equals_a_slow_reference_on_resnet20(resnet20, cifar, over_channels):
    pixels = PixelSpace.imagenet()
    some = Samples(cifar.images[:32], cifar.targets[:32])
    result = AmplitudePhase(over_channels=over_channels, seed=4).measure(
        resnet20, some, pixels=pixels
    )
    own, other = pairs(some.targets.numpy(), "different", 4)
    axes = (1, 2, 3) if over_channels else (2, 3)
    a = np.fft.fftn(some.pixels()[other].double().numpy(), axes=axes)
    b = np.fft.fftn(some.pixels()[own].double().numpy(), axes=axes)
    mixed = np.fft.ifftn(np.abs(a) * np.exp(1j * np.angle(b)), axes=axes).real.clip(0, 1)
    with torch.no_grad():
        found = resnet20(pixels.normalize(torch.from_numpy(mixed).float())).argmax(1)
    assert result.counts["phase_kept_own"] == int((found == some.targets[own]).sum())
    assert result.counts["phase_kept_other"] == int((found == some.targets[other]).sum())


def test_bad_input():
    one = Samples(torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="at least two classes"):
        AmplitudePhase().measure(Reads("phase"), one)
    with pytest.raises(InputError, match="pairing: expected"):
        AmplitudePhase(pairing="other")

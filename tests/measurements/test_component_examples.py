"""Which component keeps an image right, on a planted model and on ResNet-20."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import ComponentExamples, InputError, PixelSpace, Samples, fourier


class ReadsOneWave(nn.Module):
    """Class 1 where the wave (i, j) is present with positive sign, else class 0."""

    def __init__(self, i, j, size=16):
        super().__init__()
        self.register_buffer("wave", fourier.basis(i, j, size, size))

    def forward(self, x):
        margin = 10 * (x * self.wave).sum((1, 2, 3)) - 0.1
        return torch.stack([-margin, margin], 1)


def waves(i, j, signs, size=16):
    x = 0.5 + torch.tensor(signs).view(-1, 1, 1, 1) * fourier.basis(i, j, size, size)
    return Samples(x, (torch.tensor(signs) > 0).long())


def test_planted_a_reader_of_a_high_wave_is_right_on_hfc_alone():
    data = waves(0, 6, [1.0, -1.0, 1.0, -1.0])
    result = ComponentExamples(radii=(3, 7)).measure(ReadsOneWave(0, 6), data)
    arrays = result.arrays()
    # At r = 3 the wave is in HFC; LFC is flat, which is class 0.
    assert arrays["high_only"].tolist() == [0.5, 0.0]
    assert arrays["both"].tolist() == [0.5, 0.5]
    assert arrays["low_only"].tolist() == [0.0, 0.5]
    assert arrays["neither"].tolist() == [0.0, 0.0]
    assert result.example_radius == 3
    assert result.example_index.tolist() == [0, 2]
    assert result.example_predicted.tolist() == [[1, 0, 1], [1, 0, 1]]
    np.testing.assert_allclose(
        result.example_images[0, 1] + result.example_images[0, 2], data.images[0], atol=1e-6
    )


def test_counts_equal_a_slow_reference_on_resnet20(resnet20, cifar):
    pixels = PixelSpace.imagenet()
    some = Samples(cifar.images[:40], cifar.targets[:40])
    result = ComponentExamples(radii=(4, 12), hfc_background="mean").measure(
        resnet20, some, pixels=pixels
    )
    mean = some.pixels().mean((0, 2, 3)).view(1, 3, 1, 1)

    def right(x):
        with torch.no_grad():
            return resnet20(pixels.normalize(x)).argmax(1) == some.targets

    clean = right(some.pixels())
    for k, radius in enumerate((4, 12)):
        low, high = fourier.split(some.pixels(), radius)
        a, b = right(low), right(high + mean)
        assert result.counts["high_only"][k] == int((clean & ~a & b).sum())
        assert result.counts["low_only"][k] == int((clean & a & ~b).sum())
        assert result.counts["both"][k] == int((clean & a & b).sum())
        assert result.counts["neither"][k] == int((clean & ~a & ~b).sum())
    shares = [result.arrays()[n] for n in ("high_only", "low_only", "both", "neither")]
    np.testing.assert_allclose(sum(shares), 1.0)


def test_bad_input():
    with pytest.raises(InputError, match="radius: expected one of the radii 3, 7"):
        ComponentExamples(radii=(3, 7), radius=5).measure(ReadsOneWave(0, 6), waves(0, 6, [1.0]))
    with pytest.raises(InputError, match="group: expected"):
        ComponentExamples(group="high")
    with pytest.raises(InputError, match="class_names: expected 2 names"):
        ComponentExamples(class_names=("a",)).measure(ReadsOneWave(0, 6), waves(0, 6, [1.0]))

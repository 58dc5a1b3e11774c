"""Inputs other than images of one size in [0, 1]: video, volumes, many channels, ranges, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe
from hfc_probe import (
    FourierHeatmap,
    FrequencyAccuracy,
    ImageScore,
    InputError,
    PixelSpace,
    Samples,
    SetScore,
    fourier,
)
from hfc_probe.core.provenance import images_hash

N, T, SIDE = 12, 8, 16


def wave(k, i, j):
    """A wave of k cycles over the clip, i along the height, j along the width; (T, H, W)."""
    axes = torch.meshgrid(*(torch.arange(n) / n for n in (T, SIDE, SIDE)), indexing="ij")
    turns = sum(cycles * at for cycles, at in zip((k, i, j), axes, strict=True))
    return torch.cos(2 * torch.pi * turns)


class Finds(nn.Module):
    """Whether a wave is there with a positive sign: two logits."""

    def __init__(self, pattern):
        super().__init__()
        self.register_buffer("pattern", pattern)

    def forward(self, x):
        found = (x * self.pattern).flatten(1).mean(1)
        return torch.stack([-found, found - 1e-4], 1)


@pytest.mark.parametrize(("axes", "right"), [(2, [1, 1, 0.5]), (3, [0.5, 1, 1])])
def test_video_by_the_image_axes_or_all_three(axes, right):
    """A wave (3, 0, 2) has distance 2 in its frames and 3.6 over the clip."""
    pattern, targets = wave(3, 0, 2), torch.arange(N) % 2
    clips = 0.5 + 0.2 * (2 * targets - 1).view(-1, 1, 1, 1, 1) * pattern
    samples, radii = Samples(clips.float(), targets), (2, 4)
    curves = FrequencyAccuracy(radii, axes=axes).measure(Finds(pattern), samples)
    arrays = curves.arrays()
    assert arrays["original"] == 1
    # The pattern has no more than its own frequency, so what lacks it is decided as class 0.
    found = [arrays["lfc"][0], arrays["lfc"][1], arrays["hfc"][0]]
    assert found == right
    scored = ImageScore(radii, axes=axes).measure(Finds(pattern), samples).arrays()
    np.testing.assert_allclose(scored["lfc"], arrays["lfc"])


def test_components_over_three_axes_are_those_of_a_plain_transform():
    torch.manual_seed(0)
    clip, r = torch.rand(2, 3, 5, 6, 7), 2.3
    index = [torch.fft.fftfreq(n) * n for n in clip.shape[2:]]
    d = sum(f**2 for f in torch.meshgrid(*index, indexing="ij")).sqrt()
    spectrum = torch.fft.fftn(clip, dim=(2, 3, 4)) * (d <= r)
    low, high = fourier.split(clip, r, axes=3)
    torch.testing.assert_close(low, torch.fft.ifftn(spectrum, dim=(2, 3, 4)).real)
    torch.testing.assert_close(low + high, clip)
    frames = fourier.split(clip.transpose(1, 2).flatten(0, 1), r)[0]
    torch.testing.assert_close(
        fourier.split(clip, r)[0], frames.unflatten(0, (2, 5)).transpose(1, 2)
    )


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_any_number_of_channels_and_background(channels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(channels, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    pixels = PixelSpace((0.4,) * channels, (0.2,) * channels)
    clips, targets = torch.rand(N, channels, T, SIDE, SIDE), torch.arange(N) % 4
    options = {"hfc_background": "mean", "rescale": "max"}
    samples = Samples(clips, targets)
    curves = FrequencyAccuracy((4,), **options).measure(model, samples, pixels=pixels)
    high = fourier.split(clips, 4)[1] + clips.mean((0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    high = high / high.amax((1, 2, 3, 4), keepdim=True)
    right = (model((high - 0.4) / 0.2).argmax(1) == targets).float().mean()
    assert curves.arrays()["hfc"][0] == pytest.approx(float(right))


def test_video_is_attached_and_read_from_a_loader():
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    clips = torch.randint(0, 256, (N, 3, T, SIDE, SIDE)).float() / 255
    data = torch.utils.data.TensorDataset((clips - 0.5) / 0.25, torch.arange(N) % 4)
    loader = torch.utils.data.DataLoader(data, 4)
    with hfc_probe.attach(model, loader, pixels=PixelSpace((0.5,), (0.25,)), strict=True) as probe:
        assert probe.samples.images.dtype == torch.uint8
        assert set(probe.measure()) == {"frequency_accuracy", "kernel_spectra"}
        assert probe.measure()["frequency_accuracy"].radii.tolist() == [2, 4, 6, 8]


def test_what_takes_images_alone_says_so():
    clips = Samples(torch.rand(2, 3, T, SIDE, SIDE), torch.arange(2))
    with pytest.raises(InputError, match=r"\(C, H, W\) of one size, got images of shape \(3, 8"):
        FourierHeatmap().measure(nn.Identity(), clips)
    with pytest.raises(InputError, match="axes: expected video or volumes"):
        FrequencyAccuracy(axes=3).measure(nn.Identity(), Samples(clips.images[:, :, 0], [0, 1]))
    with pytest.raises(InputError, match=r"channels third; pass images.permute\(0, 2, 1, 3, 4\)"):
        Samples(torch.rand(2, T, 3, SIDE, SIDE), torch.arange(2))


def test_images_of_several_sizes():
    """The sign of three cycles, whatever the size of the image: found at r = 4, not at r = 2."""

    class Sign(nn.Module):
        def forward(self, x):
            found = torch.fft.fft2(x)[:, 0, 3, 0].real / x.shape[2] / x.shape[3]
            return torch.stack([-found, found - 1e-4], 1)

    sides, targets = [(12, 16), (20, 14), (12, 16), (32, 32)] * 3, torch.arange(N) % 2
    pictures = [
        0.5 + 0.2 * (2 * k - 1) * torch.cos(6 * torch.pi * torch.arange(h) / h)[None, :, None]
        * torch.ones(1, 1, w)
        for k, (h, w) in zip(targets.tolist(), sides, strict=True)
    ]  # fmt: skip
    samples = Samples(pictures, targets)
    assert (len(samples), samples.image_shape) == (N, (1, 12, 14))
    assert float(samples.mean) == pytest.approx(0.5)
    arrays = FrequencyAccuracy((2, 4)).measure(Sign(), samples).arrays()
    assert arrays["original"] == 1
    assert arrays["lfc"].tolist() == [0.5, 1]
    assert arrays["hfc"].tolist() == [1, 0.5]
    nyquist = FrequencyAccuracy((0.3, 0.6), units="nyquist")
    # Three cycles are 0.5 of Nyquist on 12 pixels, 0.3 on 20, 0.19 on 32.
    on_12 = [side[0] == 12 for side in sides]
    lost = sum(on and bool(target) for on, target in zip(on_12, targets, strict=True))
    assert nyquist.measure(Sign(), samples).arrays()["lfc"].tolist() == [1 - lost / N, 1]
    half = samples.subset(5)
    assert len(half) == len(half.sizes) == 5
    with pytest.raises(InputError, match="got images of several sizes"):
        FourierHeatmap().measure(nn.Identity(), samples)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-1024, 3071, torch.int16), (0, 4095, torch.uint16), (-30, 5, torch.float32)],
    ids=["CT", "12-bit", "radar"],
)
def test_a_declared_range_gives_the_model_the_loaders_values(low, high, dtype):
    torch.manual_seed(0)
    values = torch.rand(N, 1, SIDE, SIDE, dtype=torch.float64) * (high - low) + low
    values[0, 0, 0, :2] = torch.tensor([low, high])
    values = values.to(torch.int32).to(dtype) if not dtype.is_floating_point else values.to(dtype)
    loader = [(values, torch.arange(N) % 2)]
    pixels = PixelSpace.of_range(low, high)
    samples = Samples.collect(loader, pixels=pixels)
    assert samples.caveats == ()
    assert float(samples.pixels().min()) == pytest.approx(0, abs=0.02)
    assert float(samples.pixels().max()) == pytest.approx(1, abs=1e-6)
    outputs = []
    measurement = ImageScore((4,), score=lambda o, t: torch.ones(len(t)), bootstrap=100)
    measurement.measure(nn.Identity(), samples, predict=lambda m, x: outputs.append(x.clone()))
    torch.testing.assert_close(outputs[0], values.float(), atol=(high - low) * 1e-6, rtol=0)
    np.testing.assert_allclose(
        outputs[1], fourier.split(values.float(), 4)[0], atol=(high - low) * 1e-5
    )


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-30, -5, torch.float32),  # decibels, all below 0
        (0, 0.4, torch.float32),  # a reflectance
        (-100, 100, torch.int16),
        (0, 100, torch.uint8),
        (0, 255, torch.uint8),
    ],
)
def test_any_range_can_be_declared(low, high, dtype):
    values = torch.linspace(low, high, N * SIDE * SIDE).reshape(N, 1, SIDE, SIDE).to(dtype)
    samples = Samples.collect([(values, torch.arange(N))], pixels=PixelSpace.of_range(low, high))
    given = samples.normalization.normalize(samples.pixels())
    torch.testing.assert_close(given, values.float(), atol=1e-5 * (high - low), rtol=0)


def test_a_declared_range_is_believed_and_kept_to():
    values = torch.rand(N, 1, SIDE, SIDE)  # in [0, 1] as well
    pixels = PixelSpace.of_range(-1, 1)
    samples = Samples.collect([(values, torch.arange(N))], pixels=pixels)
    torch.testing.assert_close(samples.normalization.normalize(samples.pixels()), values)
    with pytest.raises(InputError, match="values from -1 to 1, the range of pixels=, got"):
        Samples.collect([(values + 0.1 * values.round(), torch.arange(N))], pixels=pixels)
    with pytest.raises(InputError, match="divide a mean and std of 8-bit values by 255"):
        PixelSpace((123.0,), (58.0,))


def test_images_of_several_sizes_are_of_one_type_and_told_apart_by_size():
    bright, sides = torch.full((3, 9, 9), 200, dtype=torch.uint8), torch.arange(2)
    with pytest.raises(InputError, match=r"one number type, got torch.float32, torch.uint8"):
        Samples([bright, torch.rand(3, 8, 8)], sides)
    one, other = (Samples([torch.zeros(3, n, n), torch.zeros(3, 9, 9)], sides) for n in (7, 8))
    assert images_hash(one) != images_hash(other)
    rmse = SetScore(lambda outputs, targets: float((outputs - targets).square().mean()))
    with pytest.raises(InputError, match="as many numbers in the rows of all images, got"):
        ImageScore((2,), score=rmse, targets="clean").measure(nn.Identity(), one)
    with pytest.raises(InputError, match="targets: expected a tensor with a row for each image"):
        ImageScore((2,), score="set_iou", targets=[torch.zeros(7, 7), torch.zeros(9, 9)]).measure(
            nn.Identity(), one
        )


def test_several_inputs_are_channels_that_predict_takes_apart():
    torch.manual_seed(0)
    left, right = torch.rand(N, 3, SIDE, SIDE), torch.rand(N, 3, SIDE, SIDE)

    class Stereo(nn.Module):
        def forward(self, a, b):
            return torch.stack([a.mean((1, 2, 3)), b.mean((1, 2, 3))], 1)

    truth = Stereo()(left, right).argmax(1)
    samples = Samples(torch.cat([left, right], 1), truth)
    curves = FrequencyAccuracy((4,)).measure(
        Stereo(), samples, predict=lambda model, x: model(x[:, :3], x[:, 3:])
    )
    assert curves.arrays()["original"] == curves.arrays()["lfc"][0] == 1

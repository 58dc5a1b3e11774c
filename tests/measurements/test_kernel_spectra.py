"""Kernel spectra as a measurement: known kernels in known models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, KernelSpectra


def conv(weight: torch.Tensor) -> nn.Module:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return nn.Sequential(layer)


def test_known_kernels_have_known_numbers():
    checkers = torch.tensor([[1.0, -1], [-1, 1]])
    impulse = torch.tensor([[1.0, 0], [0, 0]])
    zero = torch.zeros(2, 2)
    result = KernelSpectra().measure(conv(torch.stack([checkers, impulse, zero])[:, None]))
    arrays = result.arrays()
    d = np.hypot(*np.meshgrid(np.arange(-16, 16), np.arange(-16, 16))) / 32
    assert arrays["smoothness"][0] == 0
    np.testing.assert_allclose(arrays["high_frequency_ratio"][1], (d > 0.25).mean(), rtol=1e-5)
    np.testing.assert_allclose(arrays["spectral_centroid"][1], d.mean(), rtol=1e-5)
    assert arrays["high_frequency_ratio"][0] > 0.95
    assert math.isnan(arrays["smoothness"][2])
    assert math.isnan(arrays["spectral_centroid"][2])
    assert result.dead == 1
    assert all(math.isfinite(v) for v in result.scalars().values())
    np.testing.assert_allclose(arrays["radial_profile"][1], 1 / 32**2, rtol=1e-5)


@pytest.mark.parametrize("cycles", [1, 3, 5])
def test_a_sinusoidal_kernel_has_its_frequency_as_centroid_and_ring(cycles):
    x = torch.arange(16.0)
    wave = torch.cos(2 * math.pi * cycles * x / 16).expand(16, 16)
    result = KernelSpectra(size=16).measure(conv(wave[None, None]))
    arrays = result.arrays()
    assert arrays["spectral_centroid"][0] == pytest.approx(cycles / 16, abs=1e-4)
    peak = arrays["radial_frequency"][arrays["radial_profile"][0].argmax()]
    assert peak == cycles / 16
    assert arrays["high_frequency_ratio"][0] == pytest.approx(float(cycles / 16 > 0.25), abs=1e-4)


def test_numbers_do_not_depend_on_scale_sign_or_padding():
    weight = torch.randn(5, 3, 7, 7)
    small = KernelSpectra().measure(conv(weight)).arrays()
    scaled = KernelSpectra().measure(conv(-3 * weight)).arrays()
    padded = KernelSpectra(size=96).measure(conv(weight)).arrays()
    for name in ("smoothness", "high_frequency_ratio", "spectral_centroid"):
        np.testing.assert_allclose(small[name], scaled[name], rtol=1e-5)
    np.testing.assert_allclose(small["spectral_centroid"], padded["spectral_centroid"], rtol=0.02)


def test_a_real_network(resnet20):
    result = KernelSpectra().measure(resnet20)
    assert result.layer == "conv1"
    np.testing.assert_array_equal(result.arrays()["kernels"], resnet20.conv1.weight.detach())
    assert set(result.scalars()) == {
        "hfc_conv1/smoothness_mean",
        "hfc_conv1/high_frequency_ratio",
        "hfc_conv1/spectral_centroid",
    }
    assert "conv1" in str(result)


def test_diverged_weights_and_unknown_layers_are_told():
    weight = torch.randn(4, 3, 3, 3)
    weight[1, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match="NaN or infinity in 1 of 4 kernels"):
        KernelSpectra().measure(conv(weight))
    with pytest.raises(InputError, match="dotted name"):
        KernelSpectra(layer="conv9").measure(conv(torch.randn(4, 3, 3, 3)))
    with pytest.raises(InputError, match="size: expected"):
        KernelSpectra(size=1)
    with pytest.raises(InputError, match="layout: expected"):
        KernelSpectra(layout="nhwc")


def test_kernels_that_are_all_zero_are_said_to_be_and_not_nan():
    result = KernelSpectra().measure(conv(torch.zeros(4, 3, 3, 3)))
    assert "nan" not in str(result)
    assert result.sentence() == "All 4 kernels of 0 are zero: it passes nothing of the image on."
    assert result.scalars() == {}
    result.figure()


def test_event_files_keep_the_pictures_of_64_kernels_and_the_numbers_of_all():
    result = KernelSpectra().measure(conv(torch.randn(100, 3, 5, 5)))
    tensors = result.tensors()
    assert len(tensors["spectra"]) == len(tensors["kernels"]) == 64
    assert len(tensors["smoothness"]) == 100


def test_a_model_on_the_meta_device_is_told():
    with pytest.raises(InputError, match="load weights"):
        KernelSpectra().measure(nn.Sequential(nn.Conv2d(3, 8, 3, device="meta")))

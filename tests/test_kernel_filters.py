"""Low-passed kernels and the smoothness penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, kernels


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("radius", [0, 1, 1.5, 10])
def test_low_pass_drops_the_coefficients_beyond_the_radius(size, radius):
    weight = torch.randn(4, 3, size, size, dtype=torch.float64)
    spectrum = np.fft.fft2(weight.numpy())
    index = np.fft.fftfreq(size, 1 / size)
    distance = np.hypot(index[:, None], index[None, :])
    expected = np.fft.ifft2(np.where(distance <= radius, spectrum, 0)).real
    np.testing.assert_allclose(kernels.low_pass(weight, radius), expected, atol=1e-12)


def test_low_passed_stand_in_leaves_the_model_alone_and_passes_gradients():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten())
    before = model[0].weight.clone()
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with kernels.low_passed(model, 1) as stand_in:
        out = stand_in(x)
        reference = nn.functional.conv2d(x, kernels.low_pass(before, 1)).relu().flatten(1)
        torch.testing.assert_close(out, reference)
        out.sum().backward()
    assert x.grad is not None
    assert torch.equal(model[0].weight, before)
    with pytest.raises(InputError, match="low_passed: expected to be called inside"):
        stand_in(x)


def test_penalty_is_one_minus_the_mean_smoothness():
    model = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten())
    expected = 1 - kernels.smoothness(model[0].weight.detach()).mean()
    torch.testing.assert_close(kernels.smoothness_penalty(model).detach(), expected)


def test_penalty_is_differentiable_and_its_descent_smooths():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 5))
    model = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = float(kernels.smoothness(layer.weight.detach()).mean())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        kernels.smoothness_penalty(model).backward()
        optimizer.step()
    after = float(kernels.smoothness(layer.weight.detach()).mean())
    assert after > before + 0.2


def test_penalty_matches_finite_differences():
    layer = nn.Conv2d(1, 2, 3, bias=False).double()
    weight = layer.weight.detach().clone().requires_grad_()

    def penalty(w):
        layer.weight = nn.Parameter(w.detach())
        return torch.func.functional_call(Penalty(layer), {"layer.weight": w}, ())

    assert torch.autograd.gradcheck(penalty, (weight,))


class Penalty(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return kernels.smoothness_penalty(self, layer="layer")


def test_penalty_of_zero_kernels_is_zero_and_bad_layers_are_named():
    layer = nn.Conv2d(3, 4, 3)
    nn.init.zeros_(layer.weight)
    loss = kernels.smoothness_penalty(layer)
    loss.backward()
    assert float(loss.detach()) == 0
    assert layer.weight.grad.isfinite().all()
    with pytest.raises(InputError, match="smoothness_penalty: expected a 2-D convolution"):
        kernels.smoothness_penalty(nn.Sequential(nn.Linear(48, 10), nn.ReLU()))
    with pytest.raises(InputError, match="radius: expected"):
        kernels.low_pass(torch.ones(1, 1, 3, 3), -1)

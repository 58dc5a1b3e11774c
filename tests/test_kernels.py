"""First-layer kernels: which layer, its weights, spectra, smoothness, smoothing."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, kernels


def wrap(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Patches(nn.Module):
    """A patch embedding as a linear layer over flattened (row, column, channel) patches."""

    def __init__(self, side=4):
        super().__init__()
        self.side = side
        self.patch_embed = nn.Linear(3 * side * side, 10)

    def forward(self, x):
        n, c, h, w = x.shape
        s = self.side
        x = x.reshape(n, c, h // s, s, w // s, s).permute(0, 2, 4, 3, 5, 1)
        return self.patch_embed(x.flatten(3)).mean((1, 2))


class TopDown(nn.Module):
    """Registers its later convolutions first, as feature pyramids do."""

    def __init__(self):
        super().__init__()
        self.lateral = nn.Conv2d(64, 32, 1)
        self.output = nn.Conv2d(32, 32, 3)
        self.stem = nn.Conv2d(3, 64, 7)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (wrap(nn.Conv2d(3, 8, 3)), "0"),
        (wrap(nn.Conv2d(1, 8, (1, 7))), "0"),
        (wrap(nn.Conv2d(4, 8, 3, groups=2, stride=2, dilation=2)), "0"),
        (nn.Sequential(nn.Conv3d(3, 8, (1, 7, 7)), nn.Conv3d(8, 8, 3)), "0"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 5)), "1"),
        (nn.Sequential(nn.Conv2d(13, 8, 3), nn.Conv2d(8, 8, 3)), "0"),
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3)), "1"),
        (nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(1, 1, 7)), "0"),
        (nn.Sequential(nn.Linear(5, 5), nn.Conv2d(1, 8, 3)), "1"),
        (nn.Conv2d(3, 8, 3), ""),
        (TopDown(), "stem"),
        (Patches(), "patch_embed"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "1"),
        (nn.DataParallel(wrap(nn.Conv2d(3, 8, 3))), "0"),
        (torch.compile(wrap(nn.Conv2d(3, 8, 3))), "0"),
    ],
)
def test_the_layer_that_sees_pixels_is_found(model, name):
    assert kernels.first_layer(model)[0] == name


def test_the_number_of_channels_tells_where_it_is_known():
    model = nn.Sequential(nn.Conv2d(2, 1, 7), nn.Conv2d(13, 8, 3))  # attention, then the stem
    assert kernels.first_layer(model, channels=13)[0] == "1"


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(10, 10)),
        # DCT coefficients, features, spatial attention
        nn.Sequential(
            nn.Conv2d(64, 8, 1), nn.Conv2d(32, 32, 7), nn.Conv2d(2, 1, 7), nn.Conv2d(1, 1, 3)
        ),
        nn.Sequential(nn.ConvTranspose2d(3, 8, 3)),
        nn.ReLU(),
    ],
)
def test_no_such_layer_is_an_error_that_lists_what_was_looked_at(model):
    with pytest.raises(InputError, match=r"looked at .*layer="):
        kernels.first_layer(model)


def test_a_layer_is_chosen_by_name_and_a_typo_gets_a_suggestion():
    model = nn.Sequential()
    model.stem = nn.Conv2d(3, 8, 3)
    model.second = nn.Conv2d(8, 8, 3)
    assert kernels.first_layer(model, layer="second") == ("second", model.second)
    with pytest.raises(InputError, match=r"got 'secnd'; closest: second"):
        kernels.first_layer(model, layer="secnd")
    model.point = nn.Conv2d(8, 8, 1)
    with pytest.raises(InputError, match="larger than 1×1"):
        kernels.first_layer(model, layer="point")


def effective(model: nn.Module, channels: int, side: int) -> torch.Tensor:
    """Kernels from the outside: the response at one place to an impulse at every pixel."""
    base = model(torch.zeros(1, channels, side, side))
    responses = []
    for c in range(channels):
        for row in range(side):
            for column in range(side):
                x = torch.zeros(1, channels, side, side)
                x[0, c, row, column] = 1
                responses.append(model(x) - base)
    return torch.stack(responses, -1).reshape(-1, channels, side, side)


def parametrised():
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 4)), (3, 4)


def spectral():
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 5, 4)).eval(), (3, 4)


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Conv2d(3, 5, 4))
    with torch.no_grad():
        layer.weight_g *= 2  # as an optimizer step leaves it: .weight is stale until forward
    return layer, (3, 4)


def old_spectral_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.spectral_norm(nn.Conv2d(3, 5, 4)).eval()
    with torch.no_grad():
        layer.weight_orig *= 2
    return layer, (3, 4)


def half():
    return nn.Conv2d(3, 5, 4).to(torch.bfloat16).to(torch.float32), (3, 4)


def linear_patches():
    return Patches(), (3, 4)


def flat_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5)), (3, 4)


@pytest.mark.parametrize(
    "make",
    [parametrised, spectral, old_weight_norm, old_spectral_norm, half, linear_patches, flat_mlp],
)
def test_weights_are_those_that_act_on_pixels(make):
    model, (channels, side) = make()
    name, module = kernels.first_layer(model)
    weight = kernels.weight_of(name, module)
    with torch.no_grad():
        expected = effective(model, channels, side)
    torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)


def test_weights_of_a_quantised_layer_are_dequantised():
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-8, 8, layer.weight.shape) / 16)
    quantised = torch.quantize_per_tensor(layer.weight.detach(), 1 / 16, 0, torch.qint8)
    layer._parameters.pop("weight")
    expected = quantised.dequantize()

    class Quantised(nn.Module):
        """The interface of torch.ao.nn.quantized.Conv2d: weight is a method."""

        in_channels, out_channels, kernel_size, dilation = 3, 4, (3, 3), (1, 1)

        def weight(self):
            return quantised

    name, module = kernels.first_layer(nn.Sequential(Quantised()))
    assert torch.equal(kernels.weight_of(name, module), expected)


def test_three_dimensional_kernels_put_time_beside_channels():
    layer = nn.Conv3d(3, 4, (2, 5, 5))
    weight = kernels.weight_of("", layer)
    assert weight.shape == (4, 6, 5, 5)
    assert torch.equal(weight[1, 3], layer.weight.detach()[1, 1, 1])


def test_reading_weights_in_isolation_leaves_spectral_norm_as_it_was():
    from hfc_probe import KernelSpectra

    model = wrap(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))).train()
    before = copy.deepcopy(model.state_dict())
    KernelSpectra().measure(model)
    kernels.first_layer(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    "make", [lambda: nn.LazyConv2d(8, 3), lambda: nn.Conv2d(3, 8, 3, device="meta")]
)
def test_weights_that_are_not_there_yet_are_told(make):
    with pytest.raises(InputError, match="load weights or run the model once"):
        kernels.weight_of("conv", make())


def slow_smoothness(w: np.ndarray) -> float:
    variation = total = 0.0
    channels, height, width = w.shape
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                for dy, dx in ((0, 1), (1, 0)):
                    if y + dy < height and x + dx < width:
                        a, b = w[c, y, x], w[c, y + dy, x + dx]
                        variation += abs(a - b)
                        total += abs(a) + abs(b)
    return 1 - variation / total


def test_smoothness_against_a_slow_loop_and_its_invariances():
    weight = torch.randn(6, 3, 5, 4)
    ours = kernels.smoothness(weight)
    np.testing.assert_allclose(
        ours, [slow_smoothness(w.double().numpy()) for w in weight], atol=1e-6
    )
    torch.testing.assert_close(kernels.smoothness(-7.5 * weight), ours)
    torch.testing.assert_close(kernels.smoothness(weight.flip(-1)), ours)
    assert bool(((ours >= 0) & (ours <= 1)).all())


def test_smoothness_of_known_kernels():
    board = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    stack = torch.stack([torch.ones(3, 3), board, torch.zeros(3, 3)])[:, None]
    constant, checkers, nothing = kernels.smoothness(stack).tolist()
    assert (constant, checkers) == (1, 0)
    assert math.isnan(nothing)
    noise = kernels.smoothness(torch.randn(400, 3, 7, 7)).mean()
    assert float(noise) == pytest.approx(1 - math.sqrt(2) / 2, abs=0.01)


@pytest.mark.parametrize("frequency", [(0, 0), (3, 0), (0, 5), (4, 4), (7, -2)])
def test_the_spectrum_of_a_sinusoidal_kernel_peaks_at_its_frequency(frequency):
    i, j = frequency
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    weight = torch.cos(2 * math.pi * (i * y + j * x) / 32)[None, None]
    power = kernels.spectrum(weight, 32)[0]
    expected = torch.zeros(32, 32)
    expected[16 + i, 16 + j] = expected[16 - i, 16 - j] = 1
    torch.testing.assert_close(power / power.max(), expected, atol=1e-5, rtol=0)


def test_spectrum_against_the_sum_that_defines_it():
    weight = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    ours = kernels.spectrum(weight, 10)
    for row in range(10):
        for column in range(10):
            i, j = (row - 5) / 10, (column - 5) / 10
            total = np.zeros(2)
            for n in range(2):
                for c in range(3):
                    value = sum(
                        complex(weight[n, c, y, x]) * np.exp(-2j * np.pi * (i * y + j * x))
                        for y in range(3)
                        for x in range(4)
                    )
                    total[n] += abs(value) ** 2
            np.testing.assert_allclose(ours[:, row, column], total, atol=1e-9)


def test_the_spectrum_of_a_dilated_kernel_is_that_of_its_taps_on_pixels():
    weight = torch.randn(2, 1, 3, 3)
    spread = torch.zeros(2, 1, 5, 7)
    spread[..., ::2, ::3] = weight
    torch.testing.assert_close(
        kernels.spectrum(weight, 16, dilation=(2, 3)), kernels.spectrum(spread, 16)
    )


@pytest.mark.parametrize("rho", [0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_smoothing_is_equation_3_with_replicated_edges(rho, normalize):
    weight = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = weight.clone()
    for n, c, y, x in np.ndindex(2, 3, 5, 4):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if dy or dx:
                    row, column = min(max(y + dy, 0), 4), min(max(x + dx, 0), 3)
                    expected[n, c, y, x] += rho * weight[n, c, row, column]
    if normalize:
        expected /= 1 + 8 * rho
    torch.testing.assert_close(kernels.smooth(weight, rho, normalize=normalize), expected)


def test_a_smoothed_model_computes_with_smoothed_kernels_and_writes_nothing():
    model = wrap(nn.Conv2d(3, 8, 5, padding=2))
    before = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected[0].weight.copy_(kernels.smooth(model[0].weight, 0.5))
    x = torch.rand(2, 3, 16, 16)
    version = model[0].weight._version
    with kernels.smoothed(model, 0.5) as smooth_model:
        torch.testing.assert_close(smooth_model(x), expected(x))
        assert not torch.allclose(smooth_model(x), model(x))
        assert kernels.first_layer(smooth_model)[0].endswith("0")
    assert model[0].weight._version == version
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(InputError, match="inside its `with` block"):
        smooth_model(x)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: kernels.smooth(torch.ones(1, 1, 3, 3), -0.1),
            "rho: expected a number from 0 to 1000, got -0.1",
        ),
        (lambda: kernels.smoothness(torch.ones(3, 3)), r"\(out, in, kh, kw\)"),
        (lambda: kernels.smoothness(torch.ones(2, 2, 1, 1)), "larger than 1×1"),
        (lambda: kernels.spectrum(torch.ones(1, 1, 7, 7), 5), "at least the kernel's 7×7"),
        (lambda: kernels.weight_of("fc", nn.Linear(7, 3)), "square patches"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()

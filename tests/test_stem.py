"""The first layer as it acts on pixels, against impulses sent through the model pixel by pixel."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from hfc_probe import InputError, KernelSpectra, Samples, kernels, stem
from hfc_probe.model.isolation import isolated

from .conftest import needs_timm

SIDE = 16


def network(*first: nn.Module) -> nn.Sequential:
    return nn.Sequential(*first, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def measured(model, shape=(3, SIDE, SIDE), layer=None, run=None):
    with isolated(model) as inner:
        return stem.measure(inner, run, shape, layer=layer)


def impulses(layers, shape, place):
    """Responses at a place of the output, ``(out, C, H, W)``, one pixel at a time."""
    with torch.no_grad():
        base = layers(torch.zeros(1, *shape))
        found = torch.zeros(base.shape[1], *shape, dtype=base.dtype)
        for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
            image = torch.zeros(1, *shape)
            image[(0, *index)] = 1
            found[(slice(None), *index)] = (layers(image) - base)[(0, slice(None), *place)]
    return found


def cropped(response, step=(1, 1)):
    rows = response.abs().sum((0, 1, 3)).nonzero().flatten()
    columns = response.abs().sum((0, 1, 2)).nonzero().flatten()
    return response[..., rows[0] : rows[-1] + 1 : step[0], columns[0] : columns[-1] + 1 : step[1]]


class Tokens(nn.Module):
    """Patches as ``nn.Unfold`` lays them out, or by reshaping; then a linear layer."""

    def __init__(self, side=4, last=False, unfold=True):
        super().__init__()
        self.side, self.last = side, last
        self.unfold = nn.Unfold(side, stride=side) if unfold else None
        self.patch_embed = nn.Linear(3 * side * side, 6)

    def forward(self, x):
        if self.unfold is not None:
            return (
                self.patch_embed(self.unfold(x).transpose(1, 2))
                .transpose(1, 2)
                .unflatten(2, (x.shape[2] // self.side, -1))
            )
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // self.side, self.side, w // self.side, self.side)
        x = x.permute(0, 2, 4, 3, 5, 1) if self.last else x.permute(0, 2, 4, 1, 3, 5)
        return self.patch_embed(x.flatten(3)).permute(0, 3, 1, 2)


class Standardised(nn.Conv2d):
    def forward(self, x):
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / std, self.bias)


class Branches(nn.Module):
    """As a block of RepVGG in training: branches that are added before the activation."""

    def __init__(self, side=3):
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 6, side, padding=side // 2), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.Identity()

    def forward(self, x):
        return self.act(self.norm(self.large(x)) + self.small(x))


class SpaceToDepth(nn.Module):
    def forward(self, x):
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return torch.cat(parts, 1)


class Adapted(nn.Module):
    """As peft's LoRA: the frozen layer is inside, its change beside it."""

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Conv2d(3, 6, 3)
        self.down, self.up = nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 6, 1, bias=False)

    def forward(self, x):
        return self.base_layer(x) + 2 * self.up(self.down(x))


def pruned():
    layer = nn.Conv2d(3, 6, 5)
    prune.random_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig.normal_()  # .weight is one step old
    return layer


def scaled():
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight)
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(norm, nn.Conv2d(3, 6, 3))


@pytest.mark.parametrize(
    ("make", "place", "step", "obtained"),
    [
        (lambda: nn.Conv2d(3, 6, 3), (7, 7), (1, 1), "weights"),
        (lambda: nn.Conv2d(3, 6, (5, 3), padding="same"), (7, 7), (1, 1), "weights"),
        (lambda: nn.Conv2d(3, 6, 5, 3, 2), (2, 2), (1, 1), "weights"),
        (lambda: nn.Conv2d(3, 6, 3, dilation=(2, 3)), (5, 5), (2, 3), "weights"),
        (lambda: nn.Conv2d(3, 6, 5, padding=2, padding_mode="circular"), (7, 7), (1, 1), "weights"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), (7, 7), (1, 1), "response"),
        (lambda: nn.ConvTranspose2d(3, 6, 3), (8, 8), (1, 1), "response"),
        (pruned, (6, 6), (1, 1), "response"),
        (lambda: Standardised(3, 6, 5), (6, 6), (1, 1), "response"),
        (scaled, (7, 7), (1, 1), "response"),
        (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 6, 3)), (3, 3), (1, 1), "resp"),
        (lambda: nn.Sequential(SpaceToDepth(), nn.Conv2d(12, 6, 1)), (4, 4), (1, 1), "response"),
        (Tokens, (2, 2), (1, 1), "response"),
        (lambda: Tokens(unfold=False), (2, 2), (1, 1), "response"),
        (lambda: Tokens(unfold=False, last=True), (2, 2), (1, 1), "response"),
        (Branches, (8, 8), (1, 1), "response"),
        (lambda: Adapted(), (7, 7), (1, 1), "response"),
    ],
)
def test_kernels_are_the_response_to_impulses(make, place, step, obtained):
    torch.manual_seed(0)
    first = make().eval()
    for _ in range(2):  # found, then known
        found = measured(network(first))
        expected = cropped(impulses(first, (3, SIDE, SIDE), place), step)
        torch.testing.assert_close(found.kernels, expected, atol=1e-5, rtol=1e-4)
        assert found.dilation == step
        assert found.obtained.startswith(obtained)
        assert not found.caveats
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.mul_(1.5)


def test_groups_time_and_complex_parts_lie_as_documented():
    torch.manual_seed(0)
    grouped = Standardised(4, 6, 3, groups=2)
    found = measured(network(grouped), (4, SIDE, SIDE)).kernels
    response = cropped(impulses(grouped, (4, SIDE, SIDE), (7, 7)))
    torch.testing.assert_close(
        found, torch.cat([response[:3, :2], response[3:, 2:]]), atol=1e-5, rtol=1e-4
    )
    for video in (nn.Conv3d(3, 6, (2, 3, 5)), parametrizations.weight_norm(nn.Conv3d(3, 6, 3))):
        model = nn.Sequential(video, nn.ReLU(), nn.Flatten())
        found = measured(model, (3, 4, SIDE, SIDE)).kernels
        torch.testing.assert_close(found, video.weight.detach().flatten(1, 2))

    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, dtype=torch.complex64)

        def forward(self, x):
            return self.conv(x.to(torch.complex64)).abs().flatten(1)

    model = Complex()
    weight = model.conv.weight.detach()
    found = measured(model)
    torch.testing.assert_close(found.kernels, torch.cat([weight.real, weight.imag], 1))
    assert found.obtained == "response to the model's input"
    torch.testing.assert_close(kernels.weight_of("conv", model.conv), found.kernels)


def test_constant_patches_are_smooth_however_they_are_flattened():
    for model in (Tokens(), Tokens(unfold=False), Tokens(unfold=False, last=True)):
        patches = torch.zeros(6, 3, 4, 4) + torch.randn(6, 3, 1, 1)
        flat = patches.permute(0, 2, 3, 1) if model.last else patches
        with torch.no_grad():
            model.patch_embed.weight.copy_(flat.flatten(1))
        data = Samples(torch.rand(2, 3, SIDE, SIDE), torch.zeros(2, dtype=torch.long))
        result = KernelSpectra().measure(model, data)
        torch.testing.assert_close(torch.from_numpy(result.smoothness), torch.ones(6))
        assert result.to_dict()["obtained"] == "response to the model's input"
        assert result.layer == "patch_embed"
        assert result.layer_type == "Linear"


def test_a_kernel_of_one_tap_keeps_the_layers_window():
    layer = Standardised(3, 2, 3, bias=False)
    layer.forward = lambda x: F.conv2d(x, layer.weight)  # not read as weights
    weight = torch.zeros(2, 3, 3, 3)
    weight[:, :, 0, 2] = 1
    weight[1, :, 0, 1] = 1
    with torch.no_grad():
        layer.weight.copy_(weight)
    found = measured(network(layer))
    assert found.obtained.startswith("response")
    assert torch.equal(found.kernels, weight)


def test_a_first_layer_of_three_or_four_maps_is_not_taken_for_an_image():
    for outputs in (3, 4):
        model = network(nn.Conv2d(1, outputs, 5), nn.Conv2d(outputs, 8, 3))
        assert measured(model, (1, SIDE, SIDE)).name == "0"
        assert measured(model, None).name == "0"
        assert kernels.first_layer(model)[0] == "0"
        assert kernels.first_layer(model, channels=1)[0] == "0"
        penalty = kernels.smoothness_penalty(model)
        expected = 1 - kernels.smoothness(model[0].weight.detach()).mean()
        torch.testing.assert_close(penalty.detach(), expected)
        x = torch.rand(1, 1, SIDE, SIDE)
        with kernels.smoothed(model, 1.0) as smooth:
            hidden = F.conv2d(x, kernels.smooth(model[0].weight, 1.0), model[0].bias)
            torch.testing.assert_close(smooth(x), model[1:](hidden))


def test_the_penalty_is_that_of_the_weights_that_act():
    torch.manual_seed(0)
    for layer in (pruned(), Standardised(3, 6, 5), Adapted()):
        model = network(layer)
        expected = 1 - kernels.smoothness(measured(model).kernels).mean()
        penalty = kernels.smoothness_penalty(model)
        torch.testing.assert_close(penalty.detach(), expected)
        penalty.backward()
        trained = [p for n, p in layer.named_parameters() if "bias" not in n]
        assert all(p.grad is not None and bool(p.grad.any()) for p in trained)
    with pytest.raises(InputError, match="smoothed: expected a convolution that computes with"):
        kernels.smoothed(network(Standardised(3, 6, 5)), 1.0).__enter__()


def test_what_is_not_linear_is_said_and_the_right_kernels_are_taken():
    conv = nn.Conv2d(3, 6, 3)
    for before in (nn.InstanceNorm2d(3, affine=True), nn.Tanh()):
        found = measured(network(before, conv))
        assert torch.equal(found.kernels, conv.weight.detach())
        assert "not linear" in found.caveats[0]

    class Wavy(nn.Conv2d):
        def forward(self, x):
            return torch.sin(3 * super().forward(x))

    assert "differ for others" in measured(network(Wavy(3, 6, 3))).caveats[0]
    resized = network(nn.Upsample(size=(40, 40), mode="bilinear"), conv)
    found = measured(resized)
    assert torch.equal(found.kernels, conv.weight.detach())
    assert "resizes its images" in found.caveats[0]

    class Hidden(Branches):  # no module sees the sum
        def forward(self, x):
            return F.relu(self.large(x) + self.small(x))

    result = KernelSpectra().measure(
        network(Hidden()), Samples(torch.rand(2, 3, SIDE, SIDE), torch.zeros(2, dtype=torch.long))
    )
    assert any("beside 0.large" in caveat for caveat in result.caveats)


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated, and used
def test_a_quantised_patch_embedding_has_its_dequantised_weights():
    model = Tokens().eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    assert type(quantised.patch_embed) is not nn.Linear
    for shape in ((3, SIDE, SIDE), None):
        found = measured(quantised, shape)
        weight = quantised.patch_embed.weight().dequantize().reshape(6, 3, 4, 4)
        torch.testing.assert_close(found.kernels, weight)
        assert found.obtained == "response to the model's input"


def test_a_layer_by_name_and_one_that_was_replaced():
    model = network(nn.Conv2d(3, 4, 3), nn.ReLU(), Standardised(4, 5, 3))
    second = measured(model, layer="2")
    std, mean = torch.std_mean(model[2].weight.detach(), (1, 2, 3), keepdim=True)
    torch.testing.assert_close(second.kernels, (model[2].weight.detach() - mean) / std)
    assert second.obtained == "response to its own input"
    first = measured(model)
    model[0] = nn.Sequential(nn.Conv2d(3, 4, 5))
    again = measured(model)
    assert (first.name, again.name, again.kernels.shape[-1]) == ("0", "0.0", 5)


class Boxes(nn.Module):
    """As a detector: it takes a list of mappings, so that no batch of images runs through it."""

    def __init__(self):
        super().__init__()
        self.stem = Standardised(3, 6, 5)

    def forward(self, inputs):
        return [self.stem(one["image"][None]) for one in inputs]


def test_a_model_that_cannot_be_run_has_its_layer_run():
    model = Boxes()
    found = measured(model, None)
    expected = cropped(impulses(model.stem, (3, SIDE, SIDE), (6, 6)))
    torch.testing.assert_close(found.kernels, expected, atol=1e-5, rtol=1e-4)
    assert found.obtained.startswith("response to its own input; the layer is the first by order")
    seen = measured(model, (3, SIDE, SIDE), run=lambda x: model([{"image": x[0]}]))
    assert seen.obtained == "response to the model's input"


def test_nothing_of_the_model_is_touched_and_its_end_is_not_run():
    class Counts(nn.Flatten):
        runs = 0

        def forward(self, x):
            Counts.runs += 1
            return super().forward(x)

    model = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6),
                          nn.ReLU(), nn.Conv2d(6, 6, 3), Counts()).train()  # fmt: skip
    model(torch.rand(2, 3, SIDE, SIDE)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    random = torch.get_rng_state()
    Counts.runs = 0
    for _ in range(2):
        measured(model)
    assert Counts.runs == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert torch.equal(random, torch.get_rng_state())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert all(module.training for module in model.modules())


def test_what_is_remembered_of_a_model_does_not_keep_it():
    layer = nn.Conv2d(3, 6, 3)
    measured(layer)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


@needs_timm
def test_timm_blocks_that_are_no_plain_convolution():
    from timm.layers import StdConv2d
    from timm.models.byobnet import RepVggBlock

    torch.manual_seed(0)
    layer = StdConv2d(3, 6, 7)
    expected = cropped(impulses(layer.eval(), (3, SIDE, SIDE), (4, 4)))
    torch.testing.assert_close(measured(network(layer)).kernels, expected, atol=1e-5, rtol=1e-4)
    block = RepVggBlock(3, 6, 3, 2).eval()
    found = measured(nn.Sequential(block, nn.Flatten())).kernels
    block.reparameterize()
    expected = block.reparam_conv.weight.detach()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

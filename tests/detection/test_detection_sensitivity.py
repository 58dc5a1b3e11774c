"""Input gradients of detection losses: planted frequencies, a slow reference, torchvision."""

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError, fourier
from hfc_probe.detection import DetectionSensitivity

from ..conftest import needs_coco
from .known_answer import PlantedShapes
from .test_detection_heatmap import Squares

PLANTED = (2, -3)


class Leaning(nn.Module):
    """A loss that leans on one frequency of images of any size: its gradient is 0.6·U."""

    def __init__(self, detach=False):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.6))
        self.norm = nn.BatchNorm2d(3)
        self.detach = detach

    def forward(self, images, targets=None):
        if not self.training:
            raise ValueError("a loss in training mode only")
        assert not self.norm.training  # statistics of a batch are none of a measurement's
        (image,), (target,) = images, targets
        wave = fourier.basis(*PLANTED, *image.shape[1:])
        if self.detach:
            image = image.detach()
        lean = (image * wave).sum() * self.weight
        return {"lean": lean, "count": torch.tensor(float(len(target["labels"])))}


def test_a_loss_that_leans_on_one_frequency_has_its_gradient_there():
    data = Squares()
    model = Leaning()
    result = DetectionSensitivity(crop=9).measure(model, data)
    expected = np.zeros((9, 9))
    for sign in (1, -1):  # half of the power on each of ±(i, j), the same in all channels
        expected[4 + sign * PLANTED[0], 4 + sign * PLANTED[1]] = 0.6 / 2**0.5
    np.testing.assert_allclose(result.sensitivity, expected, atol=1e-5)
    assert result.samples == 4  # the first image shows no object
    assert result.settings["crop"] == 9
    assert result.power_share[4] == pytest.approx(1, abs=1e-5)  # √13 = 3.6 rounds to ring 4
    assert "raises the loss most at 4 cycles/image" in result.sentence()
    assert model.training
    assert model.weight.grad is None
    assert model.weight.requires_grad


def test_the_map_is_the_mean_of_each_images_own_transform():
    data = Squares()
    mixed = torch.tensor([0.2, -1.0, 0.5]).view(3, 1, 1)

    def loss(model, images, targets):
        return ((images[0] - 0.3) ** 2 * mixed).sum() * len(targets[0]["boxes"])

    found = DetectionSensitivity(loss=loss, crop=7).measure(nn.Identity(), data, device="cpu")
    rows = []
    for k in (1, 2, 3, 4):
        picture = data.pictures[k].double()
        count = sum(a["image_id"] == k for a in data.truth.annotations)
        gradient = 2 * (picture - 0.3) * mixed * count
        transform = np.fft.fftshift(np.fft.fft2(gradient.numpy(), norm="ortho"), axes=(1, 2))
        full = np.sqrt((np.abs(transform) ** 2).mean(0))
        top, left = (size // 2 - 3 for size in full.shape)
        rows.append(full[top : top + 7, left : left + 7])
    np.testing.assert_allclose(found.sensitivity, np.mean(rows, axis=0), rtol=2e-4, atol=2e-4)
    half = 1.96 * np.std(rows, axis=0, ddof=1) / 2
    np.testing.assert_allclose(found.upper - found.sensitivity, half, rtol=2e-3, atol=2e-3)
    assert found.settings["loss"] == "loss"


@needs_coco
def test_a_detector_of_torchvision_is_measured_by_its_own_loss_and_left_as_it_was():
    from .known_answer import build

    torch.manual_seed(0)
    model = build().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    data = PlantedShapes(2, seed=0)
    settings = DetectionSensitivity(crop=63)
    result = settings.measure(model, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    # The slow way: the loss as torchvision has it, and numpy's transform.
    model.train()
    rows = []
    for image_id, picture in data.pictures.items():
        image = picture.clone().requires_grad_(True)
        sum(model([image], [data.targets[image_id]]).values()).backward()
        transform = np.fft.fftshift(np.fft.fft2(image.grad.numpy(), norm="ortho"), axes=(1, 2))
        full = np.sqrt((np.abs(transform) ** 2).mean(0))
        rows.append(full[33:96, 33:96])
    expected = np.mean(rows, axis=0)
    np.testing.assert_allclose(result.sensitivity, expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert result.sensitivity.shape == (63, 63)
    np.testing.assert_array_equal(settings.measure(model, data).sensitivity, result.sensitivity)


def test_what_has_no_loss_is_refused_in_a_sentence():
    data = Squares()
    cases = [
        (Leaning(), DetectionSensitivity(crop=25), r"crop: expected at most .*, got 25"),
        (Leaning(detach=True), DetectionSensitivity(), "loss through which gradients reach"),
        (
            nn.Identity(),
            DetectionSensitivity(loss=lambda m, i, t: i[0].mean((1, 2))),
            r"loss: expected one finite number.*, got \(3,\)",
        ),
        (lambda images: images, DetectionSensitivity(), "expected a torch.nn.Module with a loss"),
    ]
    for model, settings, message in cases:
        with pytest.raises(InputError, match=message):
            settings.measure(model, data)

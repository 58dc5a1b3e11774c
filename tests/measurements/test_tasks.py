"""Scores of several tasks on small networks that were trained: planted truths, and CIFAR-10."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hfc_probe import FourierHeatmap, ImageScore, Samples

SIDE = 16


def trained(model, images, targets, loss, steps=150):
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        chosen = torch.randint(0, len(images), (64,))
        optimizer.zero_grad()
        loss(model(images[chosen]), targets[chosen]).backward()
        optimizer.step()
    return model.eval()


def stripes(count, cycles):
    """Waves of so many cycles along the width, of random phase, ``(N, 1, H, W)``."""
    turns = cycles * torch.arange(SIDE) / SIDE + torch.rand(count, 1, 1, 1)
    return torch.cos(2 * torch.pi * turns).expand(count, 1, SIDE, SIDE)


@pytest.mark.slow
def test_a_segmenter_of_textures_needs_the_texture():
    """Discs of fine stripes on a plain ground, whose edges the low frequencies blur away."""
    torch.manual_seed(0)
    count = 400
    axis = torch.arange(SIDE).float()
    centre, radius = torch.randint(5, 11, (2, count, 1, 1)).float(), 4.0
    distance = (axis[:, None] - centre[0]) ** 2 + (axis - centre[1]) ** 2
    masks = (distance <= radius**2).long()
    images = 0.5 + 0.4 * stripes(count, 7) * masks[:, None] + 0.02 * torch.randn(count, 1, 16, 16)
    images = images.clamp(0, 1)
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 2, 3, padding=1),
    )  # fmt: skip
    network = trained(network, images[:300], masks[:300], F.cross_entropy)
    samples, truth = Samples(images[300:], torch.arange(100)), masks[300:]
    names = ("ground", "disc")
    score = ImageScore((3,), score="set_iou", targets=truth, classes=names, hfc_background="mean")
    result = score.measure(network, samples)
    arrays = result.arrays()
    with torch.no_grad():
        said = network(images[300:]).argmax(1)
    for k in range(2):  # an independent count
        both = ((said == k) & (truth == k)).sum() / ((said == k) | (truth == k)).sum()
        assert arrays["original_by_class"][k] == pytest.approx(float(both))
    assert arrays["original"] > 0.8
    assert arrays["hfc"][0] > 0.7
    assert arrays["lfc_by_class"][0, 1] < 0.2  # no disc is found
    assert arrays["lfc_difference_upper"][0] < 0 < arrays["hfc"][0] - arrays["lfc"][0]
    # Noise that looks like the texture costs more than slow noise does.
    heatmap = FourierHeatmap(norm=2.0, score="mean_iou", targets=truth)
    found = heatmap.measure(network, samples).error
    assert found[8, 8 + 7] < found[8, 8 + 1] - 0.1


@pytest.mark.slow
def test_labels_that_two_frequencies_tell():
    """Label 0 is a slow wave, label 1 a fast one: each is lost with its frequency alone."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (600, 2))
    waves = torch.stack([stripes(600, 2), stripes(600, 7)], 1)
    images = 0.5 + 0.2 * (labels[:, :, None, None, None] * waves).sum(1)
    images = (images + 0.02 * torch.randn(600, 1, SIDE, SIDE)).clamp(0, 1)
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    loss = F.binary_cross_entropy_with_logits
    network = trained(network, images[:400], labels[:400].float(), loss)
    samples, truth = Samples(images[400:], torch.arange(200)), labels[400:]
    options = {"targets": truth, "hfc_background": "mean", "classes": ("slow", "fast")}
    score = ImageScore((4,), score="mean_average_precision", **options)
    arrays = score.measure(network, samples).arrays()
    assert arrays["original"] > 0.95
    low, high = arrays["lfc_by_class"][0], arrays["hfc_by_class"][0]
    prevalence = truth.double().mean(0).numpy()
    assert low[0] > 0.95
    assert high[1] > 0.95
    assert low[1] < prevalence[1] + 0.2
    assert high[0] < prevalence[0] + 0.2
    right = ImageScore((4,), score="label_accuracy", **options).measure(network, samples).arrays()
    with torch.no_grad():
        agree = (network(images[400:]) > 0) == truth.bool()
    np.testing.assert_allclose(right["original_by_class"], agree.double().mean(0))


@pytest.mark.slow
def test_a_denoiser_of_cifar_is_worse_without_high_frequencies(cifar):
    images = cifar.pixels()[:256]
    torch.manual_seed(0)
    noisy = (images + 0.1 * torch.randn_like(images)).clamp(0, 1)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)
    )
    network = trained(network, noisy[:200], images[:200], F.mse_loss, steps=100)
    clean, samples = images[200:], Samples(noisy[200:], torch.arange(len(images) - 200))
    radii = (2, 4, 8, 16)
    arrays = ImageScore(radii, score="psnr", targets=clean).measure(network, samples).arrays()
    with torch.no_grad():
        error = (network(noisy[200:]) - clean).square().flatten(1).mean(1)
    assert arrays["original"] == pytest.approx(float((-10 * error.log10()).mean()), rel=1e-4)
    assert (np.diff(arrays["lfc"]) > 0).all()
    assert (arrays["lfc_difference_upper"][:2] < 0).all()

"""Scores of several tasks on small networks that were trained: planted truths, and CIFAR-10."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hfc_probe import FourierHeatmap, FrequencyAccuracy, ImageScore, PixelSpace, Samples
from hfc_probe.fourier import split
from hfc_probe.measurements.scores import nearest_neighbours

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


@pytest.mark.slow
def test_a_regressor_of_brightness_needs_nothing_but_low_frequencies(cifar):
    """The mean of an image is its DC: in every LFC, and in no HFC on a zero background."""
    images = cifar.pixels()[:512]
    brightness = images.flatten(1).mean(1, keepdim=True)
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 1),
    )  # fmt: skip
    network = trained(network, images[:384], brightness[:384], F.mse_loss, steps=300)
    truth, samples = brightness[384:], Samples(images[384:], torch.arange(128))
    arrays = ImageScore((2, 8), score="rmse", targets=truth).measure(network, samples).arrays()
    with torch.no_grad():
        seen = [network(x) for x in (images[384:], *split(images[384:], 8))]
    expected = [float((y - truth).square().mean().sqrt()) for y in seen]
    found = [float(arrays["original"]), arrays["lfc"][1], arrays["hfc"][1]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0] < 0.2 * float(truth.std())
    assert (arrays["lfc"] < 0.25 * arrays["hfc"]).all()
    assert (arrays["hfc"] > float(truth.std())).all()  # worse than the same number for all


class Embedding(nn.Module):
    """What a ResNet-20 gives to its last layer, ``(N, 64)``."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []
        network.linear.register_forward_pre_hook(lambda _, given: self.seen.append(given[0]))

    def forward(self, x):
        self.network(x)
        return self.seen.pop()


@pytest.fixture
def embedding(resnet20):
    model = Embedding(resnet20)
    yield model
    resnet20.linear._forward_pre_hooks.clear()


def normalized(images):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


@pytest.mark.slow
def test_embeddings_of_a_real_network_against_an_independent_count(cifar, embedding):
    images, labels = cifar.pixels(), cifar.targets
    samples = Samples(images[400:], labels[400:], normalization=PixelSpace.imagenet())
    with torch.no_grad():
        gallery = embedding(normalized(images[:400]))
        views = (images[400:], *split(images[400:], 8))
        clean, low, high = (embedding(normalized(x)).double().numpy() for x in views)
    score = nearest_neighbours(gallery, labels[:400], k=5)
    arrays = ImageScore((8,), score=score).measure(embedding, samples).arrays()
    found = [float(arrays["original"]), arrays["lfc"][0], arrays["hfc"][0]]

    def right(embedded):  # scikit-learn is not needed for five neighbours
        near = gallery.double().numpy()
        near = near / np.linalg.norm(near, axis=1, keepdims=True)
        count = 0
        for one, label in zip(embedded, labels[400:].tolist(), strict=True):
            order = np.argsort(-(near @ one) / np.linalg.norm(one))[:5]
            nearest = labels[order].tolist()
            best = max(nearest, key=lambda k: (nearest.count(k), -nearest.index(k)))
            count += best == label
        return count / len(embedded)

    np.testing.assert_allclose(found, [right(x) for x in (clean, low, high)], atol=1 / 100)
    assert found[0] > 0.85
    assert arrays["hfc_difference_upper"][0] < arrays["lfc_difference_lower"][0]
    cosine = ImageScore((8,), score="cosine", targets="clean")
    arrays = cosine.measure(embedding, samples).arrays()
    for name, seen in (("lfc", low), ("hfc", high)):
        lengths = np.linalg.norm(seen, axis=1) * np.linalg.norm(clean, axis=1)
        assert arrays[name][0] == pytest.approx(float(((seen * clean).sum(1) / lengths).mean()))


@pytest.mark.slow
def test_prompts_learnt_for_a_real_network_classify_what_it_embeds(cifar, embedding):
    """Zero-shot in form: ten vectors on the unit sphere, and the nearest names the class."""
    images, labels = cifar.pixels(), cifar.targets
    with torch.no_grad():
        embedded = F.normalize(embedding(normalized(images)), dim=1)
    prompts = torch.stack([embedded[:400][labels[:400] == k].mean(0) for k in range(10)])
    prompts = F.normalize(prompts, dim=1)

    def predict(model, x):
        return 100 * F.normalize(model(x), dim=1) @ prompts.T

    samples = Samples(images[400:], labels[400:])
    options = {"predict": predict, "pixels": PixelSpace.imagenet()}
    found = FrequencyAccuracy((8,)).measure(embedding, samples, **options).arrays()
    also = ImageScore((8,), score="accuracy").measure(embedding, samples, **options).arrays()
    with torch.no_grad():
        views = (images[400:], *split(images[400:], 8))
        said = [(embedding(normalized(x)) @ prompts.T).argmax(1) == labels[400:] for x in views]
    expected = [float(right.double().mean()) for right in said]
    for arrays in (found, also):
        numbers = [float(arrays["original"]), arrays["lfc"][0], arrays["hfc"][0]]
        np.testing.assert_allclose(numbers, expected, atol=1 / 100)
    assert expected[0] > 0.85
    assert expected[0] > expected[1] > expected[2]

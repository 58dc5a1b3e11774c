"""Input-gradient spectra: closed form, finite differences, and the heatmap at small norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from hfc_probe import FourierHeatmap, FourierSensitivity, InputError, PixelSpace, Samples, fourier


def classifier(size: tuple[int, int], classes: int = 4, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6 * size[0] * size[1], classes),
    )


def samples_of(size: tuple[int, int], n: int = 10) -> Samples:
    return Samples(torch.rand(n, 3, *size), torch.randint(0, 4, (n,)))


def slow(model, samples, pixels):
    """One image at a time, full complex transform, the gradient by autograd in pixel space."""
    out = []
    for image, target in zip(samples.pixels(), samples.targets, strict=True):
        x = image[None].clone().requires_grad_(True)
        F.cross_entropy(model(pixels.normalize(x)), target[None]).backward()
        spectrum = np.fft.fft2(x.grad[0].double().numpy()) / np.sqrt(image[0].numel())
        out.append(np.fft.fftshift(np.sqrt((np.abs(spectrum) ** 2).mean(0))))
    return np.stack(out)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (9, 4)])
def test_it_equals_a_slow_loop(size):
    model, samples = classifier(size), samples_of(size)
    pixels = PixelSpace((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    result = FourierSensitivity(per_class=True).measure(model, samples, pixels=pixels, batch_size=3)
    expected = slow(model, samples, pixels)
    np.testing.assert_allclose(result.sensitivity, expected.mean(0), rtol=2e-4, atol=1e-7)
    for k in samples.targets.unique().tolist():
        own = expected[samples.targets.numpy() == k].mean(0)
        np.testing.assert_allclose(result.by_class[k], own, rtol=2e-4, atol=1e-7)
    half = 1.96 * expected.std(0, ddof=1) / np.sqrt(len(samples))
    np.testing.assert_allclose(result.upper - result.sensitivity, half, rtol=2e-3, atol=1e-6)


def test_a_linear_model_is_sensitive_where_its_weights_are_and_nowhere_else():
    # loss = log(1 + exp(∓2 t)), t = a·⟨x, U⟩; its slope is known in closed form.
    a, size = 3.0, 12
    wave = a * fourier.basis(2, 3, size, size)
    head = nn.Linear(size * size, 2, bias=False)
    head.weight.data = torch.stack([-wave.flatten(), wave.flatten()])
    model = nn.Sequential(nn.Flatten(), head)
    images, targets = torch.rand(50, 1, size, size), torch.arange(50) % 2
    total = (images[:, 0] * wave).sum((1, 2))
    slope = 2 * torch.sigmoid(-2 * (2 * targets - 1) * total)
    # A unit wave has amplitude 1/√2 at each of ±(2, 3) in an orthonormal transform.
    expected = float((a * slope).mean()) / np.sqrt(2)
    result = FourierSensitivity().measure(model, Samples(images, targets))
    centre = size // 2
    for i, j in ((2, 3), (-2, -3)):
        assert result.sensitivity[centre + i, centre + j] == pytest.approx(expected, rel=1e-4)
    others = result.sensitivity.copy()
    others[centre + 2, centre + 3] = others[centre - 2, centre - 3] = 0
    assert others.max() < 1e-5
    assert result.arrays()["radial_profile"].argmax() == 4  # √13 = 3.6
    assert "at 4 cycles/image" in result.verdict()


def test_at_small_norm_it_orders_frequencies_as_the_heatmap_of_a_planted_model_does():
    # A bank of smooth and rough filters, pooled over the image: phases are the images' own, and
    # the loss moves by about |F(∇loss)| either way. One channel, far from 0 and 1.
    size = 10
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    images = 0.3 + 0.4 * torch.rand(200, 1, size, size)
    samples = Samples(images, torch.randint(0, 4, (200,)))
    sensitivity = FourierSensitivity().measure(model, samples).sensitivity
    with torch.no_grad():
        losses = F.cross_entropy(model(images), samples.targets, reduction="none")
    norm = 0.01
    found = np.zeros((size, size))
    for i, j in fourier.half_plane(size, size):
        with torch.no_grad():
            noisy = images + norm * fourier.basis(i, j, size, size)
            change = F.cross_entropy(model(noisy), samples.targets, reduction="none") - losses
        value = float(change.abs().mean()) / norm
        for a, b in ((i, j), (-i, -j)):
            row, column = (a + size // 2) % size, (b + size // 2) % size
            found[row, column] = value
    assert spearmanr(found.ravel(), sensitivity.ravel()).statistic > 0.93


@pytest.mark.slow
def test_at_small_norm_it_agrees_with_the_heatmap_of_a_real_network(resnet20, cifar):
    # The 48 images with the largest loss: among easy ones a few would decide the mean.
    pixels, count = PixelSpace.imagenet(), 48
    with torch.no_grad():
        logits = resnet20(pixels.normalize(cifar.pixels()))
        losses = F.cross_entropy(logits, cifar.targets, reduction="none")
    hard = losses.argsort(descending=True)[:count]
    clean, labels = losses[hard], cifar.targets[hard]
    sensitivity = FourierSensitivity().measure(
        resnet20, Samples(cifar.images[hard], labels), pixels=pixels
    )
    numbered = Samples(cifar.images[hard], torch.arange(count))

    def loss_change(model, inputs, targets):
        loss = F.cross_entropy(model(inputs), labels[targets], reduction="none")
        return (loss - clean[targets]).abs()

    def correlation(norm):
        heatmap = FourierHeatmap(norm=norm, samples=count, stride=4, score=loss_change)
        result = heatmap.measure(resnet20, numbered, pixels=pixels)
        i, j = result.frequencies()
        same = sensitivity.sensitivity[np.ix_(i + 16, j + 16)]
        return spearmanr(result.error.ravel(), same.ravel()).statistic

    small, usual = correlation(0.02), correlation(4.0)
    assert small > 0.7
    assert usual < 0.5  # a measurement of its own, no substitute


def test_nothing_of_the_model_changes():
    model, samples = classifier((8, 8)), samples_of((8, 8))
    model[0].weight.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    FourierSensitivity().measure(model, samples)
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_ignores_the_images_is_said_so():
    class Constant(nn.Module):
        def forward(self, x):
            return (x * 0).flatten(1)[:, :4]

    result = FourierSensitivity().measure(Constant(), samples_of((8, 8)))
    assert "does not depend on the images" in result.verdict()
    result.figure()


def test_bad_input_is_told_in_a_sentence():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :4]

    with pytest.raises(InputError, match="passes gradients"):
        FourierSensitivity().measure(Detached(), samples_of((8, 8)))
    with pytest.raises(InputError, match="at least 1"):
        FourierSensitivity(samples=0)
    with pytest.raises(InputError, match="at least 2×2"):
        FourierSensitivity().measure(nn.Flatten(), Samples(torch.rand(2, 3, 1, 4), torch.arange(2)))
    with pytest.raises(InputError, match="4 logits, got 7"):
        FourierSensitivity().measure(
            classifier((8, 8)), Samples(torch.rand(2, 3, 8, 8), torch.tensor([1, 7]))
        )


@pytest.mark.parametrize("size", [(16, 16), (6, 20)])
def test_the_table_goes_to_the_corner_and_holds_the_peak_the_sentence_names(size):
    result = FourierSensitivity().measure(classifier(size), samples_of(size))
    _, rows = result.table()
    (peak,) = [distance for distance, _, share, _ in rows if share == "1.00"]
    assert f"most at {peak} cycles/image" in result.verdict()
    assert int(rows[-1][0]) == len(result.arrays()["radial_profile"]) - 1
    assert "nan" not in str(result)


def test_its_picture_and_tags():
    result = FourierSensitivity().measure(classifier((8, 8)), samples_of((8, 8)))
    assert list(result.images()) == ["hfc_sensitivity/gradient"]
    assert set(result.axes()) <= set(result.arrays())
    assert len(result.figure().axes) == 3


def notebook_curve(model, samples, average):
    """The authors' notebook's steps, image by image: total power ratio of rings without DC."""
    curves = []
    for image, target in zip(samples.pixels(), samples.targets, strict=True):
        x = image[None].clone().requires_grad_(True)
        F.cross_entropy(model(x), target[None]).backward()
        gradient = x.grad[0].double().numpy()
        gradient = gradient.mean(0, keepdims=True) if average else gradient
        power = (np.abs(np.fft.fft2(gradient)) ** 2).sum(0)
        rows, columns = (np.fft.fftfreq(n) * n for n in power.shape)
        ring = np.round(np.hypot(rows[:, None], columns[None]))
        sums = np.array([power[ring == r].sum() for r in range(1, int(ring.max()) + 1)])
        curves.append(sums / sums.sum())
    return np.mean(curves, 0)


@pytest.mark.parametrize("channels", ["mean", "rms"])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_the_share_of_power_by_ring_is_the_authors_curve(size, channels):
    model, samples = classifier(size), samples_of(size)
    result = FourierSensitivity(channels=channels).measure(model, samples, batch_size=4)
    share = result.arrays()["power_share"]
    assert share[0] == 0
    expected = notebook_curve(model, samples, channels == "mean")
    np.testing.assert_allclose(share[1:], expected, rtol=1e-4)
    assert result.axes()["sensitivity"]["channels"] == channels
    assert ("of the mean over channels" in str(result)) == (channels == "mean")


def test_gradients_of_opposite_sign_cancel_in_the_mean_over_channels_only():
    head = nn.Linear(2 * 36, 2, bias=False)
    wave = fourier.basis(1, 2, 6, 6)
    both = torch.stack([wave, -wave]).flatten()
    head.weight.data = torch.stack([both, -both])
    model = nn.Sequential(nn.Flatten(), head)
    samples = Samples(torch.full((2, 2, 6, 6), 0.5), torch.tensor([0, 1]))
    rms = FourierSensitivity().measure(model, samples)
    assert rms.sensitivity.max() > 0.1
    assert rms.power_share[2] == pytest.approx(1)  # √5 rounds to ring 2
    mean = FourierSensitivity(channels="mean").measure(model, samples)
    assert mean.sensitivity.max() < 1e-6
    with pytest.raises(InputError, match='channels: expected "rms" or "mean"'):
        FourierSensitivity(channels="max")

"""FGSM and PGD against foolbox, a linear model in closed form, and real weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hfc_probe
from hfc_probe import AdversarialAccuracy, InputError, PixelSpace, Samples
from hfc_probe.attacks import fgsm_direction, pgd
from hfc_probe.data.noise import uniform_noise
from hfc_probe.model.subject import subject_of

PIXELS = PixelSpace((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def samples(n=24, size=12, classes=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, size, size, generator=generator)
    images[0] = 0.0  # at the edge of the range, where clipping counts
    images[1] = 1.0
    return Samples(images, torch.randint(classes, (n,), generator=generator))


def adversarial(model, data, epsilon, attack, **options):
    with subject_of(model, data, pixels=PIXELS) as subject:
        images, targets = next(subject.batches())
        if attack == "fgsm":
            step, _ = fgsm_direction(subject.logits, images, targets)
            return (images + epsilon * step).clamp(0, 1)
        return pgd(subject.logits, images, targets, epsilon=epsilon, **options)


def foolbox_model(model):
    foolbox = pytest.importorskip(
        "foolbox", reason="foolbox is not installed: pip install 'hfc_probe[test]'"
    )
    preprocessing = {"mean": list(PIXELS.mean), "std": list(PIXELS.std), "axis": -3}
    return foolbox, foolbox.PyTorchModel(
        model.eval(), bounds=(0, 1), device="cpu", preprocessing=preprocessing
    )


@pytest.mark.parametrize("epsilon", [0.03, 0.5])
def test_fgsm_equals_foolbox(epsilon):
    model, data = SmallNet(), samples()
    mine = adversarial(model, data, epsilon, "fgsm")
    foolbox, wrapped = foolbox_model(model)
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    theirs, _, _ = attack(wrapped, data.pixels(), data.targets, epsilons=epsilon)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_pgd_without_random_start_equals_foolbox():
    model, data = SmallNet(), samples()
    mine = adversarial(model, data, 0.06, "pgd", step_size=0.02, steps=7, start=None)
    foolbox, wrapped = foolbox_model(model)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=7, random_start=False)
    theirs, _, _ = attack(wrapped, data.pixels(), data.targets, epsilons=0.06)
    # A gradient that rounding turns around moves a pixel to the other side: none may.
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_pgd_with_random_start_stays_within_epsilon_and_is_at_least_as_strong_as_its_start():
    model, data = SmallNet(), samples()
    start = 0.05 * uniform_noise(0, 0, data.pixels())
    found = adversarial(model, data, 0.05, "pgd", step_size=0.01, steps=10, start=start)
    assert (found - data.pixels()).abs().max() <= 0.05 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1

    def loss(x):
        with torch.no_grad():
            return F.cross_entropy(model.eval()(PIXELS.normalize(x)), data.targets)

    assert loss(found) > loss((data.pixels() + start).clamp(0, 1))


class DcClassifier(nn.Module):
    """Two classes by the mean of all pixels: right while it stays on its side of one half."""

    def __init__(self, gain=100):
        super().__init__()
        self.gain = gain
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, padding_mode="circular")
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0, 1, 1] = 1.0

    def forward(self, x):
        margin = self.gain * (self.conv(x).mean((1, 2, 3)) - 0.5)
        return torch.stack([-margin, margin], 1)


def test_planted_a_classifier_that_reads_dc_falls_at_the_known_epsilon():
    # Images of constant grey at known distances from the decision: L∞ moves DC by exactly ε.
    greys = torch.tensor([0.5 - 0.02, 0.5 + 0.02, 0.5 - 0.05, 0.5 + 0.05, 0.5 - 0.2, 0.5 + 0.2])
    data = Samples(greys.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), (greys > 0.5).long())
    result = AdversarialAccuracy(epsilons=(0.01, 0.03, 0.1)).measure(DcClassifier(), data)
    arrays = result.arrays()
    assert arrays["clean"].tolist() == [1.0]
    np.testing.assert_allclose(arrays["fgsm"][0], [1.0, 4 / 6, 2 / 6])
    np.testing.assert_allclose(arrays["pgd"][0], [1.0, 4 / 6, 2 / 6])
    # The attack on DC is DC: all of FGSM's perturbation lies in the middle of its spectrum.
    spectrum = arrays["fgsm_spectrum"][1]
    np.testing.assert_allclose(spectrum[4, 4], 0.03**2, rtol=1e-5)
    np.testing.assert_allclose(spectrum.sum(), 0.03**2, rtol=1e-5)


def test_planted_the_perturbations_parts_hurt_where_the_model_looks():
    greys = torch.tensor([0.48, 0.52])
    data = Samples(greys.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.tensor([0, 1]))
    result = AdversarialAccuracy(epsilons=(0.05,), perturbation_radii=(0, 2)).measure(
        DcClassifier(), data
    )
    arrays = result.arrays()
    assert arrays["fgsm_lfc"].tolist() == [[0.0, 0.0]]
    assert arrays["fgsm_hfc"].tolist() == [[1.0, 1.0]]


def test_smoothing_scales_the_planted_margin_and_leaves_the_model_alone():
    model = DcClassifier()
    before = model.conv.weight.clone()
    greys = torch.tensor([0.3, 0.7])
    data = Samples(greys.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.tensor([0, 1]))
    result = AdversarialAccuracy(epsilons=(0.01,), rhos=(0, 0.5, 1)).measure(model, data)
    # An impulse kernel smoothed sums to 1 + 8ρ: grey 0.3 is seen as 0.3 (1 + 8ρ) > 0.5.
    assert result.arrays()["clean"].tolist() == [1.0, 0.5, 0.5]
    normalised = AdversarialAccuracy(epsilons=(0.01,), rhos=(0, 0.5, 1), normalize=True)
    assert normalised.measure(model, data).arrays()["clean"].tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(model.conv.weight, before)


def test_results_depend_on_neither_batch_size_nor_the_models_state():
    model, data = SmallNet().train(), samples()
    model.bn.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    settings = AdversarialAccuracy(epsilons=(0.01, 0.02), rhos=(0, 0.25), steps=3)
    state = torch.get_rng_state()
    results = [settings.measure(model, data, pixels=PIXELS, batch_size=n) for n in (5, 24)]
    for name, values in results[0].arrays().items():
        np.testing.assert_allclose(values, results[1].arrays()[name], rtol=1e-4, err_msg=name)
    assert model.training
    assert not model.bn.training
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.head.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_confident_images_are_attacked_however_small_their_gradient():
    model = DcClassifier()
    greys = torch.tensor([0.4, 0.6])  # margin 10: gradients of about 1e-8 per pixel
    data = Samples(greys.view(-1, 1, 1, 1).expand(-1, 1, 32, 32).contiguous(), torch.tensor([0, 1]))
    result = AdversarialAccuracy(epsilons=(0.2,)).measure(model, data)
    assert result.arrays()["fgsm"].tolist() == [[0.0]]
    assert result.without_gradient.tolist() == [0]


def test_saturated_logits_are_told_as_masked():
    greys = torch.tensor([0.1, 0.49])  # logits ±120 and ±3: exp(−240) is 0 in float32
    data = Samples(greys.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.tensor([0, 0]))
    result = AdversarialAccuracy(epsilons=(0.5,)).measure(DcClassifier(300), data)
    assert result.arrays()["pgd"].tolist() == [[0.5]]
    assert result.without_gradient.tolist() == [1]
    assert "for 50.0 % of the images the gradient is exactly 0: masked" in result.verdict()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilons": (0.0,)}, "epsilons: expected numbers above 0 and at most 1"),
        ({"epsilons": (0.5, 1.5)}, "epsilons: expected numbers above 0 and at most 1"),
        ({"epsilons": (0.2, 0.1)}, "epsilons: expected increasing"),
        ({"rhos": (-0.1,)}, "rhos: expected numbers from 0 to 1000"),
        ({"samples": None}, "samples: expected a whole number of at least 1, got None"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"step_size": float("nan")}, "step_size: expected a number above 0 and at most 1"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        AdversarialAccuracy(**settings)


class Cut(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.net, self.how = SmallNet(), how

    def forward(self, x):
        if self.how == "detach":
            return self.net(x.detach())
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        return self.net(torch.round(4 * x))


@pytest.mark.parametrize("how", ["detach", "no_grad"])
def test_a_model_that_cuts_gradients_is_named(how):
    with pytest.raises(InputError, match="through which gradients reach the image"):
        AdversarialAccuracy().measure(Cut(how), samples())


def test_a_model_whose_gradient_is_zero_everywhere_is_named():
    with pytest.raises(InputError, match="gradient of zero for all 24 images"):
        AdversarialAccuracy().measure(Cut("round"), samples())


def test_table_2_on_resnet20(resnet20, cifar):
    settings = AdversarialAccuracy(
        epsilons=(0.004, 0.03), rhos=(0, 0.25), steps=5, samples=48, perturbation_radii=(8,)
    )
    result = settings.measure(resnet20, cifar, pixels=PixelSpace.imagenet())
    arrays = result.arrays()
    assert arrays["clean"][0] > 0.8
    assert arrays["clean"][1] < arrays["clean"][0] - 0.1
    assert (arrays["pgd"] <= arrays["fgsm"] + 0.05).all()
    assert (arrays["pgd"][:, 1] <= arrays["pgd"][:, 0]).all()
    assert arrays["pgd"][0, 1] < 0.05
    # CNNs are attacked by high frequencies: without them most of the accuracy comes back.
    assert arrays["pgd_lfc"][1, 0] > arrays["pgd_hfc"][1, 0]
    assert "clean accuracy" in result.sentence()
    assert result.scalars()["hfc_attack/pgd_e0.03"] == arrays["pgd"][0, 1]
    assert set(result.intervals()) == set(result.scalars())
    assert hfc_probe.measurements.AdversarialAccuracyResult is type(result)

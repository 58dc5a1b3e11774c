"""LFC and HFC accuracy: planted models, a slow reference, real counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import FrequencyAccuracy, InputError, PixelSpace, Samples, fourier

from .planted import ReadsFrequencies, coded


@pytest.mark.parametrize("frequency", [(3, 0), (0, 5), (4, 3), (6, -2), (8, 8)])
@pytest.mark.parametrize("size", [(16, 16), (17, 19), (16, 24)])
@pytest.mark.parametrize("closed", [True, False])
def test_a_model_of_one_coefficient_needs_exactly_that_coefficient(frequency, size, closed):
    i, j = frequency
    d = math.hypot(i, j)
    radii = (d - 0.01, d, d + 0.01)
    model = ReadsFrequencies([(i, j)], *size)
    result = FrequencyAccuracy(radii=radii, closed=closed).measure(model, coded(i, j, *size))
    arrays = result.arrays()
    inside = [False, closed, True]
    assert arrays["original"] == 1
    assert arrays["lfc"].tolist() == [1 if kept else 0.5 for kept in inside]  # 0.5 is chance
    assert arrays["hfc"].tolist() == [0.5 if kept else 1 for kept in inside]


class PerClass(nn.Module):
    """Ten classes, a fixed random linear readout."""

    def __init__(self, shape=(3, 12, 10), classes=10):
        super().__init__()
        self.head = nn.Linear(math.prod(shape), classes)

    def forward(self, x):
        return self.head(x.flatten(1))


def slow_reference(model, images, targets, radius, background, closed, k):
    """One image at a time, one full DFT each, plain Python counting."""
    mean = images.double().mean((0, 2, 3))
    height, width = images.shape[-2:]
    counts = {"lfc": [], "hfc": []}
    for image, target in zip(images, targets, strict=True):
        spectrum = np.fft.fft2(image.double().numpy())
        for row in range(height):
            for column in range(width):
                i = row if row <= height // 2 else row - height
                j = column if column <= width // 2 else column - width
                d = math.hypot(i, j)
                if not (d <= radius if closed else d < radius):
                    spectrum[:, row, column] = 0
        low = torch.from_numpy(np.fft.ifft2(spectrum).real)
        high = image.double() - low
        if background == "mean":
            high = high + mean[:, None, None]
        for name, part in (("lfc", low), ("hfc", high)):
            logits = model(part[None].float())[0].tolist()
            order = sorted(range(len(logits)), key=lambda c: (-logits[c], c))
            counts[name].append(int(target) in order[:k])
    return counts


@pytest.mark.parametrize("background", ["zero", "mean"])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_counts_equal_a_slow_loop(background, closed, k):
    images, targets = torch.rand(30, 3, 12, 10), torch.randint(0, 10, (30,))
    model = PerClass()
    radii = (1, 3, 4.5)
    result = FrequencyAccuracy(
        radii=radii, hfc_background=background, closed=closed, topk=(k,)
    ).measure(model, Samples(images, targets), batch_size=7)
    arrays = result.arrays()
    for row, radius in enumerate(radii):
        reference = slow_reference(model, images, targets, radius, background, closed, k)
        for name, right in reference.items():
            assert arrays[f"{name}_correct"][row] == sum(right)
            for c in range(10):
                mine = [r for r, t in zip(right, targets, strict=True) if t == c]
                if k == 1:
                    assert arrays[f"{name}_class_correct"][row, c] == sum(mine)
                    assert arrays[f"{name}_class_count"][row, c] == len(mine)


def test_agreement_is_with_the_clean_prediction_right_or_wrong():
    images, targets = torch.rand(40, 3, 12, 10), torch.randint(0, 10, (40,))
    model = PerClass()
    arrays = FrequencyAccuracy(radii=(2, 99)).measure(model, Samples(images, targets)).arrays()
    with torch.no_grad():
        clean = model(images).argmax(1)
        low = model(fourier.split(images, 2)[0]).argmax(1)
    assert arrays["lfc_agreement_correct"].tolist() == [int((clean == low).sum()), 40]


def test_several_k_come_from_one_pass():
    samples = Samples(torch.rand(40, 3, 12, 10), torch.randint(0, 10, (40,)))
    model = PerClass()
    both = FrequencyAccuracy(radii=(2,), topk=(1, 5)).measure(model, samples)
    five = FrequencyAccuracy(radii=(2,), topk=5).measure(model, samples)
    assert both.arrays()["lfc_top5_correct"] == five.arrays()["lfc_correct"]
    assert both.scalars()["hfc_hfc_top5/r02"] == five.scalars()["hfc_hfc/r02"]


def test_radii_scale_with_the_image():
    result = FrequencyAccuracy().measure(
        PerClass((3, 224, 224), 2), Samples(torch.rand(4, 3, 224, 224), torch.tensor([0, 1, 0, 1]))
    )
    tags = [t for t in result.scalars() if t.startswith("hfc_lfc/")]
    assert tags == ["hfc_lfc/r28", "hfc_lfc/r56", "hfc_lfc/r84", "hfc_lfc/r112"]
    small = FrequencyAccuracy(radii=(4, 8, 12)).measure(
        PerClass(), Samples(torch.rand(4, 3, 12, 10), torch.tensor([0, 1, 0, 1]))
    )
    assert "hfc_gap/r04" in small.scalars()


def test_the_area_is_the_mean_gap_over_the_radii():
    model = ReadsFrequencies([(5, 0)], 16, 16)
    scalars = FrequencyAccuracy(radii=(6, 7, 8)).measure(model, coded(5, 0, 16, 16)).scalars()
    gaps = [scalars[f"hfc_gap/r0{r}"] for r in (6, 7, 8)]
    assert scalars["hfc_gap/area"] == pytest.approx((gaps[0] / 2 + gaps[1] + gaps[2] / 2) / 2)


CHECKED = {
    "zero": ((8, 16), [213, 459], [111, 53]),
    "mean": ((4, 12), [96, 409], [434, 89]),
}


@pytest.mark.parametrize("background", ["zero", "mean"])
def test_a_real_network_gives_the_counts_computed_independently(resnet20, cifar, background):
    radii, low, high = CHECKED[background]
    result = FrequencyAccuracy(radii, hfc_background=background).measure(
        resnet20, cifar, pixels=PixelSpace.imagenet()
    )
    arrays = result.arrays()
    assert abs(int(arrays["original_correct"]) - 467) <= 2
    np.testing.assert_allclose(arrays["lfc_correct"], low, atol=2)
    np.testing.assert_allclose(arrays["hfc_correct"], high, atol=2)


@pytest.mark.parametrize(
    ("output", "fine"),
    [
        (lambda z: z, True),
        (lambda z: (z, None), True),
        (lambda z: [z, z * 0], True),
        (lambda z: {"loss": 0, "logits": z}, True),
        (lambda z: type("Output", (), {"logits": z})(), True),
        (lambda z: z.half(), True),
        (lambda z: z[:, :, None], False),
        (lambda z: z[:, :1], False),
        (lambda z: z[:-1], False),
        (lambda z: "logits", False),
    ],
)
def test_forms_of_model_output(output, fine):
    class Model(PerClass):
        def forward(self, x):
            return output(super().forward(x))

    samples = Samples(torch.rand(6, 3, 12, 10), torch.arange(6))
    measure = FrequencyAccuracy(radii=(2,)).measure
    if fine:
        assert measure(Model(), samples).samples == 6
    else:
        with pytest.raises(InputError, match="predict="):
            measure(Model(), samples)
        fixed = measure(Model(), samples, predict=lambda model, x: model.head(x.flatten(1)))
        assert fixed.samples == 6


def test_a_dict_of_outputs_is_told_with_its_keys():
    class Model(PerClass):
        def forward(self, x):
            return {"scores": super().forward(x), "features": x}

    samples = Samples(torch.rand(6, 3, 12, 10), torch.arange(6))
    with pytest.raises(InputError, match=r"dict with 'scores', 'features'; .*\['scores'\]"):
        FrequencyAccuracy(radii=(2,)).measure(Model(), samples)


def test_a_model_in_half_precision_gets_half_precision_images():
    samples = Samples(torch.rand(6, 3, 12, 10), torch.arange(6))
    assert FrequencyAccuracy(radii=(2,)).measure(PerClass().bfloat16(), samples).samples == 6


class Diverged(PerClass):
    def forward(self, x):
        return super().forward(x) * math.nan


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: FrequencyAccuracy(radii=(4, -1)), "at least 0"),
        (lambda: FrequencyAccuracy(radii=(8, 4)), "increasing"),
        (lambda: FrequencyAccuracy(radii=("a",)), "numbers of at least 0"),
        (lambda: FrequencyAccuracy(radii=()), "numbers of at least 0, got \\(\\)"),
        (lambda: FrequencyAccuracy(hfc_background="grey"), '"zero" or "mean"'),
        (lambda: FrequencyAccuracy(units="hz"), '"cycles" or "nyquist"'),
        (lambda: FrequencyAccuracy(topk=0), "at least 1"),
    ],
)
def test_wrong_settings_are_told_at_once(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_wrong_input_is_told_in_a_sentence():
    images = torch.rand(6, 3, 12, 10)
    measure = FrequencyAccuracy(radii=(2,)).measure
    with pytest.raises(InputError, match=r"from 0 to 9, .* got 12"):
        measure(PerClass(), Samples(images, torch.full((6,), 12)))
    with pytest.raises(InputError, match="NaN for 6 of 6 original images"):
        measure(Diverged(), Samples(images, torch.arange(6)))
    with pytest.raises(InputError, match=r"torch.nn.Module, got function"):
        measure(lambda x: x, Samples(images, torch.arange(6)))
    with pytest.raises(InputError, match="expected data"):
        measure(PerClass())
    with pytest.raises(InputError, match="batch_size"):
        measure(PerClass(), Samples(images, torch.arange(6)), batch_size=0)


def test_a_batch_of_one_works_with_batchnorm():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    samples = Samples(torch.rand(1, 3, 12, 10), torch.tensor([2]))
    assert FrequencyAccuracy().measure(model.train(), samples, batch_size=1).samples == 1

"""Images divided by their own maximum, as the HFC authors' script does, wherever they are fed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import (
    Calibration,
    ComponentExamples,
    FrequencyAccuracy,
    InputError,
    PixelSpace,
    Samples,
    TruncatedSVD,
    fourier,
    transforms,
)
from hfc_probe.detection import DetectionAudit
from hfc_probe.detection.variants import run_variants

IMAGENET = PixelSpace.imagenet()


def images(n=3, height=12, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, height, width, generator=generator)


def slow(image, radius, background=0.0):
    """LFC and HFC of one image in double precision, ``d < r``, divided by their maxima."""
    x = image.double().numpy()
    rows, columns = (np.fft.fftfreq(n) * n for n in x.shape[1:])
    inside = np.hypot(rows[:, None], columns[None]) < radius
    low = np.fft.ifft2(np.fft.fft2(x) * inside).real
    high = x - low + background
    return low / low.max(), high / high.max()


@pytest.mark.parametrize("background", [None, 0.4])
@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_components_are_original_lfc_and_hfc_each_divided_by_its_maximum(size, background):
    x = images(2, *size)
    views = list(fourier.components(x, (2, 4), closed=False, background=background, rescale="max"))
    assert [str(view) for view in views] == ["original", "LFC(2)", "HFC(2)", "LFC(4)", "HFC(4)"]
    for k, image in enumerate(x):
        np.testing.assert_allclose(views[0].images[k], image / image.max(), rtol=1e-6)
        for column, radius in enumerate((2, 4)):
            low, high = slow(image, radius, background or 0.0)
            np.testing.assert_allclose(views[1 + 2 * column].images[k], low, atol=1e-5)
            np.testing.assert_allclose(views[2 + 2 * column].images[k], high, atol=1e-5)
    assert all(bool((view.images.amax((1, 2, 3)) - 1).abs().max() < 1e-6) for view in views)


def test_without_rescaling_components_are_the_split_on_their_background():
    x, mean = images(), torch.tensor([0.1, 0.2, 0.3])
    original, low, high = fourier.components(x, (3,), background=mean)
    assert original.images is x
    expected = fourier.split(x, 3)
    assert torch.equal(low.images, expected[0])
    assert torch.equal(high.images, expected[1] + mean.view(3, 1, 1))
    one = list(fourier.components(x, (3,), background=0.5))[2].images
    assert torch.equal(one, expected[1] + 0.5)


def test_an_image_without_a_maximum_above_zero_stays_as_it_is():
    x = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), -0.5)])
    assert torch.equal(fourier.rescaled(x), x)
    # The HFC of a flat image is the rounding of two transforms; 1/max would make noise of it.
    flat = torch.full((1, 3, 33, 33), 0.7)
    high = fourier.split(flat, 1)[1]
    assert float(high.abs().max()) < 1e-6
    assert torch.equal(fourier.rescaled(high), high)
    # Beyond the corner HFC holds nothing, and LFC is the original.
    original, low, high = (v.images for v in fourier.components(images(), (20,), rescale="max"))
    assert torch.equal(low, original)
    assert not high.any()


def test_full_scale_is_that_of_the_images():
    x = images()
    ones = fourier.components(x, (3,), rescale="max")
    bytes_ = fourier.components(x * 255, (3,), rescale="max", full_scale=255)
    for a, b in zip(ones, bytes_, strict=True):
        assert b.images.amax((1, 2, 3)).tolist() == pytest.approx([255] * 3)
        torch.testing.assert_close(b.images / 255, a.images, atol=1e-5, rtol=1e-5)


def test_rescaling_passes_gradients_and_takes_empty_batches():
    x = images().requires_grad_(True)
    fourier.rescaled(fourier.split(x, 2)[1]).square().sum().backward()
    assert bool(x.grad.isfinite().all())
    assert bool(x.grad.any())
    assert fourier.rescaled(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rescale", "radii", "original", "lfc", "hfc"),
    [
        (None, (12,), 467, [414], [77]),
        ("max", (4, 12), 466, [93, 416], [145, 71]),
    ],
)
def test_the_published_pipeline_on_resnet20(resnet20, cifar, rescale, radii, original, lfc, hfc):
    measurement = FrequencyAccuracy.as_published(radii)
    assert (measurement.closed, measurement.hfc_background) == (False, "zero")
    if rescale is None:
        measurement = FrequencyAccuracy(radii, closed=False)
    arrays = measurement.measure(resnet20, cifar, pixels=IMAGENET).arrays()
    # One image more or less: another processor's rounding.
    assert abs(int(arrays["original_correct"]) - original) <= 1
    assert np.abs(arrays["lfc_correct"] - lfc).max() <= 1
    assert np.abs(arrays["hfc_correct"] - hfc).max() <= 1


def test_every_measurement_of_components_feeds_the_same_images(resnet20, cifar):
    some = cifar.subset(96)
    options = {"hfc_background": "mean", "rescale": "max"}

    def run(measurement):
        return measurement.measure(resnet20, some, pixels=IMAGENET)

    one = run(FrequencyAccuracy((4, 8), **options)).arrays()
    plain = run(FrequencyAccuracy((4, 8), hfc_background="mean")).arrays()
    assert one["hfc_correct"].tolist() != plain["hfc_correct"].tolist()
    groups = run(ComponentExamples((4, 8), **options)).arrays()
    assert groups["original_correct"] == one["original_correct"]
    # Every image of the groups is right as it is, so a group's sum is at most that component's.
    assert (groups["both_correct"] + groups["high_only_correct"] <= one["hfc_correct"]).all()
    svd = run(TruncatedSVD((8,), background="mean", rescale="max"))
    same = run(FrequencyAccuracy((float(svd.radii[0]),), **options)).arrays()
    assert svd.original_right == same["original_correct"]
    assert svd.counts["hfc"].tolist() == same["hfc_correct"].tolist()
    assert svd.counts["lfc"].tolist() == same["lfc_correct"].tolist()


def test_calibration_feeds_them_too_and_a_second_data_set(resnet20, cifar):
    some, other = cifar.subset(48), Samples(images(8, 32, 32) * 0.3, torch.zeros(8).long())
    settings = {"radii": (4,), "rescale": "max", "resamples": 2}
    found = Calibration(ood=other, **settings).measure(resnet20, some, pixels=IMAGENET).arrays()
    one = FrequencyAccuracy((4,), rescale="max").measure(resnet20, some, pixels=IMAGENET).arrays()
    assert found["accuracy_hfc"] == pytest.approx(one["hfc"])
    bright = Samples(other.images / other.images.amax((1, 2, 3), keepdim=True), other.targets)
    same = Calibration(ood=bright, **settings).measure(resnet20, some, pixels=IMAGENET).arrays()
    assert found["auroc_ood"] == same["auroc_ood"]


def test_it_is_named_in_settings_table_title_figure_and_metadata():
    class Constant(nn.Module):
        def forward(self, x):
            score = x.mean((1, 2, 3)) + 1  # class 0 whatever it sees
            return torch.stack([score, -score], 1)

    samples = Samples(images(4), torch.tensor([0, 1, 0, 1]))
    for rescale in (None, "max"):
        named = rescale is not None
        result = FrequencyAccuracy((2,), rescale=rescale).measure(Constant(), samples)
        assert result.settings["rescale"] == rescale
        assert result.axes()["hfc"]["rescale"] == rescale
        heads, _ = result.table()
        assert ["rescaled" in head for head in heads] == [False, named, named]
        assert ("every image divided by its maximum" in str(result)) == named
        title = result.figure().axes[0].get_title()
        assert ("divided by its maximum" in title) == named
        for other in (
            ComponentExamples((2,), group="both", rescale=rescale).measure(Constant(), samples),
            TruncatedSVD((2,), rescale=rescale).measure(Constant(), samples),
        ):
            assert ("every image divided by its maximum" in str(other)) == named
            texts = [t.get_text() for t in other.figure().findobj(lambda a: hasattr(a, "get_text"))]
            assert any("divided by its maximum" in text for text in texts) == named


def test_transforms_give_the_authors_training_images():
    x = images()
    low = transforms.LowPass(3, closed=False, rescale="max")(x)
    high = transforms.HighPass(3, background=None, closed=False, rescale="max")(x)
    for k, image in enumerate(x):
        expected = slow(image, 3)
        np.testing.assert_allclose(low[k], expected[0], atol=1e-5)
        np.testing.assert_allclose(high[k], expected[1], atol=1e-5)
    assert float(high.min()) < 0
    on_grey = transforms.HighPass(3, rescale="max")(x)
    assert float(on_grey.amax()) == pytest.approx(1)
    eight = transforms.LowPass(3, rescale="max")((x * 255).to(torch.uint8))
    assert eight.dtype == torch.uint8
    assert eight.amax((1, 2, 3)).tolist() == [255] * 3
    band = transforms.RandomBand(2, low=1, high=4, rescale="max", seed=1)(x)
    assert band.amax((1, 2, 3)).tolist() == pytest.approx([1] * 3)
    # In front of a model, around its normalisation.
    front = transforms.FrequencyFilter(3, keep="high", pixels=IMAGENET, rescale="max")
    seen = IMAGENET.unnormalize(front(IMAGENET.normalize(x)))
    torch.testing.assert_close(seen, fourier.rescaled(fourier.split(x, 3)[1]), atol=1e-4, rtol=1e-4)
    low_front = transforms.FrequencyFilter(3, pixels=IMAGENET, rescale="max")
    seen = IMAGENET.unnormalize(low_front(IMAGENET.normalize(x)))
    torch.testing.assert_close(seen, fourier.rescaled(fourier.split(x, 3)[0]), atol=1e-4, rtol=1e-4)


def test_a_detector_is_shown_rescaled_images_each_by_itself():
    pictures = [images(1, 20, 16)[0] * 0.5, images(1, 12, 18, seed=1)[0] * 0.25]
    options = {"radii": (3,), "closed": True, "units": "cycles", "background": None}
    shown = dict(run_variants(lambda x: x, pictures, rescale="max", **options))
    assert list(shown) == ["original", "lfc_r03", "hfc_r03"]
    for k, picture in enumerate(pictures):
        parts = fourier.components(picture, (3,), rescale="max")
        for name, part in zip(shown, parts, strict=True):
            assert torch.equal(shown[name][k], part.images)
            assert float(shown[name][k].max()) == pytest.approx(1)
    plain = dict(run_variants(lambda x: x, pictures, **options))
    assert plain["original"] is pictures  # the very list, as it came


@pytest.mark.parametrize(
    "make",
    [
        lambda: FrequencyAccuracy(rescale="mean"),
        lambda: ComponentExamples(rescale="mean"),
        lambda: Calibration(rescale="mean"),
        lambda: TruncatedSVD(rescale="mean"),
        lambda: DetectionAudit(rescale="mean"),
        lambda: transforms.HighPass(2, rescale="mean"),
        lambda: transforms.RandomBand(rescale="mean"),
        lambda: transforms.FrequencyFilter(2, rescale="mean"),
        lambda: fourier.components(images(), (2,), rescale="mean"),
        lambda: fourier.rescaled(images(), "mean"),
    ],
)
def test_another_rescaling_is_one_sentence(make):
    with pytest.raises(InputError, match="rescale: expected None or \"max\", got 'mean'"):
        make()
    with pytest.raises(InputError, match=r"expected \(\.\.\., C, H, W\)"):
        fourier.rescaled(torch.rand(4, 4))

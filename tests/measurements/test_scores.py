"""Scores by task: planted truths, independent references, coverage, real networks."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hfc_probe
from hfc_probe import (
    FourierHeatmap,
    FrequencyAccuracy,
    ImageScore,
    InputError,
    Samples,
    SetScore,
)
from hfc_probe.measurements.image_score import _estimates
from hfc_probe.measurements.scores import SCORES, nearest_neighbours

from .test_image_score import SIDE, N, Same, images, measured


class Both(nn.Module):
    """Two labels, by the signs of the low and of the high wave; 0 if there is none."""

    def forward(self, x):
        found = torch.fft.fft2(x)[:, 0].real
        return torch.stack([found[:, 2, 0], found[:, 0, 7]], 1).round(decimals=2)


class Amplitude(nn.Module):
    """The amplitude of the high wave."""

    def forward(self, x):
        return torch.fft.fft2(x)[:, 0, 0, 7:8].abs() * 2 / SIDE**2


class Sign(nn.Module):
    def forward(self, x):
        return torch.cat([-(x - 0.5), x - 0.5], 1)


def labels():
    _, slow, fast = images()
    return torch.stack([slow[:, 0, 0, 0] > 0, fast[:, 0, 0, 0] > 0], 1)


def test_mean_average_precision_of_scores_without_information_is_the_prevalence():
    truth = labels()
    result = measured("mean_average_precision", truth, Both(), classes=("low", "high"))
    arrays, share = result.arrays(), truth.double().mean(0).numpy()
    assert arrays["original"] == 1
    np.testing.assert_allclose(arrays["lfc_by_class"], [[1, share[1]]])
    np.testing.assert_allclose(arrays["hfc_by_class"], [[share[0], 1]])
    assert arrays["lfc"][0] == pytest.approx((1 + share[1]) / 2)
    assert arrays["lfc_difference"][0] == pytest.approx((share[1] - 1) / 2)
    assert arrays["lfc_difference_lower"][0] < arrays["lfc_difference"][0]
    assert "high at 4" in str(result)


def test_accuracy_by_label():
    truth = labels()
    arrays = measured("label_accuracy", truth, Both()).arrays()
    negative = (~truth).double().mean(0).numpy()
    np.testing.assert_allclose(arrays["lfc_by_class"], [[1, negative[1]]])
    np.testing.assert_allclose(arrays["hfc_by_class"], [[negative[0], 1]])
    assert arrays["original"] == 1


def test_iou_over_the_set_and_by_class():
    _, slow, _ = images()
    truth = (slow[:, 0] > 1e-6).long()
    truth[slow[:, 0].abs() <= 1e-6] = 255
    arrays = measured("set_iou", truth, Sign()).arrays()
    np.testing.assert_allclose(arrays["lfc_by_class"], [[1, 1]])
    # HFC has no mean, so all of it is below 0.5: one class everywhere.
    share = float((truth == 0).sum() / (truth < 2).sum())
    np.testing.assert_allclose(arrays["hfc_by_class"], [[share, 0]])
    assert arrays["hfc"][0] == pytest.approx(share / 2)
    for part in ("lfc", "hfc"):
        assert arrays[f"{part}_difference"] == pytest.approx(arrays[part] - arrays["original"])
    assert arrays["hfc_difference_upper"][0] < 0


def test_errors_of_depth_without_the_frequency_that_tells_it():
    _, _, fast = images()
    truth = fast.flatten(1).abs().amax(1)[:, None].clone()
    rmse = measured("rmse", truth, Amplitude()).arrays()
    assert rmse["hfc"][0] == pytest.approx(0, abs=1e-5)
    assert rmse["lfc"][0] == pytest.approx(float(truth.square().mean().sqrt()), rel=1e-5)
    assert rmse["lfc_lower"][0] > 0
    # A pixel without a depth (NaN, or 0 for a relative error) is not judged.
    for score, missing in (("rmse", torch.nan), ("abs_rel", 0.0)):
        with_gaps = torch.cat([truth, torch.full_like(truth, missing)], 1)
        model = nn.Sequential(Amplitude(), nn.ConstantPad1d((0, 1), 9.0))
        arrays = measured(score, with_gaps, model).arrays()
        expected = rmse["lfc"][0] if score == "rmse" else 1
        assert arrays["lfc"][0] == pytest.approx(expected, rel=1e-5)


def test_structural_similarity_of_two_flat_images():
    for a, b in ((0.2, 0.8), (0.5, 0.5)):
        flat = (torch.full((2, 3, 16, 16), value) for value in (a, b))
        expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        assert SCORES["ssim"](*flat).tolist() == pytest.approx([expected] * 2, rel=1e-4)


def test_neighbours_in_a_gallery():
    _, slow, _ = images()
    truth = (slow[:, 0, 0, 0] > 0).long()
    wave = torch.cos(4 * torch.pi * torch.arange(SIDE) / SIDE)[:, None].expand(SIDE, SIDE)
    gallery = torch.stack([-wave, wave, 0.9 * wave]).flatten(1)
    score = nearest_neighbours(gallery, torch.tensor([0, 1, 1]), k=1)

    class Centred(nn.Module):
        def forward(self, x):
            return (x - x.mean((2, 3), keepdim=True)).flatten(1)

    arrays = measured(score, truth, Centred()).arrays()
    assert arrays["original"] == arrays["lfc"][0] == 1
    # Two of three neighbours outvote the nearest; with two, one each, the nearer label wins.
    three = nearest_neighbours(gallery, torch.tensor([0, 1, 1]), k=3)
    assert three(gallery, torch.tensor([1, 1, 1])).all()
    two = nearest_neighbours(gallery[:2], torch.tensor([0, 1]), k=2)
    assert two(gallery[:2], torch.tensor([0, 1])).tolist() == [True, True]


def test_a_metric_of_ones_own_over_the_set():
    _, _, fast = images()
    truth = fast.flatten(1).abs().amax(1)[:, None]

    def correlation(outputs, targets):
        return np.corrcoef(outputs[:, 0], targets[:, 0])[0, 1]

    result = measured(SetScore(correlation), truth, Amplitude(), bootstrap=100)
    assert result.arrays()["hfc"][0] == pytest.approx(1, abs=1e-4)
    assert "hfc_correlation/original" in result.scalars()
    # The same in rows, so that resamples are cheap.
    rows = SetScore(
        rows=lambda o, t: torch.cat([o, t, o * t, o * o, t * t], 1),
        value=lambda rows, weights: _correlation(weights @ rows),
    )
    again = measured(rows, truth, Amplitude(), bootstrap=100).arrays()
    for name, array in result.arrays().items():
        if name.startswith("hfc_"):
            np.testing.assert_allclose(again[name], array, atol=2e-3)


def _correlation(means):
    x, y, xy, xx, yy = means.T
    return ((xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y)).clip(1e-12))[:, None]


def test_integer_targets_reach_the_metric_as_such():
    def accuracy(outputs, targets):
        assert not targets.is_floating_point()
        return float((outputs.argmax(1) == targets).float().mean())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 4))
    samples = Samples(torch.rand(N, 1, SIDE, SIDE), torch.arange(N) % 4)
    found = ImageScore((4,), score=SetScore(accuracy), bootstrap=100).measure(model, samples)
    plain = FrequencyAccuracy((4,)).measure(model, samples)
    for name in ("original", "lfc", "hfc"):
        np.testing.assert_allclose(found.arrays()[name], plain.arrays()[name])


@pytest.mark.slow
def test_prompts_as_a_classifier():
    """A CLIP of transformers, with prompts: any measurement of a classifier applies."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "intermediate_size": 16, "vocab_size": 99},
        vision_config={**small, "intermediate_size": 16, "image_size": 16, "patch_size": 4},
        projection_dim=8,
    )
    clip = transformers.CLIPModel(config).eval()
    prompts = torch.randint(0, 90, (3, 5))
    pixels = torch.rand(12, 3, 16, 16)
    with torch.no_grad():
        logits = clip(input_ids=prompts, pixel_values=pixels).logits_per_image
        weights = clip(input_ids=prompts, pixel_values=pixels[:1]).text_embeds

    def predict(model, x):
        embedded = model.visual_projection(model.vision_model(x).pooler_output)
        return F.normalize(embedded, dim=1) @ weights.T

    samples = Samples(pixels, logits.argmax(1))
    score = ImageScore((4,), score="accuracy").measure(clip, samples, predict=predict)
    assert score.arrays()["original"] == 1
    curves = FrequencyAccuracy((4,)).measure(clip, samples, predict=predict)
    np.testing.assert_allclose(curves.arrays()["lfc"], score.arrays()["lfc"])


def test_a_metric_that_is_given_as_a_score_is_told():
    with pytest.raises(InputError, match=r"shape \(\); wrap a metric of all images in hfc_probe.S"):
        measured(lambda outputs, targets: torch.tensor(1.0))
    with pytest.raises(InputError, match="pass one of the two"):
        SetScore()


def test_a_score_of_the_set_is_saved_and_loaded(tmp_path):
    result = measured("mean_average_precision", labels(), Both(), classes=("low", "high"))
    again = hfc_probe.load(result.save(tmp_path / "r.json"))
    assert str(again) == str(result)
    assert again.figure().axes[0].get_ylabel() == "mean_average_precision"


class Fixed(nn.Module):
    """Says the same outputs whatever it is shown."""

    def __init__(self, outputs, form=lambda outputs: outputs):
        super().__init__()
        self.outputs, self.form = outputs, form

    def forward(self, x):
        return self.form(self.outputs[: len(x)])


MASKS = torch.arange(N * SIDE * SIDE).reshape(N, SIDE, SIDE) % 4
GREY = torch.linspace(0, 1, N * SIDE * SIDE).reshape(N, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("score", "shape", "targets", "sentence"),
    [
        ("set_iou", (N, 1, SIDE, SIDE), MASKS % 2, "at least two classes, got .* single logit"),
        ("set_iou", (N, 4, SIDE, SIDE), MASKS + 1, "from 0 to 3, the model's 4 logits, got 4"),
        ("mean_iou", (N, 4, 8, 8), MASKS, "class indices of shape .* got .5, 16, 16."),
        ("mean_iou", (N, 4, SIDE, SIDE), MASKS / 255, "whole class indices"),
        ("accuracy", (N, 1), torch.zeros(N), "at least two classes, got .5, 1."),
        ("accuracy", (N, 4), None, "from 0 to 3, the model's 4 logits, got 4"),  # row numbers
        ("mean_average_precision", (N, 4), MASKS[:, 0, :2] % 2, "0 or 1 for each label beside"),
        ("mean_average_precision", (N, 2), 1 - 2 * (MASKS[:, 0, :2] % 2), "0 or 1 .* got -1, 1"),
        ("label_accuracy", (N, 4), MASKS[:, 0, :1] % 2, "0 or 1 for each label beside"),
        ("exact_match", (N, 5), torch.ones(N), "0 or 1 for each label beside"),
        ("rmse", (N, 1, SIDE, SIDE), torch.zeros(N, 1), "the same shape beside"),
        ("abs_rel", (N, 1), GREY, "the same shape beside"),
        ("cosine", (N, 8), torch.zeros(N, 1), "the same shape beside"),
        ("psnr", (N, 1, SIDE, SIDE), GREY.expand(N, 3, SIDE, SIDE), "the same shape beside"),
        ("psnr", (N, 1, SIDE, SIDE), (255 * GREY).byte(), "divide 8-bit values by 255"),
        ("ssim", (N, 1, SIDE, SIDE), 2 * GREY - 1, "images in .0, 1., got values from -"),
        ("ssim", (N, 1, 8, 8), GREY[..., :8, :8], "of at least 11 pixels"),
    ],
)
def test_targets_that_do_not_fit_the_outputs_are_refused(score, shape, targets, sentence):
    model = Fixed(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match=sentence):
        measured(score, targets, model)


def test_probabilities_are_no_logits():
    truth = MASKS[:, 0, :4] % 2
    logits = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    for score in ("label_accuracy", "exact_match"):
        measured(score, truth, Fixed(logits))
        with pytest.raises(InputError, match=r"got values from 0.\d+ to 0.\d+, as probabilities"):
            measured(score, truth, Fixed(logits.sigmoid()))


def test_an_axis_of_length_1_more_or_less_is_no_other_target():
    logits = torch.randn(N, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for score, outputs, one, other in (
        ("set_iou", logits, MASKS, MASKS[:, None]),
        ("psnr", GREY**2, GREY, GREY[:, 0]),
        ("ssim", GREY**2, GREY, GREY[:, 0]),
        ("rmse", GREY**2, GREY, GREY[:, 0]),
    ):
        found, same = (
            SCORES[score].rows(outputs, targets) if score in ("set_iou", "rmse")
            else SCORES[score](outputs, targets) for targets in (one, other)
        )  # fmt: skip
        assert torch.equal(found, same)


def test_logits_are_found_in_what_a_model_returns():
    logits = F.one_hot(torch.arange(N) % 4).float()
    for form in (
        lambda x: SimpleNamespace(logits=x),
        lambda x: {"logits": x},
        lambda x: (x,),
        lambda x: {"aux": -x, "out": x},
    ):
        result = FourierHeatmap(crop=1, score="accuracy", targets=torch.arange(N) % 4).measure(
            Fixed(logits, form), Samples(images()[0], torch.arange(N)), batch_size=N
        )
        assert float(result.clean()[0]) == 0
        scored = ImageScore((4,), score="accuracy", targets=torch.arange(N) % 4).measure(
            Fixed(logits, form), Samples(images()[0], torch.arange(N)), batch_size=N
        )
        assert scored.arrays()["original"] == 1
    several = Fixed(logits, lambda x: {"aux": -x, "main": x})
    with pytest.raises(InputError, match=r"'aux', 'main'; .*\['aux'\] .*; if it is not 'aux'"):
        measured("accuracy", None, several)
    with pytest.raises(InputError, match=r"SetScore: expected tensors .* got dict"):
        measured(SetScore(lambda o, t: 1.0), None, several)


def test_class_indices_are_no_row_numbers():
    of_each = torch.rand(N, 1)
    for measurement in (
        ImageScore((4,), score="absolute_error", targets=of_each),
        FourierHeatmap(crop=1, score="absolute_error", targets=of_each),
    ):
        with pytest.raises(InputError, match=f"got 4 different labels for {N} images"):
            measurement.measure(Fixed(of_each), Samples(images()[0], torch.arange(N) % 4))


class Mean(nn.Module):
    """A score of its own, as LPIPS is one."""

    def forward(self, outputs, targets):
        return (outputs - targets).flatten(1).mean(1)


def shifted(outputs, targets, by=1.0):
    return Mean()(outputs, targets) + by


@pytest.mark.parametrize(
    ("score", "expected"), [(Mean(), 0), (shifted, 1), (partial(shifted, by=2.0), 2)]
)
def test_any_callable_scores_the_heatmap(score, expected):
    pixels, *_ = images()
    samples = Samples(pixels, torch.arange(N))
    result = FourierHeatmap(crop=1, score=score, targets=pixels).measure(Same(), samples)
    assert float(result.clean()[0]) == pytest.approx(expected, abs=1e-6)


def test_targets_that_no_score_would_see_are_refused():
    for score in (None, lambda model, inputs, targets: torch.ones(len(targets))):
        with pytest.raises(InputError, match="targets: expected score= with them"):
            FourierHeatmap(score=score, targets=labels())
    with pytest.raises(InputError, match="score of single images, got a SetScore"):
        FourierHeatmap(score=SetScore(lambda o, t: 1.0), targets=labels())


def test_results_on_other_targets_are_told_apart(tmp_path):
    pixels, *_ = images()
    samples, file = Samples(pixels, torch.arange(N)), tmp_path / "map.npz"
    found = [measured("psnr", one).settings["targets"] for one in (pixels, pixels / 2, "clean")]
    assert len(set(found)) == 3
    assert found[2] == "clean"

    class Stops(nn.Module):
        passes = 0

        def forward(self, x):
            Stops.passes += len(x)
            if Stops.passes > 3 * N:
                raise KeyboardInterrupt
            return x

    def heatmap(targets, model):
        settings = FourierHeatmap(crop=3, score="psnr", targets=targets, checkpoint=file)
        return settings.measure(model, samples, batch_size=N)

    with pytest.raises(KeyboardInterrupt):
        heatmap(pixels, Stops())
    assert file.exists()
    resumed = heatmap(pixels / 2, Same())
    plain = FourierHeatmap(crop=3, score="psnr", targets=pixels / 2).measure(Same(), samples)
    np.testing.assert_allclose(resumed.error, plain.error)
    assert resumed.settings["targets"] == plain.settings["targets"] == found[1]


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        time.sleep(0.002 * len(x))
        return torch.cat([-x, self.weight * x], 1)


@pytest.mark.parametrize(
    "measurement",
    [
        ImageScore((4,), score="set_iou", targets=MASKS % 2, bootstrap=100),
        FourierHeatmap(crop=3, score="mean_iou", targets=MASKS % 2),
    ],
)
def test_a_probe_takes_any_outputs_and_knows_what_they_cost(measurement):
    """The samples' targets are row numbers, which are no labels; the model has no logits (N, K)."""
    samples = Samples(images()[0], torch.arange(N))
    with hfc_probe.attach(
        Slow(), samples, measurements=[measurement], strict=True, final=False
    ) as probe:
        (entry,) = probe._entries
        passes = measurement.cost(N, samples.image_shape)
        assert probe._costs.estimate(entry) >= 0.002 * passes
        assert set(probe.measure()) == {entry.key}


# --- independent references ------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_numbers_as_torchmetrics():
    metrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    torch.manual_seed(0)

    def of_set(name, outputs, targets):
        rows = SCORES[name].rows(outputs, targets).double().numpy()
        return SCORES[name].value(rows, np.full((1, len(rows)), 1 / len(rows)))[0]

    scores, truth = torch.rand(50, 4).round(decimals=1), torch.rand(50, 4) < 0.3
    for average, at in (("macro", 0), ("none", slice(1, None))):
        theirs = metrics.functional.classification.multilabel_average_precision(
            scores, truth.long(), 4, average=average
        )
        ours = of_set("mean_average_precision", scores, truth)[at]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    outputs, masks = torch.randn(6, 3, 8, 8), torch.randint(0, 3, (6, 8, 8))
    masks[0, 0] = 255
    theirs = metrics.functional.classification.multiclass_jaccard_index(
        outputs.argmax(1), masks, 3, average="none", ignore_index=255
    )
    np.testing.assert_allclose(of_set("set_iou", outputs, masks)[1:], theirs, rtol=1e-5)
    depth, true = torch.rand(5, 8, 8) + 0.5, torch.rand(5, 8, 8) + 0.5
    theirs = metrics.functional.mean_squared_error(depth, true, squared=False)
    np.testing.assert_allclose(of_set("rmse", depth, true), theirs, rtol=1e-5)
    theirs = metrics.functional.mean_absolute_percentage_error(depth, true)
    np.testing.assert_allclose(of_set("abs_rel", depth, true), theirs, rtol=1e-5)
    x = torch.rand(4, 3, 24, 24)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    _, whole = metrics.functional.structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", return_full_image=True
    )
    theirs = whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # without the padding, as in the paper
    np.testing.assert_allclose(SCORES["ssim"](x, y), theirs, rtol=1e-4)
    theirs = metrics.functional.peak_signal_noise_ratio(
        x, y, data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    np.testing.assert_allclose(SCORES["psnr"](x, y), theirs, rtol=1e-4)


# --- coverage --------------------------------------------------------------------------------


def draw_labels(rng, count):
    truth = rng.random((count, 3)) < (0.2, 0.4, 0.6)
    return np.concatenate([truth * 1.5 + rng.normal(size=(count, 3)), truth], 1)


def draw_overlaps(rng, count):
    union = rng.integers(20, 100, (count, 3))
    share = rng.beta(4, 2, (count, 1)) * (0.9, 0.7, 0.5)
    return np.concatenate([np.rint(share * union), union], 1)


def draw_errors(rng, count):
    scale = rng.gamma(4, 0.25, count)
    return np.stack([scale**2 * rng.chisquare(64, count), np.full(count, 64.0)], 1)


DRAWS = {"mean_average_precision": draw_labels, "set_iou": draw_overlaps, "rmse": draw_errors}


def coverage(name, trials=300, count=100):
    """How often the 95 % intervals of a metric, and of a paired difference, hold the truth."""
    score, draw, rng = SCORES[name], DRAWS[name], np.random.default_rng(0)
    true = score.value(draw(rng, 200_000), np.full((1, 200_000), 1 / 200_000))[0, 0]
    hits = []
    for _ in range(trials):
        rows = draw(rng, count)
        found = _estimates(score, np.stack([rows, draw(rng, count), rows]), 400, 0)[:, :, 0]
        assert (found[1] >= 0)[:3].all()
        paired = found[:, 3]
        hits.append((found[1, 0] <= true <= found[2, 0], paired[1] <= 0 <= paired[2]))
    return np.mean(hits, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DRAWS))
def test_intervals_cover_as_often_as_they_say(name):
    found = coverage(name)
    assert (found > 0.90).all(), found

"""The heatmap's engine: memory, interruption, repeatability, scores, several ks at once."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hfc_probe import FourierHeatmap, InputError, Samples, fourier
from hfc_probe.measurements.fourier_heatmap.engine import Engine
from hfc_probe.measurements.fourier_heatmap.settings import direction_signs
from hfc_probe.model.subject import subject_of

from ..toys import Tally


def linear(size: int = 8, classes: int = 5, channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


def some(n: int = 30, size: int = 8, classes: int = 5, channels: int = 3) -> Samples:
    return Samples(torch.rand(n, channels, size, size), torch.randint(0, classes, (n,)))


class Counting(nn.Module):
    """Counts images; can run out of memory, or be interrupted once, at its own word."""

    def __init__(self, inner: nn.Module, most: int | None = None, stop_at: int | None = None):
        super().__init__()
        self.inner, self.most = inner, most
        self.tally = Tally(images=0, sizes=[], stop_at=stop_at)

    def forward(self, x):
        if self.most is not None and len(x) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …")
        stop_at = self.tally["stop_at"]
        if stop_at is not None and self.images >= stop_at:
            self.tally["stop_at"] = None
            raise KeyboardInterrupt
        self.tally["images"] += len(x)
        self.sizes.append(len(x))
        return self.inner(x)

    @property
    def images(self):
        return self.tally["images"]

    @property
    def sizes(self):
        return self.tally["sizes"]


def test_top_k_and_mean_loss_come_from_the_same_passes():
    model, samples = Counting(linear()), some(20)
    result = FourierHeatmap(norm=1.0, topk=(1, 2, 5)).measure(model, samples)
    directions = fourier.half_plane(8, 8)
    trial = 8 + 4  # that the first measurement of a model makes
    assert result.passes == 20 * (1 + len(directions)) + 2 * 2  # and the pair of identical calls
    assert model.images == result.passes + trial
    arrays = result.arrays()
    assert (arrays["error_top5"] == 0).all()
    for i, j in ((0, 0), (1, 2), (3, -2)):
        signs = direction_signs(0, i, j, 8, 8, 20, 3)
        noisy = (samples.pixels() + signs * fourier.basis(i, j, 8, 8)).clamp(0, 1)
        with torch.no_grad():
            logits = model.inner(noisy)
        loss = float(F.cross_entropy(logits, samples.targets))
        top2 = logits.topk(2).indices.eq(samples.targets[:, None]).any(1).float().mean()
        assert arrays["loss"][i + 4, j + 4] == pytest.approx(loss, rel=1e-5)
        assert arrays["error_top2"][i + 4, j + 4] == pytest.approx(1 - float(top2))


@pytest.mark.parametrize("most", [1, 7, 20])
def test_a_batch_that_does_not_fit_in_memory_is_halved(most):
    samples, inner = some(20), linear()
    expected = FourierHeatmap(norm=1.0).measure(inner, samples, batch_size=64)
    model = Counting(inner, most=most)
    result = FourierHeatmap(norm=1.0).measure(model, samples, batch_size=64)
    np.testing.assert_array_equal(result.arrays()["error"], expected.arrays()["error"])
    np.testing.assert_allclose(result.arrays()["loss"], expected.arrays()["loss"], rtol=1e-5)
    assert max(model.sizes) <= most
    assert model.sizes[-2] > most / 2.1  # and not more than it needs to be


def test_memory_for_not_even_one_image_is_told_in_a_sentence():
    with pytest.raises(InputError, match="a batch of one image"):
        FourierHeatmap(norm=1.0).measure(Counting(linear(), most=0), some(4))


def test_other_runtime_errors_are_not_taken_for_lack_of_memory():
    model = nn.Sequential(nn.Flatten(), nn.Linear(7, 5))
    with pytest.raises(RuntimeError, match="shapes"):
        FourierHeatmap(norm=1.0).measure(model, some(4))


@pytest.mark.parametrize(
    "effort", [{}, {"precision": 0.2}, {"forwards": 900}, {"radial": True, "forwards": 400}]
)
def test_an_interrupted_map_continues_and_ends_the_same(tmp_path, effort):
    samples, inner = some(60), linear()
    settings = {"norm": 1.0, "samples": 60, **effort}
    expected = FourierHeatmap(**settings).measure(inner, samples, batch_size=16)
    file = tmp_path / "map.npz"
    kept = FourierHeatmap(**settings, checkpoint=file)
    model = Counting(inner, stop_at=300)
    with pytest.raises(KeyboardInterrupt):
        kept.measure(model, samples, batch_size=16)
    assert file.exists()
    result = kept.measure(model, samples, batch_size=16)
    for name in ("error", "lower", "upper", "count"):
        np.testing.assert_allclose(result.arrays()[name], expected.arrays()[name], atol=1e-9)
    assert not file.exists()
    # What was measured before the interruption is not measured again: only the clean images
    # and the pair of identical calls are, and the batch it fell into.
    assert model.images <= expected.passes + 60 + 16 + 16


def test_a_checkpoint_of_another_model_is_not_used(tmp_path, caplog):
    samples, file = some(30), tmp_path / "map.npz"
    with pytest.raises(KeyboardInterrupt):
        FourierHeatmap(norm=1.0, checkpoint=file).measure(
            Counting(linear(), stop_at=200), samples, batch_size=16
        )
    other = linear()
    with caplog.at_level(logging.WARNING):
        result = FourierHeatmap(norm=1.0, checkpoint=file).measure(Counting(other), samples)
    assert "another model" in caplog.text
    expected = FourierHeatmap(norm=1.0).measure(other, samples)
    np.testing.assert_array_equal(result.arrays()["error"], expected.arrays()["error"])


def test_a_model_that_answers_differently_to_identical_calls_is_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x):
            return self.inner(F.dropout(x, 0.5, training=True))

    with pytest.raises(InputError, match=r"same output.*two identical calls.*dropout"):
        FourierHeatmap(norm=1.0).measure(Noisy(), some())


def test_a_score_of_right_and_wrong_gives_the_same_map_as_the_errors():
    model, samples = linear(), some()

    def right(model, inputs, targets):
        return model(inputs).argmax(1) == targets

    scored = FourierHeatmap(norm=1.0, score=right).measure(model, samples)
    plain = FourierHeatmap(norm=1.0).measure(model, samples)
    for name in ("error", "lower", "upper", "clean_error"):
        np.testing.assert_array_equal(scored.arrays()[name], plain.arrays()[name])
    assert scored.to_dict()["settings"]["score"] == "right"


def test_a_score_that_is_a_loss_works_for_models_that_are_no_classifiers():
    # A segmenter of per-pixel outputs; its annotations are looked up by the samples' targets.
    annotations = torch.rand(10, 1, 8, 8)
    model = nn.Conv2d(3, 1, 3, padding=1)
    samples = Samples(torch.rand(10, 3, 8, 8), torch.arange(10))

    def squared_error(model, inputs, targets):
        return (model(inputs) - annotations[targets]).square().mean((1, 2, 3))

    result = FourierHeatmap(norm=2.0, score=squared_error).measure(model, samples, batch_size=7)
    signs = direction_signs(0, 1, 2, 8, 8, 10, 3)
    noisy = (samples.pixels() + 2.0 * signs * fourier.basis(1, 2, 8, 8)).clamp(0, 1)
    with torch.no_grad():
        losses = squared_error(model, noisy, samples.targets).numpy()
    assert result.error[5, 6] == pytest.approx(losses.mean(), rel=1e-5)
    half = 1.96 * losses.std(ddof=1) / np.sqrt(10)
    assert result.upper[5, 6] - result.error[5, 6] == pytest.approx(half, rel=1e-4)
    assert "squared_error" in str(result)
    with pytest.raises(InputError, match=r"expected a bool per image .* use forwards or seconds"):
        FourierHeatmap(norm=2.0, precision=0.3, score=squared_error).measure(model, samples)


def test_a_score_of_the_wrong_shape_is_told_in_a_sentence():
    with pytest.raises(InputError, match=r"shape \(2,\), got \(\)"):
        FourierHeatmap(score=lambda m, x, t: m(x).sum()).measure(linear(), some())


def test_autocast_and_channels_last_change_little():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    samples = some(40)
    plain = FourierHeatmap(norm=1.0).measure(model, samples)
    for option in ("autocast", "channels_last"):
        other = FourierHeatmap(norm=1.0, **{option: True}).measure(model, samples)
        np.testing.assert_allclose(other.arrays()["loss"], plain.arrays()["loss"], rtol=0.02)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_a_stride_takes_every_so_many_cells_of_the_whole_map(size, stride):
    samples, model = some(12, size), linear(size)
    whole = FourierHeatmap(norm=1.0).measure(model, samples)
    few = FourierHeatmap(norm=1.0, stride=stride).measure(model, samples)
    i, j = few.frequencies()
    assert (i % stride == 0).all()
    rows, columns = few.error.shape
    assert i[rows // 2] == j[columns // 2] == 0
    centre = size // 2
    np.testing.assert_array_equal(few.error, whole.error[np.ix_(i + centre, j + centre)])
    few.figure()


def test_fewer_samples_than_classes_are_warned_about():
    with pytest.warns(UserWarning, match="4 samples of a model with 5 classes"):
        FourierHeatmap(norm=1.0, crop=3).measure(linear(), some(4))


def test_the_sign_pattern_of_a_pair_is_that_of_its_noise():
    samples, directions = some(20), [(0, 1), (2, -3), (-4, 0)]
    with subject_of(linear(), samples) as subject:
        found = Engine(subject, samples, directions, norm=1.0, seed=3).sign_patterns()
    for row, (i, j) in zip(found, directions, strict=True):
        for pattern, signs in zip(row, direction_signs(3, i, j, 8, 8, 20, 3), strict=True):
            red, green, blue = signs.flatten().tolist()
            assert pattern == (green != red) + 2 * (blue != red)

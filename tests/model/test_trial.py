"""What the trial pass finds before training: models, labels and settings that cannot be right."""

from __future__ import annotations

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
    InputSpectrum,
    Samples,
)
from hfc_probe.model.subject import try_model

from ..promises.test_no_trace_matrix import IMAGES, TARGETS, plain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
SAMPLES = Samples(IMAGES, TARGETS)


def wide(outputs=4, channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, outputs),
    )  # fmt: skip


class Returns(nn.Module):
    """Returns what ``form`` makes of features (16 columns) and logits."""

    def __init__(self, form, outputs=4):
        super().__init__()
        self.net, self.form = wide(outputs), form

    def forward(self, x):
        features = self.net[:-1](x)
        return self.form(features, self.net[-1](features))


def attach(model, data=SAMPLES, *measurements, **options):
    chosen = measurements or (FrequencyAccuracy(radii=(2, 4)),)
    return hfc_probe.attach(model, data, measurements=chosen, budget=1.0, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Returns(lambda f, z: {"scores": z}), r"dict with 'scores'; pass predict="),
        (lambda: Returns(lambda f, z: (f, z)), r"model, images: model\(images\)\[1\]"),
        (lambda: Returns(lambda f, z: [None, f, z]), r"model\(images\)\[2\]"),
        (lambda: wide(outputs=3), r"labels: expected class indices from 0 to 2, .* got 3"),
        (lambda: wide(outputs=1), "expected at least two logits, got one"),
        (lambda: wide(channels=1), r"takes \(3, 12, 12\) images, .* to have 1 channels"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten()), "layer '0', which makes"),
    ],
    ids=["dict", "features first", "nested", "labels", "one logit", "grey model", "lazy"],
)  # fmt: skip
def test_models_that_cannot_work_are_refused_in_one_sentence(make, words):
    with pytest.raises(InputError, match=words) as told:
        attach(make())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("form", "outputs", "labels"),
    [
        (lambda f, z: (z, f), 4, 4),  # logits that the labels fill, features behind
        (lambda f, z: (z, z / 2), 4, 4),  # an auxiliary head
        (lambda f, z: (z, f[:, :2]), 4, 4),  # too narrow for the labels
        (lambda f, z: (z, f[:, :, None]), 40, 4),  # no other tensor of logits' form
        (lambda f, z: (z, {"features": f}), 40, 4),
    ],
)
def test_tuples_whose_first_can_only_be_the_logits_are_taken(form, outputs, labels):
    model = Returns(form, outputs)
    with attach(model, Samples(IMAGES, torch.arange(24) % labels), strict=True) as probe:
        probe.end_epoch()
        found = probe.results["frequency_accuracy"].scalars()["hfc_accuracy/original"]
    expected = (model.net.eval()(IMAGES).argmax(1) == torch.arange(24) % labels).float().mean()
    assert found == pytest.approx(float(expected))


def test_a_tuple_that_labels_cannot_tell_apart_needs_predict():
    """Forty logits, sixteen features, four labels: either might be the logits."""
    model = Returns(lambda f, z: (z, f), 40)
    with pytest.raises(InputError, match="do not tell which are the logits"):
        attach(model)
    with attach(model, predict=lambda model, images: model(images)[0]) as probe:
        assert probe.measure()
    # Without a probe as well: it is never measured with the wrong one.
    with pytest.raises(InputError, match=r"model\(images\)\[1\]"):
        FrequencyAccuracy(radii=(2,)).measure(Returns(lambda f, z: (f, z)), SAMPLES)


@pytest.mark.parametrize(
    ("measurement", "words"),
    [
        (FrequencyAccuracy(radii=(4, 9)), "radii: expected at most 8.485, .* 12×12 .* got 9"),
        (FrequencyAccuracy(radii=(0.5, 2), units="nyquist"), "at most 1.414, .* Nyquist units"),
        (FrequencyAccuracy(radii=(0.25, 0.5, 1)), 'got 0.25; .* pass units="nyquist"'),
        (FrequencyAccuracy(radii=(2,), topk=(1, 20)), "topk: expected less than .* got 20"),
        (FourierHeatmap(topk=4), "topk: expected less than the model's 4 classes, got 4"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_images_or_the_logits_are_refused(measurement, words):
    with pytest.raises(InputError, match=words) as told:
        attach(wide(), SAMPLES, measurement)
    assert "\n" not in str(told.value)


def test_settings_at_the_edge_of_what_fits_are_taken():
    edge = FrequencyAccuracy(radii=(0, 1, 6, 8.48), topk=(1, 3))
    in_units = FrequencyAccuracy(radii=(0.25, 1.4), units="nyquist")
    for measurement, radii in ((edge, (0, 1, 6, 8.48)), (in_units, (0.25, 1.4))):
        with attach(wide(), SAMPLES, measurement) as probe:
            assert probe.measure()["frequency_accuracy"].radii == pytest.approx(radii)
    # Looks at the images alone, so that any model will do.
    with attach(Returns(lambda f, z: {}), SAMPLES, InputSpectrum()) as probe:
        assert probe.measure()["input_spectrum"].samples == len(SAMPLES)


def test_an_optimizer_of_another_model_is_refused_or_told(caplog):
    model = wide()
    with pytest.raises(InputError, match=r"one of other parameters \(one has shape \(5, 7\)\)"):
        attach(model, optimizer=torch.optim.SGD(nn.Linear(7, 5).parameters(), 0.1))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    own = torch.optim.SGD(model.parameters(), 0.1)
    for right in (model, averaged, nn.DataParallel(model)):
        attach(right, optimizer=own).close()
    part = torch.optim.SGD(model[-1].parameters(), 0.1)  # a head that is trained alone
    attach(model, optimizer=part).close()
    assert "optimizer=" not in caplog.text
    attach(wide(), optimizer=own).close()
    assert caplog.text.count("wrong if the model was made again after its optimizer") == 1


class Functional(nn.Module):
    def __init__(self, always=False):
        super().__init__()
        self.net, self.always = plain(nn.BatchNorm2d(8)), always

    def forward(self, x):
        return F.dropout(self.net(x), 0.3, training=self.training or self.always)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = plain(), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) + torch.eye(4)[self.calls % 4]


def exported(model):
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(model, (IMAGES[:4],), dynamic_shapes=shapes).module()


GRAPH, RANDOM, BATCH = "in training mode", "answers differently each time", "depends on the other"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: exported(plain(nn.Dropout(0.5)).train()), f"keeps dropout {GRAPH}"),
        (lambda: exported(plain(nn.BatchNorm2d(8)).train()), f"keeps batch_norm {GRAPH}"),
        (lambda: torch.fx.symbolic_trace(Functional().train()), f"keeps dropout {GRAPH}"),
        (lambda: torch.jit.trace(Functional().train(), IMAGES[:2], check_trace=False), "traced in"),
        (lambda: Functional(always=True), RANDOM),
        (Counting, RANDOM),
        (lambda: plain(nn.BatchNorm2d(8, track_running_stats=False)), BATCH),
        (lambda: exported(plain(nn.BatchNorm2d(8), nn.Dropout(0.5)).eval()), None),
        (lambda: torch.fx.symbolic_trace(plain(nn.BatchNorm2d(8), nn.Dropout(0.5)).train()), None),
        (lambda: torch.fx.symbolic_trace(Functional().eval()), None),
        (lambda: plain(nn.BatchNorm2d(8), nn.Dropout(0.5)).bfloat16(), None),
        (lambda: nn.Sequential(plain(nn.GroupNorm(2, 8)), nn.AlphaDropout(0.5)), None),
    ],
)
def test_models_that_evaluation_mode_does_not_reach_are_told(make, words, caplog):
    model = make()
    caveats = try_model(model, SAMPLES).caveats
    with attach(model):
        pass
    if words is None:
        assert caveats == ()
        assert "mode" not in caplog.text
    else:
        (caveat,) = caveats
        # Older versions of torch give the operation a longer name.
        assert words in caveat.replace("native_batch_norm_legit_functional", "batch_norm")
        assert caveat in caplog.text


def test_the_trial_shifts_no_random_state_and_is_made_once():
    passes = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain(nn.Dropout(0.5))

        def forward(self, x):
            passes.append(len(x))
            torch.rand(3)
            return self.net(x)

    model = Watched().train()
    before = torch.get_rng_state()
    probe = attach(model)
    assert passes == [8, 4]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for m in model.modules())
    probe.end_epoch()
    assert sorted(set(passes[2:])) == [24]
    probe.close()


def test_a_score_by_name_is_tried_before_training():
    masks = torch.zeros(len(IMAGES), *IMAGES.shape[2:], dtype=torch.long)
    samples = Samples(IMAGES, torch.arange(len(IMAGES)))
    score = ImageScore((2,), score="set_iou", targets=masks)

    class Segments(nn.Module):
        def __init__(self, key):
            super().__init__()
            self.net, self.key = nn.Conv2d(3, 2, 1), key

        def forward(self, x):
            return {self.key: self.net(x), "aux": x}

    with pytest.raises(InputError, match="got dict with 'main', 'aux'; pass predict="):
        attach(Segments("main"), samples, score)
    with pytest.raises(InputError, match=r"that takes \(3, 12, 12\) images, .* got RuntimeError"):
        attach(wide(channels=5), samples, score)
    attach(Segments("out"), samples, score).close()

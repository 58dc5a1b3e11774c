"""FrequencyCallback in a real fastai learner."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfc_probe import Every, FrequencyAccuracy, KernelSpectra

from .conftest import network, same, scalars

pytest.importorskip("fastai", reason="fastai is not installed: pip install 'hfc_probe[fastai]'")
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.vision.data import ImageDataLoaders
from hfc_probe_fastai import FrequencyCallback

MEASUREMENTS = {FrequencyAccuracy(radii=(2, 4)): Every(epochs=1), KernelSpectra(): Every(steps=2)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 6), ("valid", 4)):
        for label in range(4):
            (root / part / str(label)).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / str(label) / f"{k}.png")
    return root


def learner(pictures, cbs):
    torch.manual_seed(1)
    random.seed(1)
    tfms = [Normalize.from_stats((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), cuda=False)]
    dls = ImageDataLoaders.from_folder(
        pictures, bs=4, batch_tfms=tfms, num_workers=0, device="cpu", seed=0
    )
    return Learner(dls, network(), nn.functional.cross_entropy, cbs=cbs, path=pictures)


def callback(**options):
    return FrequencyCallback(measurements=MEASUREMENTS, budget=1.0, strict=True, **options)


def fit(pictures, cbs, *, start=0, epochs=2):
    learn = learner(pictures, cbs)
    random.seed(2)
    torch.manual_seed(2)
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 0.05, start_epoch=start)
    return learn


def test_training_is_the_same_and_the_log_is_where_fastais_is(pictures, tmp_path):
    plain = fit(pictures, [])
    board = TensorBoardCallback(tmp_path, trace_model=False, log_preds=False)
    probed = fit(pictures, [board, own := callback()])
    assert same(plain.model.state_dict(), probed.model.state_dict())
    for a, b in zip(plain.opt.state.values(), probed.opt.state.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a if isinstance(a[k], torch.Tensor))
    found = scalars(tmp_path)
    assert found["hfc_lfc/r02"] == [6, 12]
    assert found["hfc_0/smoothness_mean"] == [2, 4, 6, 8, 10, 12]
    assert "train_loss" in found  # fastai's own
    # The model is given what fastai gives it, its normalisation among it.
    predictions, labels = probed.get_preds()
    right = float((predictions.argmax(1) == labels).float().mean())
    assert own.probe.results["frequency_accuracy"].scalars()["hfc_accuracy/original"] == right
    assert own.probe.results["frequency_accuracy"].caveats == ()


def test_fits_count_on_and_a_resumed_one_starts_where_it_left_off(pictures, tmp_path):
    own = callback(log_dir=tmp_path / "twice")
    learn = fit(pictures, [own], epochs=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert scalars(tmp_path / "twice")["hfc_lfc/r02"] == [6, 12]
    assert (own.probe.steps, own.probe.epochs) == (12, 2)
    late = callback(log_dir=tmp_path / "late")
    fit(pictures, [late], start=1, epochs=3)
    assert scalars(tmp_path / "late")["hfc_lfc/r02"] == [12, 18]
    assert (late.probe.steps, late.probe.epochs) == (18, 3)


def test_the_search_for_a_learning_rate_is_left_alone(pictures, tmp_path):
    own = callback(log_dir=tmp_path)
    learn = learner(pictures, [own])
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=3, show_plot=False)
    assert own.probe is None
    assert list(tmp_path.iterdir()) == []

"""On another device the numbers are the CPU's, training is the same run, and nothing waits.

    python -m pytest -n 0 tests/promises/test_on_device.py --device cuda

Without ``--device`` a few of them run on the CPU, so that they do not rot.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hfc_probe as h
from hfc_probe.measurements.registry import MEASUREMENTS
from tests.promises.test_no_trace import same

QUICK = {
    "adversarial_accuracy": {"steps": 3},
    "band_attribution": {"permutations": 2, "samples": 8},
    "calibration": {"resamples": 20},
    "corruption_accuracy": {"severities": (1,)},
    "fourier_heatmap": {"crop": 7},
}
ESTIMATORS = {
    "exhaustive": {"crop": 9},
    "model": {"crop": 9, "forwards": 1500},
    "sequential": {"crop": 9, "precision": 0.2},
    "rings": {"crop": 9, "radial": True},
    "bfloat16, channels last": {"crop": 5, "autocast": True, "channels_last": True},
}


@pytest.fixture(scope="module")
def device(request) -> torch.device:
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda: expected a CUDA device, torch sees none")
    return device


@pytest.fixture
def elsewhere(device) -> None:
    """For tests that are worth their time on another device only."""
    if device.type == "cpu":
        pytest.skip("needs another device: --device cuda")


@pytest.fixture(autouse=True)
def _full_precision():
    """Convolutions in float32, so that the CPU's numbers are the ones to find."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_real_network_has_the_cpus_numbers(name, device, resnet20, cifar, request):
    if name not in ("frequency_accuracy", "kernel_spectra"):
        request.getfixturevalue("elsewhere")
    if name == "band_attribution":
        pytest.importorskip("captum")
    measurement = MEASUREMENTS[name](**QUICK.get(name, {}))
    samples, pixels = cifar.subset(96), h.PixelSpace.imagenet()
    try:
        ours = measurement.measure(resnet20.to(device), samples, pixels=pixels).scalars()
    finally:
        expected = measurement.measure(resnet20.cpu(), samples, pixels=pixels).scalars()
    assert ours.keys() == expected.keys()
    for tag, value in expected.items():
        # An image whose two largest logits are all but equal may change sides.
        assert ours[tag] == pytest.approx(value, abs=2.1 / 96, rel=0.02, nan_ok=True), tag


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.usefixtures("elsewhere")
def test_heatmaps_have_the_cpus_numbers(estimator, device, resnet20, cifar):
    measurement = h.FourierHeatmap(**ESTIMATORS[estimator])
    samples, pixels = cifar.subset(64), h.PixelSpace.imagenet()
    try:
        ours = measurement.measure(resnet20.to(device), samples, pixels=pixels)
    finally:
        expected = measurement.measure(resnet20.cpu(), samples, pixels=pixels)
    found, wanted = ours.scalars(), expected.scalars()
    if estimator != "rings":
        found, wanted = dict(enumerate(ours.error.flat)), dict(enumerate(expected.error.flat))
    bound = 0.12 if "bfloat16" in estimator else 0.035
    assert found == pytest.approx(wanted, abs=bound, nan_ok=True)
    assert abs(ours.clean_wrong - expected.clean_wrong) <= 2


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


WAYS = {
    "plain": {},
    "autocast and scaler": {"autocast": True},
    "compiled": {"compile": "default"},
    "CUDA graphs by compile": {"compile": "reduce-overhead"},
    "CUDA graphs by hand": {"graphed": True},
    "channels last": {"channels_last": True},
}


def train(device, probe, *, autocast=False, compile=None, graphed=False, channels_last=False):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = network().to(device).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    images = torch.rand(64, 3, 16, 16).to(device)
    targets = (torch.arange(64) % 4).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=autocast and device.type == "cuda")
    called = model
    if compile:
        torch._dynamo.reset()
        called = torch.compile(model, mode=compile)
    elif graphed:
        called = torch.cuda.make_graphed_callables(model, (images[:16].clone(),))
    attached = None
    if probe:
        attached = h.attach(
            called,
            h.Samples(images[:32].cpu(), targets[:32].cpu()),
            optimizer=optimizer,
            strict=True,
            budget=1.0,
            measurements={
                h.FrequencyAccuracy(radii=(2, 5)): h.Every(steps=3),
                h.KernelSpectra(): h.Every(steps=2),
                h.FourierHeatmap(norm=1.0, samples=8, crop=3): h.Every(steps=4),
            },
        )
    for _ in range(2):
        for start in range(0, 64, 16):
            part = slice(start, start + 16)
            optimizer.zero_grad(set_to_none=not graphed)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(called(images[part]), targets[part])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        if attached is not None:
            attached.end_epoch()
    if attached is not None:
        attached.close()
    of_device = torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()
    return {
        "parameters": {k: v.clone() for k, v in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "gradients": [p.grad.clone() for p in model.parameters()],
        "random": (random.getstate(), torch.get_rng_state(), of_device),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
    }


@pytest.mark.parametrize("way", WAYS)
def test_training_on_the_device_is_the_same_run(way, device, request):
    if way != "plain":  # the CPU's are in test_no_trace_matrix.py
        request.getfixturevalue("elsewhere")
    flags = torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False)
    with flags, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without = train(device, False, **WAYS[way])
        again = train(device, False, **WAYS[way])
        with_probe = train(device, True, **WAYS[way])
    assert same(again, without), "the training itself differs from run to run"
    assert same(with_probe, without)


@pytest.mark.usefixtures("elsewhere")
def test_no_batch_waits_for_the_device(device, resnet20, cifar):
    """More passes cause no more waits; a batch of images, with its 2R + 1 passes, causes two."""
    if device.type != "cuda":
        pytest.skip("only CUDA tells of waits")

    def waits(measurement, batch_size):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                measurement.measure(model, samples, pixels=pixels, batch_size=batch_size)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(one.message) for one in seen)

    pixels, samples = h.PixelSpace.imagenet(), cifar.subset(256)
    model = resnet20.to(device)
    found = {}
    try:
        for measurement in (h.FrequencyAccuracy(radii=(4, 8)), h.FourierHeatmap(crop=5)):
            waits(measurement, 256)
            few, many = waits(measurement, 256), waits(measurement, 32)
            found[measurement.name] = many - few  # of 8 batches of images against one
    finally:
        resnet20.cpu()
    assert found["fourier_heatmap"] <= 2, found  # of 104 batches of passes against 13
    assert found["frequency_accuracy"] <= 2 * 7, found

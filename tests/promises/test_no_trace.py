"""A training run with the probe is the same run, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import hfc_probe
from hfc_probe import Every, FourierHeatmap, FrequencyAccuracy, KernelSpectra


class Augmented(Dataset):
    """Images that every epoch changes with all three random generators."""

    def __init__(self, n, augment):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(n, 3, 16, 16, generator=generator)
        self.targets = torch.arange(n) % 4
        self.augment = augment

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = self.images[index]
        if self.augment:
            image = image.roll(random.randrange(3), -1) + 0.02 * torch.randn(3, 16, 16)
            image = (image + np.random.normal(0, 0.01)).float().clamp(0, 1)
        return image, int(self.targets[index])


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


AGGRESSIVE = {
    FrequencyAccuracy(radii=(2, 5)): Every(steps=2, epochs=1),
    KernelSpectra(): Every(steps=1),
    FourierHeatmap(norm=1.0, samples=8, crop=5): Every(steps=3),
}


def train(tmp_path, measurements, *, probe, workers, autocast, frozen, raises=False):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = network().train()
    if frozen:
        model[5].eval()  # one BatchNorm frozen, the other running
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    loader = DataLoader(Augmented(32, True), 8, shuffle=True, num_workers=workers)
    val_loader = DataLoader(Augmented(24, True), 8, num_workers=workers)
    attached = None
    if probe:
        attached = hfc_probe.attach(
            model,
            val_loader,
            optimizer=optimizer,
            log_dir=tmp_path / "log",
            measurements=measurements,
            budget=1.0 if measurements else 0.05,
            strict=not raises,
        )
    for _ in range(3):
        for images, targets in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        if attached is not None:
            attached.end_epoch()
    results = {}
    if attached is not None:
        results = dict(attached.results)
        attached.close()
    return {
        "results": results,
        "parameters": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if k[0] != "_"},
        "gradients": [p.grad.clone() for p in model.parameters()],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
        "modes": [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()],
        "hooks": [
            len(hooks)
            for m in model.modules()
            for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        ],
        "optimizer hooks": len(optimizer._optimizer_step_post_hooks),
        "global": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
        ),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize(
    ("measurements", "settings"),
    [
        (None, {"workers": 2, "autocast": True, "frozen": False}),
        (AGGRESSIVE, {"workers": 0, "autocast": False, "frozen": True}),
        (AGGRESSIVE, {"workers": 2, "autocast": True, "frozen": True}),
    ],
    ids=["default schedule", "every step", "every step, workers and autocast"],
)
def test_the_run_is_bit_identical_with_and_without_the_probe(tmp_path, measurements, settings):
    without = train(tmp_path, measurements, probe=False, **settings)
    with_probe = train(tmp_path, measurements, probe=True, **settings)
    assert {"frequency_accuracy", "kernel_spectra"} <= set(with_probe.pop("results"))
    without.pop("results")
    for name in without:
        assert same(without[name], with_probe[name]), name


def test_the_comparison_can_fail(tmp_path):
    settings = {"workers": 0, "autocast": False, "frozen": False}

    class Careless(KernelSpectra):
        """A measurement with a side effect outside what the isolation restores."""

        def compute(self, subject):
            with torch.no_grad():
                subject.model[0].weight.mul_(1 + 1e-6)
            return super().compute(subject)

    without = train(tmp_path, None, probe=False, **settings)
    spoilt = train(tmp_path, {Careless(): Every(steps=1)}, probe=True, **settings)
    assert not same(without["parameters"], spoilt["parameters"])


class Raises(KernelSpectra):
    def compute(self, subject):
        torch.rand(7)
        subject.model[1].running_mean.add_(1)
        subject.model[1].running_var = torch.zeros(8)
        raise RuntimeError("planted failure")


class Interrupted(KernelSpectra):
    def compute(self, subject):
        torch.rand(7)
        subject.model[1].running_mean.add_(1)
        raise KeyboardInterrupt


def test_a_measurement_that_raises_is_reported_once_switched_off_and_changes_nothing(
    tmp_path, caplog
):
    settings = {"workers": 0, "autocast": False, "frozen": False}
    without = train(tmp_path, None, probe=False, **settings)
    spoilt = train(tmp_path, {Raises(): Every(steps=1)}, probe=True, raises=True, **settings)
    for name in without:
        assert same(without[name], spoilt[name]), name
    reports = [r.getMessage() for r in caplog.records]
    assert sum("Traceback" in r and "planted failure" in r for r in reports) == 1
    assert "Traceback" in "".join(reports)
    assert sum("switched off after 3 failures" in r for r in reports) == 1


def test_strict_raises(tmp_path):
    settings = {"workers": 0, "autocast": False, "frozen": False}
    with pytest.raises(RuntimeError, match="planted failure"):
        train(tmp_path, {Raises(): Every(steps=1)}, probe=True, **settings)


def test_the_model_is_as_it_was_even_after_an_interruption():
    model = network().train()
    model[5].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    buffer = model[1].running_mean
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        Interrupted().measure(model)
    assert same(dict(before), dict(model.state_dict()))
    assert model[1].running_mean is buffer
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_models_and_optimizers_are_saved_and_copied_while_attached(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hfc_probe.attach(
        model, DataLoader(Augmented(8, False), 4), optimizer=optimizer, log_dir=tmp_path / "log"
    ) as probe:
        probe.measure()
        for keep in (model, optimizer):
            buffer = io.BytesIO()
            torch.save(keep, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=False)
            pickle.loads(pickle.dumps(keep))
        twin = copy.deepcopy(model)
        assert same(dict(twin.state_dict()), dict(model.state_dict()))
        copy.deepcopy(optimizer).step()
        assert probe.steps == 0  # a copied optimizer counts nothing


def test_nothing_stays_attached_after_close(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = hfc_probe.attach(model, DataLoader(Augmented(8, False), 4), optimizer=optimizer)
    optimizer.step()
    probe.close()
    probe.close()
    optimizer.step()
    assert probe.steps == 1
    assert not optimizer._optimizer_step_post_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

"""No trace, row by row: models and loops of every kind, trained with and without the probe."""

from __future__ import annotations

import copy
import io
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import hfc_probe
from hfc_probe import Every, FourierHeatmap, FrequencyAccuracy, KernelSpectra

from .test_no_trace import same

EVERYTHING = {
    FrequencyAccuracy(radii=(2, 5), topk=(1, 2)): Every(steps=1),
    KernelSpectra(): Every(steps=1),
    FourierHeatmap(norm=1.0, samples=4, crop=3): Every(steps=2),
}
IMAGES, TARGETS = (
    torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(0)),
    torch.arange(24) % 4,
)


def head(channels=8):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def plain(*middle, first=None):
    first = first or nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(first, *middle, nn.ReLU(), *head())


def mixed_batchnorm():
    model = plain(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    model[1].eval()
    model[1].weight.requires_grad_(False)
    return model


def old(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plain(nn.Dropout(0.2), first=norm(nn.Conv2d(3, 8, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Sequential(*head())
        self.reentrant = reentrant

    def forward(self, x):
        x = checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)
        return self.head(x)


class Stateful(nn.Module):
    """Counts its calls in a buffer and keeps a tensor from one forward pass to the next."""

    def __init__(self):
        super().__init__()
        self.net = plain(nn.Dropout(0.2))
        self.register_buffer("calls", torch.zeros(()))
        self.cache = None

    def forward(self, x):
        self.calls += 1
        if self.cache is None:
            self.cache = torch.ones(1, 4)
        return self.net(x) * self.cache


MODELS = {
    "batchnorm, running and frozen": mixed_batchnorm,
    "dropout": lambda: plain(nn.Dropout(0.5), nn.Dropout2d(0.2)),
    "spectral norm": lambda: plain(first=parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))),
    "weight norm": lambda: plain(first=parametrizations.weight_norm(nn.Conv2d(3, 8, 3))),
    "spectral norm by hook": lambda: old(nn.utils.spectral_norm),
    "weight norm by hook": lambda: old(nn.utils.weight_norm),
    "attention": Attention,
    "checkpointing": lambda: Checkpointed(False),
    "checkpointing, reentrant": lambda: Checkpointed(True),
    "channels last": lambda: plain(nn.BatchNorm2d(8)).to(memory_format=torch.channels_last),
    "data parallel": lambda: nn.DataParallel(plain(nn.BatchNorm2d(8))),
    "own state": Stateful,
}


def train(make, probe, *, loop="plain", wrap=lambda m: m):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = wrap(make().train() if make is not mixed_batchnorm else make())
    data = TensorDataset(IMAGES, TARGETS)
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 8, shuffle=True, generator=own)
    if loop == "lbfgs":
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    else:
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    averaged = torch.optim.swa_utils.AveragedModel(model) if loop == "ema" else None
    scaler = torch.amp.GradScaler("cpu", enabled=loop == "scaler")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    attached = None
    if probe:
        attached = hfc_probe.attach(
            averaged or model,
            loader,
            optimizer=optimizer,
            measurements=EVERYTHING,
            budget=1.0,
            strict=True,
        )
    for _ in range(2):
        for k, (images, targets) in enumerate(loader):

            def loss(images=images, targets=targets):
                with torch.autocast("cpu", torch.bfloat16, enabled=loop == "autocast"):
                    return nn.functional.cross_entropy(model(images), targets)

            if loop == "lbfgs":

                def closure(loss=loss):
                    optimizer.zero_grad()
                    value = loss()
                    value.backward()
                    return value

                optimizer.step(closure)
                continue
            scaler.scale(loss()).backward()
            if loop != "accumulation" or k % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=loop != "accumulation")
            if averaged is not None:
                averaged.update_parameters(model)
        scheduler.step()
    model(IMAGES[:4]).sum().backward()  # gradients that must come out the same
    if attached is not None:
        assert {"frequency_accuracy", "kernel_spectra"} <= set(attached.results)
        attached.close()
    modules = list((averaged or model).modules())
    return {
        "state": dict((averaged or model).state_dict()),
        "optimizer": optimizer.state_dict(),
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "random": (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state(),
            own.get_state(),
        ),
        "modes": [m.training for m in modules],
        "needs": [p.requires_grad for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        "scheduler": scheduler.get_last_lr(),
        "global": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
        ),
        "backends": (torch.backends.mkldnn.enabled, torch.get_num_threads()),
    }


def compare(make, **options):
    without, probed = train(make, False, **options), train(make, True, **options)
    for name in without:
        assert same(without[name], probed[name]), name


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("row", MODELS)
def test_models(row):
    compare(MODELS[row])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("loop", ["autocast", "scaler", "accumulation", "ema", "lbfgs"])
def test_loops(loop):
    compare(
        MODELS["batchnorm, running and frozen"] if loop != "lbfgs" else MODELS["dropout"], loop=loop
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_models_compile_no_more_with_the_probe(when):
    """``torch.compile`` before and after ``attach``; the eager backend needs no C compiler."""
    from torch._dynamo.utils import counters

    def run(probe):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = plain(nn.BatchNorm2d(8), nn.Dropout(0.2)).train()
        compiled = torch.compile(model, backend="eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        target = compiled if when == "before" else model
        attached = None
        if probe:
            attached = hfc_probe.attach(
                target,
                DataLoader(TensorDataset(IMAGES, TARGETS), 8),
                optimizer=optimizer,
                measurements=EVERYTHING,
                budget=1.0,
                strict=True,
            )
        for _ in range(3):
            nn.functional.cross_entropy(compiled(IMAGES[:8]), TARGETS[:8]).backward()
            optimizer.step()
            optimizer.zero_grad()
        if attached is not None:
            attached.close()
        seen = {k: dict(counters[k]) for k in ("stats", "frames", "graph_break")}
        return {k: v.clone() for k, v in model.state_dict().items()}, seen

    without, probed = run(False), run(True)
    assert same(without[0], probed[0])
    assert without[1]["stats"].get("unique_graphs", 0) > 0
    assert without[1] == probed[1]


def test_saving_exporting_and_tracing_while_attached():
    model = plain(nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(IMAGES, TARGETS), 8)
    with hfc_probe.attach(model, loader, optimizer=optimizer, measurements=EVERYTHING) as probe:
        probe.measure()
        for attached in (True, False):
            if not attached:
                probe.close()
            buffer = io.BytesIO()
            torch.save(model, buffer)
            copy.deepcopy(model)
            example = (IMAGES[:2],)
            frozen = copy.deepcopy(model).eval()
            expected = frozen(*example)
            exported = torch.export.export(frozen, example).module()(*example)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(frozen, example)(*example)
            torch.testing.assert_close(exported, expected)
            torch.testing.assert_close(traced, expected)

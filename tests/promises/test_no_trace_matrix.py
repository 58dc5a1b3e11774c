"""No trace, row by row: models and loops of every kind, trained with and without the probe."""

from __future__ import annotations

import copy
import io
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import hfc_probe
from hfc_probe import (
    Every,
    FourierHeatmap,
    FourierSensitivity,
    FrequencyAccuracy,
    InputError,
    KernelSpectra,
)

from .test_no_trace import same

EVERYTHING = {
    FrequencyAccuracy(radii=(2, 5), topk=(1, 2)): Every(steps=1),
    KernelSpectra(): Every(steps=1),
    FourierHeatmap(norm=1.0, samples=4, crop=3): Every(steps=2),
    FourierSensitivity(samples=4): Every(steps=2),
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


class BatchStatistics(nn.Module):
    """Normalises with the batch's statistics and keeps running ones, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(*head())
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        return self.head(F.batch_norm(self.first(x), self.mean, self.var, training=True))


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
    "batch statistics always": BatchStatistics,
    "float64": lambda: plain(nn.BatchNorm2d(8), nn.Dropout(0.2)).double(),
}


class Augmented(TensorDataset):
    """Every item is changed with all three random generators."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        image = image.roll(random.randrange(3), -1) + 0.02 * torch.rand_like(image)
        return (image * float(np.random.uniform(0.9, 0.95))).clamp(0, 1), target


def global_state():
    """What a library may switch for the whole process, and must not."""
    import torch.backends.opt_einsum

    backends = torch.backends
    module = nn.modules.module
    return {
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.is_autocast_cache_enabled(),
        ),
        "defaults": (str(torch.get_default_dtype()), str(torch.empty(0).device)),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "precision": torch.get_float32_matmul_precision(),
        "anomalies": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "cudnn": (
            backends.cudnn.enabled,
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
            backends.cudnn.allow_tf32,
        ),
        "cuda": (backends.cuda.matmul.allow_tf32, backends.cuda.flash_sdp_enabled()),
        "mkldnn": (backends.mkldnn.enabled, getattr(backends.mkldnn, "deterministic", None)),
        "einsum": (torch.backends.opt_einsum.enabled, torch.backends.opt_einsum.strategy),
        "attention": backends.mha.get_fastpath_enabled(),
        "numpy": np.geterr(),
        "hooks of all modules": [
            len(getattr(module, name))
            for name in ("_global_forward_hooks", "_global_forward_pre_hooks",
                         "_global_backward_hooks", "_global_backward_pre_hooks")
        ],
    }  # fmt: skip


def hooks_of(models, optimizer):
    """How many hooks there are, on modules, parameters and the optimizer."""
    kinds = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    assert {"_forward_hooks", "_backward_hooks", "_state_dict_hooks"} <= set(kinds)
    modules = [m for model in models for m in model.modules()]
    counts = {kind: [len(getattr(m, kind, ())) for m in modules] for kind in kinds}
    for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        tensors = [p for model in models for p in model.parameters()]
        counts[f"of parameters: {kind}"] = [len(getattr(p, kind, None) or ()) for p in tensors]
    for kind in [name for name in vars(optimizer) if name.endswith("_hooks")]:
        counts[f"of the optimizer: {kind}"] = [len(getattr(optimizer, kind))]
    assert any("step_post_hooks" in kind for kind in counts)
    return counts


def train(make, probe, *, loop="plain", wrap=lambda m: m, measurements=EVERYTHING, fails=()):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = wrap(make().train() if make is not mixed_batchnorm else make())
    dtype = next(model.parameters()).dtype
    workers = loop == "augmenting workers"
    data = (Augmented if workers else TensorDataset)(IMAGES.to(dtype), TARGETS)
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 8, shuffle=True, generator=own, num_workers=2 if workers else 0)
    calls = []
    if loop == "own hooks":
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: calls.append(1) or 1.01 * gradient)
            parameter.register_post_accumulate_grad_hook(lambda p: calls.append(2))
    if loop == "lbfgs":
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    else:
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    averaged = None
    if loop.startswith("ema"):
        rule = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        averaged = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=rule, use_buffers=loop == "ema, the copy measured"
        )
    scaler = torch.amp.GradScaler("cpu", enabled=loop == "scaler")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    attached = None
    if probe:
        attached = hfc_probe.attach(
            averaged if loop == "ema, the copy measured" else model,
            loader,
            optimizer=optimizer,
            measurements=measurements,
            budget=1.0,
            strict=not fails,
        )
    seen = []
    for _ in range(2):
        for k, (images, targets) in enumerate(loader):
            seen.append(images)

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
    model(IMAGES[:4].to(dtype)).sum().backward()  # gradients that must come out the same
    if attached is not None:
        assert set(attached.results) == {m.name for m in measurements} - set(fails)
        attached.close()
    models = [model] if averaged is None else [model, averaged]
    modules = [m for one in models for m in one.modules()]
    tensors = [t for one in models for t in (*one.parameters(), *one.buffers())]
    return {
        "state": [dict(one.state_dict()) for one in models],
        "layout": [
            (t.stride(), t.is_contiguous(memory_format=torch.channels_last))
            for t in (*tensors, *(t.grad for t in tensors if t.grad is not None))
            if t.dim() == 4
        ],
        "batches": seen,
        "calls": calls,
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
        "hooks": hooks_of(models, optimizer),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if k[0] != "_"},
        "scaler": scaler.state_dict(),
        "global": global_state(),
    }


def compare(make, **options):
    without, probed = train(make, False, **options), train(make, True, **options)
    for name in without:
        assert same(without[name], probed[name]), name
    return probed


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("row", MODELS)
def test_models(row):
    # Reentrant checkpoints refuse gradients of the input; what fails is reported, and that is all.
    fails = ("fourier_sensitivity",) if row == "checkpointing, reentrant" else ()
    found = compare(MODELS[row], fails=fails)
    if row == "channels last":
        assert all(contiguous for _, contiguous in found["layout"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "loop",
    [
        "autocast",
        "scaler",
        "accumulation",
        "ema, the model measured",
        "ema, the copy measured",
        "lbfgs",
        "augmenting workers",
        "own hooks",
    ],
)
def test_loops(loop):
    model = "dropout" if loop in ("lbfgs", "own hooks") else "batchnorm, running and frozen"
    found = compare(MODELS[model], loop=loop)
    assert bool(found["calls"]) == (loop == "own hooks")
    if loop == "augmenting workers":
        assert not torch.equal(found["batches"][0], found["batches"][3])


SCRIPT = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def regularised():
    return plain(nn.BatchNorm2d(8), nn.Dropout(0.2))


@SCRIPT
def test_a_scripted_model_is_measured_like_the_model_it_was_made_of():
    compare(regularised, wrap=torch.jit.script)
    torch.manual_seed(0)
    model = regularised()
    scripted = torch.jit.script(copy.deepcopy(model))
    samples = hfc_probe.Samples(IMAGES, TARGETS)
    for measurement in EVERYTHING:
        expected = measurement.measure(model, samples).arrays()
        found = measurement.measure(scripted, samples).arrays()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    assert scripted.training


@SCRIPT
def test_a_traced_model_trains_on_and_its_mode_is_told(caplog):
    def traced(model):
        return torch.jit.trace(model, IMAGES[:2], check_trace=False)

    only = {FrequencyAccuracy(radii=(2, 5)): Every(steps=1)}
    compare(regularised, wrap=traced, measurements=only)
    assert "stays in the mode that it was traced in" in caplog.text
    data = DataLoader(TensorDataset(IMAGES, TARGETS), 8)
    with pytest.raises(InputError, match="found none in TopLevelTracedModule"):
        hfc_probe.attach(traced(regularised()), data, measurements=[KernelSpectra()])
    # Asked for nothing particular, the probe measures what there is.
    with hfc_probe.attach(traced(regularised()), data, budget=1.0) as probe:
        probe.end_epoch()
        assert set(probe.results) == {"frequency_accuracy"}


@pytest.fixture
def unusual():
    """Every setting of the process away from its default, for a test."""
    before = global_state()
    backends = torch.backends
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_default_device("cpu")
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    backends.mha.set_fastpath_enabled(False)
    backends.cuda.enable_flash_sdp(False)
    strategy, backends.opt_einsum.strategy = backends.opt_einsum.strategy, "greedy"
    errors = np.seterr(under="warn")
    settable = {"deterministic": True} if hasattr(backends.mkldnn, "deterministic") else {}
    with (
        backends.cudnn.flags(enabled=False, benchmark=True, deterministic=True, allow_tf32=False),
        backends.mkldnn.flags(enabled=False, **settable),
    ):
        yield before
    np.seterr(**errors)
    backends.opt_einsum.strategy = strategy
    backends.cuda.enable_flash_sdp(True)
    backends.mha.set_fastpath_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.set_default_device(None)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_settings_of_the_process_stay_as_the_user_wants_them(unusual):
    set_by_user = global_state()
    differing = {name for name in unusual if unusual[name] != set_by_user[name]}
    assert {"cudnn", "mkldnn", "einsum", "precision", "deterministic", "attention"} <= differing
    found = compare(MODELS["attention"])
    assert found["global"] == set_by_user


@pytest.mark.parametrize("when", ["before", "after", "in place"])
def test_compiled_models_compile_no_more_with_the_probe(when):
    """``torch.compile`` before and after ``attach``; the eager backend needs no C compiler."""
    from torch._dynamo.utils import counters

    def run(probe):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = plain(nn.BatchNorm2d(8), nn.Dropout(0.2)).train()
        if when == "in place":
            model.compile(backend="eager")
        compiled = model if when == "in place" else torch.compile(model, backend="eager")
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
    if when == "in place" and not without[1]["stats"]:
        pytest.skip("this version of torch counts no graphs of a model compiled in place")
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
            model.train()
            assert [k for k in model.state_dict() if "hfc" in k or "probe" in k] == []
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            state = io.BytesIO()
            torch.save(model.state_dict(), state)
            state.seek(0)
            fresh = plain(nn.BatchNorm2d(8))
            fresh.load_state_dict(torch.load(state, weights_only=True))
            copies = [
                torch.load(buffer, weights_only=False),
                pickle.loads(pickle.dumps(model)),
                copy.deepcopy(model),
                fresh,
            ]
            model.eval()
            example = (IMAGES[:2],)
            expected = model(*example)
            for one in copies:
                assert same(dict(one.state_dict()), dict(model.state_dict()))
                assert torch.equal(one.eval()(*example), expected)
            exported = torch.export.export(model, example).module()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = [exported, torch.jit.trace(model, example), torch.jit.script(model)]
            for one in made:
                torch.testing.assert_close(one(*example), expected)


def test_a_model_that_holds_its_probe_is_copied_and_saved(tmp_path):
    """As a LightningModule with ``self.probe = attach(self, …)`` does."""
    model = plain()
    data = DataLoader(TensorDataset(IMAGES, TARGETS), 8)
    model.probe = hfc_probe.attach(
        model, data, log_dir=tmp_path, measurements=[KernelSpectra()], budget=1.0
    )
    model.probe.step()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert same(dict(twin.state_dict()), dict(model.state_dict()))
        assert twin.probe.steps == 1
        twin.probe.step()  # does nothing
        assert twin.probe.steps == 1
    model.probe.end_epoch()
    assert set(model.probe.results) == {"kernel_spectra"}
    model.probe.close()

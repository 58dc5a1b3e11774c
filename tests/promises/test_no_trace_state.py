"""No trace, continued: what models and loops keep in Python, in hooks and in compiled steps."""

from __future__ import annotations

import functools
import random
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.utils.data import DataLoader, TensorDataset

import hfc_probe
from hfc_probe import Every, FourierSensitivity, FrequencyAccuracy, KernelSpectra, Samples
from hfc_probe.model.attributes import Attributes
from hfc_probe.model.isolation import isolated

from ..toys import Log
from .test_no_trace import same
from .test_no_trace_matrix import IMAGES, TARGETS, compare, plain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
EVERY_STEP = {
    FrequencyAccuracy(radii=(2, 5)): Every(steps=1),
    KernelSpectra(): Every(steps=1),
    FourierSensitivity(samples=4): Every(steps=2),
}


class Own(nn.Module):
    """A network and what a subclass does to its outputs, in training and in evaluation."""

    def __init__(self):
        super().__init__()
        self.net = plain(nn.Dropout(0.2))


class Counts(Own):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1 + 0.1 * self.calls)


class Collections(Own):
    def __init__(self):
        super().__init__()
        self.recent = deque(maxlen=3)
        self.kinds = {"calls": [0], "by size": defaultdict(int), "sizes": Counter()}
        self.kinds["itself"] = self.kinds

    def forward(self, x):
        self.recent.append(float(x.mean()))
        self.kinds["calls"][0] += 1
        self.kinds["by size"][len(x)] += 1
        self.kinds["sizes"][len(x)] += 1
        factor = self.kinds["calls"][0] + len(self.kinds["by size"]) + sum(self.recent)
        return self.net(x) * (1 + 0.01 * factor + 0.01 * self.kinds["sizes"][8])


class Hidden(Own):
    """The state of a recurrent network, kept from one pass to the next as a plain tensor."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.state, self.average = None, torch.zeros(4)

    def forward(self, x):
        out = self.net(x)
        state = torch.zeros(1, 4, dtype=x.dtype) if self.state is None else self.state
        hidden = self.cell(out, state.expand(len(x), -1))
        self.state = hidden.mean(0, keepdim=True).detach()
        with torch.no_grad():
            self.average.mul_(0.9).add_(out.mean(0), alpha=0.1)
        return hidden + self.average


class Cached(Own):
    """A cached property that depends on the first input, and a buffer made at first use."""

    @functools.cached_property
    def scale(self):
        return 1 + float(self.first)

    def forward(self, x):
        self.first = x.mean().detach()
        if not hasattr(self, "offset"):
            self.register_buffer("offset", x.mean((0, 2, 3))[:1].detach().clone())
        return self.net(x) * self.scale + self.offset


class Experts(Own):
    """A router that balances load: a bias that it moves by what it has seen, in every mode."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.router, self.load = nn.Linear(4, 3), np.zeros(3)

    def forward(self, x):
        out = self.net(x)
        scores = self.router(out) - torch.from_numpy(self.load).to(x.dtype)
        chosen = scores.argmax(1)
        self.load += 0.01 * np.bincount(chosen.numpy(), minlength=3)
        return torch.stack([self.experts[int(k)](one) for k, one in zip(chosen, out, strict=True)])


class OwnRandom(Own):
    """Draws from generators of its own, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.generators = [
            torch.Generator().manual_seed(1), random.Random(1), np.random.default_rng(1),
            np.random.RandomState(1),
        ]  # fmt: skip

    def forward(self, x):
        a, b, c, d = self.generators
        drawn = float(torch.rand((), generator=a)) + b.random() + c.random() + d.rand()
        return self.net(x) * (1 + 0.01 * drawn)


class Teacher(Own):
    """Hides a module in a list, so that its parameters are none of the model's."""

    def __init__(self):
        super().__init__()
        self.hidden = [plain(nn.BatchNorm2d(8), nn.BatchNorm2d(8, momentum=None))]

    def forward(self, x):
        with torch.no_grad():
            soft = self.hidden[0](x)
        return self.net(x) + soft


class Metric(Own):
    """A torchmetrics metric within forward."""

    def __init__(self):
        super().__init__()
        torchmetrics = pytest.importorskip("torchmetrics")
        self.mean, self.kept = torchmetrics.MeanMetric(), torchmetrics.CatMetric()

    def forward(self, x):
        self.mean.update(x.float().mean().detach())
        self.kept.update(x.float().mean().detach())
        return self.net(x) * (1 + float(self.mean.compute()) + len(self.kept.value))


class Unusual(Own):
    """Overrides __call__ and counts there."""

    passes = 0

    def __call__(self, x):
        self.passes += 1
        return super().__call__(x * (1 + 0.01 * self.passes))

    def forward(self, x):
        return self.net(x)


class Renormed(nn.Module):
    """Bounds the norm of its kernels at every pass, by new data for the parameter (as EEGNet)."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 8, 3), plain(first=nn.Conv2d(8, 8, 3))

    def forward(self, x):
        weight = self.first.weight
        weight.data = torch.renorm(weight.data, 2, 0, 0.4) * (1 - 1e-4)  # not idempotent
        return self.rest(self.first(x))


class Bounded(Own):
    """Writes to parameters in forward: an embedding that renormalises the rows it looks up."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 4, max_norm=0.3)
        self.decaying = nn.Parameter(torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.decaying.data.mul_(0.99)
        rows = (8 * x.mean((1, 2, 3))).long().clamp(0, 7)
        return self.net(x) * self.decaying + self.embedding(rows)


MODELS = [
    Bounded,
    Counts, Collections, Hidden, Cached, Experts, OwnRandom, Teacher, Metric, Unusual, Renormed,
]  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_models_with_a_state_in_python(kind):
    states = []

    def make():
        model = kind()
        states.append(model)
        return model

    compare(make, measurements=EVERY_STEP)
    without, probed = states
    for (name, a), b in zip(without.named_modules(), probed.modules(), strict=True):
        for key, value in vars(a).items():
            if isinstance(value, (int, float, list, deque, torch.Tensor)) and key != "generators":
                found = vars(b)[key]
                assert (key == "hidden") or same(list_of(value), list_of(found)), f"{name}.{key}"


def list_of(value):
    return list(value) if isinstance(value, deque) else value


def test_quantisation_aware_training_before_its_first_forward():
    """Observers give their buffers another shape at their first look."""

    def make():
        model = nn.Sequential(torch.ao.quantization.QuantStub(), plain())
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        return torch.ao.quantization.prepare_qat(model.train())

    compare(make, measurements={FrequencyAccuracy(radii=(2, 5)): Every(steps=1)})
    torch.manual_seed(0)
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FrequencyAccuracy(radii=(2,)).measure(model, Samples(IMAGES, TARGETS))
    assert same(before, dict(model.state_dict()))


@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_the_users_hooks_see_no_image_of_a_measurement(kind):
    """As those of wandb.watch and of activation statistics, which change nothing."""

    def run(probe):
        torch.manual_seed(0)
        model, seen = plain(nn.BatchNorm2d(8)).train(), []
        if kind == "forward":
            model[0].register_forward_hook(lambda m, i, o: seen.append(float(o.mean())))
        else:
            model.register_forward_pre_hook(lambda m, i: seen.append(float(i[0].mean())))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if probe:
            probe = hfc_probe.attach(
                model, Samples(IMAGES, TARGETS), optimizer=optimizer, measurements=EVERY_STEP,
                budget=1.0, strict=True,
            )  # fmt: skip
            assert len(seen) <= 3  # the trial pass that tells whether they change anything
        seen.clear()
        for _ in range(3):
            F.cross_entropy(model(IMAGES[:8]), TARGETS[:8]).backward()
            optimizer.step()
        order = [list(m._forward_hooks) for m in model.modules()]
        return seen, [len(hooks) for hooks in order]

    assert run(False) == run(True)


@pytest.mark.parametrize("before", [False, True])
def test_hooks_of_all_modules_see_no_image_of_a_measurement_unless_they_change_it(before):
    register = torch_module.register_module_forward_hook
    if before:
        register = torch_module.register_module_forward_pre_hook
    model, samples, images = plain(nn.BatchNorm2d(8)).train(), Samples(IMAGES, TARGETS), Log()
    curves = FrequencyAccuracy(radii=(2,))
    expected = curves.measure(model, samples).scalars()

    def see(module, given, *_):
        images.append(len(given[0]))

    def scale(module, given, *output):
        return (2 * given[0] if before else 2 * output[0]) if module is model[0] else None

    with ExitStack() as stack:
        for _ in range(2):
            stack.callback(register(see).remove)
        probe = hfc_probe.attach(model, samples, measurements=[curves], budget=1.0, strict=True)
        images.clear()
        names = ("_global_forward_hooks", "_global_forward_pre_hooks")
        order = [list(getattr(torch_module, name)) for name in names]
        assert probe.measure()["frequency_accuracy"].scalars() == expected
        assert images == []
        assert order == [list(getattr(torch_module, name)) for name in names]
        model(IMAGES[:5])
        assert set(images) == {5}
        model.eval()
        stack.callback(register(scale).remove)
        scaled = curves.measure(model, samples).scalars()["hfc_accuracy/original"]
        assert scaled == float((model(IMAGES).argmax(1) == TARGETS).float().mean())
    probe.close()


def test_hooks_that_change_the_answer_are_kept():
    """Those that preprocess, that hand on features, that make a weight."""
    features, samples = {}, Samples(IMAGES, TARGETS)

    class ByHook(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()
            self.net[-2].register_forward_hook(lambda m, i, o: features.update(at=o))
            self.net.register_forward_pre_hook(lambda m, i: (1 - i[0],))

        def forward(self, x):
            self.net(x)
            return self.net[-1](features["at"])

    class Same(ByHook):
        def forward(self, x):
            return self.net(1 - x) if not self.net._forward_pre_hooks else self.net(x)

    model = ByHook()
    plain_net = plain()
    plain_net.load_state_dict(model.net.state_dict())
    plain_net.eval()
    expected = (plain_net(1 - IMAGES).argmax(1) == TARGETS).float().mean()
    with hfc_probe.attach(
        model, samples, measurements=[FrequencyAccuracy(radii=(2,))], budget=1.0, strict=True
    ) as probe:
        probe.end_epoch()
        found = probe.results["frequency_accuracy"].scalars()
    assert found["hfc_accuracy/original"] == pytest.approx(float(expected))

    scaled = plain()
    scaled[0].register_forward_pre_hook(
        lambda m, i: m.__dict__.update(scale=float(m.weight.detach().abs().max()))
    )
    scaled.register_forward_hook(lambda m, i, o: o / m[0].scale)
    probed = Samples(IMAGES, TARGETS)
    with isolated(scaled) as inner:
        before = inner(IMAGES[:4])
    FrequencyAccuracy(radii=(2,)).measure(scaled, probed)
    assert torch.equal(scaled.eval()(IMAGES[:4]), before)


@pytest.mark.parametrize("what", ["optimizer step", "training step"])
def test_a_compiled_step_compiles_no_more_and_is_counted(what):
    from torch._dynamo.utils import counters

    def run(probe):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = plain(nn.Dropout(0.2)).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if probe:
            probe = hfc_probe.attach(
                model, Samples(IMAGES, TARGETS), optimizer=optimizer, measurements=EVERY_STEP,
                budget=1.0, strict=True,
            )  # fmt: skip

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        compiled = torch.compile(
            optimizer.step if what == "optimizer step" else step, backend="eager"
        )
        for _ in range(4):
            if what == "training step":
                compiled(IMAGES[:8], TARGETS[:8])
                continue
            F.cross_entropy(model(IMAGES[:8]), TARGETS[:8]).backward()
            compiled()
            optimizer.zero_grad()
        if probe:
            assert probe.steps == 4
            assert set(probe.results) == {m.name for m in EVERY_STEP}
            probe.close()
        seen = counters["stats"]["unique_graphs"], counters["stats"]["calls_captured"]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        return state, seen, counters["frames"]["total"]

    without, probed = run(False), run(True)
    assert same(without[0], probed[0])
    assert without[1] == probed[1]
    assert probed[2] <= without[2] + 1


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation in the form of its public implementations."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, {"rho": 0.05})
        self.base_optimizer = torch.optim.SGD(self.param_groups, **settings)

    @torch.no_grad()
    def first_step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["move"] = 0.05 * p.grad
            p.add_(self.state[p]["move"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self.param_groups[0]["params"]:
            p.sub_(self.state[p]["move"])
        self.base_optimizer.step()
        self.zero_grad()


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimizer and never calls Optimizer.__init__, as Opacus and timm do."""

    def __init__(self, base):
        self.base, self.param_groups, self.defaults, self.state = base, base.param_groups, {}, {}

    def step(self, closure=None):
        return self.base.step(closure)


class Handmade(Sam):
    def second_step(self):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(0.1 * p.grad)


def loop(model, optimizer, steps=3):
    for _ in range(steps):
        F.cross_entropy(model(IMAGES[:8]), TARGETS[:8]).backward()
        if isinstance(optimizer, Sam):
            optimizer.first_step()
            F.cross_entropy(model(IMAGES[:8]), TARGETS[:8]).backward()
            optimizer.second_step()
        else:
            optimizer.step()


@pytest.mark.parametrize("kind", [Sam, Lookahead])
def test_steps_of_optimizers_that_wrap_another_are_counted(kind):
    model = plain()
    optimizer = (
        Sam(model.parameters(), lr=0.1)
        if kind is Sam
        else Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    )
    with hfc_probe.attach(
        model, None, optimizer=optimizer, measurements=[KernelSpectra()]
    ) as probe:
        loop(model, optimizer)
        assert probe.steps == 3


def test_steps_that_cannot_be_counted_are_told_and_may_be_given(caplog):
    model = plain()
    optimizer = Handmade(model.parameters(), lr=0.1)
    every = {KernelSpectra(): Every(steps=1)}
    with hfc_probe.attach(model, None, optimizer=optimizer, measurements=every) as probe:
        loop(model, optimizer)
        probe.end_epoch()
        assert caplog.text.count("no step of the optimizer was counted") == 1
        probe.step()
        assert probe.steps == 1
    bare = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    del bare.base
    with pytest.raises(hfc_probe.InputError, match=r"does not call Optimizer.__init__; leave it"):
        hfc_probe.attach(model, None, optimizer=bare, measurements=every)


def test_attributes_are_put_back_in_place_and_large_ones_left_alone():
    module = nn.Linear(2, 2)
    module.kept = {"a": [1, {2, 3}], "order": OrderedDict(a=1, b=2)}
    module.large = list(range(200_000))
    module.trainer = type("Trainer", (), {"calls": 0})()
    inside, order = module.kept["a"], module.kept["order"]
    attributes = Attributes([module])
    inside[1].add(4)
    inside.append(5)
    order.move_to_end("a")
    del module.kept["a"]
    module.new = 1
    module.large.append(1)
    module.trainer.calls = 1
    assert attributes.put_back()
    assert module.kept["a"] is inside
    assert inside == [1, {2, 3}]
    assert list(order) == ["a", "b"]
    assert not hasattr(module, "new")
    assert len(module.large) == 200_001
    assert module.trainer.calls == 1
    assert Attributes([module]).put_back() == set()


def test_a_loader_that_the_model_holds_is_none_of_its_state():
    model = Counts()
    model.loader = DataLoader(TensorDataset(IMAGES, TARGETS), 8)
    model.batches = iter(model.loader)
    next(model.batches)
    FrequencyAccuracy(radii=(2,)).measure(model, Samples(IMAGES, TARGETS))
    assert len(list(model.batches)) == 2

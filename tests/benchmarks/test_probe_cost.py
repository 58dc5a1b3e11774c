"""What a probe costs: its budget, an import, a step with nothing due, kernel spectra, passes.

    python -m pytest tests/benchmarks/test_probe_cost.py -s -n 0

Ratios within one run. Torch gets one thread, so that processor time says what was computed
whoever else is on the machine; wall time stands beside it. Repetitions of what is compared come
in turn. JSON goes to $HFC_PROBE_BENCHMARKS, where that is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, KernelSpectra, Samples
from hfc_probe.measurements.registry import MEASUREMENTS
from tests.benchmarks.clocks import medians, seconds
from tests.measurements.test_cost import Counting

ROUNDS = int(os.environ.get("HFC_PROBE_BENCHMARK_ROUNDS", "5"))
BATCH = 128
CLASSES = 10


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def keep(name, content):
    folder = os.environ.get("HFC_PROBE_BENCHMARKS")
    if folder:
        Path(folder, f"probe_cost_{name}.json").write_text(json.dumps(content, indent=1))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


def small_resnet(width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        Block(width),
        nn.MaxPool2d(2),
        Block(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES),
    )


def resnet18(*, stem):
    """ResNet-18; with CIFAR's stem it sees all of 32 pixels, with ImageNet's an eighth."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=CLASSES)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


class Loop:
    """A training loop on CIFAR-shaped images."""

    def __init__(self, model, batch=BATCH):
        torch.manual_seed(0)
        self.model = model.train()
        self.images = torch.rand(batch, 3, 32, 32)
        self.targets = torch.arange(batch) % CLASSES
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def gradients(self):
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.images), self.targets).backward()

    def step(self):
        self.gradients()
        self.optimizer.step()


def samples(count):
    torch.manual_seed(1)
    return Samples(torch.rand(count, 3, 32, 32), torch.arange(count) % CLASSES)


@pytest.mark.parametrize("unit", ["steps", "epochs"])
@pytest.mark.parametrize(
    "measurement", [FrequencyAccuracy(), KernelSpectra()], ids=lambda measurement: measurement.name
)
@pytest.mark.parametrize("budget", [0.02, 0.05, 0.2])
def test_the_budget_holds_where_one_measurement_would_take_half_of_the_time(
    budget, measurement, unit, tmp_path
):
    steps, data = 200, samples(64)
    loop = Loop(small_resnet(), batch=32)
    with hfc_probe.attach(
        loop.model, data, log_dir=tmp_path / "warm", measurements=[measurement], budget=1
    ) as probe:
        probe.measure()  # imports what logging needs
        one = medians([seconds(probe.measure) for _ in range(5)])
    step = medians([seconds(loop.step) for _ in range(20)])
    period = max(1, round(one["wall"] / step["wall"]))  # a run as long as the steps between two

    bare, loop = Loop(small_resnet(), batch=32), Loop(small_resnet(), batch=32)
    runs, others, entered = [], [], []

    def enter(*_):
        entered.append(
            (probe.results.get(measurement.name), time.perf_counter(), time.thread_time())
        )

    def leave(*_):
        before, wall, thread = entered[-1]
        # Where nothing ran, processor time: on a busy machine the thread is often sent to wait.
        if probe.results.get(measurement.name) is not before:
            runs.append(time.perf_counter() - wall)
        else:
            others.append(time.thread_time() - thread)

    loop.optimizer.register_step_post_hook(enter)
    plain = [seconds(bare.step) for _ in range(steps // 2)]
    with hfc_probe.attach(
        loop.model,
        data,
        optimizer=loop.optimizer,
        log_dir=tmp_path / "run",
        budget=budget,
        strict=True,
        measurements={measurement: Every(**{unit: period if unit == "steps" else 1})},
    ) as probe:
        # Hooks run in the order of their registration: this one ends what that one began.
        loop.optimizer.register_step_post_hook(leave)

        def train():
            for number in range(1, steps + 1):
                loop.step()
                if unit == "epochs" and number % period == 0:
                    enter()
                    probe.end_epoch()
                    leave()

        trained = seconds(train)
        state = probe.state_dict()
    plain += [seconds(bare.step) for _ in range(steps // 2)]
    bare_processor = sum(row["processor"] for row in plain)
    counts, elapsed = state["measurements"][measurement.name], trained["wall"]
    found = {
        "budget": budget,
        "period": period,
        "due": counts["due"],
        "runs": counts["runs"],
        "would_take": counts["due"] * one["wall"] / (counts["due"] * one["wall"] + elapsed),
        "said": state["spent"] / state["elapsed"],
        "seen": (sum(runs) + sum(others)) / elapsed,
        "processor": 1 - bare_processor / trained["processor"],
        "longest": max(runs) / elapsed,
        "elapsed": elapsed,
    }
    print(
        f"\n{measurement.name} every {period} steps by {unit}, budget {budget:.0%}: ran "
        f"{counts['runs']} of {counts['due']} times in {elapsed:.1f} s (all of them: "
        f"{found['would_take']:.0%} of the time); share by the probe {found['said']:.2%}, seen "
        f"from outside {found['seen']:.2%}, processor {found['processor']:.2%}, longest run "
        f"{found['longest']:.2%}"
    )
    keep(f"budget_{budget}_{measurement.name}_{unit}", found)
    assert counts["runs"] >= 1
    assert found["seen"] <= budget + found["longest"]
    # What the probe says is what its runs take as seen from outside; the other calls count
    # steps, which it does not book.
    assert abs(sum(runs) / elapsed - found["said"]) < 0.005


def test_a_short_training_sees_something_of_each_cheap_measurement(tmp_path):
    """200 steps in ten epochs with what attach measures by default, at the default budget."""
    loop = Loop(small_resnet(), batch=32)
    probe = hfc_probe.attach(
        loop.model, samples(1000), optimizer=loop.optimizer, log_dir=tmp_path, strict=True
    )
    inside = []

    def train():
        for number in range(1, 201):
            loop.step()
            if number % 20 == 0:
                inside.append(seconds(probe.end_epoch)["wall"])

    trained = seconds(train)
    state = probe.state_dict()
    probe.close()
    training = trained["wall"] - state["spent"]
    runs = {name: row["runs"] for name, row in state["measurements"].items()}
    print(
        f"\n200 steps of {5 * training:.0f} ms: {runs}, seconds of the latest "
        f"{ {name: round(value, 2) for name, value in state['seconds'].items()} }"
    )
    keep("short_training", {"training": training, **state})
    # The heatmap would take as long as the training: it may wait for a longer one.
    assert runs["kernel_spectra"] >= 1
    assert runs["frequency_accuracy"] >= 1


@pytest.mark.parametrize("network", ["resnet18", "resnet18 with ImageNet's stem", "small resnet"])
def test_kernel_spectra_every_100_steps(network, tmp_path):
    loop = Loop(small_resnet() if network == "small resnet" else resnet18(stem=_stem(network)))
    with hfc_probe.attach(
        loop.model, None, log_dir=tmp_path, measurements=[KernelSpectra()], budget=1, strict=True
    ) as probe:
        first = seconds(probe.measure)
        loop.step()  # warm-up
        rows = []
        for _ in range(ROUNDS):
            step, spectra = seconds(loop.step), seconds(probe.measure)
            rows.append({k: spectra[k] / (100 * step[k]) for k in step} | {"ms": spectra["wall"]})
    share = medians(rows)
    print(
        f"\nkernel spectra with pictures every 100 steps of {network}, batch {BATCH}: "
        f"{share['wall']:.3%} of wall time, {share['processor']:.3%} of processor time "
        f"({1000 * share['ms']:.0f} ms each, the first {1000 * first['wall']:.0f} ms)"
    )
    keep(f"kernel_spectra_{network.replace(' ', '_')}", {"rows": rows, "first": first, **share})
    if network == "resnet18":
        assert min(share["wall"], share["processor"]) < 0.005


def _stem(network):
    return "imagenet" if "ImageNet" in network else "cifar"


def test_an_import_and_a_help_text():
    codes = {
        "import torch": ["-c", "import torch"],
        "import hfc_probe": ["-c", "import hfc_probe"],
        "hfc_probe.attach": ["-c", "import hfc_probe; hfc_probe.attach"],
        "hfc-probe --help": ["-m", "hfc_probe", "--help"],
        "hfc-probe audit --help": ["-m", "hfc_probe", "audit", "--help"],
    }

    def started(arguments):
        wall, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        wall, after = time.perf_counter() - wall, os.times()
        used = (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )
        return {"wall": wall, "processor": used}

    rows = {name: [] for name in codes}
    for turn in range(1 + 2 * ROUNDS):
        for name, arguments in codes.items():
            row = started(arguments)
            if turn:  # the first one fills the disk cache
                rows[name].append(row)
    least = {
        name: {clock: min(row[clock] for row in own) for clock in ("wall", "processor")}
        for name, own in rows.items()
    }
    print()
    for name, own in rows.items():
        middle = medians(own)
        print(
            f"{name:24} wall {least[name]['wall']:.2f} s (median {middle['wall']:.2f}), processor "
            f"{least[name]['processor']:.2f} s ({middle['processor']:.2f})"
        )
    keep("import", rows)
    beyond = [
        least["import hfc_probe"][k] - least["import torch"][k] for k in least["import torch"]
    ]
    assert min(beyond) < 0.15


def test_attached_with_nothing_due(tmp_path):
    loop = Loop(resnet18(stem="cifar"))
    step = seconds(loop.step)
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(2000, 3, 32, 32), torch.arange(2000) % CLASSES),
        batch_size=BATCH,
    )
    attached = []
    for number in range(ROUNDS):
        start = time.perf_counter(), time.process_time()
        probe = hfc_probe.attach(loop.model, data, log_dir=tmp_path / str(number))
        attached.append(
            {"wall": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}
        )
        probe.close()

    weight = nn.Parameter(torch.zeros(1))
    plain, probed = (torch.optim.SGD([weight], lr=0.0) for _ in range(2))
    calls = 2000

    def steps(optimizer):
        for _ in range(calls):
            optimizer.step()

    rows = []
    measurements = [(kind(), Every(steps=10**9)) for kind in MEASUREMENTS.values()]
    with hfc_probe.attach(loop.model, data, optimizer=probed, measurements=measurements):
        for _ in range(2 * ROUNDS):
            without, beside = seconds(lambda: steps(plain)), seconds(lambda: steps(probed))
            rows.append({k: (beside[k] - without[k]) / calls for k in beside})
    each, attach = medians(rows), medians(attached)
    print(
        f"\na step with nothing due, all {len(measurements)} measurements attached: "
        f"{1e6 * each['processor']:.1f} µs of processor time ({1e6 * each['wall']:.1f} wall), "
        f"{each['processor'] / step['processor']:.6%} of a step of ResNet-18\n"
        f"attach, 1,000 of 2,000 images collected: {attach['wall']:.2f} s (processor "
        f"{attach['processor']:.2f}, the first {attached[0]['wall']:.2f} s), "
        f"{attach['wall'] / step['wall']:.2f} steps of ResNet-18"
    )
    keep("nothing_due", {"steps": rows, "attach": attached, "resnet18_step": step})
    assert each["processor"] < 1e-3 * step["processor"]


def test_passes_of_each_measurement():
    """What is counted at 100 images, and what 1,000 images cost; the documentation's column."""
    count = 100
    data = Samples(torch.rand(count, 3, 32, 32), torch.arange(count) % CLASSES)
    found = {}
    print()
    for name, kind in MEASUREMENTS.items():
        model = Counting(CLASSES)
        measurement = kind()
        began = time.process_time()
        measurement.measure(model, data)
        found[name] = {
            "counted": model.cost,
            "cost": measurement.cost(count, (3, 32, 32)),
            "cost_1000": measurement.cost(1000, (3, 32, 32)),
            "processor": time.process_time() - began,
        }
        row = found[name]
        print(
            f"{name:22} {count} images: counted {row['counted']:7,}, said {row['cost']:7,}; "
            f"1,000 images: {row['cost_1000']:8,}; on a tiny model {row['processor']:.2f} s"
        )
    keep("passes", found)
    assert all(row["cost"] == row["counted"] for row in found.values())

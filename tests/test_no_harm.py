"""Faults, each injected: training goes on, and what was measured is kept."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, Samples

from .conftest import ROOT

SAMPLES = Samples(torch.rand(64, 3, 12, 12), torch.arange(64) % 4)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Small(nn.Module):
    """Memory for so many images and no more."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most, self.tried = network(), most, []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory (planted)")
        return self.net(x)


def test_out_of_memory_halves_the_batch_until_it_fits():
    model = Small(most=5)
    expected = FrequencyAccuracy(radii=(3,)).measure(model.net, SAMPLES).arrays()
    found = FrequencyAccuracy(radii=(3,)).measure(model, SAMPLES).arrays()
    assert all(np.array_equal(expected[k], found[k]) for k in expected)
    assert sorted({n for n in model.tried if n >= 4}, reverse=True) == [64, 32, 16, 8, 4]


def test_out_of_memory_with_one_image_is_a_failure_like_any_other(caplog):
    model = Small(most=0)
    with pytest.raises(torch.OutOfMemoryError):
        FrequencyAccuracy(radii=(3,)).measure(model, SAMPLES)
    with hfc_probe.attach(model, SAMPLES, measurements=[FrequencyAccuracy(radii=(3,))]) as probe:
        probe.end_epoch()
    assert "planted" in caplog.text


class Broken(nn.Module):
    """Fails, or returns NaN, in evaluation mode only."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = network(), how

    def forward(self, x):
        if self.training:
            return self.net(x)
        if self.how == "raises":
            raise RuntimeError("not in evaluation mode (planted)")
        return self.net(x) * float("nan")


@pytest.mark.parametrize(("how", "words"), [("raises", "planted"), ("nan", "NaN for 64 of 64")])
def test_a_model_that_fails_in_evaluation_mode_trains_on(how, words, caplog):
    model = Broken(how).train()
    with hfc_probe.attach(
        model, SAMPLES, measurements=[FrequencyAccuracy(radii=(3,))], budget=1.0
    ) as probe:
        for _ in range(5):
            model(torch.rand(2, 3, 12, 12)).sum().backward()
            probe.end_epoch()
    assert sum(words in record.getMessage() for record in caplog.records) == 1
    assert "switched off after 3 failures" in caplog.text
    assert model.training
    assert not probe.results


# TensorBoard's own writing thread dies of it, and says so.
THREAD = "ignore::pytest.PytestUnhandledThreadExceptionWarning"


@pytest.mark.filterwarnings(THREAD)
def test_a_log_directory_that_disappears_costs_nothing_else(tmp_path):
    import shutil

    with hfc_probe.attach(
        network(), SAMPLES, log_dir=tmp_path / "log", measurements=[KernelSpectra()], budget=1.0
    ) as probe:
        probe.end_epoch()
        shutil.rmtree(tmp_path / "log")
        probe.end_epoch()
        assert set(probe.results) == {"kernel_spectra"}


@pytest.mark.filterwarnings(THREAD)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_under_a_real_writer(tmp_path, caplog):
    with hfc_probe.attach(
        network(), SAMPLES, log_dir=tmp_path, measurements=[KernelSpectra()], budget=1.0
    ) as probe:
        probe.end_epoch()
        # The event file is on a full device from now on.
        event_writer = probe._writers[0]._get_file_writer().event_writer
        record_writer = event_writer._async_writer._writer
        record_writer._writer = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        for _ in range(6):
            probe.end_epoch()
        assert probe.epochs == 7
        assert set(probe.results) == {"kernel_spectra"}
    reports = [r for r in caplog.records if "could not be logged" in r.getMessage()]
    assert len(reports) == 1
    assert "No space left" in reports[0].getMessage()


KILLED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
import torch
from torch import nn
import hfc_probe
from hfc_probe import Every, FrequencyAccuracy

class Marks(FrequencyAccuracy):
    def compute(self, subject):
        print("measuring", flush=True)
        if len(os.sys.argv) > 2 and marks.append(1) is None and len(marks) == 3:
            time.sleep(60)  # the signal comes in the middle of the third measurement
        return super().compute(subject)

marks = []
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
samples = hfc_probe.Samples(torch.rand(8, 3, 12, 12), torch.arange(8) % 4)
probe = hfc_probe.attach(model, samples, log_dir=sys.argv[1], budget=1.0,
                         measurements={Marks(radii=(3,)): Every(steps=1)})
try:
    for _ in range(5):
        probe.step()
except KeyboardInterrupt:
    print("modes", all(m.training for m in model.modules()), flush=True)
    probe.close()
    raise SystemExit(7)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -9), ("SIGTERM", -15), ("SIGINT", 7)])
def test_a_killed_run_keeps_every_completed_measurement(tmp_path, name, status):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "wait"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    seen = 0
    while seen < 3:
        line = process.stdout.readline()
        assert line, "the script ended early"
        seen += line.startswith("measuring")
    process.send_signal(getattr(signal, name))
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == status
    if name == "SIGINT":
        assert "modes True" in rest
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("hfc_lfc/r03")] == [1, 2]


class Midway(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index == 13:
            raise OSError("image 13 is truncated (planted)")
        return torch.rand(3, 12, 12), index % 4


def shapes():
    for size in (12, 12, 13):
        yield torch.rand(4, 3, size, size), torch.arange(4)


class Shapes:
    def __iter__(self):
        return shapes()


def test_loaders_that_fail_are_told_before_training():
    with pytest.raises(OSError, match="planted"):
        hfc_probe.attach(network(), DataLoader(Midway(), 4))
    with pytest.raises(InputError, match="images of one size"):
        hfc_probe.attach(network(), Shapes())
    few = DataLoader(TensorDataset(torch.rand(3, 3, 12, 12), torch.arange(3)), 8)
    assert len(hfc_probe.attach(network(), few, limit=1000).samples) == 3


def test_ten_thousand_steps_grow_neither_memory_nor_hooks(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    KernelSpectra().measure(model)
    with hfc_probe.attach(
        model,
        SAMPLES,
        optimizer=optimizer,
        log_dir=tmp_path,
        budget=1.0,
        strict=True,
        measurements={
            KernelSpectra(): Every(steps=100),
            FrequencyAccuracy(radii=(3,)): Every(steps=1000),
        },
    ):

        def steps(count):
            for _ in range(count):
                optimizer.step()
            gc.collect()

        steps(2000)  # caches fill
        tracemalloc.start()
        steps(1000)
        before = tracemalloc.get_traced_memory()[0]
        steps(7000)
        growth = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert growth < 300_000, f"{growth} bytes in 7,000 steps"
        assert len(optimizer._optimizer_step_post_hooks) == 1
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

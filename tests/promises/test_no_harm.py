"""Faults, each injected: training goes on, and what was measured is kept."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as Live,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, Samples

from ..conftest import ROOT

SAMPLES = Samples(torch.rand(64, 3, 12, 12), torch.arange(64) % 4)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Small(nn.Module):
    """Memory for so many images and no more."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most = network(), most
        # In an object: lists of the module's own would be put back as they were.
        self.seen = SimpleNamespace(tried=[], held=[], now=0)

    def forward(self, x):
        self.seen.tried.append(len(x))
        self.seen.now = sum(ref() is not None for ref in self.seen.held)
        if len(x) > self.most:
            activations = x * 2  # in this frame when it raises
            self.seen.held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory (planted)")
        return self.net(x)


def test_out_of_memory_halves_the_batch_until_it_fits():
    model = Small(most=5)
    expected = FrequencyAccuracy(radii=(3,)).measure(model.net, SAMPLES).arrays()
    found = FrequencyAccuracy(radii=(3,)).measure(model, SAMPLES).arrays()
    assert all(np.array_equal(expected[k], found[k]) for k in expected)
    assert sorted({n for n in model.seen.tried if n >= 4}, reverse=True) == [64, 32, 16, 8, 4]
    assert len(model.seen.held) == len([n for n in model.seen.tried if n > 5]) > 3
    assert model.seen.now == 0  # what the failed attempts held was free before the last one


def test_out_of_memory_with_one_image_is_a_failure_like_any_other(caplog):
    model = Small(most=0)
    with pytest.raises(torch.OutOfMemoryError):
        FrequencyAccuracy(radii=(3,)).measure(model, SAMPLES)
    with hfc_probe.attach(model, SAMPLES, measurements=[FrequencyAccuracy(radii=(3,))]) as probe:
        probe.end_epoch()
        assert len(model.seen.held) > 6
        assert not any(ref() is not None for ref in model.seen.held)
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
        logits = self.net(x)
        if self.how == "not yet":
            return logits
        bad = slice(None) if self.how == "nan" else slice(0, 5)
        return logits.index_fill(0, torch.arange(len(x))[bad], float("nan"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "planted"),
        ("nan", "NaN for 64 of 64 original images"),
        ("some nan", "NaN for 5 of 64 original images"),
    ],
)
def test_a_model_that_fails_in_evaluation_mode_trains_on(how, words, caplog):
    model = Broken("not yet").train()
    with hfc_probe.attach(
        model, SAMPLES, measurements=[FrequencyAccuracy(radii=(3,))], budget=1.0
    ) as probe:
        model.how = how
        for _ in range(5):
            model(torch.rand(2, 3, 12, 12)).sum().backward()
            probe.end_epoch()
    said = [record.getMessage() for record in caplog.records if words in record.getMessage()]
    assert [("Traceback" in one, "it failed 3 times" in one) for one in said] == [
        (True, False),
        (False, True),
    ]
    assert "switched off after 3 failures" in caplog.text
    assert model.training
    assert not probe.results


def test_a_model_that_cannot_be_evaluated_is_told_before_training():
    with pytest.raises(InputError, match=r"images, .* got RuntimeError: not in evaluation mode"):
        hfc_probe.attach(Broken("raises"), SAMPLES, measurements=[FrequencyAccuracy(radii=(3,))])


# TensorBoard's own writing thread dies of it, and says so.
THREAD = "ignore::pytest.PytestUnhandledThreadExceptionWarning"


@pytest.mark.filterwarnings(THREAD)
def test_a_log_directory_that_disappears_costs_one_message(tmp_path, caplog):
    import shutil

    with hfc_probe.attach(
        network(), SAMPLES, log_dir=tmp_path / "log", measurements=[KernelSpectra()], budget=1.0
    ) as probe:
        probe.end_epoch()
        shutil.rmtree(tmp_path / "log")
        for _ in range(5):
            probe.end_epoch()
        assert set(probe.results) == {"kernel_spectra"}
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "could not be logged; training continues" in told


@pytest.mark.filterwarnings(THREAD)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_under_a_real_writer(tmp_path, caplog):
    with hfc_probe.attach(
        network(), SAMPLES, log_dir=tmp_path, measurements=[KernelSpectra()], budget=1.0
    ) as probe:
        probe.end_epoch()
        # The event file is on a full device from now on.
        event_writer = probe._journal.writers[0]._get_file_writer().event_writer
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
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
import torch
from torch import nn
import hfc_probe
from hfc_probe import Every, FrequencyAccuracy

class Marks(FrequencyAccuracy):
    def compute(self, subject):
        marks.append(1)
        if len(marks) == 3:  # the signal comes in the middle of the third measurement
            os.kill(os.getpid(), getattr(signal, name))
        return super().compute(subject)

def train():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    samples = hfc_probe.Samples(torch.rand(8, 3, 12, 12), torch.arange(8) % 4)
    probe = hfc_probe.attach(model, samples, log_dir=f"{sys.argv[1]}/{name}", budget=1.0,
                             measurements={Marks(radii=(3,)): Every(steps=1)})
    try:
        for _ in range(5):
            probe.step()
    except KeyboardInterrupt:
        print("modes", all(m.training for m in model.modules()), flush=True)
        probe.close()
        raise SystemExit(7)

marks = []
for name in ("SIGKILL", "SIGTERM", "SIGINT"):
    child = os.fork()  # one import of torch for the three of them
    if child == 0:
        train()
        break
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_a_killed_run_keeps_every_completed_measurement(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    ended = ["SIGKILL -9", "SIGTERM -15", "modes True", "SIGINT 7"]
    assert done.stdout.splitlines() == ended, done.stderr
    for name in ("SIGKILL", "SIGTERM", "SIGINT"):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        assert [e.step for e in events.Scalars("hfc_lfc/r03")] == [1, 2], name


class Terminated(KernelSpectra):
    def compute(self, subject):
        torch.rand(3)
        random.random()
        np.random.rand()
        subject.model[0].training = True
        os.kill(os.getpid(), signal.SIGTERM)
        return super().compute(subject)


def test_a_handler_of_sigterm_finds_everything_as_it_was(tmp_path):
    """Schedulers send SIGTERM before they kill; a handler that exits can still save."""
    model = network().train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        probe = hfc_probe.attach(
            model,
            SAMPLES,
            log_dir=tmp_path,
            budget=1.0,
            final=False,
            measurements={
                FrequencyAccuracy(radii=(3,)): Every(steps=1),
                Terminated(): Every(steps=2),
            },
        )
        probe.step()
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        with pytest.raises(SystemExit):
            probe.step()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [m.training for m in model.modules()] == modes
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    # Before close(): what was measured is on the disk.
    assert [e.step for e in EventAccumulator(str(tmp_path)).Reload().Scalars("hfc_lfc/r03")] == [1]
    probe.close()


@contextlib.contextmanager
def without_rights():
    """As a user whom a directory's mode bits concern, which root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("how", ["read-only", "a file"])
def test_a_log_directory_that_cannot_be_written_is_told_before_training(tmp_path, how):
    place = tmp_path / "place"
    if how == "a file":
        place.write_text("")
    else:
        place.mkdir(mode=0o555)
    model = network()
    with (
        without_rights(),
        pytest.raises(InputError, match="a directory that can be written") as told,
    ):
        hfc_probe.attach(model, SAMPLES, log_dir=place / "log")
    assert "\n" not in str(told.value)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.filterwarnings(THREAD)
def test_a_log_directory_that_turns_read_only_costs_one_message(tmp_path, caplog):
    log = tmp_path / "log"
    with hfc_probe.attach(
        network(), SAMPLES, log_dir=log, measurements=[KernelSpectra()], budget=1.0
    ) as probe:
        probe.end_epoch()
        log.chmod(0o555)
        for file in log.iterdir():  # TensorBoard's writer opens it again for every flush
            file.chmod(0o444)
        with without_rights():
            for _ in range(5):
                probe.end_epoch()
            probe.close()
        assert probe.epochs == 6
        assert set(probe.results) == {"kernel_spectra"}
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "could not be logged; training continues" in told
    assert "Permission denied" in told
    events = EventAccumulator(str(log)).Reload()
    assert [e.step for e in events.Scalars("hfc_0/smoothness_mean")] == [1]


def test_two_probes_on_one_model_both_work(tmp_path, caplog):
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def attach(name):
        return hfc_probe.attach(
            model,
            SAMPLES,
            optimizer=optimizer,
            log_dir=tmp_path / name,
            budget=1.0,
            strict=True,
            measurements={FrequencyAccuracy(radii=(3,)): Every(steps=1)},
        )

    first, second = attach("a"), attach("b")
    optimizer.step()
    first.close()
    first.close()
    optimizer.step()
    assert "another probe" not in caplog.text
    third = attach("b")  # as in a notebook whose cell is run again
    assert caplog.text.count("another probe is still attached and writes into") == 1
    optimizer.step()
    second.close()
    third.close()
    attach("b").close()
    assert caplog.text.count("another probe") == 1
    assert (first.steps, second.steps, third.steps) == (1, 3, 1)
    assert not optimizer._optimizer_step_post_hooks
    assert model.training

    def steps(name):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        return [e.step for e in events.Scalars("hfc_lfc/r03")]

    assert steps("a") == [1]
    first.end_epoch()
    assert caplog.text.count("probe.end_epoch() is ignored: the probe is closed") == 1


def test_a_resumed_run_has_every_step_once(tmp_path):
    """Stopped two epochs after its checkpoint, and continued from that in the same directory."""
    log = tmp_path / "log"
    data = TensorDataset(SAMPLES.images, SAMPLES.targets)

    def train(epochs, state=None, keep=None):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = hfc_probe.attach(
            model,
            DataLoader(data, 8, shuffle=True),
            optimizer=optimizer,
            log_dir=log,
            limit=20,
            budget=1.0,
            strict=True,
            measurements={
                FrequencyAccuracy(radii=(3,)): Every(epochs=1),
                KernelSpectra(): Every(steps=2, epochs=1),
            },
        )
        if state is not None:
            probe.load_state_dict(state)
        saved = None
        while probe.epochs < epochs:
            for _ in range(3):
                optimizer.step()
            probe.end_epoch()
            if probe.epochs == keep:
                saved = probe.state_dict()
        return probe, saved

    stopped, state = train(4, keep=2)  # never closed: killed
    resumed, _ = train(5, state)
    resumed.close()
    assert (resumed.steps, resumed.epochs) == (15, 5)
    assert torch.equal(stopped.samples.images, resumed.samples.images)
    assert resumed.state_dict()["measurements"]["frequency_accuracy"]["runs"] == 5
    spectra = [2, 3, 4, 6, 8, 9, 10, 12, 14, 15]  # of one run that was never stopped
    events = EventAccumulator(str(log)).Reload()
    assert [e.step for e in events.Scalars("hfc_lfc/r03")] == [3, 6, 9, 12, 15]
    assert [e.step for e in events.Scalars("hfc_0/smoothness_mean")] == spectra
    # The same as TensorBoard's server reads it.
    live = Live(str(log), tensor_size_guidance={"scalars": 100, "hfc": 100}).Reload()
    for tag in ("hfc_0/smoothness_mean", "kernel_spectra/0/spectra"):
        assert [e.step for e in live.Tensors(tag)] == spectra
    stopped.close()


def test_a_state_between_step_and_epoch_does_not_measure_the_step_again(tmp_path):
    measurements = {KernelSpectra(): Every(steps=1, epochs=1)}

    def attach():
        return hfc_probe.attach(
            network(), SAMPLES, log_dir=tmp_path, measurements=measurements, budget=1.0
        )

    with attach() as probe:
        probe.step()
        state = probe.state_dict()
    with attach() as probe:
        probe.load_state_dict(state)
        probe.end_epoch()
        probe.step()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("hfc_0/smoothness_mean")] == [1, 2]


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
    with pytest.raises(OSError, match="planted"):
        hfc_probe.attach(network(), DataLoader(Midway(), 4, num_workers=2))
    few = DataLoader(TensorDataset(torch.rand(3, 3, 12, 12), torch.arange(3)), 8)
    assert len(hfc_probe.attach(network(), few, limit=1000).samples) == 3


class Stream(IterableDataset):
    """Images without end, or fewer each time that it is read."""

    def __init__(self, sizes):
        self.sizes = list(sizes)

    def __iter__(self):
        count = self.sizes.pop(0) if self.sizes else None
        for k in itertools.count():
            if k == count:
                return
            yield torch.full((3, 12, 12), (k % 50) / 50), k % 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_without_end_gives_its_first_samples(workers):
    loader = DataLoader(Stream([]), 4, num_workers=workers)
    with hfc_probe.attach(
        network(), loader, limit=10, measurements=[FrequencyAccuracy(radii=(3,))], budget=1.0
    ) as probe:
        probe.end_epoch()
        assert len(probe.samples) == 10
        assert probe.results["frequency_accuracy"].samples == 10


def test_a_loader_that_shrinks_changes_nothing_after_attach_and_an_empty_one_is_told():
    loader = DataLoader(Stream([9, 2, 0]), 4)
    with hfc_probe.attach(
        network(), loader, measurements=[FrequencyAccuracy(radii=(3,))], budget=1.0
    ) as probe:
        probe.end_epoch()
        first = probe.results["frequency_accuracy"].scalars()
        assert sum(len(images) for images, _ in loader) == 2  # the user's own loop goes on
        probe.end_epoch()
        assert probe.results["frequency_accuracy"].samples == 9
        assert probe.results["frequency_accuracy"].scalars() == first
    with pytest.raises(InputError, match="at least one batch, got none; is the loader empty"):
        hfc_probe.attach(network(), loader)


def resident():
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.mark.slow
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
            KernelSpectra(): Every(steps=250),
            FrequencyAccuracy(radii=(3,)): Every(steps=1000),
        },
    ):

        def steps(count):
            for _ in range(count):
                optimizer.step()
            gc.collect()

        steps(2000)  # caches fill
        held = resident()
        tracemalloc.start()
        steps(1000)
        before = tracemalloc.get_traced_memory()[0]
        steps(7000)
        growth = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert growth < 120_000, f"{growth} bytes in 7,000 steps"
        # Measured: about 1 MB, tracemalloc's own tables among it.
        assert resident() - held < 30_000_000
        assert len(optimizer._optimizer_step_post_hooks) == 1
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

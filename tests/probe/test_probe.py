"""The probe as a user meets it: schedule, budget, logs read back by TensorBoard, bad input."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hfc_probe
from hfc_probe import (
    Every,
    FourierHeatmap,
    FrequencyAccuracy,
    InputError,
    KernelSpectra,
    PixelSpace,
    Samples,
)
from hfc_probe.core.event_file import as_markdown
from hfc_probe.core.provenance import weights_hash
from hfc_probe.probe.schedule import Budget


def network(channels=3, classes=4):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


def loader(n=16, channels=3, size=(12, 12), classes=4):
    return DataLoader(TensorDataset(torch.rand(n, channels, *size), torch.arange(n) % classes), 8)


FAST = {
    FrequencyAccuracy(radii=(2, 4)): Every(epochs=1),
    KernelSpectra(): Every(steps=2),
    FourierHeatmap(norm=1.0, samples=4, crop=3): Every(epochs=2),
}


def read(path: Path) -> EventAccumulator:
    events = EventAccumulator(
        str(path), size_guidance=dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0)
    )
    events.Reload()
    return events


def run(model, probe, optimizer, steps=3, epochs=2):
    for _ in range(epochs):
        for _ in range(steps):
            model(torch.rand(2, 3, 12, 12)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        probe.end_epoch()


def test_event_files_hold_what_the_results_say(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with hfc_probe.attach(
        model,
        loader(),
        optimizer=optimizer,
        log_dir=tmp_path,
        measurements=FAST,
        budget=1.0,
        strict=True,
    ) as probe:
        run(model, probe, optimizer)
        results = dict(probe.results)
    events = read(tmp_path)
    tags = events.Tags()
    for result in results.values():
        for tag, value in result.scalars().items():
            last = events.Scalars(tag)[-1]
            assert last.value == pytest.approx(value, rel=1e-6)
            assert last.step == 6
    assert [e.step for e in events.Scalars("hfc_lfc/r02")] == [3, 6]
    assert [e.step for e in events.Scalars("hfc_0/smoothness_mean")] == [2, 4, 6]
    assert {"hfc_0/kernels", "hfc_0/spectra", "hfc_heatmap/1.0"} <= set(tags["images"])
    assert "hfc_0/smoothness" in tags["histograms"]
    assert 0 < events.Scalars("hfc_cost/share")[-1].value < 1
    assert events.Scalars("hfc_cost/seconds/frequency_accuracy")[-1].value > 0
    text = events.Tensors("hfc_report/summary")[-1].tensor_proto.string_val[0].decode()
    for result in results.values():
        assert as_markdown(result.sentence()) in text


def test_every_array_behind_a_picture_is_a_tensor_of_our_plugin(tmp_path):
    with hfc_probe.attach(network(), loader(), log_dir=tmp_path, measurements=list(FAST)) as probe:
        results = dict(probe.measure())
    events = read(tmp_path)
    content = events.summary_metadata
    for result in results.values():
        for name, axes in result.axes().items():
            tag = f"{result.group}/{name}"
            metadata = content[tag]
            assert metadata.plugin_data.plugin_name == "hfc"
            assert metadata.data_class == 2  # DATA_CLASS_TENSOR
            described = json.loads(metadata.plugin_data.content)
            assert described["version"] == 1
            assert (described["measurement"], described["array"]) == (result.name, name)
            array = make_ndarray(events.Tensors(tag)[0].tensor_proto)
            np.testing.assert_allclose(array, result.tensors()[name], rtol=1e-6)
            assert len(described["axes"]) == array.ndim
            for axis, size in zip(described["axes"], array.shape, strict=True):
                assert len(axis.get("values", range(size))) == size
            assert described["unit"] == axes["unit"]


def test_the_custom_scalars_layout_names_tags_that_exist(tmp_path):
    from tensorboard.plugins.custom_scalar import layout_pb2

    measurements = [FrequencyAccuracy(radii=tuple(range(1, 9)))]
    with hfc_probe.attach(
        network(), loader(), log_dir=tmp_path, measurements=measurements
    ) as probe:
        probe.measure()
    events = read(tmp_path)
    proto = events.Tensors("custom_scalars__config__")[0].tensor_proto
    layout = layout_pb2.Layout.FromString(proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert list(charts) == ["LFC by radius", "HFC by radius", "LFC against HFC"]
    for tags in charts.values():
        assert 2 <= len(tags) <= 5
        assert set(tags) <= set(events.Tags()["scalars"])


class Recorder:
    """A logger that knows scalars only, as many do."""

    def __init__(self):
        self.scalars = {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag] = (value, step)


def test_a_writer_that_knows_scalars_only_gets_scalars():
    writer = Recorder()
    with hfc_probe.attach(network(), loader(), writer=writer, measurements=list(FAST)) as probe:
        probe.end_epoch()
        expected = probe.results["frequency_accuracy"].scalars()
    for tag, value in expected.items():
        assert writer.scalars[tag] == (value, 1)


def test_several_writers_get_the_same():
    writers = [Recorder(), Recorder()]
    with hfc_probe.attach(
        network(), loader(), writer=writers, measurements=[FrequencyAccuracy(radii=(2,))]
    ) as probe:
        probe.measure()
    assert writers[0].scalars == writers[1].scalars
    assert "hfc_cost/share" in writers[0].scalars


class Pictures(Recorder):
    def __init__(self):
        super().__init__()
        self.images = {}

    def add_image(self, tag, image, step, dataformats):
        self.images[tag] = (np.asarray(image), dataformats)


def test_a_writer_without_figures_gets_them_as_images():
    writer = Pictures()
    with hfc_probe.attach(network(), loader(), writer=writer, measurements=list(FAST)) as probe:
        probe.measure()
    image, layout = writer.images["hfc_heatmap/1.0"]
    assert layout == "HWC"
    assert image.dtype == np.uint8
    assert image.shape[-1] == 3
    assert image.std() > 10  # a picture, not a blank


@pytest.mark.parametrize(
    ("channels", "size"), [(1, (12, 12)), (5, (9, 14)), (3, (13, 7)), (4, (16, 16)), (2, (8, 8))]
)
def test_any_channel_count_and_size_with_default_measurements(channels, size, tmp_path):
    model = network(channels).train()
    with hfc_probe.attach(
        model, loader(8, channels, size), log_dir=tmp_path, budget=1.0, strict=True
    ) as probe:
        results = probe.measure()
    assert set(results) == {"frequency_accuracy", "kernel_spectra", "fourier_heatmap"}
    assert results["fourier_heatmap"].arrays()["error"].shape == size


def test_channels_last_and_a_model_without_a_first_layer():
    model = network().to(memory_format=torch.channels_last)
    assert "kernel_spectra" in hfc_probe.attach(model, loader(8), strict=True).measure()
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    results = hfc_probe.attach(plain, loader(8), strict=True).measure()
    assert set(results) == {"frequency_accuracy", "fourier_heatmap"}


def test_steps_by_hand_epochs_alone_and_an_optimizer_that_counts():
    spectra = {KernelSpectra(): Every(steps=2)}
    probe = hfc_probe.attach(network(), None, measurements=spectra)
    probe.step()
    assert not probe.results
    probe.step()
    assert set(probe.results) == {"kernel_spectra"}
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = hfc_probe.attach(model, None, optimizer=optimizer, measurements=spectra)
    optimizer.step()
    probe.step()  # ignored, and said
    assert probe.steps == 1


def test_a_wrapped_optimizer_counts_the_steps_of_the_one_inside():
    class Wrapper(torch.optim.Optimizer):
        """As Accelerate's: an Optimizer that holds another and was never initialised."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = hfc_probe.attach(model, None, optimizer=Wrapper(inner), measurements=[KernelSpectra()])
    inner.step()
    assert probe.steps == 1


class Slow(KernelSpectra):
    def compute(self, subject):
        time.sleep(0.05)
        return super().compute(subject)


def test_the_budget_holds_up_to_one_measurement(tmp_path):
    model = network()
    KernelSpectra().measure(model).images()  # the first picture imports matplotlib
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with hfc_probe.attach(
        model,
        None,
        optimizer=optimizer,
        log_dir=tmp_path,
        budget=0.1,
        measurements={Slow(): Every(steps=1)},
        strict=True,
    ) as probe:
        began = time.perf_counter()
        for _ in range(200):
            time.sleep(0.01)
            optimizer.step()
        while probe.state_dict()["measurements"]["slow"]["runs"] < 2:
            time.sleep(0.01)
            optimizer.step()
        elapsed = time.perf_counter() - began
        state = probe.state_dict()
    assert elapsed < 60
    one = state["seconds"]["slow"]
    assert state["measurements"]["slow"]["due"] >= 200
    assert state["spent"] <= 0.1 * elapsed + 2 * one
    logged = read(tmp_path).Scalars("hfc_cost/share")
    assert len(logged) == state["measurements"]["slow"]["runs"]


def test_budget_rules():
    budget = Budget(0.1)
    assert budget.fits("a", 10, 10)  # a first run, no longer than training so far
    assert not budget.fits("a", 11, 10)
    assert budget.fits("a", 5, 1)  # or short
    budget.charge("a", 5)
    assert budget.fits("b", 1, 10)  # overdrawn, but b has shown nothing yet
    assert not budget.fits("a", 5, 99)
    assert budget.fits("a", 5, 100)
    assert Budget(1).fits("a", 1e9, 0)


def test_what_never_fits_is_said_at_the_end(caplog):
    class Expensive(FrequencyAccuracy):
        def cost(self, samples, image_shape):
            return 10**12

    probe = hfc_probe.attach(network(), loader(), measurements=[Expensive(radii=(2,))])
    probe.end_epoch()
    probe.close()
    assert not probe.results
    assert "expensive ran 0 of the 1 times it was due" in caplog.text
    assert "raise budget= or call probe.measure()" in caplog.text
    assert "is put off until that fits the budget of 5 %" in caplog.text


@pytest.mark.slow
def test_a_script_that_never_closes_its_probe_is_told_too():
    script = """
import torch, hfc_probe
from torch import nn

class Expensive(hfc_probe.FrequencyAccuracy):
    def cost(self, samples, image_shape):
        return 10**12

model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
samples = hfc_probe.Samples(torch.rand(8, 3, 12, 12), torch.arange(8) % 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
hfc_probe.attach(model, samples, optimizer=optimizer, measurements=[Expensive()]).end_epoch()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "expensive ran 0 of the 1 times it was due" in done.stderr
    assert "Traceback" not in done.stderr


def test_state_goes_on_after_a_checkpoint(tmp_path):
    def fresh():
        torch.manual_seed(0)
        return hfc_probe.attach(network(), loader(), measurements=FAST, budget=1.0, strict=True)

    probe = fresh()
    for _ in range(3):
        probe.step()
    probe.end_epoch()
    torch.save(probe.state_dict(), tmp_path / "probe.pt")
    resumed = fresh()
    resumed.load_state_dict(torch.load(tmp_path / "probe.pt", weights_only=True))
    assert (resumed.steps, resumed.epochs) == (3, 1)
    assert torch.equal(resumed.samples.images, probe.samples.images)
    resumed.step()
    assert set(resumed.results) == {"kernel_spectra"}  # step 4
    resumed.end_epoch()
    assert "fourier_heatmap" in resumed.results  # epoch 2
    with pytest.raises(InputError, match=r"Probe.state_dict\(\)"):
        resumed.load_state_dict({"model": 1})


def test_after_a_checkpoint_a_heatmap_has_no_last_one_to_start_from_and_costs_more():
    settings = FourierHeatmap(norm=1.0, samples=16, forwards=16 + 6 * 74)
    model, own = network(), {"measurements": [settings], "final": False}
    with hfc_probe.attach(model, loader(), budget=1, **own) as probe:
        probe.end_epoch()
        state = probe.state_dict()
    # Later maps took a hundredth of a second, and so much is left of the budget.
    state |= {"seconds": {"fourier_heatmap": 0.01}, "elapsed": 100.0, "spent": 5.0 - 0.02}
    with hfc_probe.attach(model, loader(), budget=0.05, **own) as resumed:
        resumed.load_state_dict(state)
        resumed.end_epoch()
        assert resumed.results == {}


def test_a_trainer_states_how_many_steps_and_epochs_have_ended(tmp_path, caplog):
    every = {KernelSpectra(): Every(steps=5), FrequencyAccuracy(radii=(2,)): Every(epochs=2)}
    with hfc_probe.attach(
        network(), loader(), log_dir=tmp_path, measurements=every, budget=1.0, final=False
    ) as probe:
        for at in (2, 4, 4, 6, 8, 13, 14):  # passes 5 and 10, stands still once
            probe.step(at=at)
        probe.end_epoch(at=3)  # passes 2
        assert (probe.steps, probe.epochs) == (14, 3)
        probe.step(at=5)  # ignored, and said
        probe.end_epoch(at=1)
        assert (probe.steps, probe.epochs) == (14, 3)
        assert "probe.step(at=5) is ignored: expected 14 or more" in caplog.text
        assert "probe.end_epoch(at=1) is ignored: expected 3 or more" in caplog.text
        with pytest.raises(InputError, match="step: at: expected a whole number"):
            probe.step(at=1.5)
        probe.resume(4, 1)
        probe.step(at=5)  # due again in what comes after the checkpoint
        probe.end_epoch(at=2)
    events = read(tmp_path)
    assert [e.step for e in events.Scalars("hfc_0/smoothness_mean")] == [5]
    assert [e.step for e in events.Scalars("hfc_lfc/r02")] == [5]
    assert probe.state_dict()["measurements"]["kernel_spectra"]["runs"] == 3


def test_a_full_disk_costs_the_log_and_nothing_else(caplog):
    class Full(Recorder):
        def add_scalar(self, tag, value, step):
            raise OSError(28, "No space left on device")

    probe = hfc_probe.attach(network(), loader(), writer=Full(), measurements=list(FAST))
    for _ in range(5):
        probe.end_epoch()
    assert set(probe.results) == {"frequency_accuracy", "kernel_spectra", "fourier_heatmap"}
    assert sum("could not be logged" in r.getMessage() for r in caplog.records) == 1


def test_two_probes_on_one_model_and_calls_after_close(caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [
        hfc_probe.attach(
            model, None, optimizer=optimizer, measurements={KernelSpectra(): Every(steps=1)}
        )
        for _ in range(2)
    ]
    optimizer.step()
    assert all(set(p.results) == {"kernel_spectra"} for p in probes)
    probes[0].close()
    optimizer.step()
    assert [p.steps for p in probes] == [1, 2]
    probes[0].end_epoch()
    assert "the probe is closed" in caplog.text


@pytest.mark.parametrize(
    ("measurement", "loop", "missing"),
    [
        (FrequencyAccuracy(radii=(2,)), lambda probe: probe.step(), r"probe.end_epoch\(\)"),
        (KernelSpectra(), lambda probe: probe.end_epoch(), "optimizer="),
    ],
)
def test_a_call_missing_in_the_loop_is_said_at_the_end(measurement, loop, missing, caplog):
    every = Every(epochs=1) if measurement.needs_data else Every(steps=1)
    probe = hfc_probe.attach(network(), loader(), measurements={measurement: every})
    loop(probe)
    probe.close()
    assert re.search(missing, caplog.text)


def test_a_run_cut_short_at_its_start_is_no_mistake(caplog):
    hfc_probe.attach(network(), loader(), measurements={KernelSpectra(): Every(steps=1)}).close()
    assert "call probe" not in caplog.text


def test_what_the_budget_held_back_is_said_at_the_end(caplog):
    def measured(budget):
        class Slow(KernelSpectra):
            def compute(self, subject):
                time.sleep(0.05)
                return super().compute(subject)

        probe = hfc_probe.attach(network(), None, measurements=[Slow()], budget=budget)
        for _ in range(4):
            probe.end_epoch()
        probe.close()

    measured(budget=1.0)
    assert "larger budget" not in caplog.text
    measured(budget=1e-6)
    assert "slow ran 1 of the 4 times it was due" in caplog.text
    assert "a larger budget= gives it more" in caplog.text


def trained(tmp_path=None, epochs=2, every=5, close=True, measurement=None, **options):
    """A probe whose measurement was due in the first epochs only, and its model."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measurement = measurement or FrequencyAccuracy(radii=(2,))
    probe = hfc_probe.attach(
        model,
        loader(),
        optimizer=optimizer,
        log_dir=tmp_path,
        measurements={measurement: Every(epochs=every)},
        **options,
    )
    run(model, probe, optimizer, epochs=epochs)
    if close:
        probe.close()
    return probe, model


def test_closing_measures_the_trained_model_once(tmp_path, caplog):
    caplog.set_level("INFO", "hfc_probe")
    probe, model = trained(tmp_path, epochs=3, every=2)
    of = probe.results["frequency_accuracy"].provenance
    assert (of["step"], of["epoch"]) == (9, 3)
    assert of["weights"] == weights_hash(model)
    assert [e.step for e in read(tmp_path).Scalars("hfc_lfc/r02")] == [6, 9]
    assert (
        "frequency_accuracy ran 1 of the 1 times it was due (every 2 epochs, budget 5 %) and "
        "measured the trained model when closing"
    ) in caplog.text
    probe.close()
    assert len(read(tmp_path).Scalars("hfc_lfc/r02")) == 2


def test_what_is_measured_already_is_not_measured_again_when_closing(tmp_path):
    trained(tmp_path, epochs=4, every=2)
    assert [e.step for e in read(tmp_path).Scalars("hfc_lfc/r02")] == [6, 12]


def test_the_final_measurement_can_be_turned_off_and_is_left_out_after_an_exception():
    probe, _ = trained(epochs=3, every=2, final=False)
    assert probe.results["frequency_accuracy"].provenance["epoch"] == 2
    probe, _ = trained(epochs=3, every=2, close=False)
    with pytest.raises(KeyboardInterrupt), probe:
        raise KeyboardInterrupt
    assert probe.results["frequency_accuracy"].provenance["epoch"] == 2
    probe, _ = trained(epochs=3, every=2, close=False)
    try:
        raise RuntimeError
    except RuntimeError:
        probe.close()
    assert probe.results["frequency_accuracy"].provenance["epoch"] == 2


def test_weights_that_changed_after_the_last_epoch_are_measured_and_not_logged_twice(tmp_path):
    probe, model = trained(tmp_path, epochs=2, every=1, close=False)
    before = probe.results["frequency_accuracy"].provenance["weights"]
    with torch.no_grad():
        model[0].weight.mul_(-1)  # the best checkpoint is loaded, say
    probe.close()
    of = probe.results["frequency_accuracy"].provenance
    assert of["weights"] == weights_hash(model) != before
    assert [e.step for e in read(tmp_path).Scalars("hfc_lfc/r02")] == [3, 6]


def test_a_final_measurement_that_would_take_too_long_is_said(caplog):
    class Long(FrequencyAccuracy):
        def overhead(self, samples, image_shape):
            return 100.0

    probe, _ = trained(epochs=2, every=5, measurement=Long(radii=(2,)), budget=1.0)
    assert not probe.results
    assert "long did not measure the trained model, which should take about 100" in caplog.text
    assert "call probe.measure() before probe.close()" in caplog.text


def test_a_measurement_that_fails_is_tried_three_times_whatever_the_budget(caplog):
    class Failing(FrequencyAccuracy):
        def compute(self, subject):
            time.sleep(0.1)
            raise RuntimeError("planted failure")

    model = network()
    probe = hfc_probe.attach(model, loader(), measurements=[Failing(radii=(2,))], budget=1e-6)
    for _ in range(5):
        probe.end_epoch()
    probe.close()
    assert "failing is switched off after 3 failures" in caplog.text
    last = [r.getMessage() for r in caplog.records][-1]
    assert "failing ran 0 of the 3 times it was due" in last
    assert "it failed 3 times, the last time with RuntimeError: planted failure" in last
    assert "larger budget" not in caplog.text


def test_a_failure_that_passed_is_said_and_not_taken_for_the_budget(caplog):
    fails = iter([True, False, False])

    class Once(FrequencyAccuracy):
        def compute(self, subject):
            if next(fails):
                raise RuntimeError("planted failure")
            return super().compute(subject)

    probe = hfc_probe.attach(network(), loader(), measurements=[Once(radii=(2,))], budget=1.0)
    for _ in range(3):
        probe.end_epoch()
    state = probe.state_dict()["measurements"]["once"]
    assert (state["runs"], state["failures"], state["failed"]) == (2, 0, 1)
    probe.close()
    assert "once ran 2 of the 3 times it was due" in caplog.text
    assert "it failed 1 time, the last time with RuntimeError: planted failure" in caplog.text
    assert "larger budget" not in caplog.text


def test_a_result_with_nothing_but_numbers_is_shown_logged_and_saved(tmp_path):
    from dataclasses import dataclass

    from hfc_probe import Measurement, Result

    @dataclass(frozen=True, eq=False)
    class DimmedResult(Result):
        correct: int

        def scalars(self):
            return {"dimmed/accuracy": self.correct / self.samples}

    @dataclass(frozen=True)
    class Dimmed(Measurement):
        def compute(self, subject):
            def correct(start, images, targets):
                return int((subject.logits(0.5 * images).argmax(1) == targets).sum())

            return DimmedResult({}, len(subject.samples), sum(subject.map(correct)))

    with hfc_probe.attach(
        network(), loader(), log_dir=tmp_path, measurements=[Dimmed()], strict=True
    ) as probe:
        probe.end_epoch()
    result = probe.results["dimmed"]
    accuracy = result.scalars()["dimmed/accuracy"]
    assert read(tmp_path).Scalars("dimmed/accuracy")[0].value == pytest.approx(accuracy)
    assert f"dimmed/accuracy is {accuracy:.4g}" in str(result)
    assert re.search(rf"<td>{accuracy:.4g}\s*</td>", result._repr_html_())
    assert float(result.arrays()["dimmed/accuracy"]) == accuracy
    axes = result.figure().axes[0]
    assert [bar.get_width() for bar in axes.patches] == [accuracy]


def test_a_users_own_measurement_by_subclassing():
    from dataclasses import dataclass

    from hfc_probe import Measurement, Result

    @dataclass(frozen=True, eq=False)
    class MarginResult(Result):
        margin: float

        def scalars(self):
            return {"mine/margin": self.margin}

        def arrays(self):
            return {"margin": np.array(self.margin)}

        def figure(self):
            from matplotlib.figure import Figure

            return Figure()

        def table(self):
            return ["quantity", "value"], [["margin", f"{self.margin:.3f}"]]

        def sentence(self):
            return f"The mean margin is {self.margin:.3f}."

    @dataclass(frozen=True)
    class Margin(Measurement):
        def compute(self, subject):
            tops = [subject.logits(x).topk(2).values for x, _ in subject.batches()]
            tops = torch.cat(tops)
            return MarginResult({}, len(tops), float((tops[:, 0] - tops[:, 1]).mean()))

    writer = Recorder()
    with hfc_probe.attach(
        network(), loader(), writer=writer, measurements=[Margin()], strict=True
    ) as probe:
        probe.end_epoch()
    assert writer.scalars["mine/margin"][0] > 0
    assert "mean margin" in str(probe.results["margin"])
    assert "mean margin" in probe.results["margin"]._repr_html_()


def bad_loader():
    return DataLoader(TensorDataset(torch.randn(8, 3, 12, 12) * 2, torch.arange(8) % 4), 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: hfc_probe.attach("model", loader()), "torch.nn.Module, got str"),
        (lambda: hfc_probe.attach(network(), bad_loader()), r"values in \[0, 1\], got -"),
        (lambda: hfc_probe.attach(network(), None), "expected data"),
        (
            lambda: hfc_probe.attach(network(), loader(), writer=3),
            "expected a SummaryWriter .*, got int",
        ),
        (lambda: hfc_probe.attach(network(), loader(), budget=0), "budget: expected a share"),
        (
            lambda: hfc_probe.attach(network(), loader(), measurements=["accuracy"]),
            "got 'accuracy'",
        ),
        (
            lambda: hfc_probe.attach(
                network(),
                loader(),
                measurements=[FrequencyAccuracy(), FrequencyAccuracy(radii=(2,))],
            ),
            "frequency_accuracy twice",
        ),
        (
            lambda: hfc_probe.attach(
                network(), loader(), measurements=[KernelSpectra(layer="conv7")]
            ),
            "closest: 0",
        ),
        (
            lambda: hfc_probe.attach(network(), loader(), measurements=[FourierHeatmap(crop=13)]),
            "at most the image's 12×12",
        ),
        (
            lambda: hfc_probe.attach(network(), loader(), optimizer="sgd"),
            "torch.optim.Optimizer, got str",
        ),
        (
            lambda: hfc_probe.attach(
                network(), loader(), pixels=PixelSpace((0.5, 0.5), (0.5, 0.5))
            ),
            "3 channels, got 2",
        ),
        (lambda: hfc_probe.attach(network(), loader(), limit=-1), "of at least 1, got -1"),
        (lambda: Every(), "steps= or epochs="),
        (lambda: Every(steps=0), "at least 1, got 0"),
    ],
)
def test_mistakes_are_told_before_training_starts(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_two_layers_and_two_norms_can_be_watched_at_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    probe = hfc_probe.attach(
        model,
        loader(),
        strict=True,
        measurements=[
            KernelSpectra(),
            KernelSpectra(layer="1"),
            FourierHeatmap(norm=1.0, samples=4, crop=3),
            FourierHeatmap(norm=2.0, samples=4, crop=3),
        ],
    )
    results = probe.measure()
    assert set(results) == {
        "kernel_spectra",
        "kernel_spectra_1",
        "fourier_heatmap",
        "fourier_heatmap_2.0",
    }
    tags = [tag for r in results.values() for tag in r.scalars()]
    assert len(tags) == len(set(tags))


def test_a_log_directory_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="log_dir: expected a directory"):
        hfc_probe.attach(network(), loader(), log_dir=tmp_path / "file" / "log")


def test_samples_are_served_the_same_every_time():
    model = network().eval()
    samples = Samples(torch.rand(64, 3, 12, 12), torch.arange(64) % 4)
    probe = hfc_probe.attach(model, samples, limit=20, measurements=[FrequencyAccuracy(radii=(3,))])
    first = probe.measure()["frequency_accuracy"].arrays()
    second = probe.measure()["frequency_accuracy"].arrays()
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert not math.isnan(first["original"])

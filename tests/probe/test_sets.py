"""Named sets in one probe: each has the numbers that it has by itself, and a run of its own."""

from __future__ import annotations

import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, PixelSpace, Samples

from ..toys import classifier

CURVES = FrequencyAccuracy((2, 4))


def images(seed, count=24):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, (count,), generator=generator)
    return Samples(torch.rand(count, 3, 16, 16, generator=generator), targets)


def model():
    torch.manual_seed(0)
    return classifier()


SETS = {"train": images(0), "val": images(1, 16)}


def scalars(folder):
    log = EventAccumulator(str(folder)).Reload()
    return {tag: [e.value for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def test_each_set_has_the_numbers_that_it_has_alone_and_its_own_run(tmp_path):
    kinds = [CURVES, hfc_probe.Calibration((4,), resamples=5), KernelSpectra()]
    options = {"measurements": kinds, "log_dir": tmp_path, "strict": True}
    with hfc_probe.attach(model(), SETS, **options) as probe:
        probe.measure()
    alone = {}
    for name, samples in SETS.items():
        for kind in kinds[:2]:
            alone[name, kind.name] = kind.measure(model(), samples).scalars()
    assert set(probe.results) == {"kernel_spectra", *(f"{s}/{k}" for s, k in alone)}
    assert alone["train", "frequency_accuracy"] != alone["val", "frequency_accuracy"]
    for (name, kind), expected in alone.items():
        assert probe.results[f"{name}/{kind}"].scalars() == expected  # no pass of the other set
        logged = scalars(tmp_path / name)
        assert {tag: logged[tag] for tag in expected} == {
            tag: [pytest.approx(value)] for tag, value in expected.items()
        }
    top = scalars(tmp_path)
    assert "hfc_cost/seconds/val/calibration" in top
    assert not any(tag.startswith(("hfc_lfc", "hfc_calibration")) for tag in top)
    assert any(tag.endswith("smoothness_mean") for tag in top)
    assert probe.samples == SETS


def test_a_logger_without_directories_has_the_set_in_its_tags(tmp_path):
    file = tmp_path / "curves.csv"
    with hfc_probe.attach(model(), SETS, writer=str(file), measurements=[CURVES]) as probe:
        probe.measure()
    with file.open() as rows:
        found = {row["tag"]: float(row["value"]) for row in csv.DictReader(rows)}
    for name in SETS:
        for tag, value in probe.results[f"{name}/frequency_accuracy"].scalars().items():
            section, rest = tag.split("/")
            assert found[f"{section}/{name}/{rest}"] == pytest.approx(value)
        assert len(list(file.with_suffix("").glob(f"frequency_accuracy_{name}_*.json"))) == 1


def test_a_summary_writer_of_the_users_gets_a_run_for_each_set(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    with hfc_probe.attach(model(), SETS, writer=writer, measurements=[CURVES]) as probe:
        probe.measure()
    writer.add_scalar("mine", 1.0)  # still open
    writer.close()
    assert "hfc_lfc/r02" in scalars(tmp_path / "val")
    assert "mine" in scalars(tmp_path)


def test_a_checkpoint_holds_the_schedule_of_each_set_and_closing_measures_all():
    def fresh():
        plan = {CURVES: Every(epochs=2)}
        return hfc_probe.attach(model(), SETS, measurements=plan, budget=1.0, strict=True)

    probe = fresh()
    for _ in range(2):
        probe.end_epoch()
    state = probe.state_dict()
    assert {key: one["runs"] for key, one in state["measurements"].items()} == {
        "train/frequency_accuracy": 1,
        "val/frequency_accuracy": 1,
    }
    resumed = fresh()
    resumed.load_state_dict(state)
    resumed.end_epoch()
    assert not resumed.results  # epoch 3
    resumed.close()
    assert {key: one.provenance["samples"] for key, one in resumed.results.items()} == {
        "train/frequency_accuracy": 24,
        "val/frequency_accuracy": 16,
    }


def test_each_set_keeps_the_normalisation_of_its_loader():
    pixels = PixelSpace((0.5,) * 3, (0.25,) * 3)
    plain = SETS["val"]
    given = Samples(plain.images, plain.targets, normalization=pixels)
    with hfc_probe.attach(
        model(), {"bare": plain, "normalised": given}, measurements=[CURVES], strict=True
    ) as probe:
        probe.measure()
    means = {key.partition("/")[0]: r.provenance["mean"] for key, r in probe.results.items()}
    assert means == {"bare": [0.0], "normalised": [0.5] * 3}


@pytest.mark.parametrize("data", [{}, {"a/b": SETS["val"]}, {3: SETS["val"]}, {"": SETS["val"]}])
def test_other_names_are_refused_in_a_sentence(data):
    with pytest.raises(InputError, match="data: expected a loader, Samples, or a mapping of names"):
        hfc_probe.attach(model(), data, measurements=[CURVES])


def test_one_batch_is_no_sets():
    batch = {"images": SETS["val"].images, "labels": SETS["val"].targets}
    with pytest.raises(InputError, match=r"tensors by name \(images, labels\), as in one batch"):
        hfc_probe.attach(model(), batch, measurements=[CURVES])


@pytest.mark.parametrize(
    "twice",
    [
        [hfc_probe.ImageScore((2,)), hfc_probe.ImageScore((4,))],
        [hfc_probe.FourierHeatmap(crop=3), hfc_probe.FourierHeatmap(crop=5)],
    ],
)
def test_two_that_would_write_to_the_same_tags_are_refused(twice):
    for data in (SETS, SETS["val"]):
        with pytest.raises(InputError, match=r"expected each once, got .* twice"):
            hfc_probe.attach(model(), data, measurements=twice)

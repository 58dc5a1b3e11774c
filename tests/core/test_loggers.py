"""Results in loggers other than TensorBoard's: the real ones, offline, read from their files."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import hfc_probe
from hfc_probe import FrequencyAccuracy, InputError, KernelSpectra, Samples

from ..wandb_files import history

RADII = (2, 4)
MEASUREMENTS = (FrequencyAccuracy(radii=RADII), KernelSpectra())


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model, Samples(torch.rand(8, 3, 12, 12), torch.arange(8) % 4)


def probed(run, writer, **options):
    """Results after two epochs in which all was measured."""
    with hfc_probe.attach(
        *run, writer=writer, measurements=MEASUREMENTS, strict=True, budget=1.0, **options
    ) as probe:
        for _ in range(2):
            probe.end_epoch()
    return probe.results


def logged(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {(int(r["step"]), r["tag"]): float(r["value"]) for r in csv.DictReader(file)}


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def tags(results):
    return {tag: value for result in results.values() for tag, value in result.scalars().items()}


def test_a_csv_file_has_each_number_and_its_folder_the_rest(run, tmp_path):
    path = tmp_path / "deep" / "curves.csv"
    results = probed(run, path)
    rows = logged(path)
    expected = tags(results)
    assert {tag for step, tag in rows if step == 1} >= expected.keys()
    assert {tag: rows[2, tag] for tag in expected} == pytest.approx(expected)
    assert rows[2, "hfc_cost/share"] > 0
    saved = json.loads((path.with_suffix("") / "frequency_accuracy_00000002.json").read_text())
    assert saved["scalars"] == pytest.approx(results["frequency_accuracy"].scalars())
    kernels = results["kernel_spectra"].images()["hfc_0/kernels"]
    picture = path.with_suffix("") / "hfc_0_kernels_00000001.png"
    assert np.array_equal(np.asarray(Image.open(picture)), kernels)


def test_a_csv_file_of_an_earlier_run_is_told_and_another_table_refused(run, tmp_path, caplog):
    path = tmp_path / "curves.csv"
    probed(run, path)
    assert "earlier run" not in caplog.text
    probed(run, path)
    assert f"{path} holds rows of an earlier run at step 1 and this run's follow" in caplog.text
    other = tmp_path / "labels.csv"
    other.write_text("name,label\ncat.png,3\n")
    with pytest.raises(InputError, match=r"got .*labels.csv, which begins with .name,label"):
        probed(run, other)
    assert other.read_text() == "name,label\ncat.png,3\n"
    long = tmp_path / "long.csv"
    long.write_text("step,tag,value\n" + "x" * 200_000)
    with pytest.raises(InputError, match=r"a .csv file that can be read, got .*field larger"):
        probed(run, long)


def test_several_loggers_beside_the_complete_log(run, tmp_path):
    paths = [tmp_path / "a.csv", str(tmp_path / "b.csv")]
    with SummaryWriter(str(tmp_path / "own")) as own:
        results = probed(run, [own, *paths], log_dir=tmp_path / "logs")
    assert logged(paths[0]).keys() == logged(paths[1]).keys()
    for folder in ("own", "logs"):
        found = events(tmp_path / folder).Tags()
        assert set(found["scalars"]) >= tags(results).keys()
        assert "frequency_accuracy/lfc" in found["tensors"]


def test_a_result_logs_itself_into_any_logger(run, tmp_path):
    result = MEASUREMENTS[0].measure(*run)
    result.log(tmp_path / "one.csv", 7, figure=True)
    rows = logged(tmp_path / "one.csv")
    assert {tag: rows[7, tag] for tag in result.scalars()} == pytest.approx(result.scalars())
    assert (tmp_path / "one" / "hfc_frequency_accuracy_figure_00000007.png").exists()


@pytest.mark.parametrize(
    ("writer", "sentence"),
    [
        (3, "wandb or MLflow run, the path of a .csv file, or a list of such, got int"),
        ("runs/a", "got 'runs/a'; a TensorBoard directory is log_dir="),
        ([None], "got NoneType"),
    ],
)
def test_what_is_no_logger_is_told(run, writer, sentence):
    with pytest.raises(InputError, match=sentence):
        hfc_probe.attach(*run, writer=writer)


def test_a_logger_that_is_not_installed_is_told(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"expected wandb to be installed.*pip install wandb"):
        hfc_probe.attach(*run, writer="wandb")


def test_tensorboardx_has_scalars_and_pictures(run, tmp_path):
    tensorboardx = pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    with tensorboardx.SummaryWriter(str(tmp_path)) as writer:
        results = probed(run, writer)
    found = events(tmp_path)
    for tag, value in tags(results).items():
        assert [one.step for one in found.Scalars(tag)] == [1, 2]
        assert found.Scalars(tag)[-1].value == pytest.approx(value)
    assert {"hfc_0/kernels", "hfc_0/spectra"} <= set(found.Tags()["images"])


def test_an_mlflow_run_has_metrics_pictures_and_json(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as active:
        results = probed(run, mlflow)  # the module, for its run in progress
        again = probed(run, active)
    client = mlflow.MlflowClient()
    for tag, value in tags(results).items():
        history = client.get_metric_history(active.info.run_id, tag)
        assert [(one.step, one.value) for one in history] == [
            (step, pytest.approx(value)) for step in (1, 2, 1, 2)
        ]
    files = {Path(one.path).name for one in client.list_artifacts(active.info.run_id, "hfc_probe")}
    assert {"frequency_accuracy_00000002.json", "hfc_0_kernels_00000001.png"} <= files
    assert again.keys() == results.keys()
    with pytest.raises(InputError, match="expected an MLflow run, found none"):
        hfc_probe.attach(*run, writer=mlflow)


def test_a_wandb_run_has_rows_pictures_and_artifacts_and_keeps_the_trainings_own(run, tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    settings = wandb.Settings(mode="offline", silent=True, disable_git=True)
    with wandb.init(dir=tmp_path, settings=settings) as active:
        with hfc_probe.attach(
            *run, writer=active, measurements=MEASUREMENTS, strict=True, budget=1.0
        ) as probe:
            for epoch in range(3):
                active.log({"loss": 1.0 - epoch / 10}, step=epoch)
                probe.end_epoch()
        results = probe.results
        name = active.id
    rows, artifacts = history(tmp_path)
    assert [row["loss"] for row in rows] == pytest.approx([1.0, 0.9, 0.8])
    assert [row["hfc_step"] for row in rows] == [1, 2, 3]
    for tag, value in tags(results).items():
        assert rows[-1][tag] == pytest.approx(value)
    assert rows[-1]["hfc_0/kernels/_type"] == "image-file"
    assert artifacts == {f"hfc_probe-{name}-{kind}" for kind in results}

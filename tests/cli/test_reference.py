"""``hfc-probe reference``: a table of networks, and a model's place in it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hfc_probe import FrequencyAccuracy, InputError, PixelSpace
from hfc_probe.cli.main import main
from hfc_probe.cli.reference import COLUMNS, SHIPPED, placed, read_reference, result_rows

from ..conftest import ROOT, cli_runner

NETWORKS = """
import torch
from torch import nn


class Bright(nn.Module):
    'Right in as many images as it is told: the class is written into the first pixel.'

    def __init__(self, right):
        super().__init__()
        self.right = nn.Parameter(torch.tensor(float(right)))

    def forward(self, x):
        number = (x[:, 0, 0, 0] * 255).round().long()
        target = torch.where(number < self.right, number % 4, (number + 1) % 4)
        return nn.functional.one_hot(target, 4).float()


def network(right=0):
    '''Planted, right in some images.'''
    return Bright(right)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORKS)
    images = np.zeros((200, 3, 8, 8), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    images[:, 1] = 128
    np.savez("data.npz", images=images, labels=np.arange(200) % 4)
    return tmp_path


def run(*options):
    return cli_runner().invoke(main, [*options])


def content(network="a", weights="w", images="i", accuracy=0.5, background="zero", radius=4):
    def interval(value):
        return [value - 0.05, value + 0.05]

    scalars = {"hfc_accuracy/original": accuracy, f"hfc_hfc/r{radius:02}": accuracy / 2}
    return {
        "measurement": "frequency_accuracy",
        "settings": {"hfc_background": background, "radii": [radius]},
        "samples": 100,
        "scalars": scalars,
        "intervals": {tag: interval(value) for tag, value in scalars.items()},
        "provenance": {
            **{"weights": weights, "images": images, "mean": [0], "std": [1]},
            **{"data": "x.npz, 100 images", "samples": 100, "version": "1", "date": "2026"},
        },
    }


def test_a_place_counts_networks_whose_interval_is_apart():
    rows = [
        row
        for name, accuracy in (("low", 0.2), ("near", 0.52), ("high", 0.9), ("higher", 0.95))
        for row in result_rows(name, content(weights=name, accuracy=accuracy))
    ]
    first, second = placed(content(accuracy=0.5), rows)
    assert first == (
        "Accuracy on the original images, 50.0 %, is higher than that of 1 of 4 reference networks "
        "on these images, lower than that of 2, and not clearly different from 1."
    )
    assert second.startswith("HFC(4) accuracy, 25.0 %, is higher than that of 1 of 4")


@pytest.mark.parametrize(
    "other",
    [{"images": "other"}, {"background": "mean"}, {"weights": "low"}],
    ids=["other images", "other settings", "the network itself"],
)
def test_nothing_is_said_if_it_was_measured_differently(other):
    rows = list(result_rows("low", content(weights="low", accuracy=0.2)))
    assert placed(content(**other), rows) == []


def test_radii_that_the_table_lacks_are_not_compared():
    rows = list(result_rows("low", content(weights="low", accuracy=0.2)))
    assert [one.partition(",")[0] for one in placed(content(radius=6), rows)] == [
        "Accuracy on the original images"
    ]


@pytest.mark.slow
def test_the_command_makes_a_table_extends_it_and_audit_and_report_read_it(here):
    given = ("--data", "npz:data.npz", "--normalize", "none", "--radii", "2,3")
    first = [f"nets.py:network,right={right}" for right in (40,)]
    assert run("reference", *first, *given, "--out", "table.csv").exit_code == 0
    before = read_reference(Path("table.csv"))
    assert before[0]["training"] == "Planted, right in some images."
    assert float(before[0]["value"]) == pytest.approx(0.2)
    again = run("reference", *first, *given, "--out", "table.csv", "--json")
    assert again.exit_code == 0, again.stderr
    assert len(read_reference(Path("table.csv"))) == len(before)
    own = ("audit", "--model", "nets.py:network,right=150", *given, "--reference", "table.csv")
    audit = run(*own, "--out", "a")
    assert "75.0 %, is higher than that of 1 of 1 reference networks" in audit.stdout
    other = run(*own, "--hfc-background", "mean", "--out", "b")
    assert "reference networks" not in other.stdout
    report = run("report", "a", "b", "--reference", "table.csv")
    assert "a: Accuracy on the original images, 75.0 %, is higher" in report.stdout


GIVEN = ("--data", "npz:data.npz", "--normalize", "none", "--radii", "2", "--device", "cpu")


def test_one_callable_with_other_arguments_is_another_network(here):
    nets = [f"nets.py:network,right={right}" for right in (40, 150)]
    result = run("reference", *nets, *GIVEN, "--out", "table.csv", "--json")
    assert result.exit_code == 0, result.stderr
    rows = [row for row in read_reference(Path("table.csv")) if "original" in row["tag"]]
    assert {row["network"]: float(row["value"]) for row in rows} == {
        "network,right=40": pytest.approx(0.2),
        "network,right=150": pytest.approx(0.75),
    }
    found = json.loads(result.stdout)
    assert list(found["results"]) == ["network,right=40", "network,right=150"]
    assert found["files"] == ["table.csv"]


def test_networks_that_were_measured_stay_if_a_later_one_fails(here):
    nets = ("nets.py:network,right=40", "nets.py:nobody")
    result = run("reference", *nets, *GIVEN, "--out", "table.csv")
    assert result.exit_code == 2
    assert {row["network"] for row in read_reference(Path("table.csv"))} == {"network,right=40"}


def test_two_networks_of_one_name_are_refused(here):
    Path("more.py").write_text(NETWORKS)
    result = run("reference", "nets.py:network", "more.py:network", *GIVEN, "--out", "table.csv")
    assert result.exit_code == 2
    assert "got network twice" in result.stderr


@pytest.mark.parametrize(
    "harm", [lambda line: line + ",more", lambda line: line.replace(",0.", ",a.")]
)
def test_a_table_with_other_cells_is_refused_in_a_sentence(tmp_path, harm):
    head, line, *_ = SHIPPED.read_text().splitlines()[:1] + SHIPPED.read_text().splitlines()[5:]
    (tmp_path / "table.csv").write_text(f"{head}\n{harm(line)}\n")
    with pytest.raises(InputError, match="expected a table of hfc-probe reference"):
        read_reference(tmp_path / "table.csv")


def test_a_table_that_is_not_there_is_missed_before_anything_is_measured(here):
    own = ("audit", "--model", "nets.py:network", *GIVEN, "--reference", "none.csv", "--out", "a")
    result = run(*own)
    assert result.exit_code == 2
    assert "expected a CSV table, got none.csv" in result.stderr
    assert not Path("a").exists()


def test_another_table_is_not_written_over(here):
    Path("other.csv").write_text("a,b\n1,2\n")
    result = run("reference", "nets.py:network", "--data", "npz:data.npz", "--out", "other.csv")
    assert result.exit_code == 2
    assert "got other columns; choose another file" in result.stderr
    assert Path("other.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.slow
def test_the_shipped_table_is_that_of_the_documentation_and_of_the_real_network(resnet20, cifar):
    rows = read_reference(SHIPPED)
    assert (ROOT / "docs" / "reference_results.csv").read_text() == SHIPPED.read_text()
    published = {row["tag"]: row for row in rows if row["network"] == "resnet20"}
    result = FrequencyAccuracy(radii=(8,)).measure(resnet20, cifar, pixels=PixelSpace.imagenet())
    for tag in ("hfc_accuracy/original", "hfc_lfc/r08", "hfc_hfc/r08"):
        assert float(published[tag]["value"]) == pytest.approx(result.scalars()[tag], abs=1e-5)
    assert {row["images"] for row in rows} == {result.provenance["images"]}
    assert all(row["training"] != "not said" for row in rows)
    other = FrequencyAccuracy(radii=(8,)).measure(resnet20, cifar, pixels=PixelSpace.cifar10())
    content = other.to_dict()
    content["provenance"]["weights"] = "another network"
    assert [sentence.count("of 7 reference networks") for sentence in placed(content, rows)] == [
        1
    ] * 3
    with SHIPPED.open() as stream:
        assert next(csv.reader(stream)) == list(COLUMNS)
    assert all(json.loads(row["settings"]) for row in rows)

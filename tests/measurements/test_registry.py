"""The registry: what it says of each measurement is what a user reads of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

import hfc_probe
from hfc_probe import measurements
from hfc_probe.cli.main import main
from hfc_probe.measurements.registry import MEASUREMENTS, arguments, build, source, summary

from ..conftest import ROOT

HEADS = ["measurement", "what it answers", "passes for 1,000 images of CIFAR", "source"]
FILES = {path.stem for path in Path(measurements.__file__).parent.glob("*.py")}


def table() -> list[str]:
    """The page's rows of the built-in measurements, as the registry has them."""
    rows = [HEADS, ["---"] * len(HEADS)]
    for kind in MEASUREMENTS.values():
        passes = f"{kind().cost(1000, (3, 32, 32)):,}"
        rows.append([f"`{kind.__name__}`", summary(kind), passes, source(kind)])
    return [
        "| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in row) + " |"
        for row in rows
    ]


def test_the_page_lists_what_the_registry_has():
    page = (ROOT / "docs" / "measurements.md").read_text()
    section = page.split("## What is measured\n\n")[1]
    listed = section.splitlines()[: len(MEASUREMENTS) + 2]
    assert listed == table(), "in docs/measurements.md, expected\n" + "\n".join(table())


def test_a_measurement_is_one_file_one_test_file_and_one_line():
    own = {"__init__", "registry", "overview", "gradients", "loading", "scores", "score_targets"}
    own.add("image_score")  # its score is a function or needs targets: not for the command line
    registry = Path(measurements.__file__).read_text()
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert FILES - own == MEASUREMENTS.keys() - {"fourier_heatmap"}  # that one is a folder
    assert MEASUREMENTS.keys() <= tested
    for name, kind in MEASUREMENTS.items():
        assert registry.count(f"from .{name}") == 1
        assert getattr(hfc_probe, kind.__name__) is kind
        assert kind.__name__ in hfc_probe.__all__


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_setting_is_explained(name):
    fields = {field.name for field in dataclasses.fields(MEASUREMENTS[name])}
    assert arguments(MEASUREMENTS[name]).keys() == fields
    assert source(MEASUREMENTS[name])


def test_help_lists_settings_that_can_be_given_back():
    result = CliRunner().invoke(main, ["audit", "--measure", "help"])
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    for block in result.output.strip().split("\n\n"):
        name, _, *lines = block.splitlines()
        settings = [line.split()[0] for line in lines]
        assert build(f"{name}:{','.join(settings)}") == MEASUREMENTS[name]()
    steps = next(line for line in result.output.splitlines() if line.startswith("  steps=10 "))
    assert steps.split("  ")[-1].strip() == "gradient steps of PGD."

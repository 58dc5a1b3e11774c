"""The audit's heatmap from a fraction of the passes, as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from hfc_probe.cli.main import main

MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 4))
"""


@pytest.fixture
def audit(tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        images=rng.integers(0, 256, (150, 3, 12, 12), dtype=np.uint8),
        labels=np.arange(150) % 4,
    )

    def run(settings):
        out = tmp_path / "out"
        command = ["audit", "--model", f"{tmp_path}/net.py:net", "--normalize", "none"]
        command += ["--data", f"npz:{tmp_path}/data.npz", "--out", str(out)]
        measure = ["--measure", f"fourier_heatmap:{settings}"]
        return CliRunner().invoke(main, [*command, *measure]), out

    return run


@pytest.mark.parametrize(
    ("effort", "estimator", "most"),
    [("precision=0.1", "sequential", 8000), ("forwards=1500", "model", 1500)],
)
def test_an_effort_is_kept_and_the_estimator_is_named(audit, effort, estimator, most):
    result, out = audit(f"{effort},norm=1")
    assert result.exit_code == 0, result.output
    found = json.loads((out / "fourier_heatmap.json").read_text())
    assert found["settings"]["estimator"] == estimator
    assert found["samples"] == 150
    assert int(np.sum(found["arrays"]["count"])) < 2 * most
    assert "forward passes" in (out / "summary.txt").read_text()
    assert not list(out.glob(".fourier_heatmap*"))


def test_an_effort_that_cannot_be_served_ends_with_its_sentence(audit):
    result, _ = audit("precision=0.01")
    assert result.exit_code == 2
    assert "which is how well 150 images stand for others" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "side"), [("samples=2", 31), ("samples=2,crop=5", 5)])
def test_of_large_images_a_window_is_measured_unless_it_is_given(tmp_path, settings, side):
    pooled = MODEL.replace(
        "nn.Flatten(), nn.Linear(4 * 10 * 10, 4)", "nn.AdaptiveAvgPool2d(1), nn.Flatten()"
    )
    (tmp_path / "net.py").write_text(pooled)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 66, 66), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(8) % 4)
    out = tmp_path / "out"
    command = ["audit", "--model", f"{tmp_path}/net.py:net", "--normalize", "none"]
    command += ["--data", f"npz:{tmp_path}/data.npz", "--out", str(out), "--topk", "2"]
    result = CliRunner().invoke(main, [*command, "--measure", f"fourier_heatmap:{settings}"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "fourier_heatmap.json").read_text())
    assert np.shape(found["arrays"]["error"]) == (side, side)
    assert found["settings"]["topk"] in (2, [2])  # --topk holds for the map as well

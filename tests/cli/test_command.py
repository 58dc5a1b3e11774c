"""What every command does alike: ``--config``, ``--json``, ``--quiet``, ``~``, completion."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hfc_probe.cli.audit import _measurements
from hfc_probe.cli.main import main
from hfc_probe.cli.models import load_model
from hfc_probe.measurements.registry import MEASUREMENTS

from ..conftest import cli_runner

MODEL_FILE = """
import torch
from torch import nn


def build(width=6, bias=True):
    print("a model of one's own may print")
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=bias), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL_FILE)
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 12), dtype=np.uint8)
    np.savez("data.npz", images=images, labels=np.arange(24) % 4)
    return tmp_path


def run(*options):
    return cli_runner().invoke(main, [*options])


def audit(*options):
    given = ("--model", "model.py:build,width=8", "--data", "npz:data.npz", "--normalize", "none")
    return run("audit", *given, *options)


def numbers(folder):
    return json.loads(Path(folder, "frequency_accuracy.json").read_text())["scalars"]


@pytest.mark.slow
def test_the_config_beside_a_result_reruns_it(here):
    further = ("--measure", "amplitude_phase", "--measure", "truncated_svd:ranks=2+4")
    assert audit("--radii", "2,4", "--limit", "20", *further, "--out", "a").exit_code == 0
    found = yaml.safe_load(Path("a/audit.yaml").read_text())
    assert found["measure"] == ["amplitude_phase", "truncated_svd:ranks=2+4"]
    assert found["limit"] == 20
    assert "seed" not in found  # not given
    again = run("audit", "--config", "a/audit.yaml", "--out", "b")
    assert again.exit_code == 0, again.stderr
    assert numbers("a") == numbers("b")
    assert Path("b/truncated_svd.json").is_file()
    assert run("audit", "--config", "b/audit.yaml", "--radii", "3", "--out", "c").exit_code == 0
    assert "hfc_lfc/r03" in numbers("c")
    assert "hfc_lfc/r02" not in numbers("c")


@pytest.mark.slow
def test_a_config_of_ones_own_has_lists_and_underscores(here):
    own = {"model": "model.py:build", "data": "npz:data.npz", "mean": [0.5, 0.5, 0.5]}
    own |= {"std": [1, 1, 1], "hfc_background": "mean", "radii": 4, "out": "out", "layer": None}
    Path("own.yaml").write_text(yaml.safe_dump(own))
    result = run("audit", "--config", "own.yaml")
    assert result.exit_code == 0, result.stderr
    saved = json.loads(Path("out/frequency_accuracy.json").read_text())
    assert saved["provenance"]["mean"] == [0.5, 0.5, 0.5]
    assert saved["settings"]["hfc_background"] == "mean"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("radi: 4", "options of hfc-probe audit, got 'radi' in own.yaml; did you mean radii?"),
        ("- radii", "expected options and their values in own.yaml, such as radii: 4,8, got list"),
        ("radii: {a: 4}", "expected a value or a list for radii, got {'a': 4}"),
        ("radii: [", "a YAML file, got own.yaml (which cannot be read as YAML)"),
        (None, "a YAML file, got own.yaml (No such file or directory)"),
        ("size: 3", "--size: expected with image files in --data only"),
    ],
)
def test_a_mistake_in_a_config_is_one_sentence(here, text, sentence):
    if text is not None:
        Path("own.yaml").write_text(text)
    result = audit("--config", "own.yaml", "--out", "out")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.slow
def test_json_is_all_that_stands_on_standard_output(here):
    result = audit("--radii", "2,4", "--out", "out", "--json")
    found = json.loads(result.stdout)
    assert found["results"]["frequency_accuracy"]["scalars"] == numbers("out")
    assert "audit.yaml" in found["files"]
    assert "a model of one's own may print" in result.stderr
    assert "tensorboard --logdir out" in result.stderr
    again = audit("--radii", "4", "--out", "b")
    assert again.exit_code == 0
    compared = json.loads(run("report", "out", "b", "--json").stdout)
    judged = {one["tag"]: one["judged"] for one in compared["changes"]}
    assert judged["hfc_lfc/r04"] == "not above chance"
    assert any("not above chance" in one for one in compared["cautions"])
    refused = audit("--radii", "x", "--out", "out", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.slow
def test_quiet_prints_cautions_alone_and_verbose_how_each_number_was_measured(here):
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 12), dtype=np.uint8)
    np.savez("one.npz", images=images, labels=np.zeros(24, dtype=int))
    quiet = audit("--data", "npz:one.npz", "--radii", "4", "--out", "out", "--quiet")
    assert quiet.exit_code == 0
    assert quiet.stdout == ""
    lines = quiet.stderr.splitlines()
    assert lines
    assert all(line.startswith("Caution: ") for line in lines)
    verbose = audit("--radii", "4", "--out", "out", "--verbose")
    assert "frequency_accuracy: radii [4], hfc_background zero" in verbose.stdout
    assert "Traceback" in audit("--radii", "x", "--out", "out", "--verbose").stderr


@pytest.mark.slow
def test_home_is_where_a_path_begins(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    found = audit("--data", "npz:~/data.npz", "--out", "~/out", "--radii", "4", "--log", "~/c.csv")
    assert found.exit_code == 0, found.stderr
    assert (here / "out" / "audit.yaml").is_file()
    assert (here / "c.csv").is_file()
    assert not Path("~").exists()
    assert run("audit", "--config", "~/out/audit.yaml", "--quiet").exit_code == 0


def test_a_files_callable_is_given_arguments(here):
    for spec, shape in (("build", (6, 3, 3, 3)), ("build,width=9,bias=False", (9, 3, 3, 3))):
        state = load_model(f"model.py:{spec}", None).state_dict()
        assert state["0.weight"].shape == torch.Size(shape)
        assert ("0.bias" in state) == (spec == "build")
    wrong = audit("--model", "model.py:build,widht=9", "--out", "out")
    assert wrong.exit_code == 2
    assert "which are width=6, bias=True, got widht" in wrong.stderr


def test_completion_knows_the_measurements():
    assert set(_measurements("")) == {*MEASUREMENTS, "help"}
    script = run("--print-completion", "bash").stdout
    assert "_HFC_PROBE_COMPLETE=bash_complete" in script
    words = {"COMP_WORDS": "hfc-probe audit --measure input", "COMP_CWORD": "3"}
    environment = os.environ | words | {"_HFC_PROBE_COMPLETE": "bash_complete"}
    code = "from hfc_probe.cli import main; main(prog_name='hfc-probe')"
    done = subprocess.run(
        ["python", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "plain,input_spectrum"


def test_the_version_in_short():
    assert run("-V").stdout == run("--version").stdout

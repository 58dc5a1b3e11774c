"""Every example runs as it stands."""

import importlib.util
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import ROOT, needs_accelerate, needs_timm

pytestmark = pytest.mark.slow

# Runs examples one after the other, each as Python runs a script, and prints what each says:
# importing torch for each of them took longer than the examples.
SCRIPTS = """
import contextlib, io, json, os, runpy, sys, traceback

said = {}
for name, script, options, environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    sys.argv = [script, *options]
    sys.path[0] = os.path.dirname(script)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(script, run_name="__main__")
        except BaseException:
            print("FAILED", traceback.format_exc())
    said[name] = out.getvalue()
print(json.dumps(said))
"""
NEEDS = {"timm_loop": "timm", "accelerate_loop": "accelerate"}


def start(jobs, **environment):
    """A process for examples: (name, example, options, environment of its own)."""
    jobs = [(name, str(ROOT / "examples" / f"{file}.py"), *rest) for name, file, *rest in jobs]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPTS, json.dumps(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def outputs(process):
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the examples of one process print, and the folder of their logs by name."""
    folder = tmp_path_factory.mktemp("examples")
    images, labels = np.random.default_rng(0), np.arange(600) % 10
    pixels = images.integers(0, 256, (600, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "few.npz", images=pixels, labels=labels)
    jobs = {
        "classification": (
            "classification_loop",
            ["--data", f"npz:{folder / 'few.npz'}", "--epochs", "2"],
        ),
        "after prepare": ("accelerate_loop", ["--epochs", "1", "--images", "256"]),
        "before prepare": (
            "accelerate_loop",
            ["--epochs", "1", "--images", "256", "--attach-first"],
        ),
        "timm": ("timm_loop", ["--model", "test_resnet", "--epochs", "1", "--images", "128"]),
        "batchnorm": ("batchnorm", ["--epochs", "1", "--images", "64"]),
    }
    process = start(
        (name, example, [*options, "--out" if name == "batchnorm" else "--log-dir", log], {})
        for name, (example, options) in jobs.items()
        for log in [str(folder / name)]
        if example not in NEEDS or importlib.util.find_spec(NEEDS[example])
    )
    return outputs(process), folder


def said_by(ran, name):
    """What an example printed, and its event file's content."""
    said, folder = ran
    assert "FAILED" not in said[name], said[name]
    return said[name], EventAccumulator(str(folder / name)).Reload()


def test_classification_loop(ran):
    said, events = said_by(ran, "classification")
    assert "epoch 2" in said
    tags = events.Tags()["scalars"]
    assert {"hfc_lfc/r04", "hfc_hfc/r16", "hfc_0/smoothness_mean", "hfc_cost/share"} <= set(tags)
    # 480 training images in batches of 128: four steps an epoch
    assert events.Scalars("hfc_accuracy/original")[0].step == 4


@needs_accelerate
@pytest.mark.parametrize("name", ["after prepare", "before prepare"])
def test_accelerate_loop(ran, name):
    said, events = said_by(ran, name)
    assert "2 optimizer steps" in said  # four batches, gradients over two
    assert events.Scalars("hfc_accuracy/original")[0].step == 2


def test_ddp_training_ends_the_same_with_and_without_the_probe(tmp_path):
    jobs = []
    with socket.socket() as first, socket.socket() as second:
        for name, free, options in (("plain", first, ["--no-probe"]), ("probed", second, [])):
            free.bind(("127.0.0.1", 0))
            files = ["--save", f"{tmp_path / name}.pth", "--log-dir", str(tmp_path / name)]
            port = {"MASTER_PORT": str(free.getsockname()[1])}
            size = ["--epochs", "2", "--images", "256"]
            jobs.append((name, "ddp_training", [*size, *files, *options], port))
    place = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [start(jobs, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(2)]
    for process in both:
        assert "FAILED" not in str(found := outputs(process)), found
    weights = [torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("plain", "probed")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert len(list((tmp_path / "probed").iterdir())) == 1  # one event file: rank 0's
    events = EventAccumulator(str(tmp_path / "probed")).Reload()
    assert events.Scalars("hfc_accuracy/original")[0].step == 4
    assert not (tmp_path / "plain").exists()


@needs_timm
def test_timm_loop(ran):
    if not pytest.importorskip("timm").is_model("test_resnet"):
        pytest.skip("this version of timm has no test_resnet")
    _, events = said_by(ran, "timm")
    assert events.Scalars("hfc_accuracy/original")[0].step == 2


def test_batchnorm_pair(ran):
    said, folder = ran
    assert "FAILED" not in said["batchnorm"], said["batchnorm"]
    assert f"tensorboard --logdir {folder / 'batchnorm'}" in said["batchnorm"]
    assert "http://localhost:6006/#hfc" in said["batchnorm"]
    for name in ("with-batchnorm", "without-batchnorm"):
        events = EventAccumulator(str(folder / "batchnorm" / name)).Reload()
        assert events.Scalars("hfc_hfc/r04")[0].step == 1
        assert "frequency_accuracy/hfc_upper" in events.Tags()["tensors"]


def test_the_added_lines_are_at_most_four():
    text = (ROOT / "examples" / "classification_loop.py").read_text()
    marked = [line for line in text.splitlines() if line.endswith("# added")]
    assert len(marked) == 4  # the import and three more

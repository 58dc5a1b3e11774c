"""Every example runs as it stands."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import ROOT


def test_classification_loop(cifar_path, tmp_path):
    with np.load(cifar_path / "train.npz") as archive:
        np.savez(
            tmp_path / "few.npz", images=archive["images"][:600], labels=archive["labels"][:600]
        )
    options = ["--data", f"npz:{tmp_path / 'few.npz'}", "--epochs", "2"]
    done = run("classification_loop.py", *options, "--log-dir", str(tmp_path / "log"))
    assert "epoch 2" in done.stdout
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    tags = events.Tags()["scalars"]
    assert {"hfc_lfc/r04", "hfc_hfc/r16", "hfc_0/smoothness_mean", "hfc_cost/share"} <= set(tags)
    # 480 training images in batches of 128: four steps an epoch
    assert events.Scalars("hfc_accuracy/original")[0].step == 4


@pytest.mark.parametrize("first", [False, True], ids=["after prepare", "before prepare"])
def test_accelerate_loop(tmp_path, first):
    pytest.importorskip(
        "accelerate", reason="accelerate is not installed: pip install 'hfc_probe[transformers]'"
    )
    log = tmp_path / "log"
    options = ["--epochs", "1", "--images", "256", "--log-dir", str(log)]
    done = run("accelerate_loop.py", *options, *(["--attach-first"] if first else []))
    assert "2 optimizer steps" in done.stdout  # four batches, gradients over two
    events = EventAccumulator(str(log)).Reload()
    assert events.Scalars("hfc_accuracy/original")[0].step == 2


def test_ddp_training_ends_the_same_with_and_without_the_probe(tmp_path):
    weights = []
    for name, options in (("plain", ["--no-probe"]), ("probed", [])):
        saved = tmp_path / f"{name}.pth"
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        script = [str(ROOT / "examples" / "ddp_training.py"), "--epochs", "2", "--images", "256"]
        files = ["--save", str(saved), "--log-dir", str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, *command, *script, *files, *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=_environment(),
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        weights.append(torch.load(saved, weights_only=True))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert len(list((tmp_path / "probed").iterdir())) == 1  # one event file: rank 0's
    events = EventAccumulator(str(tmp_path / "probed")).Reload()
    assert events.Scalars("hfc_accuracy/original")[0].step == 4
    assert not (tmp_path / "plain").exists()


def test_timm_loop(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed: pip install 'hfc_probe[timm]'")
    log = tmp_path / "log"
    run(
        "timm_loop.py",
        "--model",
        "test_resnet",
        "--epochs",
        "1",
        "--images",
        "128",
        "--log-dir",
        str(log),
    )
    events = EventAccumulator(str(log)).Reload()
    assert events.Scalars("hfc_accuracy/original")[0].step == 2


def run(name, *options):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done


def test_batchnorm_pair(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "batchnorm.py"), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--epochs", "1", "--images", "64"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert f"tensorboard --logdir {tmp_path}" in done.stdout
    assert "http://localhost:6006/#hfc" in done.stdout
    for name in ("with-batchnorm", "without-batchnorm"):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        assert events.Scalars("hfc_hfc/r04")[0].step == 1
        assert "frequency_accuracy/hfc_upper" in events.Tags()["tensors"]


def test_the_added_lines_are_at_most_four():
    text = (ROOT / "examples" / "classification_loop.py").read_text()
    marked = [line for line in text.splitlines() if line.endswith("# added")]
    assert len(marked) == 4  # the import and three more


def _environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}

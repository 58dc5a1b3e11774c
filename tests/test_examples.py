"""Every example runs as it stands."""

import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import ROOT


def test_classification_loop(cifar_path, tmp_path):
    with np.load(cifar_path / "train.npz") as archive:
        np.savez(
            tmp_path / "few.npz", images=archive["images"][:600], labels=archive["labels"][:600]
        )
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "classification_loop.py"),
            "--data",
            f"npz:{tmp_path / 'few.npz'}",
            "--epochs",
            "2",
            "--log-dir",
            str(tmp_path / "log"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2" in done.stdout
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    tags = events.Tags()["scalars"]
    assert {"hfc_lfc/r04", "hfc_hfc/r16", "hfc_0/smoothness_mean", "hfc_cost/share"} <= set(tags)
    # 480 training images in batches of 128: four steps an epoch
    assert events.Scalars("hfc_accuracy/original")[0].step == 4


def test_the_added_lines_are_at_most_four():
    text = (ROOT / "examples" / "classification_loop.py").read_text()
    marked = [line for line in text.splitlines() if line.endswith("# added")]
    assert len(marked) == 4  # the import and three more


def _environment():
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}

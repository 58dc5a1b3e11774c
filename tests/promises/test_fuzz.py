"""Damaged files and odd arguments: one sentence or an answer, never a traceback.

HFC_PROBE_FUZZ=N runs N inputs of each kind instead of the few of the default run.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from hfc_probe import InputError, Samples
from hfc_probe.cli.checkpoints import load_weights, read_checkpoint
from hfc_probe.cli.data import read_npz
from hfc_probe.cli.main import main

COUNT = int(os.environ.get("HFC_PROBE_FUZZ", 150))
often = settings(
    max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, images=np.arange(144, dtype=np.uint8).reshape(3, 3, 4, 4), labels=np.arange(3))
    return buffer.getvalue()


def network():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(2, 2))


def checkpoint(legacy=False):
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


SEEDS = {
    "npz": npz(),
    "pth": checkpoint(),
    "old.pth": checkpoint(legacy=True),
    "safetensors": save_safetensors(network().state_dict()),
}


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file cut short, with bytes changed, or with a piece of itself somewhere else."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if kind == "cut":
            del content[place:]
        elif kind == "set" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        else:
            stop = draw(st.integers(place, len(content)))
            content[place:place] = content[place:stop]
    return bytes(content)


def read(kind: str, content: bytes) -> bool:
    """Whether the file could be read; False where it was refused, in one sentence."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"file.{kind}")
        path.write_bytes(content)
        try:
            if kind == "npz":
                Samples(*read_npz(path))
            else:
                load_weights(network(), read_checkpoint(path), str(path))
        except InputError as error:
            if "\n" in str(error):
                pytest.fail(f"more than one sentence: {error}")
            return False
    return True


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files(kind):
    readable = []

    @often
    @given(damaged(SEEDS[kind]))
    def run(content):
        readable.append(read(kind, content))

    assert read(kind, SEEDS[kind])
    run()
    assert not all(readable)


OPTIONS = [
    "--model",
    "--weights",
    "--data",
    "--normalize",
    "--mean",
    "--std",
    "--radii",
    "--topk",
    "--layer",
    "--norm",
    "--crop",
    "--limit",
    "--size",
    "--device",
    "--out",
    "--nonsense",
    "--measure",
    "--precision",
    "--forwards",
    "--epochs",
    "--images",
    "--annotations",
    "--detectron2-config",
    "--dataset",
]
VALUES = st.one_of(
    st.sampled_from(
        [
            *("npz:x", "folder:", "torchvision:", "x.py:f", "cpu", "none", "nan", "inf", "-1"),
            *("1,2", ".", "torchvision:resnet18", "truncated_svd:ranks=", "help"),
        ]
    ),
    # An operating system passes no zero character in an argument.
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)


def test_odd_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @often
    @given(
        st.sampled_from(["audit", "demo", "detect", "report", ""]),
        st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), max_size=6),
    )
    def run(command, options):
        args = [a for pair in options for a in pair]
        if command == "demo":  # without data of its own it would train
            args = ["--data", "npz:missing.npz", *args]
        result = CliRunner().invoke(main, [command, *args])
        assert result.exit_code in (0, 1, 2), (args, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), args
        assert "Traceback" not in result.output

    run()
    assert not list(tmp_path.iterdir())

"""The command line as a newcomer meets it: the two jobs on real input, and every mistake."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from hfc_probe.cli.main import main
from hfc_probe.measurements.registry import build

from ..conftest import ROOT, cli_runner, needs_timm

MODEL_FILE = """
import torch
from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


def not_a_model():
    return 3


def breaks():
    raise RuntimeError("no such luck")
"""


def small():
    namespace: dict = {}
    exec(MODEL_FILE, namespace)
    return namespace["small"]()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model file, a checkpoint, images, and the mistakes people make."""
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL_FILE)
    torch.save(small().state_dict(), "good.pth")
    torch.save(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(9, 9)).state_dict(), "other.pth")
    torch.save(small(), "pickled.pth")
    torch.save({"epoch": 3, "lr": 0.1}, "empty.pth")
    torch.save({k: v * float("nan") for k, v in small().state_dict().items()}, "nan.pth")
    Path("junk.pth").write_bytes(b"this is not a checkpoint")
    Path("junk.safetensors").write_bytes(b"neither is this one")
    Path("file").write_text("a file")
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 12), dtype=np.uint8)
    labels = np.arange(24) % 4
    np.savez("good.npz", images=images, labels=labels)
    np.savez("names.npz", x=images, y=labels)
    np.savez("range.npz", images=images, labels=labels + 4)
    np.savez("negative.npz", images=images, labels=labels - 1)
    np.savez("unscaled.npz", images=images.astype(np.float32), labels=labels)
    np.savez("length.npz", images=images, labels=labels[:-1])
    np.savez("none.npz", images=images[:0], labels=labels[:0])
    np.savez("flat.npz", images=images.reshape(24, -1), labels=labels)
    np.savez("soft.npz", images=images, labels=np.eye(4)[labels])
    np.savez("objects.npz", images=images, labels=np.array(["a"] * 24, dtype=object))
    Path("junk.npz").write_bytes(b"PK\x03\x04 not really")
    np.save("single.npy", images)
    Path("nothing").mkdir()
    return tmp_path


def audit(*options: str, **changed: str | None):
    chosen: dict[str, str | None] = {
        "model": "model.py:small",
        "weights": "good.pth",
        "data": "npz:good.npz",
        "normalize": "none",
        "out": "out",
    }
    chosen |= {k.replace("_", "-"): v for k, v in changed.items()}
    args = [a for k, v in chosen.items() if v is not None for a in (f"--{k}", v)]
    return cli_runner().invoke(main, ["audit", *args, *options])


MISTAKES = {
    "weights missing": ({"weights": "no.pth"}, r"expected a file, got no.pth \(no such file\)"),
    "weights a folder": ({"weights": "nothing"}, r"got nothing \(a folder\)"),
    "not a checkpoint": ({"weights": "junk.pth"}, "got junk.pth, which cannot be read as one"),
    "not safetensors": ({"weights": "junk.safetensors"}, "got junk.safetensors, which cannot"),
    "no tensors": ({"weights": "empty.pth"}, "expected a state dict in empty.pth"),
    "a whole model": (
        {"weights": "pickled.pth"},
        r"expected tensors only .* torch.save\(model.state_dict",
    ),
    "another architecture": (
        {"weights": "other.pth"},
        r"missing 4.weight, 4.bias; unknown 1.weight, 1.bias; of another size 0.weight 2×1×3×3",
    ),
    "NaN weights": ({"weights": "nan.pth"}, "NaN or infinity in 0.weight"),
    "default weights of a file": ({"weights": "DEFAULT"}, "got DEFAULT"),
    "npz missing": ({"data": "npz:no.npz"}, r"expected a file, got no.npz"),
    "npz names": (
        {"data": "npz:names.npz"},
        "arrays named images and labels in names.npz, got x, y",
    ),
    "npz junk": ({"data": "npz:junk.npz"}, "got junk.npz, which cannot be read"),
    "npz single": ({"data": "npz:single.npy"}, "got single.npy, which cannot be read"),
    "npz objects": ({"data": "npz:objects.npz"}, "plain arrays, got objects.npz"),
    "npz flat": ({"data": "npz:flat.npz"}, r"images \(N, C, H, W\)"),
    "npz soft labels": ({"data": "npz:soft.npz"}, r"labels \(24, 4\)"),
    "npz lengths": ({"data": "npz:length.npz"}, "24 class indices"),
    "npz empty": ({"data": "npz:none.npz"}, "at least one image"),
    "labels out of range": ({"data": "npz:range.npz"}, "from 0 to 3, the model's 4 logits, got 7"),
    "labels negative": ({"data": "npz:negative.npz"}, "at least 0, got -1"),
    "not in [0, 1]": ({"data": "npz:unscaled.npz"}, "divide 8-bit values by 255"),
    "data kind": (
        {"data": "zip:x"},
        r"npz:FILE, folder:DIR, csv:FILE, .* or cifar10:DIR, got 'zip:x'",
    ),
    "folder missing": ({"data": "folder:no"}, "one folder per class, got no"),
    "folder empty": ({"data": "folder:nothing"}, "one folder of images per class, got nothing"),
    "radius negative": ({"radii": "4,-1"}, "radii: expected numbers of at least 0, got"),
    "radius no number": ({"radii": "4,x"}, "numbers separated by commas, got '4,x'"),
    "unknown layer": ({"layer": "conv1"}, "dotted name of a layer with weights, got 'conv1'"),
    "model file missing": ({"model": "mod.py:small"}, "expected a file, got mod.py"),
    "callable missing": (
        {"model": "model.py:smal"},
        "callable named 'smal' in model.py, found none; it has small",
    ),
    "not a model": ({"model": "model.py:not_a_model"}, "torch.nn.Module, got int"),
    "model raises": ({"model": "model.py:breaks"}, "RuntimeError: no such luck"),
    "model form": ({"model": "resnet18"}, "torchvision:NAME, timm:NAME, hf:NAME_OR_DIR, path"),
    "torchvision name": ({"model": "torchvision:resnet81"}, r"got 'resnet81'; did you mean resnet"),
    "timm name": ({"model": "timm:resnet81"}, r"got 'resnet81'; did you mean resnet"),
    "no weights": ({"model": "torchvision:resnet18", "weights": None}, "got none"),
    "no normalisation": ({"normalize": None}, "imagenet, cifar10 or none"),
    "mean without std": ({"mean": "0.5", "normalize": None}, "together with --std"),
    "std zero": ({"mean": "0.5", "std": "0", "normalize": None}, "std above 0"),
    "mean of two": ({"mean": "0.5,0.5", "std": "1,1", "normalize": None}, "3 channels, got 2"),
    "device": ({"device": "cuda:9"}, "a device of this machine"),
    "out is a file": ({"out": "file"}, r"file is not a directory"),
    "out below a file": ({"out": "file/deep/er"}, r"file is not a directory"),
    "norm": (
        {"measure": "fourier_heatmap:norm=0"},
        "norm: expected a number above 0, got 0",
    ),
    "crop": ({"measure": "fourier_heatmap:crop=13"}, "at most the image's 12×12"),
}


@pytest.mark.parametrize(
    "mistake", [pytest.param(m, marks=needs_timm if m == "timm name" else ()) for m in MISTAKES]
)
def test_a_mistake_is_one_sentence_status_2_and_nothing_written(here, mistake):
    changed, sentence = MISTAKES[mistake]
    result = audit(**changed)
    assert result.exit_code == 2, result.output
    assert re.search(sentence, result.stderr), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert not Path("out").exists()


def test_an_option_that_does_not_exist_gets_a_suggestion(here):
    result = audit("--radius", "4")
    assert result.exit_code == 2
    assert "--radii" in result.stderr


def test_a_small_audit_from_end_to_end(here):
    result = audit(radii="2,4", measure="fourier_heatmap:samples=6,crop=5,norm=1")
    assert result.exit_code == 0, result.stderr
    out = Path("out")
    names = ("frequency_accuracy", "kernel_spectra", "fourier_heatmap")
    for name in names:
        assert json.loads((out / f"{name}.json").read_text())["measurement"] == name
        assert Image.open(out / f"{name}.png").size[0] > 600
    assert Image.open(out / "overview.png").size[0] > 1000
    events = EventAccumulator(str(out)).Reload()
    assert {"hfc_lfc/r02", "hfc_hfc/r04", "hfc_0/smoothness_mean"} <= set(events.Tags()["scalars"])
    lines = result.stdout.strip().splitlines()
    assert lines[-1] == "tensorboard --logdir out"
    assert "background zero" in result.stdout
    assert (out / "summary.txt").read_text() in result.stdout.replace("\n\nIn out", "\n\nIn out")


def test_an_audit_logs_where_else_it_is_told(here):
    result = audit("--log", "curves.csv", "--log", "logs/more.csv", radii="2,4")
    assert result.exit_code == 0, result.stderr
    rows = Path("curves.csv").read_text().splitlines()
    saved = json.loads(Path("out/frequency_accuracy.json").read_text())["scalars"]["hfc_lfc/r02"]
    assert f"0,hfc_lfc/r02,{saved}" in rows
    assert Path("logs/more.csv").read_text().splitlines() == rows
    wrong = audit("--log", "runs")
    assert wrong.exit_code == 2
    assert "a TensorBoard directory is log_dir=" in wrong.stderr


@pytest.mark.parametrize("option", ["--heatmap", "--precision", "--crop"])
def test_a_removed_option_names_its_new_spelling(here, option):
    result = audit(option, "3")
    assert result.exit_code == 2
    assert f"{option} was removed; give the setting to the measurement" in result.stderr
    text = re.search(r"--measure (fourier_heatmap:\S+)", result.stderr)[1]
    assert build(text).name == "fourier_heatmap"


@pytest.mark.slow
def test_wrapped_checkpoints_give_the_same_numbers(here):
    plain = torch.load("good.pth", weights_only=True)
    module = {f"module.{k}": v for k, v in plain.items()}
    compiled = {f"_orig_mod.module.{k}": v for k, v in plain.items()}
    lightning = {f"model.{k}": v for k, v in plain.items()}
    wrapped = {
        "good": plain,
        "parallel": {"state_dict": module, "epoch": 3},
        "with optimizer": {"model": plain, "optimizer": {"state": {}}},
        "compiled": {"model_state": compiled},
        "lightning": {"state_dict": lightning, "hyper_parameters": {"lr": 1}},
    }
    found = {}
    for name, content in wrapped.items():
        torch.save(content, "wrapped.pth")
        assert audit(weights="wrapped.pth", out=name, radii="4").exit_code == 0
        file = Path(name, "frequency_accuracy.json")
        found[name] = json.loads(file.read_text())["scalars"]
    assert found == dict.fromkeys(wrapped, found["good"])


def test_safetensors_and_channels_last_images(here):
    save_file(torch.load("good.pth", weights_only=True), "good.safetensors")
    with np.load("good.npz") as archive:
        np.savez("last.npz", images=np.moveaxis(archive["images"], 1, -1), labels=archive["labels"])
    numbers = []
    for weights, data in (("good.pth", "npz:good.npz"), ("good.safetensors", "npz:last.npz")):
        assert audit(weights=weights, data=data, radii="4").exit_code == 0
        numbers.append(json.loads(Path("out/frequency_accuracy.json").read_text())["scalars"])
    assert numbers[0] == numbers[1]


def test_a_torchvision_checkpoint_with_its_own_number_of_classes_on_a_folder(here):
    from torchvision import models

    torch.save(models.mobilenet_v3_small(num_classes=3).state_dict(), "tv.pth")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        Path("photos", name).mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{k}.png")
    result = audit(
        model="torchvision:mobilenet_v3_small",
        weights="tv.pth",
        data="folder:photos",
        normalize=None,
        size="32",
    )
    assert result.exit_code == 0, result.output
    loaded = json.loads(Path("out/frequency_accuracy.json").read_text())
    assert loaded["samples"] == 6
    assert loaded["arrays"]["lfc_class"][0].__len__() == 3


def test_cifar10_as_torchvision_keeps_it(here, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = Path("cifar/cifar-10-batches-py")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    batch = {"data": rng.integers(0, 256, (8, 3072), dtype=np.uint8), "labels": list(range(4)) * 2}
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # Not the published files, as their sums tell; torchvision would download, and cannot here.
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    result = audit(data="cifar10:cifar")
    assert result.exit_code == 2
    assert "expected CIFAR-10 (cifar-10-batches-py) in cifar or a network" in result.stderr

    def sums(entries):
        return [[n, hashlib.md5((folder / n).read_bytes()).hexdigest()] for n, _ in entries]

    monkeypatch.setattr(CIFAR10, "train_list", sums(CIFAR10.train_list))
    monkeypatch.setattr(CIFAR10, "test_list", sums(CIFAR10.test_list))
    meta = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta})
    result = audit(data="cifar10:cifar")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out/frequency_accuracy.json").read_text())["samples"] == 8


def test_rescaling_by_command(here):
    result = audit("--rescale", "max", radii="2,4")
    assert result.exit_code == 0, result.output
    assert "every image divided by its maximum" in result.output
    assert "HFC accuracy (background zero, rescaled)" in result.output
    saved = json.loads(Path("out/frequency_accuracy.json").read_text())
    assert saved["settings"]["rescale"] == "max"


@pytest.mark.slow
def test_the_real_network_by_command(cifar_path, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hfc_probe",
            "audit",
            "--model",
            f"{ROOT / 'examples' / 'cifar_resnet.py'}:resnet20",
            "--weights",
            str(cifar_path / "resnet20.pth"),
            "--normalize",
            "imagenet",
            "--data",
            f"npz:{cifar_path / 'test.npz'}",
            "--hfc-background",
            "mean",
            "--radii",
            "4",
            "--out",
            str(tmp_path / "audit"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads((tmp_path / "audit" / "frequency_accuracy.json").read_text())
    assert abs(loaded["arrays"]["hfc_correct"][0] - 434) <= 2
    assert loaded["settings"]["hfc_background"] == "mean"
    assert "84.8 %" in done.stdout


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli_runner().invoke(main, ["demo", "--epochs", "2", "--band", "low"])
    assert done.exit_code == 0, done.output
    assert "epoch 2/2" in done.stderr  # progress
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == "tensorboard --logdir runs"
    assert "relies on low frequencies" in done.stdout
    assert "written at about 3 cycles/image" in done.stdout
    out = tmp_path / "runs" / "demo-1"
    arrays = json.loads((out / "frequency_accuracy.json").read_text())["arrays"]
    assert arrays["original"] > 0.9
    assert arrays["lfc"][0] > 0.9  # r = 4 holds the planted wave at 3
    assert arrays["hfc"][0] < 0.3
    events = EventAccumulator(str(out)).Reload()
    assert [e.step for e in events.Scalars("hfc_accuracy/original")] == [16, 32]


def test_the_demo_on_images_of_ones_own(cifar_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with np.load(cifar_path / "test.npz") as archive:
        small = archive["images"][:200, :, ::2, ::2]
        np.savez("small.npz", images=small, labels=archive["labels"][:200])
    result = cli_runner().invoke(main, ["demo", "--data", "npz:small.npz", "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert "160 training and 40 validation images" in result.output
    wrong = cli_runner().invoke(main, ["demo", "--data", "npz:larg.npz"])
    assert wrong.exit_code == 2
    assert "larg.npz (no such file)" in wrong.stderr
    assert not Path("runs/demo-2").exists()

"""FrequencyCallbacks in Ultralytics' own trainer, on models built from its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hfc_probe import Every, FrequencyAccuracy, KernelSpectra

from .conftest import same, scalars

pytest.importorskip(
    "ultralytics", reason="Ultralytics is not installed: pip install 'hfc_probe[ultralytics]'"
)
from hfc_probe_ultralytics import FrequencyCallbacks
from ultralytics import YOLO, settings

SIDE = 64
MEASUREMENTS = {
    FrequencyAccuracy(radii=(4, 16)): Every(epochs=1),
    KernelSpectra(): Every(steps=2),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures by class; nothing is reported to anybody."""
    settings.update({"sync": False, "tensorboard": False})
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 128, (SIDE, SIDE, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    return root


def train(pictures, folder, *, probe=True, epochs=2, **options):
    torch.manual_seed(0)
    yolo = YOLO("yolov8n-cls.yaml")
    given = {"measurements": MEASUREMENTS, "budget": 1.0, "strict": True} | options
    callbacks = FrequencyCallbacks(**given)
    if probe:
        callbacks.attach(yolo)
    yolo.train(
        data=str(pictures), imgsz=SIDE, epochs=epochs, batch=4, workers=0, device="cpu", seed=1,
        project=str(folder), name="run", exist_ok=True, plots=False, verbose=False, amp=False,
    )  # fmt: skip
    return yolo.trainer, callbacks.probe if probe else None


@pytest.mark.slow
def test_training_is_the_same_and_the_log_is_where_ultralytics_is(pictures, tmp_path):
    plain, _ = train(pictures, tmp_path / "plain", probe=False)
    probed, probe = train(pictures, tmp_path / "probed")
    assert same(plain.model.state_dict(), probed.model.state_dict())
    assert same(plain.ema.ema.state_dict(), probed.ema.ema.state_dict())
    found = scalars(probed.save_dir)
    assert found["hfc_lfc/r04"] == [4, 8]
    assert found["hfc_model.0.conv/smoothness_mean"] == [2, 4, 6, 8]
    # Its own TensorBoard log, which it leaves out under pytest, is in the same folder.
    assert (probed.save_dir / "results.csv").is_file()
    result = probe.results["frequency_accuracy"]
    assert result.samples == 8
    probed.model.eval()
    with torch.no_grad():
        right = [
            int((probed.model(batch["img"])[0].argmax(1) == batch["cls"]).sum())
            for batch in probed.test_loader
        ]
    assert result.scalars()["hfc_accuracy/original"] == sum(right) / 8


@pytest.mark.slow
def test_a_resumed_training_goes_on(pictures, tmp_path):
    class StopError(Exception):
        pass

    def interrupt(trainer):
        if trainer.epoch == 0:
            raise StopError

    given = {"data": str(pictures), "imgsz": SIDE, "epochs": 2, "batch": 4, "workers": 0}
    given |= {"device": "cpu", "project": str(tmp_path), "name": "run", "plots": False}
    yolo = YOLO("yolov8n-cls.yaml")
    FrequencyCallbacks(measurements=MEASUREMENTS, budget=1.0).attach(yolo)
    yolo.add_callback("on_fit_epoch_end", interrupt)
    with pytest.raises(StopError):
        yolo.train(**given, amp=False)
    again = YOLO(str(tmp_path / "run" / "weights" / "last.pt"))
    callbacks = FrequencyCallbacks(measurements=MEASUREMENTS, budget=1.0).attach(again)
    again.train(resume=True)
    assert (callbacks.probe.steps, callbacks.probe.epochs) == (8, 2)
    assert scalars(tmp_path / "run")["hfc_lfc/r04"] == [4, 8]

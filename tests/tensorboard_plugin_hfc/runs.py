"""Runs with known numbers, written by the library itself, in the time of a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file
from hfc_probe.core.intervals import wilson
from hfc_probe.measurements.fourier_heatmap.result import FourierHeatmapResult
from hfc_probe.measurements.frequency_accuracy import FrequencyAccuracyResult
from hfc_probe.measurements.kernel_spectra import KernelSpectraResult

RADII = (4, 8, 12, 16)
IMAGES = 400
CLASSES = 10
STEPS_PER_EPOCH = 20


def accuracy_result(
    low: list[float], high: list[float], original: float = 0.9, background: str = "zero"
):
    """LFC and HFC accuracies per radius out of 400 images."""

    def counts(shares):
        right = np.zeros((len(shares), 1, CLASSES), np.int64)
        right[:, 0] = np.round(np.array(shares) * IMAGES / CLASSES)[:, None]
        return right

    zeros = np.zeros(len(RADII), np.int64)
    return FrequencyAccuracyResult(
        settings={
            "radii": RADII,
            "hfc_background": background,
            "closed": True,
            "units": "cycles",
            "topk": (1,),
        },
        samples=IMAGES,
        radii=np.asarray(RADII, float),
        topk=(1,),
        counts={"original": counts([original]), "lfc": counts(low), "hfc": counts(high)},
        agreement={"lfc": zeros, "hfc": zeros},
        class_counts=np.full(CLASSES, IMAGES // CLASSES),
    )


def heatmap_result(size: int, peak: tuple[int, int], strength: float, samples: int = 200):
    """An error of 0.1 everywhere, rising by ``strength`` around ±peak."""
    axis = np.arange(size) - size // 2
    i, j = np.meshgrid(axis, axis, indexing="ij")
    error = np.full((size, size), 0.1)
    for sign in (1, -1):
        gap = (i - sign * peak[0]) ** 2 + (j - sign * peak[1]) ** 2
        error += strength * np.exp(-gap / (size / 4) ** 2)
    wrong = np.round(np.clip(error, 0, 1) * samples).astype(np.int64)
    lower, upper = wilson(wrong, samples)
    return FourierHeatmapResult(
        settings={"norm": 4.0, "score": None, "topk": 1},
        samples=samples,
        image_size=(size, size),
        estimator="exhaustive",
        quantity="error",
        axis_i=axis,
        axis_j=axis,
        error=wrong / samples,
        lower=lower,
        upper=upper,
        count=np.full((size, size), samples),
        clean_wrong=9,
        clean_loss=0.2,
        loss=None,
        further={},
        unsafe=(),
        detectable=None,
        rings={},
        passes=samples,
        elapsed=1.0,
    )


def kernel_result(count: int, rough: float, seed: int, layer: str = "conv1"):
    """RGB kernels: a smooth blob each, with ``rough`` times noise on it."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, 5)
    blob = np.exp(-2 * (axis[:, None] ** 2 + axis[None, :] ** 2))
    kernels = blob * rng.normal(1, 0.3, (count, 3, 1, 1)) + rough * rng.normal(
        size=(count, 3, 5, 5)
    )
    spectra = (np.abs(np.fft.fftshift(np.fft.fft2(kernels, (32, 32)), (2, 3))) ** 2).sum(1)
    smoothness = np.clip(0.9 - 0.6 * rough + 0.05 * rng.normal(size=count), 0, 1)
    return KernelSpectraResult(
        settings={"size": 32},
        samples=0,
        layer=layer,
        layer_type="Conv2d",
        kernels=kernels.astype(np.float32),
        spectra=spectra.astype(np.float32),
        smoothness=smoothness.astype(np.float32),
        high_frequency_ratio=np.linspace(0.1, 0.6, count).astype(np.float32),
        spectral_centroid=np.linspace(0.1, 0.3, count).astype(np.float32),
        radial_profile=np.ones((count, 17), np.float32) / 17,
    )


class RunWriter:
    """Writes a run step by step, as a training does; pictures are left out, being slow."""

    def __init__(
        self,
        path: Path,
        *,
        size: int = 16,
        uses_hfc: bool,
        parts=("curves", "heatmap", "kernels"),
        per_epoch: int = STEPS_PER_EPOCH,
    ) -> None:
        self.writer = SummaryWriter(str(path), filename_suffix=".hfc")
        self.size, self.uses_hfc, self.parts = size, uses_hfc, parts
        self.per_epoch = per_epoch

    def step(self, epoch: int, epochs: int) -> None:
        """Measurements after an epoch. HFC accuracies part from epoch 3 on, at r = 4 most."""
        step, share = epoch * self.per_epoch, epoch / epochs
        event_file.log_epoch(self.writer, epoch, step)
        if "curves" in self.parts:
            rise = min(1.0, epoch / 10)
            own = [0.6, 0.4, 0.2, 0.125] if self.uses_hfc else [0.125, 0.125, 0.1, 0.1]
            high = [0.1 + (v - 0.1) * rise if epoch >= 3 else 0.1 for v in own]
            low = [0.3 + 0.1 * k + 0.2 * rise for k in range(4)]
            self._log(accuracy_result(low, high, 0.5 + 0.4 * rise), step)
            self.writer.add_scalar("hfc_cost/share", 0.02 + 0.01 * np.sin(epoch), step)
            self.writer.add_scalar("hfc_cost/seconds/frequency_accuracy", 0.5, step)
        if "heatmap" in self.parts:
            quarter = self.size // 4
            peak = (0, quarter) if self.uses_hfc else (quarter // 2, 0)
            self._log(heatmap_result(self.size, peak, 0.7 * share), step)
        if "kernels" in self.parts:
            self._log(kernel_result(16, 0.1 + 0.6 * share * self.uses_hfc, epoch), step)
        self.writer.flush()

    def _log(self, result, step: int) -> None:
        for tag, value in result.scalars().items():
            self.writer.add_scalar(tag, value, step)
        event_file._log_tensors(result, self.writer, step)

    def close(self) -> None:
        self.writer.close()


def write_run(path: Path, epochs: int, **settings) -> None:
    """A whole run of that many epochs."""
    run = RunWriter(path, **settings)
    for epoch in range(1, epochs + 1):
        run.step(epoch, epochs)
    run.close()

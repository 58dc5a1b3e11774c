"""An engine of the Fourier heatmap that answers from a file of truth_maps.py, without a network.

A map then costs what its estimator computes and no pass, so estimators can be compared on whole
trainings in seconds, and their intervals held against the exhaustive map of the same epoch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cifar10"
sys.path.insert(0, str(ROOT))

from hfc_probe import FourierHeatmap
from hfc_probe.measurements.fourier_heatmap.engine import Outcome
from hfc_probe.measurements.fourier_heatmap.model import Memory
from hfc_probe.measurements.fourier_heatmap.run import Run


class Truth:
    """One training's margins, as truth_maps.py wrote them.

    Attributes:
        margins: ``(epochs, directions, images)``.
        clean: ``(epochs, images)``, without noise.
        error: ``(epochs, directions)``, the exhaustive map of every epoch.
        targets: ``(images,)``.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.margins, self.clean = file["margins"], file["clean"]
            self.patterns = file["patterns"].astype(np.int64)
            directions = [(int(i), int(j)) for i, j in file["directions"]]
        assert directions == FourierHeatmap().directions(32, 32)
        self.directions = directions
        self.error: NDArray[np.float64] = (self.margins < 0).mean(2)
        with np.load(DATA / "jpeg.npz") as file:
            self.targets = torch.from_numpy(file["test_labels"][: self.clean.shape[1]]).long()

    def exhaustive(self) -> int:
        """Passes of an exhaustive map."""
        return self.clean[0].size * (len(self.directions) + 1)


class Oracle:
    """What an :class:`Engine` is to an estimator, for one epoch of a training."""

    device = torch.device("cpu")

    def __init__(self, truth: Truth, epoch: int) -> None:
        self.truth, self.epoch = truth, epoch
        self.directions, self.forwards = truth.directions, 0
        # What an estimator reads of its samples and its subject.
        self.samples = _Targets(truth.targets)
        self.subject = _Subject()

    def _outcome(self, margins: NDArray[np.float16]) -> Outcome:
        self.forwards += len(margins)
        found = torch.from_numpy(margins.astype(np.float32))
        return Outcome(found[:, None] < 0, torch.nn.functional.softplus(-found), found)

    def clean(self) -> Outcome:
        return self._outcome(self.truth.clean[self.epoch])

    def run(self, cells: NDArray[np.int64], images: NDArray[np.int64]) -> Outcome:
        return self._outcome(self.truth.margins[self.epoch, cells, images])

    def distribute(self, jobs: Iterable[Any], work: Callable[[Any], Outcome]) -> Iterator[Outcome]:
        return map(work, jobs)

    def sign_patterns(self) -> NDArray[np.int64]:
        return self.truth.patterns


class _Targets:
    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


class _Subject:
    leads, batch_size = True, 1024

    def agree(self, value: Any) -> Any:
        return value

    def progress(self, total: int, unit: str) -> Any:
        return nullcontext(lambda count: None)


def run_of(truth: Truth, epoch: int, settings: FourierHeatmap, memory: Memory | None = None) -> Run:
    """The measurement of one epoch, about to start."""
    grid = settings.grid(32, 32)
    engine: Any = Oracle(truth, epoch)
    return Run(settings, engine, grid, 4.0, time.perf_counter(), memory)

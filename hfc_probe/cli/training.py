"""The main job of the command line: train a small network with a probe attached."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.samples import Samples
from ..measurements import FourierHeatmap, FrequencyAccuracy, KernelSpectra
from ..probe.attach import attach
from ..probe.probe import Probe
from ..probe.schedule import Every


class SmallCNN(nn.Module):
    """Three convolutions with BatchNorm; about 25,000 weights, any image size from 16 pixels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def train_with_probe(
    train: Any,
    val: Any,
    *,
    classes: int,
    epochs: int,
    log_dir: Path,
    device: torch.device,
    seed: int = 0,
) -> tuple[nn.Module, Probe]:
    """Train on data sets of (image in [0, 1], class), measuring before and after every epoch.

    The validation images may also be :class:`Samples`.

    Returns:
        The trained model and its probe, closed, with everything measured at the end.
    """
    torch.manual_seed(seed)
    loader = DataLoader(train, batch_size=128, shuffle=True)
    channels = int(train[0][0].shape[0])
    model = SmallCNN(channels, classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=epochs * len(loader)
    )
    with attach(
        model,
        val if isinstance(val, Samples) else DataLoader(val, batch_size=256),
        optimizer=optimizer,
        log_dir=log_dir,
        measurements={
            FrequencyAccuracy(): Every(epochs=1),
            KernelSpectra(): Every(epochs=1),
            FourierHeatmap(norm=None, forwards=8000): Every(epochs=1),
        },
        limit=512,
        budget=1.0,  # a demonstration: show everything, whatever it costs
        strict=True,
    ) as probe:
        began = time.perf_counter()
        for epoch in range(epochs):
            model.train()
            right = seen = 0
            bar = tqdm(loader, desc=f"epoch {epoch + 1}/{epochs}", leave=False, dynamic_ncols=True)
            for images, targets in bar:
                images, targets = images.to(device), targets.to(device)
                logits = model(images)
                optimizer.zero_grad()
                F.cross_entropy(logits, targets).backward()
                optimizer.step()
                schedule.step()
                right += int((logits.argmax(1) == targets).sum())
                seen += len(targets)
            probe.end_epoch()
            scalars = probe.results["frequency_accuracy"].scalars()
            print(
                f"epoch {epoch + 1}/{epochs}  train accuracy {right / seen:.3f}  validation "
                f"{scalars['hfc_accuracy/original']:.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return model, probe

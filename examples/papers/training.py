"""The training loop that all recipes share, its settings, and its networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

import hfc_probe
from hfc_probe import Every, Measurement, Samples, attacks, fourier

from .claims import Numbers

Change = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """The settings of a run; by default those of Wang et al., CVPR 2020.

    A recipe subclasses it for settings of its own, which are then frozen and compared as these
    are: a finished run is read back only if all of them are the same.
    """

    network: str = "resnet18"
    epochs: int = 100
    batch_size: int = 100
    optimizer: str = "Adam"
    learning_rate: float = 1e-4
    rescale: str | None = "max"  # each training image divided by its maximum, as the authors' code
    train_images: int | None = None  # all
    test_images: int | None = None
    measured: int = 10_000  # images of each set that a probe looks at
    planted: tuple[tuple[str, object], ...] = ()  # of PlantedFrequencies
    seeds: tuple[int, ...] = (0, 1, 2)


def network(name: str, classes: int, channels: int = 3) -> nn.Module:
    """A network with Xavier initialisation: "cnn", "plain" (cnn without BatchNorm), "resnet18"."""
    if name == "resnet18":  # for small images, as the authors': no stride before the first block
        model: nn.Module = resnet18(num_classes=classes)
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:

        def block(inputs: int, outputs: int, side: int) -> list[nn.Module]:
            norm = {"cnn": [nn.BatchNorm2d(outputs)], "plain": []}[name]
            return [nn.Conv2d(inputs, outputs, side, padding=side // 2), *norm, nn.ReLU()]

        pool = nn.MaxPool2d(2)
        layers = [*block(channels, 16, 5), pool, *block(16, 32, 3), pool, *block(32, 64, 3)]
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, classes)]
        model = nn.Sequential(*layers, *head)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return model.to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU


def against_pgd(epsilon: float, steps: int) -> Change:
    """Adversarial training: every batch is attacked by PGD from a random start."""

    def change(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        model.eval()
        start = torch.empty_like(images).uniform_(-epsilon, epsilon)
        images = attacks.pgd(model, images, targets, epsilon=epsilon, steps=steps, start=start)
        model.train()
        return images, targets

    return change


class Trained:
    """A trained model and what its probes saw.

    `curves` has for each "SET/TAG" a number per measurement, in order, each `[value, lower,
    upper]` or `[value]`; `results` the last results themselves by "SET/MEASUREMENT".
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.curves: dict[str, list[list[float]]] = {}
        self.results: dict[str, hfc_probe.Result] = {}

    def see(self, name: str, probe: hfc_probe.Probe) -> None:
        for key, result in probe.results.items():
            if self.results.get(f"{name}/{key}") is result:
                continue  # it was not due
            self.results[f"{name}/{key}"] = result
            intervals = result.intervals()
            for tag, value in result.scalars().items():
                number = [value, *intervals.get(tag, ())]
                self.curves.setdefault(f"{name}/{tag}", []).append(number)

    def numbers(self, prefix: str) -> Numbers:
        """The last of every curve by "PREFIX/SET/TAG", whole curves by "curves/PREFIX/SET/TAG"."""
        last = {f"{prefix}/{key}": curve[-1] for key, curve in self.curves.items()}
        return last | {f"curves/{prefix}/{key}": curve for key, curve in self.curves.items()}


def train(
    setting: Training,
    data: Samples,
    seed: int,
    log_dir: Path,
    *,
    watch: Mapping[str, Samples],
    measurements: Mapping[Measurement, Every] | Iterable[Measurement],
    change: Change | None = None,
) -> Trained:
    """Train a network, with a probe per named set in `watch`, by default after every epoch.

    Every set has an event file of its own at `log_dir/NAME`, so TensorBoard shows them as runs
    to compare. One seed gives the same initial weights and the same order of images, whatever
    the recipe changes about the batches.

    Args:
        change: `change(model, images, targets)` gives the batch that is trained on, from images
            in pixel space; targets may be probabilities.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(setting.network, int(data.targets.max()) + 1, data.image_shape[0]).to(device)
    optimizer = getattr(torch.optim, setting.optimizer)(
        model.parameters(), lr=setting.learning_rate
    )
    order = torch.Generator().manual_seed(seed)
    trained = Trained(model)
    with ExitStack() as stack:
        probes = {
            name: stack.enter_context(
                hfc_probe.attach(
                    model,
                    samples,
                    optimizer=optimizer,
                    log_dir=log_dir / name,
                    measurements=measurements,
                    limit=setting.measured,
                    budget=1.0,
                    strict=True,
                    final=False,
                )
            )
            for name, samples in watch.items()
        }
        for _ in range(setting.epochs):
            model.train()
            for index in torch.randperm(len(data), generator=order).split(setting.batch_size):
                step(setting, model, optimizer, data, index, change)
            for name, probe in probes.items():
                probe.end_epoch()
                trained.see(name, probe)
    model.eval()
    return trained


def step(setting: Training, model, optimizer, data: Samples, index: Tensor, change) -> None:
    """One step of the optimizer on the images at these indices."""
    device = next(model.parameters()).device
    images, targets = data.pixels(index).to(device), data.targets[index].to(device)
    if change is not None:
        images, targets = change(model, images, targets)
    loss = F.cross_entropy(model(fourier.rescaled(images, setting.rescale)), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seconds_per_training(setting: Training, data: Samples, classes: int) -> float:
    """How long one plain training will take, from a few steps; probes are not counted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(setting.network, classes, data.image_shape[0]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    index = torch.arange(min(setting.batch_size, len(data)))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        step(setting, model, optimizer, data, index, None)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[1] * setting.epochs * math.ceil(len(data) / setting.batch_size)

"""The training loop that all recipes share, and its settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

import hfc_probe
from hfc_probe import Every, Measurement, PixelSpace, Samples, attacks, fourier

from ..cifar_resnet import resnet20
from .claims import Numbers
from .data import Data
from .networks import network

FIVE = (0, 1, 2, 3, 4)  # seeds: Student's interval of three is twice as wide

Change = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """The settings of a run; by default those of Wang et al., CVPR 2020.

    A recipe subclasses it for settings of its own, which are then frozen and compared as these
    are: a finished run is read back only if all of them are the same.
    """

    network: str = "resnet18"  # or a ResNet-20's weights in the data folder: nothing is trained
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

    @property
    def given(self) -> bool:
        """Whether the network is trained already."""
        return self.network.endswith(".pth")


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
    """A trained model and what its probe saw.

    `curves` has for each "SET/TAG" (of weights alone: "TAG") a number per measurement, in order,
    each `[value, lower, upper]` or `[value]`; `results` the last results as in `probe.results`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.curves: dict[str, list[list[float]]] = {}
        self.results: dict[str, hfc_probe.Result] = {}

    def see(self, probe: hfc_probe.Probe) -> None:
        for key, result in probe.results.items():
            if self.results.get(key) is result:
                continue  # it was not due
            self.results[key] = result
            of_set = key.removesuffix(key.rpartition("/")[2])
            intervals = result.intervals()
            for tag, value in result.scalars().items():
                number = [value, *intervals.get(tag, ())]
                self.curves.setdefault(f"{of_set}{tag}", []).append(number)

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
    penalty: Callable[[nn.Module], Tensor] | None = None,
) -> Trained:
    """Train a network, with a probe on the named sets in `watch`, by default after every epoch.

    One seed gives the same initial weights and the same order of images, whatever
    the recipe changes about the batches.

    Args:
        change: `change(model, images, targets)` gives the batch that is trained on, from images
            in pixel space; targets may be probabilities.
        penalty: of the model, added to the loss.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(setting.network, int(data.targets.max()) + 1, data.image_shape[0]).to(device)
    optimizer = getattr(torch.optim, setting.optimizer)(
        model.parameters(), lr=setting.learning_rate
    )
    order = torch.Generator().manual_seed(seed)
    trained = Trained(model)
    probe = hfc_probe.attach(
        model,
        watch,
        optimizer=optimizer,
        log_dir=log_dir,
        measurements=measurements,
        limit=setting.measured,
        budget=1.0,
        strict=True,
        final=False,
    )
    with probe:
        for _ in range(setting.epochs):
            model.train()
            for index in torch.randperm(len(data), generator=order).split(setting.batch_size):
                step(setting, model, optimizer, data, index, change, penalty)
            probe.end_epoch()
            trained.see(probe)
    model.eval()
    return trained


def given_or_trained(
    setting: Training,
    data: Data,
    seed: int,
    log_dir: Path,
    *,
    watch: Mapping[str, Samples],
    measurements: Iterable[Measurement],
) -> Trained:
    """The network that is given, or one trained on `data.train`; measured once, at its end.

    The ResNet-20 stands behind its normalisation, so that it takes pixel space as the others do.
    """
    if not setting.given:
        due = Every(epochs=setting.epochs)
        return train(
            setting, data.train, seed, log_dir,
            watch=watch, measurements=dict.fromkeys(measurements, due),
        )  # fmt: skip
    model = resnet20()
    model.load_state_dict(torch.load(data.root / setting.network, weights_only=True))
    pixels = PixelSpace.imagenet()
    trained = Trained(nn.Sequential(v2.Normalize(pixels.mean, pixels.std), model).eval())
    probe = hfc_probe.attach(
        trained.model, watch, log_dir=log_dir, measurements=measurements,
        limit=setting.measured, strict=True, final=False,
    )  # fmt: skip
    with probe:
        probe.measure()
        trained.see(probe)
    return trained


def step(
    setting: Training, model, optimizer, data: Samples, index: Tensor, change=None, penalty=None
) -> None:
    """One step of the optimizer on the images at these indices."""
    device = next(model.parameters()).device
    images, targets = data.pixels(index).to(device), data.targets[index].to(device)
    if change is not None:
        images, targets = change(model, images, targets)
    loss = F.cross_entropy(model(fourier.rescaled(images, setting.rescale)), targets)
    if penalty is not None:
        loss = loss + penalty(model)
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
        step(setting, model, optimizer, data, index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[1] * setting.epochs * math.ceil(len(data) / setting.batch_size)

"""Exhaustive Fourier heatmaps after every epoch of real trainings: the truth for the estimators.

    python tests/benchmarks/truth_maps.py --out FOLDER [--device cuda] [--epochs 10]

Trains networks that no estimator was developed on, on CIFAR-10, and keeps of every epoch each
image's margin in every direction (the target's logit minus the largest other; below 0 is an
error). Whoever has the margins can run any estimator against any choice of images and directions
without the network. One file a training, ``NAME.npz``:

    margins     (epochs, directions, images) float16
    clean       (epochs, images) float16, without noise
    directions  (directions, 2): (i, j) of each
    patterns    (directions, images) uint8: which channels' signs differ from the first's
    accuracy    (epochs,) on the same images
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cifar10"
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from hfc_probe import FourierHeatmap, PixelSpace, Samples
from hfc_probe.measurements.fourier_heatmap.engine import Engine
from hfc_probe.model.subject import subject_of

PIXELS = PixelSpace.cifar10()


def residual() -> nn.Module:
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def plain() -> nn.Module:
    """A VGG without BatchNorm."""
    layers: list[nn.Module] = []
    width = 3
    for wide in (64, 64, 0, 128, 128, 0, 256, 256, 0):
        if wide:
            layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU()]
            width = wide
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(4096, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)
    )


class Transformer(nn.Module):
    """A small vision transformer on patches of 4 × 4."""

    def __init__(self, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 3, 2 * width, 0.1, "gelu", True, True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.body(tokens).mean(1))


def thin() -> nn.Module:
    from cifar_resnet import resnet20

    return resnet20()


# Network, optimizer, and whether the learning rate drops at once (a jump) or by a cosine.
TRAININGS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "resnet18_step": (residual, "sgd", True),
    "vgg_adam": (plain, "adam", False),
    "transformer": (Transformer, "adamw", False),
    "resnet20_cosine": (thin, "sgd", False),
}


@functools.cache
def images_of(part: str) -> tuple[Tensor, Tensor]:
    with np.load(DATA / "jpeg.npz") as file:
        data, offsets = file[f"{part}_bytes"], file[f"{part}_offsets"]
        labels = torch.from_numpy(file[f"{part}_labels"].astype(np.int64))
    decoded = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(data[a:b].tobytes())))
            for a, b in itertools.pairwise(offsets)
        ]
    )
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous(), labels


def augmented(images: Tensor) -> Tensor:
    """Crops of a padded image and mirror images, on the device."""
    count, device = len(images), images.device
    padded = F.pad(images, (4, 4, 4, 4))
    row, column = torch.randint(0, 9, (2, count, 1), device=device)
    line = torch.arange(32, device=device)
    across = torch.where(torch.rand(count, 1, device=device) < 0.5, line, 31 - line) + column
    index = torch.arange(count, device=device)[:, None, None]
    return padded[index, :, (row + line)[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def margins_of(model: nn.Module, samples: Samples, batch: int) -> tuple[np.ndarray, ...]:
    """Margins in every direction and without noise, and the sign patterns."""
    settings = FourierHeatmap(samples=len(samples))
    directions = settings.directions(32, 32)
    with subject_of(model, samples, pixels=PIXELS, batch_size=batch) as subject:
        engine = Engine(subject, samples, directions, norm=4.0, seed=0)
        clean = engine.clean().margin.cpu().numpy()
        found = np.empty((len(directions), len(samples)), np.float16)
        images = np.arange(len(samples))
        for cell in range(len(directions)):
            outcome = engine.run(np.full(len(samples), cell), images)
            found[cell] = outcome.margin.cpu().numpy()
        return found, clean.astype(np.float16), engine.sign_patterns().astype(np.uint8)


def train(
    name: str, epochs: int, count: int, device: torch.device, out: Path, until: float
) -> None:
    make, kind, drops = TRAININGS[name]
    torch.manual_seed(0)
    model = make().to(device)
    images, labels = (x.to(device) for x in images_of("train"))
    test, targets = images_of("test")
    samples = Samples(test[:count], targets[:count])
    steps = len(images) // 256
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    if drops:
        schedule: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, int(0.6 * epochs) * steps, 0.1
        )
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    kept: dict[str, list[np.ndarray]] = {"margins": [], "clean": []}
    for epoch in range(epochs):
        began = time.perf_counter()
        model.train()
        order = torch.randperm(len(images), device=device)
        for step in range(steps):
            index = order[256 * step : 256 * (step + 1)]
            batch = augmented(images[index].float() / 255)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = F.cross_entropy(model(PIXELS.normalize(batch)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        trained = time.perf_counter()
        model.eval()
        margins, clean, patterns = margins_of(model, samples, count)
        kept["margins"].append(margins)
        kept["clean"].append(clean)
        accuracy = float((clean > 0).mean())
        print(
            f"{name} epoch {epoch + 1}: {100 * accuracy:.1f} % right, mean error of the map "
            f"{(margins < 0).mean():.3f}; training {trained - began:.1f} s, map "
            f"{time.perf_counter() - trained:.1f} s",
            flush=True,
        )
        if time.perf_counter() > until:
            break
    np.savez_compressed(
        out / f"{name}.npz",
        margins=np.stack(kept["margins"]),
        clean=np.stack(kept["clean"]),
        directions=np.array(FourierHeatmap().directions(32, 32)),
        patterns=patterns,
        accuracy=(np.stack(kept["clean"]) > 0).mean(1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--trainings", default=",".join(TRAININGS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each training")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.trainings.split(","):
        until = time.perf_counter() + options.seconds
        train(
            name, options.epochs, options.images, torch.device(options.device), options.out, until
        )


if __name__ == "__main__":
    main()

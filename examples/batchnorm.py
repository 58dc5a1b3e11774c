"""Two runs to compare in TensorBoard's HFC tab: the same network with and without BatchNorm.

python examples/batchnorm.py --out runs/batchnorm
tensorboard --logdir runs/batchnorm      # then open http://localhost:6006/#hfc

Every image carries its class twice, in a low and in a weaker high frequency, so either is
enough: which one a network relies on is its own choice. Wang et al. (CVPR 2020, section 5.1) found
that with BatchNorm networks pick up more of both components, above all at small radii.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import hfc_probe
from hfc_probe.datasets import PlantedFrequencies


def network(batchnorm: bool, classes: int) -> nn.Module:
    """Three 3×3 or 5×5 convolutions; the two forms differ in nothing but the normalisation."""

    def block(inputs: int, outputs: int, side: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if batchnorm else []
        return [nn.Conv2d(inputs, outputs, side, padding=side // 2), *norm, nn.ReLU()]

    pool = nn.MaxPool2d(2)
    layers = [*block(3, 16, 5), pool, *block(16, 32, 3), pool, *block(32, 32, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def train(batchnorm: bool, log_dir: Path, epochs: int, images: int = 1024) -> hfc_probe.Probe:
    """Train one of the two, measuring after every epoch."""
    torch.manual_seed(0)
    planted = {"strength": 3.0, "high_strength": 2.0}
    train_set = PlantedFrequencies(images, **planted)
    val_set = PlantedFrequencies(min(256, images), train=False, **planted)
    loader = DataLoader(train_set, batch_size=64, shuffle=True)
    model = network(batchnorm, len(train_set.classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with hfc_probe.attach(
        model,
        DataLoader(val_set, batch_size=128),
        optimizer=optimizer,
        log_dir=log_dir,
        measurements={
            hfc_probe.FrequencyAccuracy(): hfc_probe.Every(epochs=1),
            hfc_probe.KernelSpectra(): hfc_probe.Every(epochs=1),
            hfc_probe.FourierHeatmap(samples=16, norm=None): hfc_probe.Every(epochs=5),
        },
        budget=1.0,
    ) as probe:
        for epoch in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            probe.end_epoch()
            accuracy = probe.results["frequency_accuracy"].scalars()["hfc_accuracy/original"]
            print(
                f"{log_dir.name}, epoch {epoch + 1}/{epochs}: accuracy {accuracy:.3f}", flush=True
            )
    return probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/batchnorm"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=1024)
    options = parser.parse_args()
    for name, batchnorm in (("with-batchnorm", True), ("without-batchnorm", False)):
        probe = train(batchnorm, options.out / name, options.epochs, options.images)
        print(probe.results["frequency_accuracy"].sentence())
    print(f"\nHFC tab: http://localhost:6006/#hfc\ntensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()

r"""Small networks that stand beside a published one in docs/reference_results.csv.

Each is trained here, from 5,085 of CIFAR-10's 50,000 training images, in half a minute of one
core: they reach about 50 %, and show how training moves the frequencies that a network relies on.
They are no published weights. The ResNet-20 is one: that of akamaster/pytorch_resnet_cifar10,
trained on all 50,000 images; its file resnet20.pth goes into the same folder.

    python examples/reference_networks.py --data cifar10/train.npz --out networks
    cd networks
    hfc-probe reference ../examples/reference_networks.py:plain … \\
        --data npz:../cifar10/test.npz --normalize imagenet --out ../docs/reference_results.csv

The first line of each function's documentation goes into the table as the network's training.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from cifar_resnet import CifarResNet
from torch import Tensor, nn
from torch.nn import functional as F

from hfc_probe import PixelSpace
from hfc_probe.transforms import AmplitudePhaseMix, LowPass

PIXELS = PixelSpace.imagenet()  # that of the published ResNet-20, for all


class Small(nn.Module):
    """Three convolutions with BatchNorm, 25,000 weights."""

    def __init__(self, pool: type[nn.Module] = nn.MaxPool2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.pool = pool(2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return self.head(F.relu(self.bn3(self.conv3(x))).mean((2, 3)))


def resnet20(folder: str = ".") -> nn.Module:
    """Published weights of akamaster/pytorch_resnet_cifar10, all 50,000 images, 200 epochs."""
    return _loaded(CifarResNet(3), folder, "resnet20")


def unaugmented(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, no augmentation."""
    return _loaded(Small(), folder, "unaugmented")


def plain(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, crop and flip."""
    return _loaded(Small(), folder, "plain")


def noise(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, crop, flip, Gaussian noise of 0.1."""
    return _loaded(Small(), folder, "noise")


def low_pass(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, crop, flip, LFC(8) of every image."""
    return _loaded(Small(), folder, "low_pass")


def apr(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, crop, flip, APR-P."""
    return _loaded(Small(), folder, "apr")


def average_pooling(folder: str = ".") -> nn.Module:
    """Three convolutions, 5,085 images, 10 epochs, crop and flip; average pooling."""
    return _loaded(Small(nn.AvgPool2d), folder, "average_pooling")


NETWORKS = ("unaugmented", "plain", "noise", "low_pass", "apr", "average_pooling")
FILTER, APR = LowPass(8), AmplitudePhaseMix()


def augmented(images: Tensor, how: str) -> Tensor:
    """A batch in pixel space as the network of that name is trained on it."""
    if how == "unaugmented":
        return images
    n = len(images)
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(9, (2, n, 1, 1, 1))
    rows = (top + torch.arange(32)[:, None]).expand(n, 3, 32, 32)
    columns = (left + torch.arange(32)).expand(n, 3, 32, 32)
    which, channel = torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None]
    images = padded[which, channel, rows, columns]
    images = torch.where(torch.rand(n, 1, 1, 1) < 0.5, images.flip(3), images)
    if how == "noise":
        return (images + 0.1 * torch.randn_like(images)).clamp(0, 1)
    if how == "low_pass":
        return FILTER(images)
    return APR(images) if how == "apr" else images


def train(name: str, images: Tensor, labels: Tensor, epochs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    model = Small(nn.AvgPool2d if name == "average_pooling" else nn.MaxPool2d)
    batch, rate = 64, 1e-2
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            loss = F.cross_entropy(
                model(PIXELS.normalize(augmented(images[chosen], name))), labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def _loaded(model: nn.Module, folder: str, name: str) -> nn.Module:
    model.load_state_dict(torch.load(Path(folder) / f"{name}.pth", weights_only=True))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="train.npz: images (N, 3, 32, 32), labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--epochs", type=int, default=10)
    chosen = parser.parse_args()
    with np.load(chosen.data) as arrays:
        images = torch.from_numpy(arrays["images"]).float() / 255
        labels = torch.from_numpy(arrays["labels"])
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.networks:
        began = time.process_time()
        model = train(name, images, labels, chosen.epochs)
        torch.save(model.state_dict(), chosen.out / f"{name}.pth")
        print(f"{name}: {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

r"""Small networks that stand beside a published one in docs/reference_results.csv.

Each is trained here, from 5,085 of CIFAR-10's 50,000 training images, in a minute or two of one
core: they reach about 50 %, and show how training moves the frequencies that a network relies on.
They are no published weights. The ResNet-20 is one: that of akamaster/pytorch_resnet_cifar10,
trained on all 50,000 images; its file resnet20.pth goes into the same folder.

    python examples/reference_networks.py --data cifar10/train.npz --out networks
    hfc-probe reference examples/reference_networks.py:plain,folder=networks … \\
        --data npz:cifar10/test.npz --normalize imagenet --out docs/reference_results.csv

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


class Patches(nn.Module):
    """A transformer on patches of 4 by 4 pixels, with a learned position each."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.layers(x).mean(1))


class Blurred(nn.Module):
    """A stem of 5 by 5 kernels and average pooling before three further convolutions."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (32, 64, 64), []
        layers += [nn.Conv2d(3, 32, 5, padding=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        for before, after in zip((32, *widths), widths, strict=False):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [nn.AvgPool2d(2), conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def _resnet8() -> nn.Module:
    return CifarResNet(1)


def resnet20(folder: str = ".") -> nn.Module:
    """Published weights of akamaster/pytorch_resnet_cifar10, all 50,000 images, 200 epochs."""
    return _loaded(CifarResNet(3), folder, "resnet20")


def unaugmented(folder: str = ".") -> nn.Module:
    """ResNet-8, 5,085 images, 10 epochs, no augmentation."""
    return _loaded(_resnet8(), folder, "unaugmented")


def plain(folder: str = ".") -> nn.Module:
    """ResNet-8, 5,085 images, 10 epochs, random crop and flip."""
    return _loaded(_resnet8(), folder, "plain")


def noise(folder: str = ".") -> nn.Module:
    """ResNet-8, 5,085 images, 10 epochs, random crop and flip, Gaussian noise of 0.1."""
    return _loaded(_resnet8(), folder, "noise")


def low_pass(folder: str = ".") -> nn.Module:
    """ResNet-8, 5,085 images, 10 epochs, random crop and flip, LFC(8) of every image."""
    return _loaded(_resnet8(), folder, "low_pass")


def apr(folder: str = ".") -> nn.Module:
    """ResNet-8, 5,085 images, 10 epochs, random crop and flip, APR-P."""
    return _loaded(_resnet8(), folder, "apr")


def average_pooling(folder: str = ".") -> nn.Module:
    """Four convolutions with average pooling, 5,085 images, 15 epochs, random crop and flip."""
    return _loaded(Blurred(), folder, "average_pooling")


def transformer(folder: str = ".") -> nn.Module:
    """Transformer of 2 layers on 4×4 patches, 5,085 images, 20 epochs, random crop and flip."""
    return _loaded(Patches(), folder, "transformer")


# How each is made, and for how many epochs it is trained.
NETWORKS = {
    **dict.fromkeys(("unaugmented", "plain", "noise", "low_pass", "apr"), (_resnet8, 10)),
    "average_pooling": (Blurred, 15),
    "transformer": (Patches, 20),
}
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


def train(name: str, images: Tensor, labels: Tensor, epochs: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    build, usual = NETWORKS[name]
    model, epochs, batch = build(), epochs or usual, 64
    rate = 1e-3 if name == "transformer" else 1e-2
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
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, help="of each network; by default its own number")
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

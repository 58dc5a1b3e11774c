"""Images to train and test on, as `Samples`: planted, CIFAR-10, MNIST, FashionMNIST, folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, io
from torchvision.transforms import v2

from hfc_probe import InputError, Samples
from hfc_probe.datasets import PlantedFrequencies

DATASETS = ("planted", "cifar10", "mnist", "fashion_mnist", "folder", "coco")
PARTS = ("train", "test")
HERE = Path(__file__).resolve().parents[3] / "shared" / "data"
_CIFAR = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


class Data(NamedTuple):
    """Training and test images in pixel space, and the names of their classes."""

    train: Samples
    test: Samples
    classes: list[str]
    root: Path
    name: str


def load(dataset: str, root: Path, setting, seed: int) -> Data:
    """`setting.train_images` and `setting.test_images` of a data set, chosen at random by seed.

    `root` holds `cifar10/jpeg.npz` and `mnist.npz`, or what torchvision downloads, or, for
    "folder", `train/CLASS/…` and `val/CLASS/…` (an ImageNet subset, cropped to 224 pixels).
    A network that is given has `cifar10/train.npz` and `test.npz`, the published pixels.
    """
    sizes = (setting.train_images, setting.test_images)
    if setting.given:
        if not (root / setting.network).is_file() or dataset != "cifar10":
            raise InputError(
                f"--data: expected {setting.network} and the cifar10 images that it was trained "
                f"on at {root}, got none or {dataset}; pass their folder with --data"
            )
        sets = [
            _arrays(root / "cifar10" / f"{part}.npz", "", n, seed)
            for part, n in zip(PARTS, sizes, strict=True)
        ]
        return Data(*sets, classes=_CIFAR, root=root, name=dataset)
    if dataset == "planted":
        options = dict(setting.planted)
        kinds = [
            PlantedFrequencies(count, train=train, seed=seed, **options)
            for train, count in zip((True, False), sizes, strict=True)
        ]
        sets = [Samples.collect(DataLoader(k, 256), limit=None) for k in kinds]
        return Data(*sets, classes=kinds[0].classes, root=root, name=dataset)
    if dataset == "cifar10" and (root / "cifar10" / "jpeg.npz").is_file():
        with np.load(root / "cifar10" / "jpeg.npz") as archive:
            sets = [_jpegs(archive, part, n, seed) for part, n in zip(PARTS, sizes, strict=True)]
        return Data(*sets, classes=_CIFAR, root=root, name=dataset)
    if dataset == "mnist" and (root / "mnist.npz").is_file():
        sets = [
            _arrays(root / "mnist.npz", f"{part}_", n, seed)
            for part, n in zip(PARTS, sizes, strict=True)
        ]
        return Data(*sets, classes=[str(k) for k in range(10)], root=root, name=dataset)
    kinds = _torchvision(dataset, root)
    sets = [
        Samples.collect(DataLoader(k, 256, num_workers=4), limit=n, seed=seed)
        for k, n in zip(kinds, sizes, strict=True)
    ]
    return Data(*sets, classes=kinds[0].classes, root=root, name=dataset)


def other(data: Data, setting, seed: int) -> Samples:
    """As many images as `data.test` has, of none of its classes.

    They are MNIST's (beside MNIST: FashionMNIST's), as large as the others and with as many
    channels; beside planted images they are noise with no wave in it.
    """
    count, (channels, *size) = len(data.test), data.test.image_shape
    if data.name == "planted":
        options = {"strength": 0.0, "high_strength": 0.0, "train": False, "seed": seed}
        noise = PlantedFrequencies(count, size=size[0], **options)
        return Samples.collect(DataLoader(noise, 256), limit=None)
    name = "fashion_mnist" if data.name == "mnist" else "mnist"
    setting = replace(setting, network="", train_images=1, test_images=count)
    unknown = load(name, data.root, setting, seed).test
    images = unknown.pixels()
    images = nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return Samples(images.expand(-1, channels, -1, -1), unknown.targets)


def _arrays(file: Path, prefix: str, count: int | None, seed: int) -> Samples:
    with np.load(file) as archive:
        whole = Samples(archive[f"{prefix}images"], archive[f"{prefix}labels"])
    return whole.subset(count, seed=seed)


def _torchvision(dataset: str, root: Path):
    if dataset == "folder":
        crop = v2.Compose([v2.Resize(256), v2.CenterCrop(224), _TO_TENSOR])
        return [datasets.ImageFolder(root / part, crop) for part in ("train", "val")]
    kind = {
        "cifar10": datasets.CIFAR10,
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
    }[dataset]
    try:
        return [kind(root, train=t, transform=_TO_TENSOR, download=True) for t in (True, False)]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"--data: expected {dataset} at {root} or a network to download it, got {error}; pass "
            "its folder with --data"
        ) from error


def _jpegs(archive, part: str, count: int | None, seed: int) -> Samples:
    data, offsets = archive[f"{part}_bytes"], archive[f"{part}_offsets"]
    labels = torch.from_numpy(archive[f"{part}_labels"].astype(np.int64))
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    files = (torch.from_numpy(data[offsets[k] : offsets[k + 1]]) for k in chosen.tolist())
    images = torch.stack([io.decode_jpeg(file, io.ImageReadMode.RGB) for file in files])
    return Samples(images, labels[chosen])

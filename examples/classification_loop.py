"""A plain training loop on CIFAR-10, with the lines that attach the probe marked.

    python examples/classification_loop.py --data cifar10:data --epochs 10
    python examples/classification_loop.py --data npz:train.npz --epochs 2

`npz:FILE` holds `images` (N, 3, 32, 32) uint8 and `labels` (N,); a fifth is held out.
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

import hfc_probe  # added

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
EVALUATE = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
AUGMENT = transforms.Compose(
    [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), EVALUATE]
)


class Npz(Dataset):
    """Images and labels of an npz file, as PIL images behind a transform."""

    def __init__(self, path, transform):
        with np.load(path) as archive:
            self.images, self.labels = archive["images"], archive["labels"]
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = transforms.functional.to_pil_image(self.images[index].transpose(1, 2, 0))
        return self.transform(image), int(self.labels[index])


def load(data):
    kind, _, path = data.partition(":")
    if kind == "cifar10":
        train = datasets.CIFAR10(path, train=True, transform=AUGMENT, download=True)
        return train, datasets.CIFAR10(path, train=False, transform=EVALUATE, download=True)
    order = torch.randperm(len(Npz(path, None)), generator=torch.Generator().manual_seed(0))
    held = len(order) // 5
    return (
        Subset(Npz(path, AUGMENT), order[held:].tolist()),
        Subset(Npz(path, EVALUATE), order[:held].tolist()),
    )


def network():
    def block(inputs, outputs):
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    return nn.Sequential(
        *block(3, 32),
        *block(32, 64),
        *block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(128, 10),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10:data", help="cifar10:DIR or npz:FILE")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log-dir", default="runs/classification_loop")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = load(args.data)
    loader = DataLoader(train, args.batch_size, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(val, 256, num_workers=args.workers)
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=args.epochs * len(loader)
    )

    probe = hfc_probe.attach(model, val_loader, optimizer=optimizer, log_dir=args.log_dir)  # added
    for epoch in range(args.epochs):
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(images.to(device)).argmax(1).cpu() == targets).sum())
                for images, targets in val_loader
            )
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {right / len(val):.3f}")
        probe.end_epoch()  # added
    probe.close()  # added
    print(f"tensorboard --logdir {args.log_dir}")


if __name__ == "__main__":
    main()

"""A training loop with Hugging Face Accelerate: `attach` is enough, no plugin is needed.

    accelerate launch examples/accelerate_loop.py

The model may be attached before or after `accelerator.prepare`; the steps counted are the
optimizer's own, whatever gradients accumulate over. Images are the built-in planted ones.
"""

import argparse

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

import hfc_probe  # added
from hfc_probe.datasets import PlantedFrequencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--log-dir", default="runs/accelerate_loop")
    parser.add_argument("--attach-first", action="store_true", help="attach before prepare")
    args = parser.parse_args()

    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    loader = DataLoader(PlantedFrequencies(args.images), 64, shuffle=True)
    val_loader = DataLoader(PlantedFrequencies(args.images // 4, train=False), 128)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 8),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def attach():
        return hfc_probe.attach(model, val_loader, optimizer=optimizer, log_dir=args.log_dir)

    probe = attach() if args.attach_first else None
    model, optimizer, loader, val_loader = accelerator.prepare(model, optimizer, loader, val_loader)
    probe = probe or attach()  # added

    for epoch in range(args.epochs):
        model.train()
        for images, targets in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(images), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
        probe.end_epoch()  # added
    probe.close()  # added
    accelerator.print(f"{probe.steps} optimizer steps; tensorboard --logdir {args.log_dir}")


if __name__ == "__main__":
    main()

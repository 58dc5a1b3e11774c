"""A training loop in the manner of timm's train.py: `attach` is enough, no plugin is needed.

    python examples/timm_loop.py --model resnet10t

timm's own pieces: `create_model`, `create_optimizer_v2`, `create_scheduler_v2`, an averaged
model (EMA). Images are the built-in planted ones.
"""

import argparse

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

import hfc_probe  # added
from hfc_probe.datasets import PlantedFrequencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--log-dir", default="runs/timm_loop")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=8)
    ema = ModelEmaV3(model, decay=0.9)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs)
    loader = DataLoader(PlantedFrequencies(args.images), 64, shuffle=True)
    val_loader = DataLoader(PlantedFrequencies(args.images // 4, train=False), 128)

    probe = hfc_probe.attach(model, val_loader, optimizer=optimizer, log_dir=args.log_dir)  # added
    for epoch in range(args.epochs):
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
        probe.end_epoch()  # added
    probe.close()  # added
    print(f"tensorboard --logdir {args.log_dir}")


if __name__ == "__main__":
    main()

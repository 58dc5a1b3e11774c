"""Data-parallel training over several processes, with the probe attached in each.

    torchrun --nproc-per-node 2 examples/ddp_training.py

Every process makes the same calls. Each measures a share of the images, and rank 0 puts the counts
together and logs: the numbers of one process. No collective is involved, so a rank that is slow or
dies holds nobody up. Images are the built-in planted ones.
"""

import argparse

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import hfc_probe  # added
from hfc_probe.datasets import PlantedFrequencies


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--log-dir", default="runs/ddp_training")
    parser.add_argument("--save", help="file for the final weights")
    parser.add_argument("--no-probe", action="store_true")
    args = parser.parse_args()

    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = distributed.get_rank()
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)
    data = PlantedFrequencies(args.images)
    sampler = DistributedSampler(data)
    loader = DataLoader(data, 32, sampler=sampler)
    val_loader = DataLoader(PlantedFrequencies(args.images // 4, train=False), 128)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Dropout(0.1),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 8),
    )
    model = DistributedDataParallel(model.to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    probe = None
    if not args.no_probe:
        probe = hfc_probe.attach(
            model, val_loader, optimizer=optimizer, log_dir=args.log_dir
        )  # added
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
        if probe is not None:
            probe.end_epoch()  # added
    if probe is not None:
        probe.close()  # added
    if rank == 0 and args.save:
        torch.save(model.module.state_dict(), args.save)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

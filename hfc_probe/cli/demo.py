"""``hfc-probe demo``: a small network trained with a probe attached."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError
from .command import Command
from .common import check_writable, pick_device, refuse_idle, show_results


@click.command(cls=Command)
@click.option(
    "--data",
    default="planted",
    metavar="DATA",
    help="planted (built in), npz:FILE, folder:DIR or cifar10:DIR (downloaded if missing).",
)
@click.option(
    "--band",
    type=click.Choice(["low", "high", "both"]),
    default="both",
    show_default=True,
    help="Where the planted images carry their class.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    help="Side of a folder's images. [default: their own, if it is one for all and at most 64; "
    "else 64]",
)
@click.option("--out", type=click.Path(path_type=Path), help="[default: the next free runs/demo-N]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(
    data: str, band: str, epochs: int, size: int | None, out: Path | None, device: str, seed: int
) -> dict[str, Any]:
    """Train a small network with a probe attached, and show what it relies on."""
    from ..datasets import PlantedFrequencies
    from .data import data_kind, load_splits
    from .training import train_with_probe

    kind = "planted" if data == "planted" else data_kind(data, "planted, ")[0]
    refuse_idle("with --data planted", kind == "planted", "band")
    refuse_idle("with --data folder:DIR", kind == "folder", "size")
    chosen = pick_device(device)
    if data == "planted":
        train: Any = PlantedFrequencies(2048, band=band, seed=seed)  # type: ignore[arg-type]
        val: Any = PlantedFrequencies(512, band=band, seed=seed, train=False)  # type: ignore[arg-type]
        classes = train.waves.classes
        title = f"SmallCNN on planted-frequency images (class in {band})"
        planted = (round(math.hypot(*pairs[0])) for pairs in train.waves.where.values())
        note = f"The class was written at about {' and at '.join(map(str, planted))} cycles/image."
    else:
        train, val, classes = load_splits(data, size=size, seed=seed)
        title = f"SmallCNN on {data}"
        note = None
    out = check_writable(out or _next_free(Path("runs")))
    if classes < 2:
        raise InputError(f"--data: expected images of at least 2 classes, got {classes}")
    click.echo(f"{title}: {len(train)} training and {len(val)} validation images, {chosen}")
    _, probe = train_with_probe(
        train, val, classes=classes, epochs=epochs, log_dir=out, device=chosen, seed=seed
    )
    return show_results(probe.results.values(), probe.samples, out, title, note)


def _next_free(root: Path) -> Path:
    number = 1
    while (root / f"demo-{number}").exists():
        number += 1
    return root / f"demo-{number}"

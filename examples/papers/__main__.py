"""python -m examples.papers NAME|all --scale smoke|small|paper."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import Counter
from pathlib import Path

import click

from . import RECIPES
from .data import DATASETS, HERE
from .running import recipe, reproduce


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(["all", *RECIPES]))
@click.option("--scale", type=click.Choice(["smoke", "small", "paper"]), default="smoke")
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    help="Default: planted at smoke scale, otherwise cifar10 or, for a detector, coco.",
)
@click.option(
    "--data",
    "root",
    type=click.Path(path_type=Path),
    default=HERE,
    help="Folder of the data sets; torchvision downloads there what is missing.",
)
@click.option("--seeds", type=click.IntRange(1), help="Default: as many as the scale says.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/papers"),
    show_default=True,
    help="A finished seed found there is read, not run again.",
)
def main(
    names: tuple[str, ...],
    scale: str,
    dataset: str | None,
    root: Path,
    seeds: int | None,
    out: Path,
) -> None:
    """Reproduce figures and tables of the papers: claims, numbers beside theirs, verdicts."""
    logging.getLogger("hfc_probe").setLevel(logging.WARNING)
    verdicts, failed = [], []
    for name in RECIPES if "all" in names else names:
        try:
            usual = getattr(recipe(name), "DATASET", "cifar10")
            images = dataset or ("planted" if scale == "smoke" else usual)
            verdicts += reproduce(
                name, scale, dataset=images, root=root, out=out, seeds=seeds, say=click.echo
            )
        except Exception:
            traceback.print_exc()
            failed.append(name)
    counts = Counter(v.verdict for v in verdicts)
    click.echo("\n" + ", ".join(f"{n} × {verdict}" for verdict, n in counts.items()))
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

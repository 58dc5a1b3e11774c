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
from .running import reproduce


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(["all", *RECIPES]))
@click.option("--scale", type=click.Choice(["smoke", "small", "paper"]), default="smoke")
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    help="Default: planted at smoke scale, cifar10 otherwise.",
)
@click.option(
    "--data",
    "root",
    type=click.Path(path_type=Path),
    default=HERE,
    help="Folder of the data sets; torchvision downloads there what is missing.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/papers"),
    show_default=True,
    help="A finished seed found there is read, not run again.",
)
def main(names: tuple[str, ...], scale: str, dataset: str | None, root: Path, out: Path) -> None:
    """Reproduce figures and tables of the papers: claims, numbers beside theirs, verdicts."""
    logging.getLogger("hfc_probe").setLevel(logging.WARNING)
    dataset = dataset or ("planted" if scale == "smoke" else "cifar10")
    verdicts, failed = [], []
    for name in RECIPES if "all" in names else names:
        try:
            verdicts += reproduce(name, scale, dataset=dataset, root=root, out=out, say=click.echo)
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

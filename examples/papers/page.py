"""docs/papers.md from what the recipes left: python -m examples.papers.page --out runs/papers.

No number on the page is typed: claims, the papers' numbers, ours, verdicts and settings come from
the recipes and their result.json.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
from PIL import Image

from . import RECIPES
from .claims import AGREES, DISAGREES, OPEN
from .running import counted, duration, recipe

WIDTH, COLOURS = 1100, 128  # of a figure on the page, so that it stays below 120 kB
NOT_RUN = "not run"
HEAD = """# The papers, reproduced

What the papers claim, and whether it holds here: a claim *agrees* if the whole 95 % interval of the
difference lies on its side of 0, *disagrees* if it lies on the other, otherwise it *cannot be told*.
The interval is over seeds and images; with one seed it is over images only.

This page is written by `python -m examples.papers.page` from what the recipes left.
[examples/papers](../examples/papers/README.md) has the recipes and says how to add one.
Networks are trained on CIFAR-10 recompressed as JPEG, if nothing else is said, and the
ResNet-20 and its images are as published. Networks this small, trained this briefly, can
contradict a paper for want of training: read a verdict with the settings under its table.
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/papers"))
@click.option("--scale", type=click.Choice(["smoke", "small", "paper"]), default="small")
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path(__file__).parents[2] / "docs",
    help="Folder of papers.md and papers/NAME.png.",
)  # fmt: skip
def main(out: Path, scale: str, to: Path) -> None:
    """Write the page of verdicts and figures from finished recipes."""
    (to / "papers").mkdir(parents=True, exist_ok=True)
    lines, rows, counts = [], [], Counter()
    for name in RECIPES:
        found = sorted((out / name).glob(f"{scale}-*/result.json"))
        if found:
            report = json.loads(found[0].read_text(encoding="utf-8"))
            shrink(found[0].parent / "figure.png", to / "papers" / f"{name}.png")
            own = Counter(claim["verdict"] for claim in report["claims"])
        else:
            report, own = None, Counter({NOT_RUN: len(recipe(name).CLAIMS)})
        counts += own
        cells = (str(own[verdict] or "") for verdict in (AGREES, DISAGREES, OPEN, NOT_RUN))
        rows.append(f"| [{name}](#{name}) | {recipe(name).SOURCE} | {' | '.join(cells)} |")
        lines += section(name, scale, report)
    total = (f"**{counts[verdict]}**" for verdict in (AGREES, DISAGREES, OPEN, NOT_RUN))
    table = [
        f"| recipe | source | {AGREES} | {DISAGREES} | {OPEN} | {NOT_RUN} |",
        "|---|---|---|---|---|---|",
        *rows,
        f"| **all claims** | | {' | '.join(total)} |",
    ]
    (to / "papers.md").write_text("\n".join([HEAD, *table, "", *lines]), encoding="utf-8")
    click.echo(to / "papers.md")


def section(name: str, scale: str, report: dict[str, Any] | None) -> list[str]:
    """A recipe's part of the page."""
    module = recipe(name)
    claim, _, how = (module.__doc__ or "").partition("\n\n")
    how = " ".join(how.split())
    lines = [f"## {name}", "", f"**{claim}** {module.SOURCE}. {how}", ""]
    lines += ["```sh", f"python -m examples.papers {name} --scale {scale}", "```", ""]
    if report is None:
        texts = [f"- {each.text} ({each.paper})" for each in module.CLAIMS]
        return [
            *lines,
            f"Not run at this scale, so nothing is known of:\n{chr(10).join(texts)}",
            "",
        ]
    lines += ["| claim | paper | ours: difference [95 %] | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {each['claim']['text']} | {each['claim']['paper']} | {each['ours']} | {each['verdict']} |"
        for each in report["claims"]
    ]
    seconds = report["seconds"]
    time = f"{duration(sum(seconds))}, {counted(seconds)}, on {report['versions']['device']}"
    apart = differences(report["settings"], module.SCALES["paper"])
    lines += ["", f"![{claim} {how}](papers/{name}.png)", "", f"Took {time}."]
    lines += [f"Here, and in the paper: {apart}."] if apart else []
    return [*lines, *([module.DIFFERS] if module.DIFFERS else []), ""]


def differences(ours: dict[str, Any], paper: Any) -> str:
    """The settings that the run and the recipe's paper scale do not share, with both values."""
    return ", ".join(
        f"{key.replace('_', ' ')} {shown(value)} ({shown(getattr(paper, key))})"
        for key, value in ours.items()
        if key not in ("seeds", "planted") and shown(value) != shown(getattr(paper, key))
    )


def shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def shrink(figure: Path, to: Path) -> None:
    with Image.open(figure) as image:
        image.thumbnail((WIDTH, 10 * WIDTH))
        image.convert("RGB").quantize(COLOURS).save(to, optimize=True)


if __name__ == "__main__":
    main()

"""docs/papers.md from what the recipes left: python -m examples.papers.page --out runs/papers.

No number on the page is typed: claims, the papers' numbers, ours, verdicts and settings come from
the recipes and their result.json.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from textwrap import fill as wrapped
from typing import Any

import click
from PIL import Image

from . import RECIPES
from .claims import AGREES, DISAGREES, OPEN
from .running import counted, recipe, spent

WIDTH, BYTES = 1100, 120_000  # of a figure on the page
NOT_RUN = "not run"
HEAD = """# The papers, reproduced

What the papers claim, and whether it holds here. A claim *agrees* if the whole 95 % interval of the
difference lies above 0, and *disagrees* if it lies below; otherwise it *cannot be told*. The
interval is over seeds and images, and with one seed over images only.

Networks are trained on CIFAR-10 recompressed as JPEG; the ResNet-20 and its images are as
published. Networks this small, trained this briefly, can contradict a paper for want of training,
so read a verdict with the settings below its table. The processor's time says what a run costs; on
a machine with other work, more time elapses. Earlier trials at small scale had fewer seeds and, in
part, fewer images or epochs. With five seeds three open claims were decided, and five decided ones
(optimizers, architectures, heatmaps) became open: networks of several seeds differ by more than an
interval over images, or over three seeds, suggests.

The recipes are in `examples/papers`, whose README says how to run and how to add one. This page is
written from what they leave, by `python -m examples.papers.page`.
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
    lines = [f"## {name}", "", fill(f"**{claim}** {module.SOURCE}. {how}"), ""]
    ran = len(report["settings"]["seeds"]) if report else 0
    fewer = f" --seeds {ran}" if 0 < ran < len(module.SCALES[scale].seeds) else ""
    lines += ["```sh", f"python -m examples.papers {name} --scale {scale}{fewer}", "```", ""]
    if report is None:
        lines += ["Not run at this scale, so nothing is known of:", ""]
        return [*lines, *(f"- {each.text} (paper: {each.paper})" for each in module.CLAIMS), ""]
    lines += ["| claim | paper | ours: difference [95 %] | verdict |", "|---|---|---|---|"]
    for each in report["claims"]:
        ours = each["ours"].replace("-", "−")
        cells = (each["claim"]["text"], each["claim"]["paper"], ours, each["verdict"])
        lines.append(f"| {' | '.join(cells)} |")
    seconds, device = report["seconds"], report["versions"]["device"]
    said = [f"{spent(seconds)} for {counted(seconds)} on a {device.upper()}."]
    apart = differences(report["settings"], module.SCALES["paper"])
    said += [f"Settings, and those of `--scale paper` in parentheses: {apart}."] if apart else []
    alt = how.partition(". ")[0].rstrip(".")
    lines += ["", f"![{alt}](papers/{name}.png)", "", fill(" ".join([*said, module.DIFFERS]))]
    return [*lines, ""]


def differences(ours: dict[str, Any], paper: Any) -> str:
    """The settings that the run and the recipe's paper scale do not share, with both values."""
    both = ((key, value, getattr(paper, key)) for key, value in ours.items())
    return ", ".join(
        f"{key.replace('_', ' ')} {shown(key, value)} ({shown(key, other)})"
        for key, value, other in both
        if key not in ("seeds", "planted") and shown(key, value) != shown(key, other)
    )


def shown(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None:
        return "all" if key.endswith("_images") else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def fill(text: str) -> str:
    return wrapped(text, 100, break_on_hyphens=False, break_long_words=False)


def shrink(figure: Path, to: Path) -> None:
    with Image.open(figure) as image:
        image.thumbnail((WIDTH, 10 * WIDTH))
        for colours in (256, 128, 64, 32):
            image.convert("RGB").quantize(colours).save(to, optimize=True)
            if to.stat().st_size <= BYTES:
                break


if __name__ == "__main__":
    main()

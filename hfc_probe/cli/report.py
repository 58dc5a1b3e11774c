"""``hfc-probe report``: two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .command import Command
from .reference import reference_option, say_place


@click.command(cls=Command)
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[default: RUN_B/report.html]")
@reference_option
def report(run_a: Path, run_b: Path, out: Path | None, reference: Path | None) -> dict[str, Any]:
    """Compare two runs (directories that audit or demo wrote) on one self-contained page."""
    from ..ground.files import write_atomically
    from .comparison import compare
    from .page import page
    from .stored import read_run

    found = compare(read_run(run_a), read_run(run_b))
    out = out or run_b / "report.html"
    write_atomically(out, page(found).encode())
    for caution in found.cautions:
        click.echo(f"Caution: {caution}")
    hidden = [change.label for change in found.refused if change.judged == "measured differently"]
    if hidden:
        differing = "; ".join(str(one) for one in found.differing if one.decisive)
        click.echo(f"Not judged, since measured differently ({differing}): {', '.join(hidden)}.")
    for change in found.clear:
        click.echo(change.sentence(found.a.name, found.b.name))
    for note in found.notes:
        click.echo(note)
    for run in (found.a, found.b):
        for content in run.results.values():
            say_place(content, reference, run.name)
    click.echo(f"{found.count()} The page: {out}")
    return found.plain() | {"out": str(out)}

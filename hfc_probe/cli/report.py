"""``hfc-probe report``: two runs, or several seeds of two, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .command import Command
from .reference import read_reference, reference_option, say_place


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[default: in the last RUN]")
@reference_option
def report(runs: tuple[Path, ...], out: Path | None, reference: Path | None) -> dict[str, Any]:
    """Compare two RUNS (directories that audit or demo wrote) on one self-contained page.

    More than two are seeds of two, such as low_seed0 low_seed1 high_seed0 high_seed1: then the
    means over seeds are compared.
    """
    from ..ground.errors import InputError
    from ..ground.files import write_atomically
    from .comparison import compare
    from .page import page
    from .seeds import by_seed, mean_of
    from .stored import read_run

    groups = {str(run): [str(run)] for run in runs}
    if len(runs) > 2:
        groups = by_seed([str(run) for run in runs])
    twice = sorted({str(run) for run in runs if runs.count(run) > 1})
    if len(runs) > 2 and twice:
        raise InputError(
            f"report: expected each run once, got {twice[0]} twice, which is no further seed"
        )
    if len(groups) != 2:
        raise InputError(
            "report: expected two runs, or seeds of two such as low_seed0 low_seed1 high_seed0 "
            f"high_seed1, got {len(groups)}: {', '.join(groups)}; name two"
        )
    table = read_reference(reference)
    found = compare(
        *(
            mean_of(Path(name).name, [read_run(Path(run)) for run in group])
            for name, group in groups.items()
        )
    )
    out = out or runs[-1] / "report.html"
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
            say_place(content, table, run.name)
    click.echo(f"{found.count()} The page: {out}")
    return found.plain() | {"out": str(out)}

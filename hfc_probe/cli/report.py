"""``hfc-probe report``: two runs, or several seeds of two, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from .common import clear_errors


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[default: in the last RUN]")
@clear_errors
def report(runs: tuple[Path, ...], out: Path | None) -> None:
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
    if len(groups) != 2:
        raise InputError(
            "report: expected two runs, or seeds of two such as low_seed0 low_seed1 high_seed0 "
            f"high_seed1, got {len(groups)}: {', '.join(groups)}; name two"
        )
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
    click.echo(f"{found.count()} The page: {out}")

"""``hfc-probe reference``: a table of what networks give, and a model's place in it."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError
from .command import Command, as_json, shows_progress
from .common import check_writable, parse_radii, pick_device
from .stored import all_settings

COLUMNS = (
    *("network", "training", "weights", "data", "images", "samples", "normalization"),
    *("measurement", "settings", "tag", "value", "lower", "upper", "version", "date"),
)
SHIPPED = Path(__file__).with_name("reference_results.csv")
reference_option = click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table of hfc-probe reference to place the model in. [default: the one that is shipped]",
)
# What does not change what a number means: its tag has the radius.
_HARMLESS = ("radii",)


@click.command(cls=Command)
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@click.option("--data", required=True, metavar="DATA", help="As for audit.")
@click.option("--normalize", type=click.Choice(["imagenet", "cifar10", "none"]))
@click.option("--radii", metavar="R,R,…", help="Cut-offs in cycles per image. [default: by size]")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--size", type=click.IntRange(min=2), help="Side of the images, as for audit.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="CSV file. Rows of the same network, images and settings are replaced, others kept.",
)
def reference(
    models: tuple[str, ...],
    data: str,
    normalize: str | None,
    radii: str | None,
    limit: int,
    size: int | None,
    device: str,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """Measure networks and write their results into a table that audit and report compare with.

    A MODEL is torchvision:NAME or timm:NAME with its published weights, hf:NAME_OR_DIR, or
    path/to/file.py:callable[,argument=value] that loads its own; of the latter, the first line of
    the callable's documentation says how it was trained.
    """
    from ..measurements import FrequencyAccuracy
    from .preparing import prepared

    rows = read_reference(out) if out.exists() else []
    names = [network(spec)[0] for spec in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"reference: expected each network once, got {twice[0]} twice, of which the table "
            "would keep the last; rename a callable"
        )
    target = pick_device(device)
    check_writable(out.parent)
    found: dict[str, Any] = {}
    for spec in models:
        weights = "DEFAULT" if spec.startswith(("torchvision:", "timm:")) else None
        model, samples, pixels = prepared(
            *(spec, weights, data), target, normalize=normalize, size=size, limit=limit, seed=seed
        )
        name = network(spec)[0]
        measurement = FrequencyAccuracy(radii=parse_radii(radii))
        result = measurement.run(model, samples, pixels=pixels, progress=shows_progress())
        for caveat in result.caveats:
            click.echo(f"Caution: {name}: {caveat}")
        rows = list(replaced(rows, result_rows(spec, result.to_dict())))
        write_reference(rows, out)  # what is measured stays, whatever becomes of the next
        found[name] = result
        click.echo(f"{name}: {result.sentence()}")
    click.echo(f"{len({row['network'] for row in rows})} networks in {out}")
    return as_json(found, out)


def network(spec: str) -> tuple[str, str]:
    """A network's name in the table, and how it was trained.

    Arguments are part of the name: ``nets.py:build,width=64`` is another network than with 32.
    """
    from .models import FileSpec, _module_name

    own = FileSpec.read(spec)
    if own is None:
        return spec, "published weights"
    made = getattr(sys.modules.get(_module_name(Path(own.path))), own.name, None)
    said = (getattr(made, "__doc__", None) or "not said").strip().splitlines()[0]
    return spec[len(own.path) + 1 :], said


def result_rows(spec: str, content: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A row of :data:`COLUMNS` for each scalar of a result's JSON."""
    name, training = network(spec)
    said = content["provenance"]
    known = {
        "network": name,
        "training": training,
        "normalization": f"mean {said['mean']}, std {said['std']}",
        "measurement": content["measurement"],
        "settings": _meaning(content["settings"]),
        "data": str(said["data"]).rpartition("/")[2],
        **{key: said[key] for key in ("weights", "images", "samples", "version", "date")},
    }
    for tag, value in content["scalars"].items():
        lower, upper = content["intervals"].get(tag, ("", ""))
        row = known | {"tag": tag, "value": value, "lower": lower, "upper": upper}
        yield {column: _text(row[column]) for column in COLUMNS}


def replaced(
    rows: Iterable[Mapping[str, str]], new: Iterable[Mapping[str, str]]
) -> Iterator[dict[str, str]]:
    """The rows without those that are measured anew, and the new ones."""

    def key(row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[one] for one in ("network", "images", "measurement", "settings", "tag"))

    found = {key(row): dict(row) for row in rows} | {key(row): dict(row) for row in new}
    yield from found.values()


def read_reference(path: Path | None) -> list[dict[str, str]]:
    """The rows of a table; None: of that which comes with the library.

    Raises:
        InputError: a file of another form.
    """
    path = path or SHIPPED
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"reference: expected a CSV table, got {path} ({error})") from error
    if tuple(reader.fieldnames or ()) != COLUMNS or not all(map(_whole, rows)):
        raise InputError(
            f"reference: expected a table of hfc-probe reference in {path}, got other columns; "
            "choose another file"
        )
    return [row | {"settings": _meaning(json.loads(row["settings"]))} for row in rows]


def _whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a row has all cells and no more, with numbers where they belong."""
    try:
        float(row["value"])
        dict(json.loads(row["settings"]))
        bounds = [float(row[key]) for key in ("lower", "upper") if row[key] != ""]
    except (TypeError, ValueError):
        return False
    return None not in row and None not in row.values() and len(bounds) in (0, 2)


def write_reference(rows: Iterable[Mapping[str, str]], path: Path) -> None:
    from ..ground.files import write_atomically

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())


def placed(content: Mapping[str, Any], rows: Iterable[Mapping[str, str]]) -> list[str]:
    """A result's place among networks that were measured in the same way on the same images.

    Of accuracy on the original images, and on the LFC and HFC whose radius sets the networks
    apart most.

    Args:
        content: a result as :meth:`hfc_probe.Result.to_dict` gives it.

    Returns:
        A sentence each; none if there is nothing to compare with.
    """
    from ..core.intervals import square_and_add

    said = content.get("provenance", {})
    settings = _meaning(content["settings"])
    others: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in rows:
        alike = (row["measurement"], row["settings"], row["images"]) == (
            *(content["measurement"], settings, said.get("images")),
        )
        if alike and row["weights"] != said.get("weights") and row["tag"] in content["scalars"]:
            others.setdefault(row["tag"], {})[row["network"]] = row
    sentences = []
    for prefix, words in (
        ("hfc_accuracy/original", "Accuracy on the original images"),
        ("hfc_lfc/r", "LFC({}) accuracy"),
        ("hfc_hfc/r", "HFC({}) accuracy"),
    ):
        tags = [tag for tag in others if tag.startswith(prefix)]
        tags = [tag for tag in tags if tag in content["intervals"]]
        if not tags:
            continue
        tag = max(tags, key=lambda one: _spread(others[one].values()))
        value, bounds = content["scalars"][tag], content["intervals"][tag]
        lower = higher = 0
        for row in others[tag].values():
            numbers = (float(row[key]) for key in ("value", "lower", "upper"))
            low, high = square_and_add(value, *bounds, *numbers)
            lower, higher = lower + bool(low > 0), higher + bool(high < 0)
        rest = len(others[tag]) - lower - higher
        radius = tag.rpartition("/r")[2].lstrip("0") or "0"
        sentences.append(
            f"{words.format(radius)}, {100 * value:.1f} %, is higher than that of {lower} of "
            f"{len(others[tag])} reference networks on these images"
            + (f", lower than that of {higher}" if higher else "")
            + (f", and not clearly different from {rest}." if rest else ".")
        )
    return sentences


def say_place(
    content: Mapping[str, Any], rows: Iterable[Mapping[str, str]], name: str = ""
) -> None:
    """Print a result's place in a table."""
    for sentence in placed(content, rows):
        click.echo(f"{name}{': ' * bool(name)}{sentence}")


def _spread(rows: Iterable[Mapping[str, str]]) -> float:
    values = [float(row["value"]) for row in rows]
    return max(values) - min(values)


def _meaning(settings: Mapping[str, Any]) -> str:
    """The settings that change what a number means, in the same words whatever the version."""
    known = sorted(all_settings(settings).items())
    return json.dumps({key: value for key, value in known if key not in _HARMLESS})


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)

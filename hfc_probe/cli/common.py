"""What the commands have in common: options, what is printed and written."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError, named
from .command import as_json, is_helper

log_option = click.option(
    "--log",
    "logs",
    metavar="LOGGER",
    multiple=True,
    help="Where to log beside --out: wandb, mlflow or a .csv file; may be given several times.",
)


def show_results(
    results: Iterable[Any],
    samples: Any,
    out: Path,
    title: str,
    note: str | None = None,
    *,
    save: bool = True,
) -> dict[str, Any]:
    """Files, tables, what it means, and where to look next; the same as ``--json`` prints it."""
    from ..core.drawing import png
    from ..core.result import caution
    from ..ground.files import write_atomically
    from ..measurements.overview import overview_figure

    results = list(results)
    for result in results:
        if save:
            save_result(result, out)
        click.echo(f"\n{result}")
    write_atomically(out / "overview.png", png(overview_figure(results, samples, title)))
    text = "\n\n".join(str(result) for result in results) + "\n"
    said = [line for line in said_first(samples) if line not in text]
    text = "".join(f"{line}\n" for line in said) + text
    write_atomically(out / "summary.txt", text.encode())
    files = sorted(p.name for p in out.iterdir() if p.suffix in (".png", ".json", ".txt"))
    click.echo(f"\nIn {out}: {', '.join(files)}")
    left = left_behind(out, results)
    cautions = [f"{named(left)} in {out}: of another model, from an earlier run"] if left else []
    for text in cautions:
        click.echo(f"\nCaution: {text}")
    for caveat in dict.fromkeys(caveat for result in results for caveat in result.caveats):
        click.echo(f"\n{caution(caveat)}")
    accuracy = next((r for r in results if r.name == "frequency_accuracy"), None)
    if accuracy is not None:
        click.echo(f"\n{accuracy.sentence()}")
    for result in results:
        if result is not accuracy:
            click.echo(result.sentence())
    if note is not None:
        click.echo(note)
    where_to_look(out.parent if save else out)
    return as_json(results, out, [*samples.caveats, *cautions])


def left_behind(out: Path, results: Iterable[Any]) -> list[str]:
    """Files of results in a directory that are of another model than those just written."""
    from .stored import of_other_weights

    found: dict[str, Any] = {}
    for file in out.glob("*.json"):
        with contextlib.suppress(ValueError, OSError):  # of somebody else
            content = json.loads(file.read_bytes())
            if isinstance(content, dict) and isinstance(content.get("provenance"), dict):
                found[file.stem] = content
    return of_other_weights(found | {one.name: {"provenance": one.provenance} for one in results})


def said_first(samples: Any) -> list[str]:
    """What cannot be trusted, and what was done to the images: before any number."""
    resampled = samples.provenance.get("resampling")
    lines = [f"Caution: {caveat}" for caveat in samples.caveats]
    return [*lines, f"Images: {resampled}"] if resampled else lines


def refuse_idle(needed: str, met: bool, *names: str) -> None:
    """Refuse options that were given and would do nothing."""
    context = click.get_current_context()
    for name in names:
        given = context.get_parameter_source(name)
        if not met and given is not None and given.name != "DEFAULT":
            raise InputError(
                f"--{name.replace('_', '-')}: expected {needed} only, got it although it would do "
                "nothing"
            )


def where_to_look(logs: Path) -> None:
    """The closing lines: the tab's address, and last the command that serves it."""
    click.echo(f"\nHFC tab: http://localhost:6006/#hfc\ntensorboard --logdir {_quoted(logs)}")


def save_result(result: Any, out: Path) -> None:
    from ..core.drawing import png
    from ..ground.files import write_atomically

    result.save(out / f"{result.name}.json")
    write_atomically(out / f"{result.name}.png", png(result.figure()))


def open_loggers(names: Iterable[str]) -> list[Any]:
    """The loggers of ``--log``, on rank 0."""
    from ..core.loggers import writers

    return [] if is_helper() else writers(list(names))


def log_results(results: Iterable[Any], out: Path, others: Sequence[Any] = ()) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from ..core.event_file import log_layout

    with SummaryWriter(str(out), filename_suffix=".hfc") as writer:
        for result in results:
            log_layout(writer, result.labels())
            result.log([writer, *others], 0, figure=True)


def pick_device(name: str) -> Any:
    import torch

    if name == "auto":
        known = {"cuda": torch.cuda, "mps": torch.backends.mps}
        return torch.device(next((k for k, v in known.items() if v.is_available()), "cpu"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device: expected a device of this machine such as cpu, cuda or mps, got {name!r}"
        ) from error
    return device


def parse_radii(text: str | None, units: str = "cycles") -> tuple[float, ...] | None:
    """Cut-offs; a fraction of a cycle, which would keep the mean alone, is refused."""
    radii = parse_numbers("--radii", text)
    if units == "cycles" and any(0 < radius < 1 for radius in radii or ()):
        raise InputError(
            f"--radii: expected cycles per image, got {text}; below 1 only the mean colour is "
            "left, so if shares of the Nyquist frequency are meant, multiply by half the "
            "image's side"
        )
    return radii


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from error
    if not all(map(math.isfinite, found)):
        raise InputError(f"{option}: expected finite numbers, got {text}")
    return found


def check_writable(out: Path) -> Path:
    """The directory, after a look whether it can be written; it is not made yet."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"--out: expected a directory that can be written, got {out} "
            f"({place} is {'not writable' if place.is_dir() else 'not a directory'})"
        )
    return out


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))

"""The command line: ``hfc-probe demo``, ``hfc-probe audit`` and ``hfc-probe detect``."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from .detection.cli import register as register_detect
from .errors import InputError
from .version import __version__

Command = TypeVar("Command", bound=Callable[..., Any])


def _clear_errors(command: Command) -> Command:
    """Bad input ends with its one sentence and exit status 2; an interruption with 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            if _is_helper():
                return None  # rank 0 says it; a status here would have torchrun stop it first
            click.echo(f"hfc-probe: error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("hfc-probe: interrupted; what was finished is kept", err=True)
            sys.exit(130)

    return run  # type: ignore[return-value]


def _is_helper() -> bool:
    """Whether torchrun started this process as another rank than 0."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hfc-probe")
def main() -> None:
    """See which image frequencies a vision model lives on."""


@main.command()
@click.option(
    "--data",
    default="planted",
    metavar="DATA",
    help="planted (built in), npz:FILE, folder:DIR or cifar10:DIR (downloaded where missing).",
)
@click.option(
    "--band",
    type=click.Choice(["low", "high", "both"]),
    default="both",
    show_default=True,
    help="Where the planted images carry their class.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--size", type=click.IntRange(min=16), default=64, help="Side of a folder's images.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: the next free runs/demo-N]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
@_clear_errors
def demo(
    data: str, band: str, epochs: int, size: int, out: Path | None, device: str, seed: int
) -> None:
    """Train a small network with a probe attached, and show what it lives on."""
    from .datasets import PlantedFrequencies
    from .demo import train_with_probe
    from .loading import load_splits

    where = _device(device)
    if data == "planted":
        train: Any = PlantedFrequencies(2048, band=band, seed=seed)  # type: ignore[arg-type]
        val: Any = PlantedFrequencies(512, band=band, seed=seed, train=False)  # type: ignore[arg-type]
        title = f"SmallCNN on planted-frequency images (class in {band})"
        planted = (round(math.hypot(*pairs[0])) for pairs in train.waves.where.values())
        note = f"The class was written at about {' and at '.join(map(str, planted))} cycles/image."
    else:
        train, val = load_splits(data, size=size, seed=seed)
        title = f"SmallCNN on {data}"
        note = None
    out = _writable(out or _next_free(Path("runs")))
    classes = _class_count(train, val)
    click.echo(f"{title}: {len(train)} training and {len(val)} validation images, {where}")
    _, probe = train_with_probe(
        train, val, classes=classes, epochs=epochs, log_dir=out, device=where, seed=seed
    )
    _report(probe.results.values(), probe.samples, out, title, note)


@main.command()
@click.option(
    "--model",
    "spec",
    required=True,
    metavar="MODEL",
    help="torchvision:NAME, timm:NAME, or path/to/file.py:callable (the file is run).",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="A .pth or .safetensors file, or DEFAULT for published weights (downloaded).",
)
@click.option("--data", required=True, metavar="DATA", help="npz:FILE, folder:DIR or cifar10:DIR.")
@click.option("--normalize", type=click.Choice(["imagenet", "cifar10", "none"]))
@click.option("--mean", metavar="R,G,B", help="With --std: the model's own normalisation.")
@click.option("--std", metavar="R,G,B")
@click.option("--radii", metavar="R,R,…", help="Cut-offs in cycles per image. [default: by size]")
@click.option(
    "--hfc-background",
    type=click.Choice(["zero", "mean"]),
    default="zero",
    show_default=True,
    help="What the HFC is fed on: as it is (the paper), or on the images' mean colour.",
)
@click.option("--topk", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--layer", metavar="NAME", help="Layer of the kernel spectra. [default: the first]")
@click.option(
    "--measure",
    "extra",
    multiple=True,
    is_eager=True,  # `--measure help` needs no model
    callback=lambda _context, _parameter, value: _help_on_measurements(value),
    metavar="NAME[:SETTING=VALUE,…]",
    help="A further measurement, e.g. adversarial_accuracy:rhos=0+0.5 (values joined by +). "
    "Repeatable; `--measure help` lists them.",
)
@click.option("--heatmap", is_flag=True, help="Measure the Fourier heatmap as well.")
@click.option(
    "--heatmap-samples",
    type=click.IntRange(min=1),
    help="Images of the heatmap. [default: 64; all with --precision or --forwards]",
)
@click.option(
    "--precision",
    type=float,
    help="Sample each cell of the heatmap until its 95 % interval is within so much, e.g. 0.05.",
)
@click.option(
    "--forwards",
    type=click.IntRange(min=1),
    help="Model the heatmap from so many forward passes in all, e.g. 16000.",
)
@click.option("--norm", type=float, help="L2 norm of the heatmap's noise. [default: by size]")
@click.option("--crop", type=click.IntRange(min=1), help="Side of the heatmap's central window.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--size", type=click.IntRange(min=2), default=224, help="Side of a folder's images.")
@click.option("--classes", type=click.IntRange(min=2), help="[default: as in the checkpoint]")
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output directory.")
@_clear_errors
def audit(
    spec: str,
    weights: str | None,
    data: str,
    normalize: str | None,
    mean: str | None,
    std: str | None,
    radii: str | None,
    hfc_background: Any,
    topk: int,
    layer: str | None,
    extra: tuple[str, ...],
    heatmap: bool,
    heatmap_samples: int | None,
    precision: float | None,
    forwards: int | None,
    norm: float | None,
    crop: int | None,
    limit: int,
    size: int,
    classes: int | None,
    batch_size: int | None,
    device: str,
    seed: int,
    out: Path,
) -> None:
    """Measure a trained classifier, without writing code.

    Under torchrun (torchrun --nproc-per-node N -m hfc_probe audit …) the images are shared
    among the processes.
    """
    from .loading import default_pixels, load_model, load_samples
    from .measurements import FourierHeatmap, FrequencyAccuracy, KernelSpectra, Measurement
    from .ranks import own_device, process_group, rank_and_world

    # Accuracy first: it finds what is wrong with labels or model before anything is written.
    chosen: list[Measurement] = [
        FrequencyAccuracy(
            radii=_numbers("--radii", radii), hfc_background=hfc_background, topk=(topk,)
        ),
        KernelSpectra(layer=layer),
    ]
    _add(chosen, extra)
    where = _device(own_device(device))
    pixels = _pixels(normalize, mean, std)
    _writable(out)
    samples = load_samples(data, size=size, limit=limit, seed=seed)
    model = load_model(spec, weights, classes)
    if pixels is None:
        pixels = default_pixels(spec, model)
    if pixels is None:
        raise InputError(
            "--normalize: expected imagenet, cifar10 or none (or --mean and --std) for a model of "
            "your own, got none of them; a wrong normalisation gives wrong numbers"
        )
    if heatmap:
        if crop is None and max(samples.image_shape[1:]) > 64:
            crop = 31
        chosen.append(
            FourierHeatmap(
                norm=norm,
                samples=heatmap_samples or (1000 if precision or forwards else 64),
                precision=precision,
                forwards=forwards,
                crop=crop,
                topk=topk,
                checkpoint=out / ".fourier_heatmap.npz",  # an interrupted map goes on
                seed=seed,
            )
        )
    for measurement in chosen:
        measurement.validate(model, samples.image_shape)
    results = []
    with process_group():
        leads = rank_and_world()[0] == 0
        for result in _measured(chosen, model.to(where), samples, pixels, batch_size):
            if leads:
                _save(result, out)
            results.append(result)
        if not leads:
            return
    _log(results, out)
    name, source = spec.rpartition("/")[2], Path(data.partition(":")[2]).name
    _report(results, samples, out, f"{name} on {len(samples)} images of {source}", save=False)


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[default: RUN_B/report.html]")
@_clear_errors
def report(run_a: Path, run_b: Path, out: Path | None) -> None:
    """Compare two runs (directories that audit or demo wrote) on one self-contained page."""
    from .measurements.base import write_atomically
    from .report import compare, differing_settings, page, read_run

    a, b = read_run(run_a), read_run(run_b)
    changes = compare(a, b)
    out = out or run_b / "report.html"
    write_atomically(out, page(a, b, changes).encode())
    for change in changes:
        if change.told_apart:
            click.echo(change.sentence(a.name, b.name))
    hidden = [change.tag for change in changes if not change.comparable]
    if hidden:
        differing = "; ".join(
            f"{where}: {key} {x} against {y}" for where, key, x, y in differing_settings(a, b)
        )
        click.echo(f"Not judged, since measured differently ({differing}): {', '.join(hidden)}.")
    told = sum(change.told_apart for change in changes)
    click.echo(f"{told} of {len(changes)} numbers are told apart by their 95 % intervals: {out}")


def _measured(
    chosen: Sequence[Any], model: Any, samples: Any, pixels: Any, batch_size: int | None
) -> Iterator[Any]:
    """Results one after the other; the ranks of a torchrun job share the images."""
    from .ranks import form

    given = hashlib.sha256(samples.images.numpy().tobytes() + samples.targets.numpy().tobytes())
    ranks = form(given.hexdigest())
    for measurement in chosen:
        yield measurement.run(
            model, samples, pixels=pixels, batch_size=batch_size, progress=True, ranks=ranks
        )


def _report(
    results: Iterable[Any],
    samples: Any,
    out: Path,
    title: str,
    note: str | None = None,
    *,
    save: bool = True,
) -> None:
    """Files, tables, what it means, and where to look next."""
    from .measurements.base import write_atomically
    from .plots import overview_figure, png

    results = list(results)
    for result in results:
        if save:
            _save(result, out)
        click.echo(f"\n{result}")
    write_atomically(out / "overview.png", png(overview_figure(results, samples, title)))
    text = "\n\n".join(str(result) for result in results) + "\n"
    write_atomically(out / "summary.txt", text.encode())
    files = sorted(p.name for p in out.iterdir() if p.suffix in (".png", ".json", ".txt"))
    click.echo(f"\nIn {out}: {', '.join(files)}")
    accuracy = next((r for r in results if r.name == "frequency_accuracy"), None)
    if accuracy is not None:
        click.echo(f"\n{accuracy.sentence()}")
    for result in results:
        if result is not accuracy:
            click.echo(result.sentence())
    if note is not None:
        click.echo(note)
    _where_to_look(out.parent if save else out)


def _where_to_look(logs: Path) -> None:
    """The closing lines: the tab's address, and last the command that serves it."""
    click.echo(f"\nHFC tab: http://localhost:6006/#hfc\ntensorboard --logdir {_quoted(logs)}")


def _help_on_measurements(extra: tuple[str, ...]) -> tuple[str, ...]:
    """List the measurements and end, if `--measure help` is given."""
    if "help" in extra:
        from .measurements.registry import MEASUREMENTS

        for name, kind in MEASUREMENTS.items():
            click.echo(f"{name:22} {(kind.__doc__ or '').splitlines()[0]}")
        raise SystemExit(0)
    return extra


def _add(chosen: list[Any], extra: tuple[str, ...]) -> None:
    """Put further measurements to those chosen; one of a kind that is there replaces it."""
    from .measurements.registry import build

    built: dict[str, Any] = {}
    for text in extra:
        measurement = build(text)
        if measurement.name in built:
            raise InputError(f"--measure: expected each once, got {measurement.name} twice")
        built[measurement.name] = measurement
    for k, measurement in enumerate(chosen):
        chosen[k] = built.pop(measurement.name, measurement)
    chosen.extend(built.values())


def _save(result: Any, out: Path) -> None:
    from .measurements.base import write_atomically
    from .plots import png

    result.save(out / f"{result.name}.json")
    write_atomically(out / f"{result.name}.png", png(result.figure()))


def _log(results: Iterable[Any], out: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from .tensorboard import log_layout

    with SummaryWriter(str(out), filename_suffix=".hfc") as writer:
        for result in results:
            log_layout(writer, result.scalars())
            result.log(writer, 0)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device: expected a device of this machine such as cpu or cuda, got {name!r}"
        ) from error
    return device


def _pixels(normalize: str | None, mean: str | None, std: str | None) -> Any:
    from .samples import PixelSpace

    if mean is not None or std is not None:
        if normalize is not None or mean is None or std is None:
            raise InputError("--mean: expected together with --std and without --normalize")
        return PixelSpace(_numbers("--mean", mean) or (), _numbers("--std", std) or ())
    if normalize is None:
        return None
    return {
        "imagenet": PixelSpace.imagenet(),
        "cifar10": PixelSpace.cifar10(),
        "none": PixelSpace(),
    }[normalize]


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from error


def _class_count(train: Any, val: Any) -> int:
    """Number of classes: as the data sets name them, else one more than the largest label."""
    names = getattr(train, "classes", None)
    if names is not None:
        return len(names)
    labels = [int(split[k][1]) for split in (train, val) for k in range(len(split))]
    count = 1 + max(labels)
    if count < 2:
        raise InputError("--data: expected labels of at least 2 classes, got 1")
    return count


def _next_free(root: Path) -> Path:
    number = 1
    while (root / f"demo-{number}").exists():
        number += 1
    return root / f"demo-{number}"


def _writable(out: Path) -> Path:
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


register_detect(main)

"""The command line: ``hfc-probe demo``, ``hfc-probe audit`` and ``hfc-probe detect``."""

from __future__ import annotations

import dataclasses
import functools
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
    """See which image frequencies a vision model relies on."""


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
@click.option(
    "--size",
    type=click.IntRange(min=16),
    help="Side of a folder's images. [default: their own, if it is one for all and at most 64; "
    "else 64]",
)
@click.option("--out", type=click.Path(path_type=Path), help="[default: the next free runs/demo-N]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
@_clear_errors
def demo(
    data: str, band: str, epochs: int, size: int | None, out: Path | None, device: str, seed: int
) -> None:
    """Train a small network with a probe attached, and show what it relies on."""
    from .data_sources import data_kind, load_splits
    from .datasets import PlantedFrequencies
    from .demo import train_with_probe

    kind = "planted" if data == "planted" else data_kind(data, "planted, ")[0]
    _refuse_idle("with --data planted", kind == "planted", "band")
    _refuse_idle("with --data folder:DIR", kind == "folder", "size")
    where = _device(device)
    if data == "planted":
        train: Any = PlantedFrequencies(2048, band=band, seed=seed)  # type: ignore[arg-type]
        val: Any = PlantedFrequencies(512, band=band, seed=seed, train=False)  # type: ignore[arg-type]
        classes = train.waves.classes
        title = f"SmallCNN on planted-frequency images (class in {band})"
        planted = (round(math.hypot(*pairs[0])) for pairs in train.waves.where.values())
        note = f"The class was written at about {' and at '.join(map(str, planted))} cycles/image."
    else:
        train, val, classes = load_splits(data, size=size, seed=seed)
        title = f"SmallCNN on {data}"
        note = None
    out = _writable(out or _next_free(Path("runs")))
    if classes < 2:
        raise InputError(f"--data: expected images of at least 2 classes, got {classes}")
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
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="npz:FILE (arrays images and labels), folder:DIR (one folder per class) or cifar10:DIR.",
)
@click.option(
    "--class-names",
    metavar="FILE",
    help="Names of the model's classes in their order, one a line or JSON, by which a folder's "
    "class is found; numbers, if folders are named by their index; or sorted. [default: the "
    "model's own names, or the sorted folders if they are as many as its classes]",
)
@click.option("--skip-broken", is_flag=True, help="Go on without images that cannot be read.")
@click.option("--normalize", type=click.Choice(["imagenet", "cifar10", "none"]))
@click.option("--mean", metavar="R,G,B", help="With --std: the model's own normalisation.")
@click.option("--std", metavar="R,G,B")
@click.option("--radii", metavar="R,R,…", help="Cut-offs in cycles per image. [default: by size]")
@click.option(
    "--hfc-background",
    type=click.Choice(["zero", "mean"]),
    default="zero",
    show_default=True,
    help="What the HFC is fed on: as it is, or on the images' mean colour.",
)
@click.option(
    "--rescale",
    type=click.Choice(["none", "max"]),
    default="none",
    show_default=True,
    help="max: divide every image that the model is shown by its own maximum (the HFC authors).",
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
@click.option(
    "--size",
    type=click.IntRange(min=2),
    help="Side of a folder's images: larger ones are resized to SIZE / 0.875 and cropped. "
    "[default: the images' own, if it is one for all; else the published model's, or 224]",
)
@click.option(
    "--classes",
    type=click.IntRange(min=2),
    help="Of a torchvision or timm model. [default: as in the checkpoint]",
)
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output directory.")
@_clear_errors
def audit(
    spec: str,
    weights: str | None,
    data: str,
    class_names: str | None,
    skip_broken: bool,
    normalize: str | None,
    mean: str | None,
    std: str | None,
    radii: str | None,
    hfc_background: Any,
    rescale: str,
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
    size: int | None,
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
    from .class_names import own_class_names, read_class_names
    from .data_sources import data_kind, load_samples
    from .loading import default_pixels, default_size, load_model, signs_of_no_training
    from .measurements import FourierHeatmap, FrequencyAccuracy, KernelSpectra, Measurement
    from .ranks import own_device, process_group, rank_and_world

    folder = data_kind(data)[0] == "folder"
    _refuse_idle("with --data folder:DIR", folder, "size", "class_names", "skip_broken")
    effort = ("heatmap_samples", "precision", "forwards", "norm", "crop")
    _refuse_idle("with --heatmap", heatmap, *effort)
    # Accuracy first: it finds what is wrong with labels or model before anything is written.
    chosen: list[Measurement] = [
        FrequencyAccuracy(
            radii=_radii(radii),
            hfc_background=hfc_background,
            topk=(topk,),
            rescale="max" if rescale == "max" else None,
        ),
        KernelSpectra(layer=layer),
    ]
    built = _add(chosen, extra)
    of_accuracy = ("radii", "hfc_background", "rescale", *(() if heatmap else ("topk",)))
    for measure, options in (
        ("frequency_accuracy", of_accuracy),
        ("kernel_spectra", ("layer",)),
        ("fourier_heatmap", ("heatmap",)),
    ):
        _refuse_idle(f"without --measure {measure}", measure not in built, *options)
    names: Any = class_names
    if class_names not in (None, "numbers", "sorted"):
        names = read_class_names(class_names)
    where = _device(own_device(device))
    pixels = _pixels(normalize, mean, std)
    _writable(out)
    model = load_model(spec, weights, classes)
    source = "as given on the command line"
    if pixels is None:
        pixels = default_pixels(spec, model)
        source = f"as {spec.partition(':')[0]} publishes the model"
    if pixels is None:
        raise InputError(
            "--normalize: expected imagenet, cifar10 or none (or --mean and --std) for a model of "
            "your own, got none of them; a wrong normalisation gives wrong numbers"
        )
    doubts = signs_of_no_training(spec, weights, model)
    samples, logits = load_samples(
        data,
        model.to(where),
        pixels=pixels,
        size=size,
        otherwise=default_size(spec, model),
        class_names=names,
        own_names=lambda logits: own_class_names(spec, model, logits),
        limit=limit,
        seed=seed,
        skip_broken=skip_broken,
    )
    if topk >= logits:
        raise InputError(f"--topk: expected fewer than the model's {logits} logits, got {topk}")
    samples = dataclasses.replace(
        samples,
        caveats=(*doubts, *samples.caveats),
        provenance={**samples.provenance, "normalization": source},
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
    if not _is_helper():
        for line in _first_said(samples):
            click.echo(line)
    with process_group():
        leads = rank_and_world()[0] == 0
        for result in _measured(chosen, model, samples, pixels, batch_size):
            if leads:
                _save(result, out)
            results.append(result)
        if not leads:
            return
    _log(results, out)
    name, place = spec.rpartition("/")[2], Path(data.partition(":")[2]).name
    _report(results, samples, out, f"{name} on {len(samples)} images of {place}", save=False)


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[default: RUN_B/report.html]")
@_clear_errors
def report(run_a: Path, run_b: Path, out: Path | None) -> None:
    """Compare two runs (directories that audit or demo wrote) on one self-contained page."""
    from .comparison import compare
    from .measurements.base import write_atomically
    from .report import page
    from .stored import read_run

    found = compare(read_run(run_a), read_run(run_b))
    out = out or run_b / "report.html"
    write_atomically(out, page(found).encode())
    for caution in found.cautions:
        click.echo(f"Caution: {caution}")
    hidden = [change.tag for change in found.refused if change.judged == "measured differently"]
    if hidden:
        differing = "; ".join(str(one) for one in found.differing if one.decisive)
        click.echo(f"Not judged, since measured differently ({differing}): {', '.join(hidden)}.")
    for change in found.told:
        click.echo(change.sentence(found.a.name, found.b.name))
    for note in found.notes:
        click.echo(note)
    click.echo(f"{found.count()} The page: {out}")


def _measured(
    chosen: Sequence[Any], model: Any, samples: Any, pixels: Any, batch_size: int | None
) -> Iterator[Any]:
    """Results one after the other; the ranks of a torchrun job share the images."""
    from .provenance import images_hash
    from .ranks import form

    ranks = form(images_hash(samples))
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
    from .summary import caution

    results = list(results)
    for result in results:
        if save:
            _save(result, out)
        click.echo(f"\n{result}")
    write_atomically(out / "overview.png", png(overview_figure(results, samples, title)))
    text = "\n\n".join(str(result) for result in results) + "\n"
    said = [line for line in _first_said(samples) if line not in text]
    text = "".join(f"{line}\n" for line in said) + text
    write_atomically(out / "summary.txt", text.encode())
    files = sorted(p.name for p in out.iterdir() if p.suffix in (".png", ".json", ".txt"))
    click.echo(f"\nIn {out}: {', '.join(files)}")
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
    _where_to_look(out.parent if save else out)


def _first_said(samples: Any) -> list[str]:
    """What cannot be trusted, and what was done to the images: before any number."""
    resampled = samples.provenance.get("resampling")
    lines = [f"Caution: {caveat}" for caveat in samples.caveats]
    return [*lines, f"Images: {resampled}"] if resampled else lines


def _refuse_idle(needed: str, met: bool, *names: str) -> None:
    """Refuse options that were given and would do nothing."""
    context = click.get_current_context()
    for name in names:
        given = context.get_parameter_source(name)
        if not met and given is not None and given.name != "DEFAULT":
            raise InputError(
                f"--{name.replace('_', '-')}: expected {needed} only, got it where it would do "
                "nothing"
            )


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


def _add(chosen: list[Any], extra: tuple[str, ...]) -> set[str]:
    """Put further measurements to those chosen; one of a kind that is there replaces it.

    Returns:
        The names of the further ones.
    """
    from .measurements.registry import build

    built: dict[str, Any] = {}
    for text in extra:
        measurement = build(text)
        if measurement.name in built:
            raise InputError(f"--measure: expected each once, got {measurement.name} twice")
        built[measurement.name] = measurement
    names = set(built)
    for k, measurement in enumerate(chosen):
        chosen[k] = built.pop(measurement.name, measurement)
    chosen.extend(built.values())
    return names


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
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
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


def _radii(text: str | None, units: str = "cycles") -> tuple[float, ...] | None:
    """Cut-offs; a fraction of a cycle, which would keep the mean alone, is refused."""
    radii = _numbers("--radii", text)
    if units == "cycles" and any(0 < radius < 1 for radius in radii or ()):
        raise InputError(
            f"--radii: expected cycles per image, got {text}; below 1 only the mean colour is "
            "left, so if shares of the Nyquist frequency are meant, multiply by half the "
            "image's side"
        )
    return radii


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from error
    if not all(map(math.isfinite, found)):
        raise InputError(f"{option}: expected finite numbers, got {text}")
    return found


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

"""``hfc-probe audit``: a trained classifier measured without code."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError
from .command import ConfigurableCommand, is_helper, save_config, shows_progress
from .common import (
    check_writable,
    log_option,
    log_results,
    open_loggers,
    parse_radii,
    pick_device,
    refuse_idle,
    said_first,
    save_result,
    show_results,
)
from .preparing import pixels_of, prepared
from .reference import read_reference, reference_option, say_place

# Settings of the heatmap that had options of their own.
_REMOVED = {
    "--heatmap": "samples=64",
    "--heatmap-samples": "samples=64",
    "--precision": "precision=0.05",
    "--forwards": "forwards=16000",
    "--norm": "norm=4",
    "--crop": "crop=31",
}


class _Audit(ConfigurableCommand):
    """The command, which knows what options of earlier versions are called now."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        try:
            return super().parse_args(context, arguments)
        except click.NoSuchOption as error:
            setting = _REMOVED.get(error.option_name)
            if setting is None:
                raise
            raise click.UsageError(
                f"{error.option_name} was removed; give the setting to the measurement, such as "
                f"--measure fourier_heatmap:{setting}",
                context,
            ) from error


@click.command(cls=_Audit)
@click.option(
    "--model",
    "spec",
    required=True,
    metavar="MODEL",
    help="torchvision:NAME, timm:NAME, hf:NAME_OR_DIR, path/to/file.py:callable (the file is run; "
    ",argument=value is passed on), or a model file: .onnx, .pt2 (torch.export) or TorchScript.",
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
    help="npz:FILE (arrays images and labels), folder:DIR (one folder per class), cifar10:DIR, "
    "csv:FILE (paths and labels), parquet:FILE, hf:DIR (Hugging Face, save_to_disk) or tar:FILE "
    "(WebDataset); ,image=COLUMN,label=COLUMN name columns, ,split=NAME a part of hf:.",
)
@click.option(
    "--class-names",
    metavar="FILE",
    help="Names of the model's classes in their order, one a line or JSON, by which the class of a "
    "folder or label is found; numbers, if folders are named by their index; or sorted. [default: "
    "the model's own names, or the sorted folders if they are as many as its classes]",
)
@click.option("--skip-broken", is_flag=True, help="Skip images that cannot be read.")
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
    shell_complete=lambda _context, _parameter, begun: _measurements(begun),
    callback=lambda _context, _parameter, value: _help_on_measurements(value),
    metavar="NAME[:SETTING=VALUE,…]",
    help="A further measurement, such as fourier_heatmap:samples=64,crop=31 or "
    "adversarial_accuracy:rhos=0+0.5 (values joined by +). Repeatable; `--measure help` lists "
    "them with their settings.",
)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--size",
    type=click.IntRange(min=2),
    help="Side of the images: larger ones are resized to SIZE / 0.875 and cropped. "
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
@log_option
@reference_option
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
    limit: int,
    size: int | None,
    classes: int | None,
    batch_size: int | None,
    device: str,
    seed: int,
    out: Path,
    logs: tuple[str, ...],
    reference: Path | None,
) -> dict[str, Any] | None:
    """Measure a trained classifier, without writing code.

    Under torchrun (torchrun --nproc-per-node N -m hfc_probe audit …) the images are shared
    among the processes.
    """
    from ..measurements import FrequencyAccuracy, KernelSpectra, Measurement
    from ..ranks import own_device, process_group, rank_and_world
    from .class_names import read_class_names
    from .data import data_kind
    from .models import FileSpec

    files = data_kind(data)[0] not in ("npz", "cifar10")
    refuse_idle("with image files in --data", files, "size", "class_names", "skip_broken")
    # Accuracy first: it finds what is wrong with labels or model before anything is written.
    chosen: list[Measurement] = [
        FrequencyAccuracy(
            radii=parse_radii(radii),
            hfc_background=hfc_background,
            topk=(topk,),
            rescale="max" if rescale == "max" else None,
        ),
        KernelSpectra(layer=layer),
    ]
    # An interrupted map resumes; the noise's norm follows from the size of the images.
    heatmap = {"norm": None, "topk": topk, "seed": seed, "checkpoint": out / ".fourier_heatmap.npz"}
    built = _add(chosen, extra, {"fourier_heatmap": heatmap})
    topk_used = "fourier_heatmap" in built
    of_accuracy = ("radii", "hfc_background", "rescale", *(() if topk_used else ("topk",)))
    for measure, options in (
        ("frequency_accuracy", of_accuracy),
        ("kernel_spectra", ("layer",)),
    ):
        refuse_idle(f"without --measure {measure}", measure not in built, *options)
    names: Any = class_names
    if class_names not in (None, "numbers", "sorted"):
        names = read_class_names(class_names)
    target = pick_device(own_device(device))
    pixels = pixels_of(normalize, mean, std)
    check_writable(out)
    table = read_reference(reference)
    loggers = open_loggers(logs)
    model, samples, pixels = prepared(
        *(spec, weights, data),
        target,
        classes=classes,
        pixels=pixels,
        topk=topk,
        size=size,
        class_names=names,
        limit=limit,
        seed=seed,
        skip_broken=skip_broken,
    )
    if max(samples.image_shape[1:]) > 64 and not any("crop=" in text for text in extra):
        chosen = [_cropped(measurement) for measurement in chosen]
    optional = layer is None and "kernel_spectra" not in built
    chosen = [m for m in chosen if _possible(m, model, samples, optional=optional)]
    results = []
    if not is_helper():
        save_config(out)
        for line in said_first(samples):
            click.echo(line)
    with process_group():
        leads = rank_and_world()[0] == 0
        for result in _measured(chosen, model, samples, pixels, batch_size):
            if leads:
                save_result(result, out)
            results.append(result)
        if not leads:
            return None
    log_results(results, out, loggers)
    own = FileSpec.read(spec)
    name = own.name if own is not None else spec.rpartition("/")[2]
    place = Path(data.partition(":")[2]).name
    title = f"{name} on {len(samples)} images of {place}"
    found = show_results(results, samples, out, title, save=False)
    for content in found["results"].values():
        say_place(content, table)
    return found


def _measured(
    chosen: Sequence[Any], model: Any, samples: Any, pixels: Any, batch_size: int | None
) -> Iterator[Any]:
    """Results one after the other, which share passes; torchrun's ranks share the images."""
    from ..core.provenance import images_hash
    from ..model.shared_logits import SharedLogits
    from ..ranks import form

    ranks, shared = form(images_hash(samples)), SharedLogits(model)
    for measurement in chosen:
        yield measurement.run(
            model,
            samples,
            pixels=pixels,
            batch_size=batch_size,
            progress=shows_progress(),
            ranks=ranks,
            shared=shared,
        )


def _possible(measurement: Any, model: Any, samples: Any, *, optional: bool) -> bool:
    """Whether to measure; kernels that cannot be had are left out if nobody asked for them."""
    try:
        measurement.validate(model, samples.image_shape)
    except InputError as error:
        if measurement.name != "kernel_spectra" or not optional:
            raise
        click.echo(f"kernel_spectra is left out: {error}", err=True)
        return False
    return True


def _cropped(measurement: Any) -> Any:
    """A heatmap of large images with the window that a command line can wait for."""
    if measurement.name != "fourier_heatmap":
        return measurement
    return dataclasses.replace(measurement, crop=31)


def _help_on_measurements(extra: tuple[str, ...]) -> tuple[str, ...]:
    """List the measurements and end, if `--measure help` is given."""
    if "help" in extra:
        from ..measurements.registry import listing

        click.echo(listing())
        raise SystemExit(0)
    return extra


def _measurements(begun: str) -> list[str]:
    """Names for a shell's completion, read from a text: nobody waits for PyTorch at a Tab."""
    listed = (Path(__file__).parents[1] / "measurements" / "__init__.py").read_text("utf-8")
    names = [*re.findall(r"^from \.(\w+)[\w.]* import \*", listed, re.MULTILINE), "help"]
    return [name for name in names if name.startswith(begun)]


def _add(chosen: list[Any], extra: tuple[str, ...], defaults: Mapping[str, Any]) -> set[str]:
    """Put further measurements to those chosen; one of a kind that is there replaces it.

    Args:
        defaults: settings by measurement that hold unless the option says otherwise.

    Returns:
        The names of the further ones.
    """
    from ..measurements.registry import build

    built: dict[str, Any] = {}
    for text in extra:
        measurement = build(text, defaults)
        if measurement.name in built:
            raise InputError(f"--measure: expected each once, got {measurement.name} twice")
        built[measurement.name] = measurement
    names = set(built)
    for k, measurement in enumerate(chosen):
        chosen[k] = built.pop(measurement.name, measurement)
    chosen.extend(built.values())
    return names

"""``hfc-probe detect``: the audit of a detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError
from .command import ConfigurableCommand, as_json, save_config, shows_progress
from .common import (
    check_writable,
    log_option,
    log_results,
    open_loggers,
    parse_radii,
    pick_device,
    refuse_idle,
    where_to_look,
)

# A plugin that audits models of another host says so under this entry-point group.
GROUP = "hfc_probe.detection"


@click.command(cls=ConfigurableCommand)
@click.option(
    "--model",
    "spec",
    metavar="MODEL",
    help="torchvision:NAME, hf:NAME_OR_DIR, ultralytics:FILE_OR_NAME, "
    "onnx:FILE,decode=path/to/file.py:function, or path/to/file.py:callable (the file is run).",
)
@click.option(
    "--detectron2-config",
    metavar="FILE",
    help="In place of --model: a detectron2 config, .yaml or .py (the latter is run).",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="A checkpoint, or DEFAULT for torchvision's published weights (downloaded).",
)
@click.option("--images", metavar="DIR", help="Folder of the images.")
@click.option(
    "--annotations",
    metavar="FILE_OR_DIR",
    help="Their COCO JSON, YOLO's data.yaml, or a folder of Pascal VOC or FiftyOne.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="With --detectron2-config: a data set that detectron2 knows.",
)
@click.option(
    "--opts",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --detectron2-config: change a setting of it. May be repeated.",
)
@click.option(
    "--radii",
    default="128",
    show_default=True,
    metavar="R,R,…",
    help="Cut-offs, by default in cycles per image, or auto: 12, placed where AP changes.",
)
@click.option(
    "--units",
    type=click.Choice(["cycles", "nyquist"]),
    default="cycles",
    show_default=True,
    help="Of the radii: per image, or relative to each axis' Nyquist frequency.",
)
@click.option(
    "--hfc-background",
    type=click.Choice(["zero", "mean"]),
    default="zero",
    show_default=True,
    help="What the HFC is fed on: as it is, or on the detector's pixel mean.",
)
@click.option(
    "--rescale",
    type=click.Choice(["none", "max"]),
    default="none",
    show_default=True,
    help="max: divide every image that the detector is shown by its own maximum.",
)
@click.option(
    "--at",
    type=click.Choice(["image", "input"]),
    default="image",
    show_default=True,
    help="Filter the original image, or (detectron2) the model's resized input.",
)
@click.option(
    "--iou-type",
    type=click.Choice(["bbox", "segm", "keypoints"]),
    default="bbox",
    show_default=True,
    help="Compare boxes, instance masks or keypoints, in COCO's words.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--max-dets",
    type=click.IntRange(min=1),
    help="Detections per image and class that count. [default: 100; for keypoints 20]",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="A change of an image's AP up to this is no gain and no drop.",
)
@click.option(
    "--floor",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Least original AP of an image whose gains and drops count.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Replicates for the intervals.",
)
@click.option(
    "--control/--no-control",
    default=True,
    help="Count gains on images without frequencies that nobody sees, too.  [default: control]",
)
@click.option(
    "--heatmap",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also measure what Fourier noise costs in AP of boxes, on N by N frequencies around DC.",
)
@click.option(
    "--forwards",
    type=click.IntRange(min=1),
    help="With --heatmap: images shown for it. [default: every image under every noise]",
)
@click.option("--skip-broken", is_flag=True, help="Skip images that cannot be read.")
@click.option(
    "--ignore-unknown",
    is_flag=True,
    help="Leave out detections of categories that the annotations do not have.",
)
@click.option(
    "--classes",
    type=click.IntRange(min=2),
    help="Of a torchvision model, with the background. [default: as in the checkpoint]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Output directory. Running the same command again resumes.",
)
@log_option
def detect(
    spec: str | None,
    detectron2_config: str | None,
    weights: str | None,
    images: str | None,
    annotations: str | None,
    dataset: str | None,
    opts: tuple[str, ...],
    radii: str,
    units: Any,
    hfc_background: Any,
    rescale: str,
    at: Any,
    iou_type: Any,
    limit: int | None,
    batch_size: int,
    max_dets: int | None,
    margin: float,
    floor: float,
    bootstrap: int,
    control: bool,
    heatmap: int | None,
    forwards: int | None,
    skip_broken: bool,
    ignore_unknown: bool,
    classes: int | None,
    device: str,
    seed: int,
    out: Path,
    logs: tuple[str, ...],
) -> dict[str, Any] | None:
    """Audit a detector: AP on original, low- and high-frequency COCO images.

    Under torchrun (torchrun --nproc-per-node N -m hfc_probe detect …) the images are shared
    among the processes.
    """
    from ..detection import (
        CocoImages,
        DetectionAudit,
        DetectionHeatmap,
        DetectionHeatmapResult,
    )
    from ..detection.overlap import MOST
    from ..ranks import own_device, process_group, rank_and_world

    if (spec is None) == (detectron2_config is None):
        raise InputError(
            "--model: expected either --model or --detectron2-config, got "
            f"{'both' if spec is not None else 'neither'}"
        )
    audit = DetectionAudit(
        radii="auto" if radii == "auto" else parse_radii(radii, units) or (),
        units=units,
        hfc_background=hfc_background,
        rescale="max" if rescale == "max" else None,
        at=at,
        iou_type=iou_type,
        max_dets=max_dets,
        margin=margin,
        floor=floor,
        bootstrap=bootstrap,
        ignore_unknown=ignore_unknown,
        seed=seed,
        control=control,
    )
    if (images is None) != (annotations is None):
        raise InputError("--images: expected together with --annotations, got one of the two")
    refuse_idle("with --model", spec is not None, "classes", "heatmap")
    refuse_idle("with --heatmap", heatmap is not None, "forwards")
    wanted = None
    if heatmap is not None:
        wanted = DetectionHeatmap(
            crop=heatmap,
            forwards=forwards,
            max_dets=max_dets or MOST["bbox"],
            ignore_unknown=ignore_unknown,
            seed=seed,
        )
    check_writable(out)
    loggers = open_loggers(logs)
    common: dict[str, Any] = {
        "limit": limit,
        "batch_size": batch_size,
        "resume": out / "finished",
        "skip_broken": skip_broken,
        "progress": shows_progress(),
    }
    maps: list[DetectionHeatmapResult] = []
    doubts: list[str] = []
    fresh = not (out / "finished").exists()
    with process_group():
        target = pick_device(own_device(device))
        if detectron2_config is not None:
            with _config_first(out, fresh):
                result = _plugin("detectron2")(
                    audit,
                    config=detectron2_config,
                    weights=weights,
                    dataset=dataset,
                    images=images,
                    annotations=annotations,
                    opts=opts,
                    device=target,
                    **common,
                )
        else:
            if images is None or annotations is None or dataset is not None or opts:
                raise InputError(
                    "--images: expected --images and --annotations with --model (--dataset and "
                    "--opts belong to --detectron2-config)"
                )
            from torch import nn

            from ..detection.identity import detector_identity
            from .detectors import load_detector
            from .models import signs_of_no_training

            data = CocoImages(images, annotations)
            detector = load_detector(spec or "", weights, classes, data.truth.categories)
            if hasattr(detector, "to"):
                detector = detector.to(target)
            module = detector if isinstance(detector, nn.Module) else None
            identity = detector_identity(detector, module)  # a call may change it
            if fresh:
                _try(detector, data, target)
            if module is not None:
                doubts = signs_of_no_training(spec or "", weights, module)
            if rank_and_world()[0] == 0:
                for doubt in doubts:
                    click.echo(f"Caution: {doubt}")
            common |= {"device": target, "identity": identity}
            with _config_first(out, fresh):
                result = audit.measure(detector, data, **common)
            if wanted is not None:
                try:
                    maps = [wanted.measure(detector, data, **common)]
                except BaseException:  # the audit is done
                    if rank_and_world()[0] == 0:
                        result.save_all(out)
                    raise
        if rank_and_world()[0] != 0:
            return None
        files = result.save_all(out)
        for found in maps:
            files += found.save_all(out)
        log_results([result, *maps], out, loggers)
        save_config(out)
    said = "\n\n".join(map(str, [result, *maps]))
    click.echo(f"\n{said}\n\nIn {out}: {', '.join(sorted(file.name for file in files))}")
    where_to_look(out)
    return as_json([result, *maps], out, doubts)


@contextmanager
def _config_first(out: Path, fresh: bool) -> Iterator[None]:
    """The options' file before the first image, so that an interrupted audit can be repeated.

    Of an audit that is refused before its first image nothing is left.
    """
    from ..ranks import rank_and_world

    writes = fresh and rank_and_world()[0] == 0
    there = out.exists()
    if writes:
        save_config(out)
    try:
        yield
    except InputError:
        if writes and not (out / "finished").exists():
            (out / "detect.yaml").unlink(missing_ok=True)
            if not there:
                with suppress(OSError):  # something else is in it by now
                    out.rmdir()
        raise


def _try(detector: Any, data: Any, device: Any) -> None:
    """Give a detector one image, so that what is no detector ends with a sentence."""
    from torch import nn

    from ..detection.audit import undisturbed
    from ..detection.coco import detections_from
    from ..detection.pictures import BrokenImageError

    try:
        image = data.load(next(iter(data.truth.images))).to(device)
    except BrokenImageError:
        return  # said, or skipped, when its turn comes
    hint = "a classifier is measured by hfc-probe audit"
    with undisturbed(detector, detector if isinstance(detector, nn.Module) else None) as run:
        try:
            output = run([image])
        except Exception as error:  # whatever a stranger's model raises
            raise InputError(
                "--model: expected a detector to call with a list of images (C, H, W), got "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; {hint}"
            ) from error
    try:
        detections_from(output, 1)
    except InputError as error:
        raise InputError(f"{error}; {hint}") from error


def _plugin(name: str) -> Any:
    """What a plugin registered under our entry-point group."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                return entry.load()
            except ImportError as error:
                raise InputError(f"--{name}-config: {error}") from error
    raise InputError(
        f"--{name}-config: expected the plugin for {name}, found none installed; pip install "
        f"hfc_probe[{name}]"
    )

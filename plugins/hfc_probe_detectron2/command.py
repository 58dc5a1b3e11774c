"""``hfc-probe detect --detectron2-config``: found by the core through an entry point."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from torch import nn

from hfc_probe.cli.checkpoints import refuse_code
from hfc_probe.detection import CocoImages, DetectionAudit, DetectionAuditResult
from hfc_probe.ground.errors import InputError

from . import run
from .data import mapper_for


def audit(
    settings: DetectionAudit,
    *,
    config: str,
    weights: str | None,
    dataset: str | None,
    images: str | None,
    annotations: str | None,
    opts: tuple[str, ...],
    device: torch.device,
    limit: int | None,
    batch_size: int,
    resume: str | os.PathLike[str] | None,
    skip_broken: bool,
    progress: bool,
) -> DetectionAuditResult:
    """Run the command; arguments as on the command line.

    Raises:
        InputError: a config, checkpoint or data set that cannot be used.
    """
    if weights is None or not Path(weights).is_file():
        raise InputError(
            "--weights: expected a checkpoint file of the detectron2 model, got "
            f"{weights or 'none'}"
        )
    name = _registered(dataset, images, annotations)
    model, mapper, default = _load(config, opts, device)
    name = name or default
    if name is None:
        raise InputError(
            "--dataset: expected a data set that detectron2 knows, or --images and --annotations, "
            "got neither, and the config names none"
        )
    refuse_code(weights)  # detectron2 unpickles whatever it is given
    _Checkpointer(model).load(weights)
    return run.audit(
        model.eval(),
        name,
        settings=settings,
        mapper=mapper,
        limit=limit,
        batch_size=batch_size,
        resume=resume,
        skip_broken=skip_broken,
        quiet=not progress,
    )


def _registered(dataset: str | None, images: str | None, annotations: str | None) -> str | None:
    """Register the user's own COCO JSON, if there is one."""
    if images is None or annotations is None:
        return dataset
    CocoImages(images, annotations)  # says what is wrong with them
    name = dataset or f"hfc_probe_{Path(annotations).stem}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, annotations, images)
    return name


def _load(
    config: str, opts: tuple[str, ...], device: torch.device
) -> tuple[nn.Module, Any, str | None]:
    """Model, mapper and the config's own test set."""
    if not Path(config).is_file():
        raise InputError(f"--detectron2-config: expected a .yaml or .py file, got {config}")
    try:
        if config.endswith(".py"):
            lazy = LazyConfig.apply_overrides(LazyConfig.load(config), list(opts))
            model: nn.Module = instantiate(lazy.model).to(device)
            test = lazy.dataloader.test if "dataloader" in lazy else None
            mapper = mapper_for(model) if test is None else instantiate(test.mapper)
            return model, mapper, None if test is None else test.dataset.get("names")
        cfg = get_cfg()
        cfg.merge_from_file(config)
        cfg.merge_from_list([part for opt in opts for part in opt.split("=", 1)])
        cfg.MODEL.DEVICE = str(device)
        model = build_model(cfg)
        names = list(cfg.DATASETS.TEST)
        return model, mapper_for(model, cfg), names[0] if names else None
    except (KeyError, AssertionError, AttributeError, ValueError, OSError) as error:
        raise InputError(
            f"--detectron2-config: expected a detection config that builds a model, got {config} "
            f"({type(error).__name__}: {error})"
        ) from error


class _Checkpointer(DetectionCheckpointer):
    """A checkpointer that stops if weights are missing, instead of a line in the log."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        missing = list(incompatible.missing_keys) + list(incompatible.incorrect_shapes)
        missing = [m for m in missing if "anchor" not in str(m) and "pixel_" not in str(m)]
        if missing:
            raise InputError(
                "--weights: expected a checkpoint of the config's model, got one without "
                f"{', '.join(map(str, missing[:3]))}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
            )
        super()._log_incompatible_keys(incompatible)

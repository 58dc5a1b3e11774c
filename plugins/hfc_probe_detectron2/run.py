"""An audit of a detectron2 model in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import inference_on_dataset
from torch import nn

from hfc_probe.detection import DetectionAudit, DetectionAuditResult
from hfc_probe.detection.identity import detector_identity
from hfc_probe.detection.store import PredictionStore
from hfc_probe.detection.variants import pixel_mean_of
from hfc_probe.ground.errors import InputError
from hfc_probe.model.isolation import isolated, unwrap
from hfc_probe.ranks import together

from .data import CatalogImages, loader_for, mapper_for
from .evaluator import BandEvaluator, check_settings
from .model import FrequencyModel


def audit(
    model: nn.Module,
    data: Any,
    radii: Sequence[float] = (128,),
    *,
    settings: DetectionAudit | None = None,
    cfg: Any = None,
    mapper: Any = None,
    dataset_name: str | CatalogImages | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    resume: str | os.PathLike[str] | None = None,
    skip_broken: bool = False,
    quiet: bool = False,
) -> DetectionAuditResult:
    """Audit a detectron2 model; it is left exactly as it was, random states too.

    detectron2's ``inference_on_dataset`` does the pass, so that images are shared among the
    processes of a distributed run. Call it on every process; all return the result.

    Args:
        model: RetinaNet or any meta-architecture that takes detectron2's list of inputs,
            from a yaml or a LazyConfig, wrapped in DDP or not.
        data: name of a registered data set (one known only to ``DatasetCatalog`` will do), or
            a test loader.
        radii: cut-offs in cycles per image; ``settings`` overrides them.
        settings: everything else of an audit.
        cfg: a yaml config, for how images are read and resized.
        mapper: in place of cfg, such as ``instantiate(cfg.dataloader.test.mapper)``.
        dataset_name: the data set behind a loader.
        limit: maximum number of images, a seeded random choice; needs a name.
        batch_size, workers: of the loader made from a name.
        resume: directory that keeps finished images, which are not run again, but for two that
            show whether this is the same model.
        skip_broken: count and name images that cannot be read, and continue; needs a name.
        quiet: without detectron2's progress lines.

    Raises:
        InputError: settings that need :meth:`DetectionAudit.measure`, a loader without a name, a
            name that is not registered, classes that are not those of the data set.
    """
    used = settings or DetectionAudit(radii=tuple(radii))
    check_settings(used)
    inner = unwrap(model)
    images, loader = _prepared(
        inner, data, used, cfg, mapper, dataset_name, limit, batch_size, workers, skip_broken
    )
    with together("detectron2 audit") as ranks:
        mean = used.pixel_mean or pixel_mean_of(inner)
        if used.hfc_background == "mean":
            used = dataclasses.replace(used, pixel_mean=mean)
        dataset = getattr(loader, "dataset", None)
        reader = getattr(getattr(dataset, "_map_func", None), "_obj", None)
        reading = {"augmentations": str(getattr(reader, "augmentations", None))}
        fingerprint = used.fingerprint(detector_identity(inner), images.truth, reading)
        store = PredictionStore(resume, ranks.broadcast(fingerprint), ranks.rank)
        ranks.gather(None)  # nobody writes before everybody has read
        entries = getattr(dataset, "_dataset", None)
        image_ids = images.truth.images if entries is None else [e["image_id"] for e in entries]
        evaluator = BandEvaluator(images, used, store=store)
        with contextlib.closing(store), isolated(inner), _progress(quiet):
            again = store.believe(list(image_ids), images.digest, say=ranks.leads)
            wrapped = FrequencyModel(inner, used, store, again)
            wrapped.training = False
            inference_on_dataset(wrapped, loader, evaluator)
        result: DetectionAuditResult | None = evaluator.result
        if result is not None:
            result = result.reading(None)
        shared: DetectionAuditResult = ranks.broadcast(result)
        return shared.reading(images)


def _prepared(
    model: nn.Module,
    data: Any,
    used: DetectionAudit,
    cfg: Any,
    mapper: Any,
    dataset_name: str | CatalogImages | None,
    limit: int | None,
    batch_size: int,
    workers: int,
    skip_broken: bool,
) -> tuple[CatalogImages, Any]:
    if isinstance(data, (str, CatalogImages)):
        images = CatalogImages(data) if isinstance(data, str) else data
        loader = loader_for(
            images.name,
            mapper or mapper_for(model, cfg),
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            skip_broken=skip_broken,
            seed=used.seed,
        )
        return images, loader
    if dataset_name is None:
        raise InputError(
            "audit: expected the name of a data set, or a loader with dataset_name= that says "
            f"which annotations belong to it, got {type(data).__name__} alone"
        )
    if limit is not None or skip_broken:
        raise InputError(
            "audit: limit= and skip_broken= need the name of a data set in place of a loader"
        )
    named = isinstance(dataset_name, str)
    return CatalogImages(dataset_name) if named else dataset_name, data  # type: ignore[arg-type,return-value]


@contextlib.contextmanager
def _progress(quiet: bool) -> Any:
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    level = logger.level
    if quiet:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)

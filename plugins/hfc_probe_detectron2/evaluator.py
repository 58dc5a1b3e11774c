"""A detectron2 evaluator of the outputs of :class:`FrequencyModel`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from hfc_probe.detection import DetectionAudit, DetectionAuditResult, Detections, detections_from
from hfc_probe.detection.store import PredictionStore
from hfc_probe.detection.variants import ORIGINAL
from hfc_probe.ground.errors import InputError
from hfc_probe.ranks import together

from .data import BROKEN, CatalogImages
from .model import VARIANTS


def check_settings(audit: DetectionAudit) -> None:
    """Raise :class:`InputError` for what an audit of a detectron2 model cannot do."""
    _ = audit.cutoffs
    if audit.iou_type != "bbox":
        raise InputError(
            f'iou_type: expected "bbox" with detectron2, whose boxes alone are compared, got '
            f'"{audit.iou_type}"'
        )


class BandEvaluator(DatasetEvaluator):
    """AP by frequency, in one pass of detectron2's own ``inference_on_dataset``.

        audit = DetectionAudit(radii=(64, 128))
        inference_on_dataset(
            FrequencyModel(model, audit), loader, BandEvaluator("coco_2017_val", audit)
        )

    AP of the original equals ``COCOEvaluator``'s to the last digit if the loader covers the
    data set (here only images that were processed count). Values are in [0, 1], undefined
    ones left out.

    Args:
        data: name of a registered data set, or :class:`CatalogImages`.
        audit: the settings given to :class:`FrequencyModel`.
        output_dir: figures, tables and COCO results go there, on the main process.
        store: where detections are kept; by default in memory.

    Raises:
        InputError: ``radii="auto"``, or another ``iou_type`` than ``"bbox"``.

    Attributes:
        result: after :meth:`evaluate`, on the main process.
    """

    def __init__(
        self,
        data: str | CatalogImages,
        audit: DetectionAudit | None = None,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        store: PredictionStore | None = None,
    ) -> None:
        self._images = CatalogImages(data) if isinstance(data, str) else data
        self._audit = audit or DetectionAudit()
        check_settings(self._audit)
        self._output_dir = output_dir
        self._given = store
        self._store = store or PredictionStore(None, {})
        self._broken: dict[Any, str] = {}
        self._seen: set[Any] = set()
        self.result: DetectionAuditResult | None = None

    def reset(self) -> None:
        self._store = self._given or PredictionStore(None, {})
        self._broken = {}
        self._seen = set()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            image_id = item["image_id"]
            self._seen.add(image_id)
            if BROKEN in item:
                self._broken[image_id] = item[BROKEN]
            elif image_id not in self._store.finished or output:
                if VARIANTS not in output:
                    raise InputError(
                        "BandEvaluator: expected the outputs of FrequencyModel(model, audit), got "
                        f"{', '.join(map(str, output)) or 'nothing'}; wrap the model"
                    )
                found = {ORIGINAL: output, **output[VARIANTS]}
                variants = {n: self._detections(o) for n, o in found.items()}
                if image_id in self._store.finished:
                    self._store.confirm(image_id, variants)
                else:
                    self._store.add(image_id, variants, self._images.digest(image_id))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        with together("detectron2 evaluation") as ranks:
            own = {i: f for i, f in self._store.finished.items() if i in self._seen}
            parts = ranks.gather((own, self._broken))
            if not ranks.leads:
                return OrderedDict()
        finished: dict[Any, dict[str, Detections]] = {}
        broken: dict[Any, str] = {}
        for part, unreadable in parts:
            finished |= part
            broken |= unreadable
        result = self._audit.evaluate(
            self._images.truth,
            {n: {i: f[n] for i, f in finished.items()} for n in self._audit.shown},
            image_ids=[*finished, *broken],
            skipped=broken,
        )
        self.result = result = result.reading(self._images)
        if self._output_dir is not None:
            result.save_all(self._output_dir)
        scalars = {
            tag.removeprefix("hfc_detection/"): value
            for tag, value in result.scalars().items()
            if np.isfinite(value)
        }
        return OrderedDict(hfc_detection=scalars)

    def _detections(self, output: Mapping[str, Any]) -> Detections:
        if "instances" not in output:
            raise InputError(
                "detector: expected detectron2's instances in the output, got "
                f"{', '.join(output) or 'nothing'}"
            )
        instances = output["instances"]
        boxes = instances.pred_boxes.tensor
        (found,) = detections_from([(boxes, instances.scores, instances.pred_classes)], 1)
        labels = [self._images.category_id(int(k)) for k in found.labels]
        return found._replace(labels=np.asarray(labels, dtype=np.int64))

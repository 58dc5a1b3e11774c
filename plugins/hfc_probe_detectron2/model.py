"""A detectron2 model that answers for the original image and for its frequency variants."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfc_probe.detection import DetectionAudit
from hfc_probe.detection.pictures import check_depth
from hfc_probe.detection.store import PredictionStore
from hfc_probe.detection.variants import ORIGINAL, background_of, pixel_mean_of, run_variants

from .data import BROKEN
from .resizing import resized, unresized

VARIANTS = "hfc_probe"  # where an output carries the outputs on the other variants


class FrequencyModel(nn.Module):
    """Wraps a model that takes detectron2's list of inputs; one call runs every variant.

    The output is the model's own on the original images, so that any evaluator works on it,
    with the outputs on LFC(r) and HFC(r) under the key ``hfc_probe`` for
    :class:`BandEvaluator`. The original image (C×H×W, BGR or RGB, 0 to 255) is filtered before the
    mapper resizes it, or, with ``at="input"``, as it comes from the mapper; always before the
    model's own normalisation and padding, and it stays signed float32.

    Args:
        model: RetinaNet or any other meta-architecture of that form.
        audit: radii, units, HFC background and rescaling (which the model's own output is then
            on as well).
        store: detections of finished images; a batch of nothing else is not run again.
        again: images that are, all the same.

    Raises:
        InputError: ``hfc_background="mean"`` and a model without ``pixel_mean``.
    """

    def __init__(
        self,
        model: nn.Module,
        audit: DetectionAudit,
        store: PredictionStore | None = None,
        again: Collection[Any] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.audit = audit
        self._done = {} if store is None else store.finished
        self._again = again
        mean = audit.pixel_mean or pixel_mean_of(model)
        self._background = background_of(audit.hfc_background, mean)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        image_ids = [x.get("image_id") for x in batched_inputs]
        if all(i in self._done and i not in self._again for i in image_ids):
            return [{} for _ in batched_inputs]
        readable = [x for x in batched_inputs if BROKEN not in x]
        results = iter(self._run(readable) if readable else [])
        return [{} if BROKEN in x else next(results) for x in batched_inputs]

    def _run(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        for x in inputs:
            if Path(x.get("file_name", "")).is_file():
                check_depth(x["file_name"])
        whole = self.audit.at == "image"
        images = [(unresized(x) if whole else x["image"]).to(device, torch.float32) for x in inputs]

        def detect(shown: list[Tensor]) -> Any:
            if shown is images:  # the original goes in exactly as it came
                return self.model(inputs)
            if whole:
                sizes = [x["image"].shape[1:] for x in inputs]
                shown = [resized(i, *size) for i, size in zip(shown, sizes, strict=True)]
            return self.model([{**x, "image": i} for x, i in zip(inputs, shown, strict=True)])

        outputs: dict[str, Any] = dict(
            run_variants(
                detect,
                images,
                radii=self.audit.cutoffs,
                closed=self.audit.closed,
                units=self.audit.units,
                background=self._background,
                rescale=self.audit.rescale,
                full_scale=255,
                control=self.audit.control,
            )
        )
        originals = outputs.pop(ORIGINAL)
        return [
            {**original, VARIANTS: {name: output[k] for name, output in outputs.items()}}
            for k, original in enumerate(originals)
        ]

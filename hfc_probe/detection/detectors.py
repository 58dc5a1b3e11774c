"""Detectors of other libraries as an audit calls them, on floats and without clipping."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..ground.errors import InputError, named
from ..ground.hashing import file_digest

Decode = Callable[[Sequence[NDArray[Any]], int, int], Any]


class TransformersDetector(nn.Module):
    """See :func:`from_transformers`."""

    def __init__(self, model: nn.Module, processor: Any, labels: Mapping[int, int] | None) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.labels = None if labels is None else dict(labels)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> dict[str, Tensor]:
        given = self.processor(images=[image], do_rescale=False, return_tensors="pt")
        first = next(self.model.parameters())
        inputs = {k: v.to(first.device) for k, v in given.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(first.dtype)
        (found,) = self.processor.post_process_object_detection(
            self.model(**inputs), threshold=0.0, target_sizes=[tuple(image.shape[-2:])]
        )
        if self.labels is not None:
            ids = [self.labels[k] for k in found["labels"].tolist()]
            found["labels"] = torch.tensor(ids, dtype=torch.int64, device=first.device)
        return {name: found[name] for name in ("boxes", "scores", "labels")}


def from_transformers(
    model: nn.Module, processor: Any, categories: Mapping[int, str] | None = None
) -> TransformersDetector:
    """An object detector of Hugging Face transformers (DETR, RT-DETR, YOLOS, …).

    Images go through the library's own processor as floats, one at a time, so that none is
    padded with another, and every detection is kept, whatever its score.

    Args:
        model: such as ``AutoModelForObjectDetection`` gives.
        processor: its image processor, on tensors (``use_fast=True`` in older versions).
        categories: names by category id, such as ``dataset.truth.categories``; classes are then
            mapped by name. None: the model's classes are the category ids, as DETR's are.

    Raises:
        InputError: a processor that goes through 8-bit pictures, or classes of other names.
    """
    if not hasattr(processor, "post_process_object_detection"):
        raise InputError(
            "processor: expected an image processor for object detection, got "
            f"{type(processor).__name__}; use AutoImageProcessor.from_pretrained(…)"
        )
    probe = torch.full((3, 32, 32), -0.25)
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    cause: Exception | None = None
    try:
        seen = float(processor(images=[probe], **options)["pixel_values"].min())
    except Exception as error:  # whatever a processor of pictures raises on a signed one
        seen, cause = float("nan"), error
    if not abs(seen + 0.25) < 1e-3:
        raise InputError(
            "processor: expected one that keeps signed floats, as HFC are, got "
            f"{type(processor).__name__}, which does not; load it with use_fast=True"
        ) from cause
    if categories is None:
        return TransformersDetector(model, processor, None)
    ids = {name: category_id for category_id, name in categories.items()}
    names: Mapping[int, str] = model.config.id2label  # type: ignore[assignment,union-attr]
    unknown = [n for n in names.values() if n not in ids and n != "N/A"]
    if unknown:
        raise InputError(
            f"model: expected classes with the names of the categories, got {named(unknown)}; "
            "rename them in model.config.id2label, or pass categories=None if they are ids"
        )
    # COCO's unused ids have no name: they stay what they are, unknown.
    return TransformersDetector(model, processor, {k: ids.get(n, -1) for k, n in names.items()})


class OnnxDetector:
    """See :func:`from_onnx`."""

    def __init__(
        self, path: str, decode: Decode, prepare: Callable[[Tensor], Tensor] | None, providers: Any
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                "from_onnx: expected onnxruntime, found none installed; "
                "pip install 'hfc_probe[onnx]'"
            ) from error
        self.digest = file_digest(path)
        if not self.digest:
            raise InputError(f"path: expected an ONNX file, got {path}, which cannot be read")
        self._decode = decode
        self._prepare = prepare
        try:
            self._session = onnxruntime.InferenceSession(path, providers=list(providers))
        except Exception as error:  # onnxruntime has a dozen classes, all private
            raise InputError(
                f"path: expected an ONNX file that onnxruntime can load, got {path} "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from error
        (self._input,) = self._session.get_inputs()[:1]

    def __call__(self, images: list[Tensor]) -> list[Any]:
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> Any:
        given = self._resized(image) if self._prepare is None else self._prepare(image)
        outputs = self._session.run(None, {self._input.name: given.cpu().numpy()})
        return self._decode([np.asarray(o) for o in outputs], *image.shape[-2:])

    def _resized(self, image: Tensor) -> Tensor:
        size = self._input.shape[-2:]
        if all(isinstance(side, int) for side in size):
            image = interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        return image[None]


def from_onnx(
    path: str | os.PathLike[str],
    decode: Decode,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> OnnxDetector:
    """A detector in an ONNX file, on onnxruntime.

    Args:
        path: the file.
        decode: ``decode(outputs, height, width)`` gives boxes, scores and category ids in pixels
            of the original image from the network's outputs.
        prepare: makes the network's input from an image ``(C, H, W)`` in [0, 1] (signed for HFC);
            None: resized bilinearly to the input's size, RGB.
        providers: of onnxruntime.

    Raises:
        InputError: onnxruntime or the file is missing, or the file cannot be loaded.
    """
    return OnnxDetector(os.fspath(path), decode, prepare, providers)

"""Detectors of other libraries as an audit calls them, on floats and without clipping."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ..ground import checks
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
    names: Mapping[int, str] = model.config.id2label  # type: ignore[assignment,union-attr]
    labels = _by_name(names, categories, "model.config.id2label")
    return TransformersDetector(model, processor, labels)


def _by_name(names: Mapping[int, str], categories: Mapping[int, str], place: str) -> dict[int, int]:
    """Category ids by class; COCO's unused ids, which have no name, stay unknown."""
    ids = {name: category_id for category_id, name in categories.items()}
    unknown = [n for n in names.values() if n not in ids and n != "N/A"]
    if unknown:
        raise InputError(
            f"model: expected classes with the names of the categories, got {named(unknown)}; "
            f"rename them in {place}, or pass categories=None if they are ids"
        )
    return {k: ids.get(n, -1) for k, n in names.items()}


class UltralyticsDetector(nn.Module):
    """See :func:`from_ultralytics`."""

    def __init__(
        self, model: nn.Module, labels: Mapping[int, int] | None, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.labels = None if labels is None else dict(labels)
        self.settings = dict(settings)
        self.stride = max(int(model.stride.max()), 32)  # type: ignore[operator]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> dict[str, Tensor]:
        from ultralytics.utils import ops

        try:
            from ultralytics.utils.nms import non_max_suppression
        except ImportError:  # before 8.3.200
            non_max_suppression = ops.non_max_suppression
        given = self._letterboxed(image)
        (found,) = non_max_suppression(
            self.model(given.to(next(self.model.parameters()))),
            self.settings["conf"],
            self.settings["iou"],
            multi_label=self.settings["multi_label"],
            max_det=self.settings["max_det"],
            nc=len(self.model.names),  # type: ignore[arg-type]
            end2end=bool(getattr(self.model, "end2end", False)),
        )
        boxes = ops.scale_boxes(given.shape[2:], found[:, :4], image.shape[1:])
        labels = found[:, 5].long()
        if self.labels is not None:
            ids = [self.labels[k] for k in labels.tolist()]
            labels = torch.tensor(ids, dtype=torch.int64, device=labels.device)
        return {"boxes": boxes, "scores": found[:, 4], "labels": labels}

    def _letterboxed(self, image: Tensor) -> Tensor:
        """As ``LetterBox(imgsz, auto=True)``, on floats: bilinear, padded with 114 / 255."""
        height, width = image.shape[1:]
        side = math.ceil(self.settings["imgsz"] / self.stride) * self.stride
        ratio = min(side / height, side / width)
        inner = max(round(height * ratio), 1), max(round(width * ratio), 1)
        if inner != (height, width):
            image = interpolate(image[None], size=inner, mode="bilinear", align_corners=False)[0]
        down, across = ((side - n) % self.stride / 2 for n in inner)
        top, left = round(down - 0.1), round(across - 0.1)
        bottom, right = round(down + 0.1), round(across + 0.1)
        return pad(image[None], (left, right, top, bottom), value=114 / 255)


def from_ultralytics(
    model: Any,
    categories: Mapping[int, str] | None = None,
    *,
    imgsz: int | None = None,
    conf: float = 0.001,
    iou: float = 0.7,
    max_det: int = 300,
    multi_label: bool = False,
) -> UltralyticsDetector:
    """A YOLO of ultralytics, on floats and without clipping, one image at a time.

    Images are letterboxed as by the library, but not rounded to 8 bits; its own non-maximum
    suppression finds the boxes. The padding is grey (114 / 255), also beside HFC. The network is
    not changed: outside of an audit put it into evaluation mode first.

    Args:
        model: such as ``YOLO("yolo11n.pt")``.
        categories: names by category id, such as ``dataset.truth.categories``; classes are then
            mapped by name. None: the model's classes, from 0, are the category ids.
        imgsz: longer side of the network's input, rounded up to its stride; None: as the model was
            trained, else 640.
        conf, iou, max_det: as in ``model.val()``: AP needs low scores, too.
        multi_label: give a box each class that scores above ``conf``, as in ``model.val()``; False:
            its best class alone, as in ``model.predict()``.

    Raises:
        InputError: another task than detection, or classes of other names.
    """
    network = getattr(model, "model", None)
    names = getattr(network, "names", None)
    task = getattr(model, "task", None)
    if not isinstance(network, nn.Module) or not isinstance(names, Mapping) or task != "detect":
        got = f"one for {task}" if isinstance(network, nn.Module) else type(network).__name__
        raise InputError(
            "model: expected a YOLO of ultralytics that is a torch model for detection, got "
            f"{got}; use YOLO('….pt'), or from_onnx for exported ones"
        )
    if hasattr(network, "nc") and type(network).__name__.startswith("RTDETR"):
        raise InputError(
            "model: expected a YOLO, got RT-DETR, whose input ultralytics stretches; use "
            "from_transformers"
        )
    size = imgsz or dict(getattr(model, "overrides", {})).get("imgsz") or 640
    settings = {
        "imgsz": checks.whole("imgsz", size),
        "conf": conf,
        "iou": iou,
        "max_det": max_det,
        "multi_label": multi_label,
    }
    labels = None if categories is None else _by_name(names, categories, "model.model.names")
    return UltralyticsDetector(network, labels, settings)


class MmdetDetector(nn.Module):
    """See :func:`from_mmdet`."""

    def __init__(self, model: nn.Module, pipeline: Any, labels: Mapping[int, int] | None) -> None:
        super().__init__()
        self.model = model
        self.pipeline = pipeline
        self.labels = None if labels is None else dict(labels)

    @property
    def pixel_mean(self) -> Tensor | None:
        """RGB, in [0, 1]; None if the model's configuration has no mean."""
        prepare: Any = self.model.data_preprocessor
        mean = getattr(prepare, "mean", None)
        if mean is None:
            return None
        turned = getattr(prepare, "_channel_conversion", False)  # what comes in is BGR
        rgb: Tensor = mean if turned else mean.flip(0)
        return rgb.flatten() / 255

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> dict[str, Tensor]:
        from mmdet.apis import inference_detector

        picture = (255 * image).flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
        found = inference_detector(self.model, picture, self.pipeline).pred_instances
        labels = found.labels
        if self.labels is not None:
            ids = [self.labels[k] for k in labels.tolist()]
            labels = torch.tensor(ids, dtype=torch.int64, device=labels.device)
        return {"boxes": found.bboxes, "scores": found.scores, "labels": labels}


def from_mmdet(model: Any, categories: Mapping[int, str] | None = None) -> MmdetDetector:
    """A detector of MMDetection, on floats, one image at a time.

    Images go through the test pipeline of the model's configuration as float BGR in [0, 255], as
    ``inference_detector`` takes them; its score threshold and non-maximum suppression stay. The
    library resizes 8-bit images to 8 bits: without that rounding boxes differ by a little.

    Args:
        model: such as ``mmdet.apis.init_detector(config, checkpoint)`` gives.
        categories: names by category id, such as ``dataset.truth.categories``; classes are then
            mapped by name. None: the model's classes, from 0, are the category ids.

    Raises:
        InputError: MMDetection is missing, another model, a pipeline that does not keep signed
            floats, or classes of other names.
    """
    try:
        from mmcv.transforms import Compose
        from mmdet.utils import get_test_pipeline_cfg
    except ImportError as error:
        raise InputError(
            f"from_mmdet: expected mmdet and mmcv, which cannot be imported ({error}); install "
            "them as MMDetection's documentation says"
        ) from error
    if not hasattr(model, "cfg") or not hasattr(model, "data_preprocessor"):
        raise InputError(
            "model: expected a detector of MMDetection with its configuration, got "
            f"{type(model).__name__}; use mmdet.apis.init_detector(config, checkpoint)"
        )
    steps = copy.deepcopy(get_test_pipeline_cfg(model.cfg))
    steps[0].type = "mmdet.LoadImageFromNDArray"
    pipeline = Compose(steps)
    probe = np.full((32, 32, 3), -64, dtype=np.float32)
    cause: Exception | None = None
    try:
        seen = float(pipeline({"img": probe, "img_id": 0})["inputs"].min())
    except Exception as error:  # whatever a step for pictures raises on a signed one
        seen, cause = float("nan"), error
    if not abs(seen + 64) < 1e-3:
        raise InputError(
            "model: expected a test pipeline that keeps signed floats, as HFC are, got one that "
            "does not; use steps of the cv2 backend"
        ) from cause
    labels = None
    if categories is not None:
        known = set(categories.values())
        given: Any = getattr(model, "dataset_meta", {}).get("classes", ())
        # Without a checkpoint the library calls COCO's classes "traffic_light" and the like.
        names = {k: n if n in known else n.replace("_", " ") for k, n in enumerate(given)}
        labels = _by_name(names, categories, 'model.dataset_meta["classes"]')
    return MmdetDetector(model, pipeline, labels)


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
        decode: ``decode(outputs, height, width)`` gives boxes (x1, y1, x2, y2), scores and category
            ids in pixels of the original image from the list of the network's outputs.
        prepare: makes the network's input ``(1, C, H, W)`` from an image ``(C, H, W)`` in [0, 1]
            (signed for HFC); None: resized bilinearly to the input's size, RGB.
        providers: of onnxruntime.

    Raises:
        InputError: onnxruntime or the file is missing, or the file cannot be loaded.
    """
    return OnnxDetector(os.fspath(path), decode, prepare, providers)

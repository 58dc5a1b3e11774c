"""Detectors named on the command line: of torchvision, other libraries, or a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..ground.errors import InputError
from .checkpoints import load_weights, read_checkpoint
from .models import FileSpec, call_from_file, unknown_model

_PUBLISHED_CLASSES = 91  # COCO's ids up to 90, and the background


def load_detector(
    spec: str,
    weights: str | None,
    classes: int | None = None,
    categories: Mapping[int, str] | None = None,
) -> Any:
    """A detector, in evaluation mode on the CPU if it is a module.

    Args:
        spec: ``torchvision:NAME`` (RetinaNet, Faster R-CNN, FCOS, SSD, …),
            ``hf:NAME_OR_DIR``, ``ultralytics:FILE_OR_NAME``,
            ``onnx:FILE,decode=path/to/file.py:function`` (see
            :func:`hfc_probe.detection.detectors.from_onnx`; ``,prepare=…`` likewise), or
            ``path/to/file.py:callable``, whose callable is run and returns the detector.
        weights: a checkpoint file; ``DEFAULT`` for torchvision's published weights
            (downloaded); None for a file's detector that loads its own.
        classes: number of classes with the background, as torchvision counts them; None: as
            the checkpoint has it.
        categories: names by category id, by which the classes of ``hf:`` and ``ultralytics:``
            are found.

    Raises:
        InputError: an unknown name, a file or checkpoint that cannot be used, no weights.
    """
    kind, _, name = spec.partition(":")
    if classes is not None and (kind != "torchvision" or weights == "DEFAULT"):
        what = "published weights" if weights == "DEFAULT" else "a detector of your own"
        raise InputError(
            f"--classes: expected with a torchvision detector and a checkpoint file, got it with "
            f"{what}, which has its own number of classes"
        )
    if kind == "torchvision":
        return _torchvision(name, weights, classes)
    if kind in ("hf", "onnx", "ultralytics"):
        if weights is not None:
            raise InputError(
                f"--weights: expected none with {kind}:…, which brings its own, got {weights}"
            )
        if kind == "onnx":
            return _onnx(name)
        return {"hf": _transformers, "ultralytics": _ultralytics}[kind](name, categories)
    own = FileSpec.read(spec)
    if own is None:
        raise InputError(
            "--model: expected torchvision:NAME, hf:NAME_OR_DIR, ultralytics:FILE_OR_NAME, "
            f"onnx:FILE,decode=… or path/to/file.py:callable[,argument=value], got {spec!r}"
        )
    detector = call_from_file(spec)
    if weights is not None:
        if weights == "DEFAULT" or not isinstance(detector, nn.Module):
            what = "DEFAULT" if weights == "DEFAULT" else "a detector that is no torch module"
            raise InputError(
                "--weights: expected a checkpoint file for a torch module of your own, got "
                f"{what}; load its weights in {own.path}"
            )
        load_weights(detector, read_checkpoint(weights), weights)
    if not callable(detector):
        raise InputError(
            f"--model: expected {spec} to return a detector (something to call with a list of "
            f"images), got {type(detector).__name__}"
        )
    return detector.eval() if isinstance(detector, nn.Module) else detector


def _onnx(text: str) -> Any:
    from ..detection.detectors import from_onnx

    path, *options = text.split(",")
    given = dict(option.partition("=")[::2] for option in options)
    named = all(".py:" in option for option in given.values())
    if not named or "decode" not in given or not given.keys() <= {"decode", "prepare"}:
        raise InputError(
            "--model: expected onnx:FILE,decode=path/to/file.py:function (and ,prepare=… if the "
            f"input is not the resized RGB image), got onnx:{text}"
        )
    return from_onnx(path, **{k: call_from_file(v, run=False) for k, v in given.items()})


def _transformers(name: str, categories: Mapping[int, str] | None) -> nn.Module:
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
    except ImportError as error:
        raise InputError("--model: hf:… needs transformers; pip install transformers") from error
    from ..detection.detectors import from_transformers

    untyped: Any = AutoImageProcessor
    try:
        model = AutoModelForObjectDetection.from_pretrained(name)
        processor = untyped.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model: expected hf:{name} to be an object detector of transformers, a folder or a "
            f"name on its hub, failed ({' '.join(str(error).split())[:200]})"
        ) from error
    return from_transformers(model, processor, categories).eval()


def _ultralytics(name: str, categories: Mapping[int, str] | None) -> nn.Module:
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise InputError(
            "--model: ultralytics:… needs ultralytics; pip install ultralytics"
        ) from error
    from ..detection.detectors import from_ultralytics

    try:
        model = YOLO(name)
    except Exception as error:  # whatever reading or downloading a checkpoint raises
        raise InputError(
            f"--model: expected ultralytics:{name} to be a checkpoint of ultralytics, a file or a "
            f"name that it downloads, failed ({' '.join(str(error).split())[:200]})"
        ) from error
    return from_ultralytics(model, categories).eval()


def _torchvision(name: str, weights: str | None, classes: int | None) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError(
            "--model: torchvision:… needs torchvision; pip install torchvision"
        ) from error
    known = models.list_models(module=models.detection)
    if name not in known:
        raise unknown_model("torchvision", "detection", name, known)
    if weights is None:
        raise InputError(
            f"--weights: expected a checkpoint file for torchvision:{name}, or DEFAULT for the "
            "published weights, got none"
        )
    try:
        if weights == "DEFAULT":
            published: nn.Module = models.get_model(name, weights="DEFAULT")
            return published.eval()
        state = read_checkpoint(weights)

        def build(count: int) -> nn.Module:
            model: nn.Module = models.get_model(
                name, weights=None, weights_backbone=None, num_classes=count
            )
            return model

        model = build(classes or _PUBLISHED_CLASSES)
        if classes is None:
            found = classes_of(model, state)
            model = build(found) if found else model
    except OSError as error:
        raise InputError(
            f"--weights: expected to get torchvision's weights for {name}, failed ({error}); "
            "download them elsewhere and pass the file"
        ) from error
    load_weights(model, state, weights)
    return model.eval()


def classes_of(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Classes of a checkpoint whose heads are all larger or smaller by one factor."""
    own = model.state_dict()
    factors = {
        state[k].shape[0] / own[k].shape[0]
        for k in own
        if k in state and state[k].dim() and state[k].shape[:1] != own[k].shape[:1]
    }
    count = _PUBLISHED_CLASSES * factors.pop() if len(factors) == 1 else 0.0
    return round(count) if count and abs(count - round(count)) < 1e-6 else None

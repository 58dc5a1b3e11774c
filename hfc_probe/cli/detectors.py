"""Detectors named on the command line: torchvision's, and those in a user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..ground.errors import InputError
from .checkpoints import load_weights, read_checkpoint
from .models import call_from_file, unknown_model

_PUBLISHED_CLASSES = 91  # COCO's ids up to 90, and the background


def load_detector(spec: str, weights: str | None, classes: int | None = None) -> Any:
    """A detector, in evaluation mode on the CPU if it is a module.

    Args:
        spec: ``torchvision:NAME`` (RetinaNet, Faster R-CNN, FCOS, SSD, …), or
            ``path/to/file.py:callable``, whose callable is run and returns the detector.
        weights: a checkpoint file; ``DEFAULT`` for torchvision's published weights
            (downloaded); None for a file's detector that loads its own.
        classes: number of classes with the background, as torchvision counts them; None: as
            the checkpoint has it.

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
    detector = call_from_file(spec)
    if weights is not None:
        if weights == "DEFAULT" or not isinstance(detector, nn.Module):
            what = "DEFAULT" if weights == "DEFAULT" else "a detector that is no torch module"
            raise InputError(
                "--weights: expected a checkpoint file for a torch module of your own, got "
                f"{what}; load its weights in {spec.rpartition(':')[0]}"
            )
        load_weights(detector, read_checkpoint(weights), weights)
    if not callable(detector):
        raise InputError(
            f"--model: expected {spec} to return a detector (something to call with a list of "
            f"images), got {type(detector).__name__}"
        )
    return detector.eval() if isinstance(detector, nn.Module) else detector


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

"""What outputs are scored against: targets by row, held against the outputs that they belong to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ground import checks
from ..ground.errors import InputError
from ..ground.hashing import whole_hash

# Value of a mask's pixels that are not judged, as are negative ones.
_UNJUDGED = 255


def _refused(expected: str, outputs: Tensor, targets: Tensor, advice: str = "") -> InputError:
    return InputError(
        f"targets: expected {expected} beside the model's outputs {tuple(outputs.shape)}, got "
        f"{tuple(targets.shape)}; {advice or 'pass predict= if it is to return something else'}"
    )


def alike(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the shape of the outputs, from which they differ by axes of length 1 at most."""
    sides = [[n for n in one.shape[1:] if n != 1] for one in (outputs, targets)]
    if sides[0] != sides[1]:
        raise _refused("the same shape", outputs, targets)
    return targets.reshape(outputs.shape)


def classes_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class indices ``(N, …)`` of logits ``(N, K, …)``, checked against K."""
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        raise InputError(
            f"model: expected logits (N, K, …) of at least two classes, got {tuple(outputs.shape)};"
            " for a single logit pass predict=lambda model, x: torch.cat([-(z := model(x)), z], 1)"
        )
    if targets.dim() == outputs.dim() and targets.shape[1] == 1:
        targets = targets[:, 0]
    shape = (len(outputs), *outputs.shape[2:])
    if targets.shape != shape:
        raise _refused(f"class indices of shape {shape}", outputs, targets)
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        raise _refused("whole class indices", outputs, targets, "masks divided by 255 are none")
    unknown = (targets >= outputs.shape[1]) & (targets != _UNJUDGED)
    if outputs.dim() == 2:
        unknown = (targets >= outputs.shape[1]) | (targets < 0)
    if bool(unknown.any()):
        raise InputError(
            f"targets: expected class indices from 0 to {outputs.shape[1] - 1}, the model's "
            f"{outputs.shape[1]} logits, got {int(targets[unknown].max())}"
        )
    return targets.long()


def labels_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets of several labels an image, ``(N, K)`` bool."""
    if outputs.dim() != 2 or targets.shape != outputs.shape:
        raise _refused("0 or 1 for each label", outputs, targets)
    if not bool(((targets == 0) | (targets == 1)).all()):
        found = ", ".join(f"{v:g}" for v in targets.unique().tolist()[:4])
        raise InputError(f"targets: expected 0 or 1 for each label, got {found}")
    return targets.bool()


def images_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Target images in [0, 1], in the shape of the outputs."""
    if not targets.is_floating_point():
        raise InputError(
            f"targets: expected float images in [0, 1], got {targets.dtype}; divide 8-bit values "
            "by 255"
        )
    # A network's own images may leave [0, 1] a little; other ranges leave it by far.
    low, high = float(targets.min()), float(targets.max())
    if low < -0.5 or high > 1.5:
        raise InputError(
            f"targets: expected images in [0, 1], got values from {low:g} to {high:g}; map outputs "
            "and targets to [0, 1]"
        )
    return alike(outputs, targets)


def targets_of(targets: Any, rows: Tensor) -> Any:
    """Those rows of the targets that belong to some samples; the samples' own if there are none.

    Raises:
        InputError: fewer rows than the samples refer to.
    """
    if targets is None:
        return rows
    try:
        known = torch.as_tensor(targets)
    except Exception:  # ragged lists, text, whatever a stranger's object raises
        raise InputError(
            "targets: expected a tensor with a row for each image, got "
            f"{checks.shown(targets)}; of images of several sizes pad them to one, which "
            "score=your_function(outputs, targets) can undo"
        ) from None
    if int(rows.max()) >= len(known):
        raise InputError(
            f"targets: expected a row for each image, got {len(known)} and an image of row "
            f"{int(rows.max())}; give the images as Samples(images, torch.arange(len(images)))"
        )
    return known[rows.cpu()].to(rows.device)


def check_rows(targets: Any, rows: Tensor) -> None:
    """Refuse class indices in the place of row numbers, of which no two images have the same.

    Raises:
        InputError: some rows are of several images.
    """
    distinct = int(rows.unique().numel())
    if targets is not None and not is_clean(targets) and distinct < len(rows):
        raise InputError(
            "targets: expected the number of its row in targets as the label of each image, got "
            f"{distinct} different labels for {len(rows)} images; give the images as "
            "Samples(images, torch.arange(len(images)))"
        )


def is_clean(targets: Any) -> bool:
    """Whether the targets are the model's outputs on the original images."""
    return isinstance(targets, str) and checks.choice("targets", targets, ("clean",)) == "clean"


def name_of(targets: Any) -> str | None:
    """What tells targets from others in a result's settings: ``"clean"``, or a hash."""
    if targets is None or is_clean(targets):
        return None if targets is None else str(targets)
    return whole_hash(torch.as_tensor(targets))[:16]

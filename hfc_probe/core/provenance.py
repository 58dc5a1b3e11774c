"""Where a result comes from: what was measured, on what, how and when, as plain values."""

from __future__ import annotations

import shlex
import sys
import time
import weakref
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from ..data.samples import Samples
from ..ground.hashing import state_hash, whole_hash
from ..version import __version__

if TYPE_CHECKING:
    from ..model.subject import Subject
    from .result import Result

R = TypeVar("R", bound="Result")

_DIGITS = 16


_COMMAND = 500


def stamp(
    result: R,
    subject: Subject,
    samples: Samples | None,
    *,
    seconds: float,
    step: int | None = None,
    epoch: int | None = None,
) -> R:
    """Write into a result where it comes from; what it says of itself already stays.

    Args:
        samples: the images looked at; None if the measurement looks at weights alone.
        seconds: that the measurement took.
        step, epoch: of the training, how many have ended; None outside of one.
    """
    said = result.provenance
    caveats = [*(samples.caveats if samples is not None else ()), *subject.caveats]
    found = {
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv)[:_COMMAND],
        "step": step,
        "epoch": epoch,
        "wall_time": time.time(),
        "model": type(subject.model).__name__,
        "weights": weights_hash(subject.model),
        **_of_data(result, subject, samples),
        "passes": getattr(result, "passes", subject.tally.passes),
        "seconds": round(seconds, 6),
        "device": str(subject.device),
        **said,
        "caveats": list(dict.fromkeys([*caveats, *said.get("caveats", ())])),
    }
    # In place: a result of somebody else's class may not be one that can be made anew.
    object.__setattr__(result, "provenance", found)
    return result


def chance(targets: Tensor, classes: int | None, topk: int = 1) -> float:
    """Accuracy in the top k that takes no look at the images: k of K, or the k largest classes.

    >>> chance(Tensor([0, 0, 0, 1]), 4), chance(Tensor([0, 1]), 4, topk=3)
    (0.75, 1.0)
    """
    counts = targets.unique(return_counts=True)[1].sort(descending=True).values
    share = float(counts[:topk].sum()) / len(targets)
    return max(share, min(1.0, topk / classes)) if classes else share


def images_hash(samples: Samples) -> str:
    """16 hexadecimal digits of the SHA-256 of pixels and targets; equal for the same images."""
    if samples not in _hashes:
        sizes = [] if samples.sizes is None else [samples.sizes]
        _hashes[samples] = whole_hash(samples.images, samples.targets, *sizes)[:_DIGITS]
    return _hashes[samples]


_hashes: weakref.WeakKeyDictionary[Samples, str] = weakref.WeakKeyDictionary()


def weights_hash(model: nn.Module) -> str:
    """16 hexadecimal digits that tell the state of one model from another's.

    Of a sharded model it is this rank's share. See :func:`hfc_probe.ground.hashing.state_hash`.
    """
    return state_hash(chain(model.named_parameters(), model.named_buffers()))[:_DIGITS]


def _of_data(result: Result, subject: Subject, samples: Samples | None) -> dict[str, Any]:
    if samples is None:
        return {"samples": 0}
    given = samples.provenance
    original = result.original()
    topk = original[2] if original is not None else 1
    return {
        "data": given.get("data"),
        "images": images_hash(samples),
        "selection": samples.selection,
        "samples": result.samples,
        "mean": list(subject.pixels.mean),
        "std": list(subject.pixels.std),
        "normalization": given.get("normalization"),
        "resampling": given.get("resampling"),
        "classes": subject.tally.classes,
        "chance": chance(samples.targets, subject.tally.classes, topk),
    }

"""Named sets of images that one probe measures on; each is logged as a run of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.samples import PixelSpace, Samples
from ..ground import checks
from ..ground.errors import InputError


@dataclass(frozen=True)
class ImageSet:
    """Images and how the model takes them.

    Attributes:
        name: of the set; empty if there is one without a name.
    """

    samples: Samples | None = None
    pixels: PixelSpace | None = None
    name: str = ""

    def key(self, measurement: str) -> str:
        """The name of a measurement on this set in :attr:`Probe.results`."""
        return f"{self.name}/{measurement}" if self.name else measurement


def collect(data: Any, *, pixels: PixelSpace | None, limit: int | None) -> list[ImageSet]:
    """Read what a probe is given: data, or a mapping of names to data.

    Raises:
        InputError: no sets, or names that are no folder names; what :meth:`Samples.collect` says.
    """
    named: Mapping[Any, Any] = data if isinstance(data, Mapping) else {"": data}
    bad = [name for name in named if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name)]
    if named is data and (bad or not named):
        got = ", ".join(map(checks.shown, bad)) or "no set"
        raise InputError(
            "data: expected a loader, Samples, or a mapping of names of letters, digits, _ and - "
            f'to those, got {got}; pass {{"train": …, "val": …}}'
        )
    if named is data and all(isinstance(one, Tensor) for one in named.values()):
        raise InputError(
            f"data: expected a loader, Samples, or a mapping of names to those, got tensors by "
            f"name ({', '.join(named)}), as in one batch; pass [batch] or Samples(images, targets)"
        )
    sets = []
    for name, one in named.items():
        samples = Samples.collect(one, pixels=pixels, limit=limit)
        own = samples.normalization
        (own or PixelSpace()).check(samples.image_shape[0])
        sets.append(ImageSet(samples, own, name))
    return sets


def open_writer(log_dir: str | os.PathLike[str], name: str = "") -> Any:
    """A TensorBoard writer of a directory, or of a set's directory in it.

    Raises:
        InputError: a directory that cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    place = os.path.join(os.fspath(log_dir), name) if name else os.fspath(log_dir)
    try:
        return SummaryWriter(place, filename_suffix=".hfc")
    except OSError as error:
        raise InputError(
            f"log_dir: expected a directory that can be written, got {place} ({error.strerror})"
        ) from error


class InSet:
    """A logger without directories, whose tags then name the set: ``hfc_lfc/train/r08``."""

    def __init__(self, writer: Any, name: str) -> None:
        self._writer, self._name = writer, name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._writer, attribute)
        if not attribute.startswith("add_"):
            return found

        def add(tag: str, *values: Any, **options: Any) -> Any:
            section, *rest = tag.split("/")
            return found("/".join([section, self._name, *rest]), *values, **options)

        return add

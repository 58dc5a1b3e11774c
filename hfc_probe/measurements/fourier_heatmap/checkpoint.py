"""A file in which an interrupted map waits to be continued."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ground.files import write_atomically
from .engine import Engine, logger

# Seconds between two writes of the checkpoint.
_CHECKPOINT_SECONDS = 20.0


class Checkpoint:
    """A file in which an interrupted map waits to be continued; None keeps nothing.

    The file carries a digest of everything the numbers depend on. One that belongs to
    another model, other images or other settings is not used, and that is logged.
    """

    def __init__(self, path: str | os.PathLike[str] | None, digest: str) -> None:
        self.path = None if path is None else Path(path)
        self.digest = digest
        self._written = time.monotonic()

    def load(self) -> dict[str, NDArray[Any]] | None:
        if self.path is None or not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
        except Exception:  # damaged archives raise anything at all
            logger.warning("hfc_probe: %s cannot be read; the map starts afresh", self.path)
            return None
        if str(state.pop("fingerprint", "")) != self.digest:
            logger.warning(
                "hfc_probe: %s belongs to another model, other images or other settings; the map "
                "starts afresh",
                self.path,
            )
            return None
        return state

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._written > _CHECKPOINT_SECONDS

    def save(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, fingerprint=np.array(self.digest), **state)
        write_atomically(self.path, buffer.getvalue())
        self._written = time.monotonic()

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def run_digest(engine: Engine, extra: object = ()) -> str:
    """A hash of the model's weights, the images and the settings that the numbers depend on."""
    digest = hashlib.sha256()
    pixels = engine.subject.pixels
    settings = (
        engine.norm,
        engine.seed,
        engine.topk,
        engine.directions,
        engine.autocast,
        pixels.mean,
        pixels.std,
        getattr(engine.score, "__qualname__", None),
        extra,
    )
    digest.update(repr(settings).encode())
    for name, tensor in sorted(engine.subject.model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            digest.update(_bytes(tensor))
    digest.update(_bytes(engine.samples.images))
    digest.update(_bytes(engine.samples.targets))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

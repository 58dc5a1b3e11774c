"""Finished images on disk, so that an interrupted audit resumes."""

from __future__ import annotations

import json
import os
import reprlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from ..ground.errors import InputError
from .coco import MALFORMED, Detections, ImageId, image_id_of

Finished = dict[ImageId, dict[str, Detections]]  # by image, then by variant


class PredictionStore:
    """Detections of finished images, one JSON line each, one file per process.

    A line is written when all variants of its image are done. Numbers are kept to the last
    digit. A line that was cut off by an interruption is not counted.

    Args:
        folder: where the files are; None keeps them in memory only.
        fingerprint: settings and detector; files made with others are refused.
        rank: of this process.

    Raises:
        InputError: files of another audit, or a place that cannot be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, fingerprint: Mapping[str, Any], rank: int = 0
    ) -> None:
        self.finished: Finished = {}
        self._folder = None if folder is None else Path(folder)
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._file: IO[bytes] | None = None
        self._rank = rank
        if self._folder is not None and self._folder.is_dir():
            for part in sorted(self._folder.glob("part-*.jsonl")):
                self._read(part)

    def _read(self, part: Path) -> int:
        """Take over what a file holds; returns how many bytes of it are whole lines."""
        whole = 0
        with part.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    content = json.loads(line)
                    if number == 0:
                        self._check(content, part)
                    else:
                        self.finished[image_id_of(content["image_id"])] = {
                            name: _detections(found) for name, found in content["variants"].items()
                        }
                except InputError:
                    raise
                except MALFORMED:
                    break  # damaged: these images are done again
                whole += len(line)
        return whole

    def _check(self, found: Any, part: Path) -> None:
        if found == self._fingerprint:
            return
        known = found if isinstance(found, Mapping) else {}
        differing = [
            f"{key} {reprlib.repr(known.get(key))} instead of {reprlib.repr(value)}"
            for key, value in self._fingerprint.items()
            if known.get(key) != value
        ]
        raise InputError(
            f"resume: expected finished images of this very audit in {part.parent}, got "
            f"{'; '.join(differing) or 'another version'}; choose another directory or delete that "
            "one"
        )

    def add(self, image_id: ImageId, variants: Mapping[str, Detections]) -> None:
        """An image is finished."""
        self.finished[image_id] = dict(variants)
        if self._folder is None:
            return
        content = {
            "image_id": image_id,
            "variants": {
                name: {
                    "boxes": found.boxes.tolist(),
                    "scores": found.scores.tolist(),
                    "labels": found.labels.tolist(),
                }
                for name, found in variants.items()
            },
        }
        file = self._file or self._open()
        file.write(json.dumps(content).encode() + b"\n")
        file.flush()

    def _open(self) -> IO[bytes]:
        assert self._folder is not None
        part = self._folder / f"part-{self._rank:03d}.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            whole = self._read(part) if part.exists() else 0
            self._file = part.open("ab")
        except OSError as error:
            raise InputError(
                f"output: expected a place that can be written, got {part} ({error.strerror})"
            ) from error
        self._file.truncate(whole)
        if whole == 0:
            self._file.write(json.dumps(self._fingerprint).encode() + b"\n")
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _detections(found: Mapping[str, Any]) -> Detections:
    """Of one image, as :meth:`PredictionStore.add` wrote them; ValueError for other lengths."""
    read = Detections(
        np.array(found["boxes"], dtype=np.float64).reshape(-1, 4),
        np.array(found["scores"], dtype=np.float64),
        np.array(found["labels"], dtype=np.int64),
    )
    if {read.scores.shape, read.labels.shape} != {(len(read.boxes),)}:
        raise ValueError("as many scores and labels as boxes")
    return read


def detector_fingerprint(detector: Any, model: nn.Module | None) -> str:
    """Tells detectors apart: the class, and a checksum of weights and plain settings.

    Settings are numbers and words that modules hold, such as a score threshold. A function
    without a module is known by its name alone.
    """
    name = getattr(detector, "__qualname__", type(detector).__qualname__)
    if model is None:
        return name
    settings = [
        f"{name}.{key}={value!r}"
        for name, part in model.named_modules()
        for key, value in sorted(vars(part).items())
        if key != "training" and isinstance(value, (bool, int, float, str))
    ]
    checksum = zlib.crc32(chr(10).join(settings).encode())
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            checksum = zlib.crc32(key.encode(), checksum)
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                values = tensor.detach().cpu().contiguous()
                raw = values.flatten().view(torch.uint8).numpy() if values.numel() else b""
                checksum = zlib.crc32(raw, checksum)  # type: ignore[arg-type]
    return f"{type(model).__qualname__} {checksum:08x}"

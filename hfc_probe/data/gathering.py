"""Batches gathered into one tensor of pixels, as soon as their normalisation is known."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ground.errors import InputError
from .normalization import LARGEST, OVERSHOOT, ROUNDING, Normalization, check_range, decide
from .pixels import PixelSpace

_ENOUGH = 256  # images that show how all of them are normalised


class _Kept:
    """Images one after the other in one tensor, made at once if their number is known.

    So reading holds the images once: joining the batches at the end would hold them twice.
    """

    def __init__(self, expected: int) -> None:
        self.count, self._expected = 0, expected
        self._held: Tensor | None = None

    def add(self, part: Tensor) -> None:
        held, count = self._held, self.count + len(part)
        if held is not None and held.dtype != part.dtype:
            held = held[: self.count].to(torch.promote_types(held.dtype, part.dtype))
        if held is None or len(held) < count:
            size = max(count, self._expected if held is None else 2 * len(held))
            larger = part.new_empty((size, *part.shape[1:]))
            if held is not None:
                larger[: self.count] = held[: self.count]
            held = larger
        held[self.count : count] = part
        self._held, self.count = held, count

    def all(self) -> Tensor:
        assert self._held is not None
        held = self._held[: self.count]
        return held if len(held) == len(self._held) else held.clone()

    @property
    def dtype(self) -> torch.dtype | None:
        return None if self._held is None else self._held.dtype


class Gathered:
    """Batches in the order of their coming, in pixel space as soon as it is known how.

    Args:
        expected: number of images to come, if it is known.
    """

    def __init__(
        self, given: PixelSpace | None, found: PixelSpace | None, wrapped: bool, expected: int
    ) -> None:
        self.given, self.found, self.wrapped, self.expected = given, found, wrapped, expected
        self.count = self.batches = 0
        self._raw: list[Tensor] = []
        self._pixels = _Kept(expected)
        self._targets = _Kept(expected)
        self._shape: torch.Size | None = None
        self._decided: Normalization | None = None
        self._revised = False

    def add(self, images: Tensor, targets: Tensor) -> None:
        ranged = self.given is not None and self.given.declared
        if ranged and (images.dtype != torch.uint8 or self.given != PixelSpace((0.0,), (1 / 255,))):
            images = images.to(torch.promote_types(images.dtype, torch.float32))
        self._shape = shape = self._shape or images.shape[1:]
        if images.shape[1:] != shape:
            raise InputError(
                f"data: expected images of one size, got {tuple(shape)} and "
                f"{tuple(images.shape[1:])}; crop or resize them in the transform, or pass "
                "Samples([image, …], targets)"
            )
        self.count += len(images)
        self.batches += 1
        self._targets.add(targets)
        self._raw.append(images)
        if self._decided is not None:
            self._convert()
        elif not self._revised and self.count >= _ENOUGH:
            self._decide()

    def finish(self) -> tuple[Tensor, Tensor, Normalization]:
        """All images in pixel space, all targets, and how the images were normalised."""
        if self._raw:
            self._decide()
        assert self._decided is not None
        return self._pixels.all(), self._targets.all(), self._decided

    def _decide(self) -> None:
        if len({part.dtype if part.dtype in LARGEST else None for part in self._raw}) > 1:
            raise InputError(
                "data: expected images of one number type, got "
                f"{', '.join(sorted({str(part.dtype) for part in self._raw}))}"
            )
        self._decided = decide(self._raw, self.given, self.found, wrapped=self.wrapped)
        self._convert()

    def _convert(self) -> None:
        assert self._decided is not None
        while self._raw:
            try:
                part = to_pixels(self._raw[0], self._decided)
            except InputError:
                # The first images alone may look raw: normalised ones of middle brightness.
                if self._revised or not self._pixels.count:
                    raise
                self._revised = True
                undo = self._decided.undo
                before = as_float(self._pixels.all())
                before = before if undo is None else undo.normalize(before)
                self._raw.insert(0, before * self._decided.largest)
                self._pixels, self._decided = _Kept(self.expected), None
                return
            if self._pixels.dtype not in (None, part.dtype):  # not all came from 8 bits
                floats = _Kept(self.expected)
                floats.add(as_float(self._pixels.all()))
                self._pixels, part = floats, as_float(part)
            self._pixels.add(part)
            del self._raw[0]


# Values of the images that are brought to pixel space at a time.
_CHUNK = 1 << 17


def to_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Images in pixel space, as uint8 if they were 8-bit; their normalisation is undone.

    Raises:
        InputError: values outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return images
    chunks = images.split(max(1, _CHUNK // max(1, images[0].numel())))
    parts = []
    for chunk in chunks:
        scaled = _undone(chunk, normalization) * 255
        whole = scaled.round()
        if not bool((scaled - whole).abs().max() < 255 * ROUNDING / 10):
            return torch.cat([_undone(chunk, normalization) for chunk in chunks])
        parts.append(whole.to(torch.uint8))
    return torch.cat(parts)


def _undone(images: Tensor, normalization: Normalization) -> Tensor:
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    images = images / normalization.largest
    undo = normalization.undo
    if undo is not None:
        images = undo.unnormalize(images)
    undone = None if undo is None else (undo, normalization.source)
    exact = undo is not None and undo.declared
    check_range(images, slack=ROUNDING if exact else OVERSHOOT, undone=undone)
    return images.clamp(0, 1)


def as_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float."""
    largest = LARGEST.get(images.dtype)
    return images if largest is None else images.to(torch.float32) / largest

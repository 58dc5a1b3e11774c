"""Image files as pixels in [0, 1], upright: one rule for every path to a detector."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ground.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # EXIF's tag
_READ = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


class BrokenImageError(InputError):
    """An image file that cannot be used; with ``skip_broken`` the audit continues without it."""


def read_picture(
    path: str | os.PathLike[str], named: str, size: tuple[int | None, int | None] = (None, None)
) -> Tensor:
    """An image file as RGB float32 ``(3, H, W)`` in [0, 1].

    A photograph is turned upright as its EXIF orientation says, always, as detectron2 does.
    8 and 16 bits are divided by their full scale, floats in [0, 1] taken as they are; an alpha
    channel is dropped, of an animation the first frame is read.

    Args:
        named: the file in words, for errors.
        size: annotated width and height; None: not annotated.

    Raises:
        BrokenImageError: no such file, no image, pixels of unknown scale, another size.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            turned = _orientation(file)
            upright = ImageOps.exif_transpose(file)
            pixels = _pixels(upright, file.format, named)  # a turned copy has no format
    except FileNotFoundError as error:
        raise BrokenImageError(f"images: expected {named}, no such file") from error
    except InputError:
        raise
    # Pillow raises Exceptions of many kinds, and what replaces its reader others (Ultralytics').
    except Exception as error:
        raise BrokenImageError(
            f"images: expected an image in {named}, got a file that cannot be read as one ({error})"
        ) from error
    found = (pixels.shape[1], pixels.shape[0])
    wanted = tuple(f if w is None else w for f, w in zip(found, size, strict=True))
    if found != wanted:
        stored = turned in (5, 6, 7, 8) and found[::-1] == wanted
        raise BrokenImageError(
            f"images: expected {wanted[0]}×{wanted[1]} pixels in {named}, as annotated, got "
            f"{found[0]}×{found[1]}"
            + (
                f" after turning it upright (EXIF orientation {turned}); if the annotations are of "
                "the pixels as stored, remove the orientation from the file"
                if stored
                else ""
            )
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def is_turned(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`read_picture` turns a file that it can read."""
    from PIL import Image

    with Image.open(path) as file:
        return _orientation(file) in range(2, 9)


def _orientation(file: Image.Image) -> Any:
    return file.getexif().get(_ORIENTATION, 1)


def check_depth(path: str | os.PathLike[str]) -> None:
    """Raise BrokenImageError for pixels that readers of 8 bits (detectron2's) get wrong."""
    from PIL import Image

    with Image.open(path) as file:
        if file.mode not in _READ:
            raise BrokenImageError(
                f"images: expected 8 bits per channel in {Path(path).name}, got Pillow's mode "
                f"{file.mode}, which detectron2 does not read right; convert the file"
            )


def _pixels(picture: Image.Image, form: str | None, named: str) -> NDArray[np.float32]:
    """``(H, W, 3)`` in [0, 1]."""
    if picture.mode in _READ:
        colours: NDArray[np.float32] = np.asarray(picture.convert("RGB"), dtype=np.float32)
        return np.divide(colours, 255, dtype=np.float32)
    values = np.asarray(picture)
    scale = 65535.0 if picture.mode.startswith("I;16") else 1.0
    if picture.mode == "I" and form == "PNG":  # older Pillow's 16 bits
        scale = 65535.0
    low, high = float(values.min()), float(values.max())
    known = picture.mode == "F" or scale > 1
    if not known or values.ndim != 2 or not (low >= 0 and high <= scale):
        raise BrokenImageError(
            f"images: expected 8 or 16 bits per channel, or floats in [0, 1], in {named}, got "
            f"Pillow's mode {picture.mode} with values from {low:g} to {high:g}; convert the file"
        )
    grey: NDArray[np.float32] = (values[..., None] / scale).astype(np.float32)
    return np.repeat(grey, 3, axis=2)

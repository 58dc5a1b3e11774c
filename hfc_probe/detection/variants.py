"""The images that a detector is shown: original, LFC(r) and HFC(r), per image and radius."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import fourier
from ..errors import InputError
from ..measurements.frequency_accuracy import radius_tag

Background = Literal["zero", "mean"]
ORIGINAL = "original"


def variant_names(radii: Sequence[float]) -> tuple[str, ...]:
    """Names of all variants, as in tags and files: original, then LFC, then HFC by radius.

    >>> variant_names((16, 128))
    ('original', 'lfc_r16', 'lfc_r128', 'hfc_r16', 'hfc_r128')
    """
    tags = [radius_tag(float(r)) for r in radii]
    return (ORIGINAL, *(f"lfc_{t}" for t in tags), *(f"hfc_{t}" for t in tags))


def run_variants(
    detect: Callable[[list[Tensor]], Any],
    images: list[Tensor],
    *,
    radii: Sequence[float],
    closed: bool,
    units: fourier.Units,
    background: Tensor | None,
) -> Iterator[tuple[str, Any]]:
    """Show every variant of some images to a detector; yields ``(name, what it returned)``.

    Each image is split by itself, at its own size, so that the padding of a batch never
    enters a spectrum; in float32 and outside autocast. Only one radius is in memory at a time.

    Args:
        detect: called once per variant with the images of that variant.
        images: real floating ``(C, H, W)`` each, of any sizes.
        radii, closed, units: see :func:`hfc_probe.fourier.split`.
        background: ``(C,)`` added to the HFC, in the images' value range; None for none.
    """
    names = variant_names(radii)
    low_names, high_names = names[1 : 1 + len(radii)], names[1 + len(radii) :]
    yield ORIGINAL, detect(images)
    splits = [fourier.bands(image, radii, closed=closed, units=units) for image in images]
    for low_name, high_name in zip(low_names, high_names, strict=True):
        with torch.autocast(images[0].device.type, enabled=False):
            pairs = [next(split) for split in splits]
            highs = [high for _, high in pairs]
            if background is not None:
                highs = [h + background.to(h.device, h.dtype).view(-1, 1, 1) for h in highs]
        yield low_name, detect([low for low, _ in pairs])
        yield high_name, detect(highs)


def pixel_mean_of(detector: Any) -> tuple[float, ...] | None:
    """The per-channel mean that a detector subtracts, in the range of the images it takes.

    Looked for as ``pixel_mean`` (detectron2, and whatever a wrapper names so) and as
    ``transform.image_mean`` (torchvision); None where there is neither.
    """
    for owner, name in ((detector, "pixel_mean"), (detector, "transform.image_mean")):
        value = owner
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None:
            flat = torch.as_tensor(value, dtype=torch.float64).flatten().cpu()
            return tuple(float(v) for v in flat)
    return None


def background_of(kind: Background, mean: Sequence[float] | None) -> Tensor | None:
    """What is added to the HFC: None for ``"zero"``, else the pixel mean as a tensor.

    Raises:
        InputError: ``"mean"`` and no mean known.
    """
    if kind == "zero":
        return None
    if mean is None:
        raise InputError(
            'hfc_background: "mean" needs the mean that the detector subtracts, and it has '
            "neither pixel_mean nor transform.image_mean; pass pixel_mean=(…) in the range of the "
            "images"
        )
    return torch.tensor(mean, dtype=torch.float32)

"""The images that a detector is shown: original, LFC(r) and HFC(r), per image and radius."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import fourier
from ..core.event_file import radius_tag
from ..ground.errors import InputError

Background = Literal["zero", "mean"]
Place = Literal["image", "input"]
ORIGINAL = "original"
CONTROL = "control"  # an LFC that nobody can see: what it changes, any perturbation does
REMOVED = 1 / 255  # root mean square of what the control removes, of full scale


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
    rescale: fourier.Rescale | None = None,
    full_scale: float = 1.0,
    control: bool = False,
) -> Iterator[tuple[str, Any]]:
    """Show every variant of some images to a detector; yields ``(name, what it returned)``.

    Each image is split by itself, at its own size, so that the padding of a batch never
    enters a spectrum; in float32 and outside autocast. Only one radius is in memory at a time.

    Args:
        detect: called once per variant with the images of that variant.
        images: real floating ``(C, H, W)`` each, of any sizes.
        radii, closed, units: see :func:`hfc_probe.fourier.split`.
        background: ``(C,)`` added to the HFC, in the images' value range; None for none.
        rescale, full_scale: see :func:`hfc_probe.fourier.components`; without rescaling the
            original is the very list that was given.
        control: also show :func:`barely_filtered` images, as :data:`CONTROL`.
    """
    names = variant_names(radii)
    lows, highs = names[1 : 1 + len(radii)], names[1 + len(radii) :]
    paired = (name for pair in zip(lows, highs, strict=True) for name in pair)
    options: Any = {"closed": closed, "units": units, "background": background}
    options |= {"rescale": rescale, "full_scale": full_scale}
    views = [fourier.components(image, radii, **options) for image in images]
    for name in (ORIGINAL, *paired):
        with torch.autocast(images[0].device.type, enabled=False):
            shown = [next(view).images for view in views]
        yield name, detect(images if name == ORIGINAL and rescale is None else shown)
    if control:
        with torch.autocast(images[0].device.type, enabled=False):
            shown = [barely_filtered(image, full_scale * REMOVED) for image in images]
            if rescale is not None:
                shown = [next(fourier.components(image, (), **options)).images for image in shown]
        yield CONTROL, detect(shown)


def barely_filtered(image: Tensor, removed: float) -> Tensor:
    """The LFC of the smallest radius that removes at most so much, as root mean square.

    >>> image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    >>> rest = image - barely_filtered(image, 0.05)
    >>> 0.04 < float(rest.square().mean().sqrt()) <= 0.05
    True
    """
    height, width = image.shape[-2:]
    spectrum = fourier.transform(torch.fft.fft2, image, norm="ortho")
    power = (spectrum.real**2 + spectrum.imag**2).sum(0).flatten().double().cpu()
    distance = fourier.distance(height, width, centred=False).flatten()
    radii, ring = distance.unique(return_inverse=True)
    of_ring = torch.zeros(len(radii), dtype=torch.float64, device="cpu").index_add_(0, ring, power)
    beyond = of_ring.flip(0).cumsum(0).flip(0) - of_ring  # what an LFC of each radius leaves out
    kept = int((beyond <= removed**2 * image.numel()).nonzero()[0])
    return fourier.split(image, float(radii[kept]))[0]


def pixel_mean_of(detector: Any) -> tuple[float, ...] | None:
    """The per-channel mean that a detector subtracts, in the range of the images it takes.

    Looked for as ``pixel_mean`` (detectron2, and whatever a wrapper names so) and as
    ``transform.image_mean`` (torchvision); None if there is neither.
    """
    for owner, name in ((detector, "pixel_mean"), (detector, "transform.image_mean")):
        value = owner
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None:
            flat = np.ravel(value.detach().cpu() if isinstance(value, Tensor) else value)
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
    return torch.tensor(mean, dtype=torch.float32, device="cpu")

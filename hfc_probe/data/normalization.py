"""Which normalisation a loader's images went through: what is said, checked on the images.

Images that came from 8 bits lie on the grid k/255 once the right mean and std are undone, and on
no such grid under others. So the images themselves decide between what the caller says, what the
loader's transforms say, and nothing at all; of most images they even tell mean and std alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ..ground.errors import InputError
from .pixels import PixelSpace

IDENTITY = PixelSpace()
# Largest value of the integers that images are kept as; the model may take them as they are.
LARGEST = {torch.uint8: 255, torch.uint16: 65535}
_KNOWN = (PixelSpace.imagenet(), PixelSpace.cifar10(), PixelSpace((0.5,), (0.5,)))

# Rounding of a normalisation and its inverse; overshoot of a bicubic resize on floats.
ROUNDING, OVERSHOOT = 1e-3, 0.1
# How far from a whole 8-bit value is still one; images and values looked at for that.
_OFF_GRID, _IMAGES, _VALUES = 0.03, 32, 100_000
_LEVELS = 32  # distinct values in a channel that show its 8-bit steps


@dataclass(frozen=True)
class Normalization:
    """What is known of a loader's images.

    Attributes:
        pixels: how the model is given images.
        undo: what the loader did to them; None if they are in pixel space.
        largest: value of white if they are in pixel space: 1, or 255 if it was not divided by.
        source: where this is known from.
        caveats: what contradicts it, or is taken on trust.
    """

    pixels: PixelSpace
    undo: PixelSpace | None
    source: str
    largest: float = 1.0
    caveats: tuple[str, ...] = ()


def decide(
    batches: Sequence[Tensor],
    given: PixelSpace | None = None,
    found: PixelSpace | None = None,
    *,
    wrapped: bool = False,
) -> Normalization:
    """The normalisation that a loader's images went through.

    Args:
        batches: images ``(N, C, H, W)`` as the loader yields them, of one number type.
        given: what the caller says that the model wants.
        found: the ``Normalize`` in the loader's transforms.
        wrapped: whether ``found`` is applied after these images, in a wrapper around the loader.

    Raises:
        InputError: values that neither explains; the sentence says what to pass.
    """
    images = batches[0]
    for space in (given, found):
        if space is not None:
            space.check(images.shape[1])
    if images.dtype in LARGEST or wrapped:
        return _integers(float(LARGEST.get(images.dtype, 255)), given, found if wrapped else None)
    if not images.is_floating_point():
        raise InputError(
            f"data: expected float, uint8 or uint16 images, got {images.dtype}; divide them by "
            "their largest possible value"
        )
    if not all(bool(part.isfinite().all()) for part in batches):
        raise InputError("images: expected finite values in [0, 1], got NaN or infinity")
    if given is not None and given.declared:  # whatever else the values look like
        return Normalization(given, given, "given")
    levels = _levels(batches)
    eps = torch.finfo(images.dtype).eps
    if _on_grid(IDENTITY, levels, eps):
        return _in_pixel_space(given, found)
    said = [
        (space, source)
        for space, source in ((given, "given"), (found, "found in the data"))
        if space is not None and not space.is_identity
    ]
    for space, source in said:
        if _on_grid(space, levels, eps):
            return Normalization(space, space, source, caveats=_against(space, given))
    if min(map(len, levels)) >= _LEVELS:  # fewer values may lie on a grid by chance
        if _on_grid(PixelSpace((0.0,), (1 / 255,)), levels, eps):
            return _integers(255.0, given, None)
        for space in (*_KNOWN, *_measured(levels)):
            if space.fits(len(levels)) and _on_grid(space, levels, eps):
                caveats = _against(space, given)
                return Normalization(space, space, "decided by the 8-bit grid", caveats=caveats)
    return _by_range(torch.cat(list(batches)), said, given, found, _steps(levels))


def _integers(
    largest: float, given: PixelSpace | None, wrapper: PixelSpace | None
) -> Normalization:
    """Images as their files have them, which somebody behind the loader may still divide."""
    if wrapper is not None:
        return Normalization(
            wrapper, None, "found in the loader", largest, caveats=_against(wrapper, given)
        )
    if given is not None:
        return Normalization(given, None, "given", largest, on_trust(given))
    bits = "8" if largest == 255 else "16"
    return Normalization(
        PixelSpace((0.0,), (1 / largest,)),
        None,
        "none found",
        largest,
        (
            f"The loader's images are {bits}-bit values, so the model is given values from 0 to "
            f"{largest:.0f}; if the training loop divides them by {largest:.0f} first, pass "
            "pixels=hfc_probe.PixelSpace(), and if it normalises them, "
            "pixels=hfc_probe.PixelSpace(mean, std).",
        ),
    )


def _in_pixel_space(given: PixelSpace | None, found: PixelSpace | None) -> Normalization:
    """Images in [0, 1]: the model takes them so, or somebody behind the loader normalises."""
    if given is not None:
        return Normalization(given, None, "given", caveats=on_trust(given))
    if found is not None and found.is_identity:
        return Normalization(found, None, "found in the data")
    if found is not None:
        caveat = (
            f"The data keep a normalisation ({found}) that was not applied: the images lie in "
            "[0, 1], and the model is given them so; if the training loop normalises them, pass "
            "pixels=hfc_probe.PixelSpace(mean, std), otherwise pixels=hfc_probe.PixelSpace()."
        )
    else:
        caveat = (
            "The probe found no normalisation, so the model is given the loader's images as they "
            "are, in [0, 1]; if the training loop normalises them, pass "
            "pixels=hfc_probe.PixelSpace(mean, std), otherwise pixels=hfc_probe.PixelSpace()."
        )
    return Normalization(IDENTITY, None, "none found", caveats=(caveat,))


def _by_range(
    images: Tensor,
    said: Sequence[tuple[PixelSpace, str]],
    given: PixelSpace | None,
    found: PixelSpace | None,
    steps: Tensor | None,
) -> Normalization:
    """Images on no grid that is known, as of a resize on floats: their range alone is left."""
    if _within(images):
        return _in_pixel_space(given, found)
    # What the loader does to its images counts for more than what is said of them.
    for space, source in reversed(said):
        if not _within(space.unnormalize(images.float())):
            continue
        caveats = list(_against(space, given, "The loader's own transforms say"))
        if steps is not None:
            caveats.append(
                f"The images come from 8-bit values, but not by the normalisation {source} "
                f"({space}): their steps say std ({', '.join(f'{v:.3g}' for v in steps)})."
            )
        return Normalization(space, space, source, caveats=tuple(caveats))
    check_range(images, slack=OVERSHOOT, undone=said[-1] if said else None)
    raise AssertionError("images outside [0, 1] pass no range check")


def _against(
    space: PixelSpace,
    given: PixelSpace | None,
    why: str = "The loader's images lie on the grid of 8-bit values only under",
) -> tuple[str, ...]:
    """The sentence on a normalisation that was given and is not the one that is used."""
    if given is None or given.is_close(space):
        return ()
    return (
        f"pixels= says {given}, which is not used. {why} {space}, and the model is given that.",
    )


def on_trust(given: PixelSpace) -> tuple[str, ...]:
    """The sentence on a normalisation that images in pixel space cannot confirm."""
    if not given.looks_swapped:
        return ()
    return (
        f"Mean and std look swapped: pixels= says {given}, but values in [0, 1] of that mean "
        "cannot have so large a std.",
    )


def _levels(batches: Sequence[Tensor]) -> list[Tensor]:
    """Sorted distinct values of each channel in some of the images, float64."""
    count = sum(map(len, batches))
    images = (image for part in batches for image in part)
    some = torch.stack(list(islice(images, 0, None, max(1, count // _IMAGES)))[:_IMAGES])
    levels = []
    for channel in some.unbind(1):
        values = channel.reshape(-1)
        # A stride that shares no factor with the image's sides, so that all columns are seen.
        stride = max(1, values.numel() // _VALUES)
        levels.append(values[:: stride + (stride > 1 and stride % 2 == 0)].double().unique())
    return levels


def _on_grid(space: PixelSpace, levels: Sequence[Tensor], eps: float) -> bool:
    """Whether all values are 8-bit ones once a normalisation is undone.

    Args:
        eps: of the images' number format; bfloat16 is too coarse to tell.
    """
    for values, mean, std in zip(levels, *_per_channel(space, len(levels)), strict=True):
        slack = max(_OFF_GRID, eps * float(values.abs().max()) * std * 255)
        scaled = (values * std + mean) * 255
        off = float((scaled - scaled.round()).abs().max())
        if slack > 0.25 or off > slack:
            return False
        if float(scaled[0]) < -slack or float(scaled[-1]) > 255 + slack:
            return False
    return True


def _per_channel(space: PixelSpace, channels: int) -> tuple[tuple[float, ...], ...]:
    return tuple(v * channels if len(v) == 1 else v for v in (space.mean, space.std))


def _steps(levels: Sequence[Tensor]) -> Tensor | None:
    """Std of each channel as its 8-bit steps tell it; None for images that have no such steps."""
    stds = []
    for values in levels:
        if not _LEVELS <= len(values) <= 256:
            return None
        step = float(values.diff().min())
        steps_up = (values - values[0]) / step
        if float(steps_up[-1]) > 255.5 or float((steps_up - steps_up.round()).abs().max()) > 0.1:
            return None
        # From end to end, which rounding affects least.
        stds.append(round(float(steps_up[-1])) / 255 / float(values[-1] - values[0]))
    return torch.tensor(stds, dtype=torch.float64, device="cpu")


def _measured(levels: Sequence[Tensor]) -> list[PixelSpace]:
    """Mean and std as the images tell them: the steps say std, black and white say the mean.

    Rounded as people write them, then as found. None if a channel has no 8-bit steps, or not
    both black and white.
    """
    stds = _steps(levels)
    if stds is None:
        return []
    lows = torch.stack([values[0] for values in levels])
    highs = torch.stack([values[-1] for values in levels])
    if float(((highs - lows) * stds - 1).abs().max()) > ROUNDING:
        return []
    found = []
    for digits in (4, 9):
        mean, std = (
            tuple(round(float(v), digits) for v in values) for values in (-lows * stds, stds)
        )
        with suppress(InputError):
            found.append(PixelSpace(mean, std))
    return found


def _within(images: Tensor) -> bool:
    low, high = float(images.min()), float(images.max())
    return low >= -OVERSHOOT and high <= 1 + OVERSHOOT


def check_range(
    images: Tensor,
    *,
    slack: float = ROUNDING,
    undone: tuple[PixelSpace, str] | None = None,
) -> None:
    """Raise :class:`InputError` for values outside [0, 1]; the advice fits what they look like.

    Args:
        undone: a normalisation whose undoing did not help, and where it came from.
    """
    low, high = float(images.min()), float(images.max())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also NaN
        raise InputError("images: expected finite values in [0, 1], got NaN or infinity")
    if low >= -slack and high <= 1 + slack:
        return
    if undone is not None:
        space, source = undone
        if space.declared:
            mean, std = max(space.mean), max(space.std)
            raise InputError(
                f"images: expected values from {-mean / std:.6g} to {(1 - mean) / std:.6g}, the "
                f"range of pixels=, got {(low - mean) / std:.6g} to {(high - mean) / std:.6g}; "
                "clip them in the loader, or pass the range that they have"
            )
        said = "pixels=" if source == "given" else "normalisation found in the data"
        advice = (
            f"the {said} ({space}) does not undo this loader's normalisation; pass "
            "pixels=hfc_probe.PixelSpace(mean, std) with what does"
        )
    elif low >= 0:
        advice = (
            "divide 8-bit values by 255, or pass pixels=hfc_probe.PixelSpace((0,), (1/255,)) if "
            "the model takes them so"
        )
    elif low >= -1 - ROUNDING and high <= 1 + ROUNDING:
        advice = (
            "this looks like mean 0.5, std 0.5: pass pixels=hfc_probe.PixelSpace((0.5,), (0.5,))"
        )
    elif low >= -3 and high <= 3 and images.shape[1] == 3:
        advice = (
            "this looks like ImageNet or CIFAR normalisation: pass "
            "pixels=hfc_probe.PixelSpace.imagenet() or hfc_probe.PixelSpace.cifar10()"
        )
    else:
        advice = "pass pixels=hfc_probe.PixelSpace(mean, std) with the loader's normalisation"
    raise InputError(f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}; {advice}")

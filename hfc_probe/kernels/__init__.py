"""The first layer that sees pixels: find it, its weights, spectra, smoothness, smoothing.

A kernel here is one output channel's weights, ``(C, kh, kw)``. A kernel's spectrum is taken
over its two spatial axes, zero-padded to a common size, with DC in the middle.
"""

from .filtered import low_passed, smoothed, smoothness_penalty
from .filters import cycles_per_pixel, low_pass, smooth, smoothness, spectrum
from .layers import (
    Layout,
    dilation_of,
    first_layer,
    is_layer,
    map_extent,
    response_of,
    support,
    used,
    weight_of,
)

__all__ = [
    "Layout",
    "cycles_per_pixel",
    "dilation_of",
    "first_layer",
    "is_layer",
    "low_pass",
    "low_passed",
    "map_extent",
    "response_of",
    "smooth",
    "smoothed",
    "smoothness",
    "smoothness_penalty",
    "spectrum",
    "support",
    "used",
    "weight_of",
]

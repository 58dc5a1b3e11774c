"""Names, and what the summaries' metadata say about an array."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PLUGIN_NAME = "hfc"
SCALARS, IMAGES = "scalars", "images"
PREFIX = "hfc_"  # of every tag that hfc_probe gives to scalars and images
CONTENT_VERSIONS = (1,)  # every version ever released


class ContentError(ValueError):
    """Metadata that this reader cannot use; the message is a sentence for the user."""


@dataclass(frozen=True)
class Content:
    """What a tag's first event says about all its arrays.

    Attributes:
        measurement, array: which array of which measurement.
        unit: of its values.
        axes: one mapping per dimension with ``name`` and, if known, ``unit`` and ``values``.
        more: everything else (layer, norm, background and so on).
    """

    measurement: str
    array: str
    unit: str
    axes: tuple[dict[str, Any], ...]
    more: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        axes = list(self.axes)
        named = {"measurement": self.measurement, "array": self.array, "unit": self.unit}
        return {**self.more, **named, "axes": axes}

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why an array of that shape is not what the axes promise; None if it is."""
        expected = [len(axis["values"]) if "values" in axis else None for axis in self.axes]
        fits = len(shape) == len(expected) and all(
            length is None or length == size for length, size in zip(expected, shape, strict=True)
        )
        if fits:
            return None
        words = "×".join("any" if length is None else str(length) for length in expected)
        return f"expected {words or 'a number'}, got {'×'.join(map(str, shape)) or 'a number'}"


def parse(content: bytes) -> Content:
    """Read a summary's plugin content, of every version released.

    Raises:
        ContentError: not ours, damaged, or of a version that this reader does not know.
    """
    try:
        raw = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ContentError("its metadata are not JSON, so it is not from hfc_probe") from error
    if not isinstance(raw, dict) or "version" not in raw:
        raise ContentError("its metadata have no version, so it is not from hfc_probe")
    version = raw.pop("version")
    if version not in CONTENT_VERSIONS or isinstance(version, bool):
        raise ContentError(
            f"its metadata have version {str(version)[:20]}, and this tab reads version "
            f"{', '.join(map(str, CONTENT_VERSIONS))}; update hfc_probe where TensorBoard runs"
        )
    measurement, array = raw.pop("measurement", None), raw.pop("array", None)
    unit, axes = raw.pop("unit", ""), raw.pop("axes", None)
    if not all(isinstance(text, str) for text in (measurement, array, unit)):
        raise ContentError("its metadata name no measurement and array")
    if not isinstance(axes, list) or not all(_is_axis(axis) for axis in axes):
        raise ContentError("its metadata describe no axes")
    return Content(measurement, array, unit, tuple(axes), raw)


def _is_axis(axis: Any) -> bool:
    if not isinstance(axis, dict) or not isinstance(axis.get("name"), str):
        return False
    if not isinstance(axis.get("unit", ""), str):
        return False
    values = axis.get("values", [])
    return isinstance(values, list) and all(_is_place(value) for value in values)


def _is_place(value: Any) -> bool:
    """A place on an axis: a number, or a name such as "AP50"."""
    if isinstance(value, str):
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value

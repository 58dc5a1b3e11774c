"""Results in words. Nothing is called more or less than another where intervals overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .proportions import percent

if TYPE_CHECKING:
    from .measurements.frequency_accuracy import FrequencyAccuracyResult


def accuracy_sentence(result: FrequencyAccuracyResult) -> str:
    """What a model relies on, from its LFC and HFC accuracy.

    The radii at which LFC and HFC accuracy are told apart by their 95 % intervals bracket
    the frequencies that the model cannot do without: HFC ahead up to radius a and LFC ahead
    from radius b on means that what it needs lies between a and b.
    """
    arrays = result.arrays()
    radii = result.radii
    unit = "cycles/image" if result.settings["units"] == "cycles" else "× Nyquist"
    clean = float(arrays["original"])
    low, high = arrays["lfc"], arrays["hfc"]
    sides = _ahead(arrays)
    low_ahead = [k for k, side in enumerate(sides) if side > 0]
    high_ahead = [k for k, side in enumerate(sides) if side < 0]

    def both(k: int) -> str:
        return (
            f"frequencies up to {radii[k]:g} {unit} alone give {percent(float(low[k]))}, those "
            f"beyond alone {percent(float(high[k]))}"
        )

    end = f"; original images give {percent(clean)} (HFC on {result.background} background)."
    if not low_ahead and not high_ahead:
        k = len(radii) // 2
        weaker, stronger = sorted((float(low[k]), float(high[k])))
        if weaker >= clean / 2:
            what = "Low or high frequencies alone are enough for this model"
        elif stronger < clean / 2:
            what = "Neither low nor high frequencies alone are enough for this model"
        else:
            what = "Low and high frequencies cannot be told apart in what they give this model"
        return f"{what}: {both(k)}{end}"
    if not high_ahead:
        return f"This model relies on low frequencies: {both(low_ahead[0])}{end}"
    if not low_ahead:
        return f"This model relies on high frequencies: {both(high_ahead[-1])}{end}"
    below, above = max(high_ahead), min(low_ahead)
    if below < above:
        return (
            f"This model relies most on frequencies between {radii[below]:g} and "
            f"{radii[above]:g} {unit}: {both(below)}; {both(above)}{end}"
        )
    k = int(np.argmax(np.abs(low - high)))
    return f"This model relies on low and high frequencies in turn: {both(k)}{end}"


def _ahead(arrays: dict[str, NDArray[Any]]) -> list[int]:
    """Per radius: 1 where LFC accuracy is above HFC's, −1 where below, 0 where undecided."""
    low = arrays["lfc_lower"] > arrays["hfc_upper"]
    high = arrays["hfc_lower"] > arrays["lfc_upper"]
    return [int(a) - int(b) for a, b in zip(low, high, strict=True)]

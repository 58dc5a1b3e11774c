"""Results in words. Nothing is called more or less than another where intervals overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .proportions import percent

if TYPE_CHECKING:
    from .measurements.adversarial_accuracy import AdversarialAccuracyResult
    from .measurements.amplitude_phase import AmplitudePhaseResult
    from .measurements.frequency_accuracy import FrequencyAccuracyResult
    from .measurements.truncated_svd import TruncatedSVDResult


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


def adversarial_sentence(result: AdversarialAccuracyResult) -> str:
    """What attacks leave of the accuracy, and what kernel smoothing changes about it."""
    arrays = result.arrays()
    clean, left = (percent(float(arrays[n].flat[0])) for n in ("clean", "pgd"))
    epsilon = result.epsilons[0]
    text = f"PGD with ε = {epsilon:g} leaves {left} of {clean} clean accuracy"
    masked = float(arrays["without_gradient"].max())
    if masked:
        rho = result.rhos[int(arrays["without_gradient"].argmax())]
        where = f" at ρ = {rho:g}" if len(result.rhos) > 1 else ""
        text += f" (for {percent(masked)} of the images{where} the gradient is exactly 0: masked)"
    if len(result.rhos) == 1:
        return text + "."
    first, last = result.rhos[0], result.rhos[-1]
    changes = []
    for name, label in (("clean", "clean accuracy"), ("pgd", f"PGD accuracy at ε = {epsilon:g}")):
        before, after = (_first_of(arrays, name, row) for row in (0, -1))
        changes.append(
            f"{label} {_change(before, after)} ({percent(before[0])} to {percent(after[0])})"
        )
    return f"{text}; from ρ = {first:g} to {last:g}, {' and '.join(changes)}."


def amplitude_phase_sentence(result: AmplitudePhaseResult) -> str:
    """Which of the two a model follows, told by the intervals of both recombinations."""
    phase = [result.of(name) for name in ("phase_kept_own", "amplitude_kept_other")]
    amplitude = [result.of(name) for name in ("phase_kept_other", "amplitude_kept_own")]
    by_phase, by_amplitude = percent(phase[0][0]), percent(amplitude[0][0])
    figures = (
        f"recombined images are predicted as their phase's class in {by_phase} and as their "
        f"amplitude's in {by_amplitude} of cases, against {percent(result.of('original')[0])} "
        "right on the originals"
    )
    if result.settings["pairing"] == "same":
        return (
            f"With the amplitude of another image of the same class {by_phase} stay right, "
            f"against {percent(result.of('original')[0])} of the originals."
        )
    if all(p[1] > a[2] for p, a in zip(phase, amplitude, strict=True)):
        return f"The model follows phase: {figures}."
    if all(a[1] > p[2] for p, a in zip(phase, amplitude, strict=True)):
        return f"The model follows amplitude: {figures}."
    return f"The model follows neither phase nor amplitude more than the other: {figures}."


def svd_sentence(result: TruncatedSVDResult) -> str:
    """Whether HFC tells the model more than as much of the trailing components."""
    arrays = result.arrays()
    ahead = [
        k for k in range(len(result.ranks)) if arrays["hfc_lower"][k] > arrays["trailing_upper"][k]
    ]
    behind = [
        k for k in range(len(result.ranks)) if arrays["trailing_lower"][k] > arrays["hfc_upper"][k]
    ]
    if not ahead and not behind:
        return (
            "HFC and the trailing singular components of the same energy are not told apart at "
            "any rank."
        )
    gap = np.abs(arrays["hfc"] - arrays["trailing"])
    k = max(ahead or behind, key=lambda n: float(gap[n]))
    word = "more" if ahead else "less"
    also = "" if not (ahead and behind) else " (and less at another)"
    high, rest = (percent(float(arrays[name][k])) for name in ("hfc", "trailing"))
    return (
        f"HFC tells this model {word} than trailing singular components of the same energy: "
        f"beyond r = {result.radii[k]:.1f} cycles/image it is right in {high}, beyond rank "
        f"{result.ranks[k]} in {rest}{also}."
    )


# Mean smoothness of the first layers of four networks trained on CIFAR-10, measured with this
# library: ResNet-20 (3×3, 0.43), two small CNNs with BatchNorm (5×5, 0.41 and 0.45) and one
# without (3×3, 0.36). Untrained ones had 0.33 and 0.36.
REFERENCE_SMOOTHNESS = (0.36, 0.45)
_REFERENCE_SIZE = 5


def smoothness_words(mean: float, size: int) -> str:
    """How a layer's mean smoothness compares with the reference range; nothing for large kernels.

    >>> smoothness_words(0.63, 3)
    '; smoother than the 0.36 to 0.45 of four first layers trained on CIFAR-10'
    """
    low, high = REFERENCE_SMOOTHNESS
    if size > _REFERENCE_SIZE or not np.isfinite(mean):
        return ""
    where = "within"
    if round(mean, 2) < low:
        where = "rougher than"
    elif round(mean, 2) > high:
        where = "smoother than"
    return f"; {where} the {low:g} to {high:g} of four first layers trained on CIFAR-10"


def _first_of(arrays: dict[str, NDArray[Any]], name: str, row: int) -> tuple[float, float, float]:
    """A proportion with its bounds; of a table the first column."""
    value, low, high = (
        float(np.ravel(arrays[name + part][row])[0]) for part in ("", "_lower", "_upper")
    )
    return value, low, high


def _change(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    """How a proportion changed, said only where two 95 % intervals do not overlap.

    >>> _change((0.9, 0.88, 0.92), (0.5, 0.45, 0.55)), _change((0.5, 0.4, 0.6), (0.55, 0.45, 0.6))
    ('falls', 'does not change measurably')
    """
    if after[2] < before[1]:
        return "falls"
    return "rises" if after[1] > before[2] else "does not change measurably"


def _ahead(arrays: dict[str, NDArray[Any]]) -> list[int]:
    """Per radius: 1 where LFC accuracy is above HFC's, −1 where below, 0 where undecided."""
    low = arrays["lfc_lower"] > arrays["hfc_upper"]
    high = arrays["hfc_lower"] > arrays["lfc_upper"]
    return [int(a) - int(b) for a, b in zip(low, high, strict=True)]

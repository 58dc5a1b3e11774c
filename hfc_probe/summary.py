"""Results in words. Nothing is called more or less than another where intervals overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .proportions import percent, wilson

if TYPE_CHECKING:
    from .measurements.adversarial_accuracy import AdversarialAccuracyResult
    from .measurements.amplitude_phase import AmplitudePhaseResult
    from .measurements.base import Result
    from .measurements.frequency_accuracy import FrequencyAccuracyResult
    from .measurements.truncated_svd import TruncatedSVDResult


def not_above_chance(result: Result) -> str | None:
    """What is said in place of a verdict where the model does no better than a guess.

    None if the interval of its accuracy on the original images lies above the larger of k/K and
    the share of the k largest classes, or if there is no such accuracy.
    """
    seen, chance = result.original(), result.provenance.get("chance")
    if seen is None or chance is None:
        return None
    right, count, topk = seen
    low, high = (float(bound) for bound in wilson(right, count))
    if low > chance:
        return None
    accuracy = right / count if count else float("nan")
    of = "the share of the largest class" if topk == 1 else f"a guess of {topk} classes"
    if chance == 1:
        of = "all images are of one class" if topk == 1 else f"any {topk} classes hold the target"
    elif result.provenance.get("classes") and np.isclose(
        chance, topk / result.provenance["classes"]
    ):
        of = f"{topk} of {result.provenance['classes']} classes"
    more = "measure more images, or " if accuracy > chance and chance < 1 else ""
    return (
        f"Accuracy on the original images is not above chance ({percent(chance)}, {of}): "
        f"{percent(accuracy, low, high)} of {count} images; {more}check weights, labels and "
        "normalisation."
    )


def caution(caveat: str) -> str:
    """A caveat as a line of its own."""
    return f"Caution: {caveat}"


def origin(result: Result) -> str:
    """Where a result comes from, in one line; nothing where it does not know."""
    of = result.provenance
    if not of:
        return ""
    parts = [f"{of.get('model')} (weights {of.get('weights')})"]
    if of.get("images"):
        choice = {"all": "", "random": ", a random choice", "first": ", the first ones"}
        named = f" of {of['data']}" if of.get("data") else ""
        chosen = choice.get(str(of.get("selection")), "")
        parts.append(f"{of.get('samples')} images{named} (hash {of['images']}{chosen})")
    if of.get("step") is not None:
        parts.append(f"step {of['step']}, epoch {of['epoch']}")
    parts.append(f"hfc_probe {of.get('version')}, {of.get('date')}")
    return "; ".join(parts) + "."


def manner(settings: Mapping[str, Any], background: str = "hfc_background") -> str:
    """How components were made and predictions counted, as far as it is not the usual way.

    >>> manner({"hfc_background": "zero", "closed": False, "topk": (5,)})
    'HFC on zero background, LFC of d < r, right within the top 5'
    """
    parts = [f"HFC on {settings[background]} background"]
    if settings.get("rescale") is not None:
        parts.append(f"rescaled by {settings['rescale']}")
    if settings.get("closed") is False:
        parts.append("LFC of d < r")
    topk = settings.get("topk", (1,))
    if topk[0] != 1:
        parts.append(f"right within the top {topk[0]}")
    return ", ".join(parts)


# A part of the frequencies is enough for a model if it keeps so much of what the original images
# give above chance.
ENOUGH = 0.75


def accuracy_sentence(result: FrequencyAccuracyResult) -> str:
    """What a model relies on, from its LFC and HFC accuracy.

    The radii at which LFC and HFC accuracy are told apart by their 95 % intervals bracket
    the frequencies that the model cannot do without: HFC ahead up to radius a and LFC ahead
    from radius b on means that what it needs lies between a and b. A model is said to rely on a
    part only if that part is enough for it: its interval lies above :data:`ENOUGH` of the
    original accuracy above chance.
    """
    arrays = result.arrays()
    radii = result.radii
    unit = "cycles/image" if result.settings["units"] == "cycles" else "× Nyquist"
    clean = float(arrays["original"])
    chance = min(clean, float(result.provenance.get("chance") or 0.0))
    level = chance + ENOUGH * (clean - chance)
    low, high = arrays["lfc"], arrays["hfc"]
    enough = {name: arrays[f"{name}_lower"] >= level for name in ("lfc", "hfc")}
    short = (arrays["lfc_upper"] < level) & (arrays["hfc_upper"] < level)
    # From the corner on LFC is the whole image, which tells nothing.
    inside = radii < result.corner
    sides = [side if inner else 0 for side, inner in zip(_ahead(arrays), inside, strict=True)]
    low_ahead = [k for k, side in enumerate(sides) if side > 0]
    high_ahead = [k for k, side in enumerate(sides) if side < 0]

    def both(k: int) -> str:
        return (
            f"frequencies up to {radii[k]:g} {unit} alone give {percent(float(low[k]))}, those "
            f"beyond alone {percent(float(high[k]))}"
        )

    def neither(where: str, k: int) -> str:
        shown = "enough" if short[k] else "shown to be enough"
        return (
            f"Neither low nor high frequencies alone are {shown} for this model{where}: {both(k)}"
        )

    if not inside.any():
        return (
            f"No radius lies within the spectrum, which ends at {result.corner:.3g} {unit}: LFC is "
            f"the whole image; original images give {percent(clean)}."
        )
    end = f"; original images give {percent(clean)} ({manner(result.settings)})."
    if not low_ahead and not high_ahead:
        k = int(inside.sum()) // 2
        if enough["lfc"][k] and enough["hfc"][k]:
            return f"Low or high frequencies alone are enough for this model: {both(k)}{end}"
        if short[k]:
            return neither(f" at {radii[k]:g} {unit}", k) + end
        return (
            "Low and high frequencies cannot be told apart in what they give this model: "
            f"{both(k)}{end}"
        )
    if low_ahead and high_ahead:
        below, above = max(high_ahead), min(low_ahead)
        if below < above:
            what = f"{radii[below]:g} and {radii[above]:g} {unit}"
            though = ""
            if short[below] or short[above]:
                where = " and ".join(f"{radii[n]:g}" for n in (below, above) if short[n])
                though = f", though neither low nor high ones alone are enough at {where}"
            return (
                f"This model relies most on frequencies between {what}{though}: {both(below)}; "
                f"{both(above)}{end}"
            )
        k = int(np.argmax(np.abs(low - high)))
        return f"This model relies on low and high frequencies in turn: {both(k)}{end}"
    # One part alone is ahead. The least of it that is enough, and what is on the other side.
    name, ahead = ("lfc", low_ahead) if low_ahead else ("hfc", high_ahead[::-1])
    step = -1 if low_ahead else 1
    first = next((n for n in ahead if enough[name][n]), None)
    if first is None:
        return neither(" at any radius measured", ahead[-1]) + end
    k = first
    if low_ahead and radii[k] >= result.corner / math.sqrt(2):
        # The circle that fills the image holds nearly everything: that is no reliance on part.
        text = neither(f" below {radii[k]:g} {unit}", max(0, k - 1))
        return f"{text}; {both(k)}{end}" if k else f"{_nearly(radii[k], unit)}: {both(k)}{end}"
    if 0 <= k + step < len(radii) and short[k + step]:
        where = "below" if low_ahead else "above"
        return f"{neither(f' {where} {radii[k]:g} {unit}', k + step)}; {both(k)}{end}"
    word = "low" if low_ahead else "high"
    return f"This model relies on {word} frequencies: {both(k)}{end}"


def _nearly(radius: float, unit: str) -> str:
    return f"Frequencies up to {radius:g} {unit}, nearly all there are, are enough for this model"


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
    return f"Phase and amplitude are not told apart in what the model follows: {figures}."


def svd_sentence(result: TruncatedSVDResult) -> str:
    """Whether HFC tells the model more than as much of the trailing components."""
    arrays = result.arrays()
    ahead = [
        k for k in range(len(result.ranks)) if arrays["hfc_lower"][k] > arrays["trailing_upper"][k]
    ]
    behind = [
        k for k in range(len(result.ranks)) if arrays["trailing_lower"][k] > arrays["hfc_upper"][k]
    ]
    how = manner(result.settings, "background")
    if not ahead and not behind:
        return (
            "HFC and the trailing singular components of the same energy are not told apart at "
            f"any rank ({how})."
        )
    gap = np.abs(arrays["hfc"] - arrays["trailing"])
    k = max(ahead or behind, key=lambda n: float(gap[n]))
    word = "more" if ahead else "less"
    also = "" if not (ahead and behind) else " (and less at another)"
    high, rest = (percent(float(arrays[name][k])) for name in ("hfc", "trailing"))
    return (
        f"HFC tells this model {word} than trailing singular components of the same energy: "
        f"beyond r = {result.radii[k]:.1f} cycles/image it is right in {high}, beyond rank "
        f"{result.ranks[k]} in {rest}{also} ({how})."
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

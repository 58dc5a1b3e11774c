"""Measurements by name, for the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from ..core.measurement import Measurement
from ..ground.errors import InputError
from .adversarial_accuracy import AdversarialAccuracy
from .amplitude_phase import AmplitudePhase
from .band_attribution import BandAttribution
from .calibration import Calibration
from .component_examples import ComponentExamples
from .corruption_accuracy import CorruptionAccuracy
from .critical_band import CriticalBand
from .fourier_heatmap.settings import FourierHeatmap
from .fourier_sensitivity import FourierSensitivity
from .frequency_accuracy import FrequencyAccuracy
from .input_spectrum import InputSpectrum
from .kernel_spectra import KernelSpectra
from .truncated_svd import TruncatedSVD

MEASUREMENTS: Mapping[str, type[Measurement]] = {
    "adversarial_accuracy": AdversarialAccuracy,
    "amplitude_phase": AmplitudePhase,
    "band_attribution": BandAttribution,
    "calibration": Calibration,
    "component_examples": ComponentExamples,
    "corruption_accuracy": CorruptionAccuracy,
    "critical_band": CriticalBand,
    "fourier_heatmap": FourierHeatmap,
    "fourier_sensitivity": FourierSensitivity,
    "frequency_accuracy": FrequencyAccuracy,
    "input_spectrum": InputSpectrum,
    "kernel_spectra": KernelSpectra,
    "truncated_svd": TruncatedSVD,
}


def build(text: str) -> Measurement:
    """A measurement from its name and settings: ``name`` or ``name:setting=value,…``.

    Several values of one setting are joined by ``+``.

    Raises:
        InputError: an unknown name or setting, or a value that the measurement refuses.

    >>> build("adversarial_accuracy:rhos=0+0.5,steps=7").rhos
    (0.0, 0.5)
    """
    name, _, rest = text.partition(":")
    name = name.strip().replace("-", "_")
    if name not in MEASUREMENTS:
        close = difflib.get_close_matches(name, MEASUREMENTS, n=3, cutoff=0.4)
        raise InputError(
            f"--measure: expected one of {', '.join(MEASUREMENTS)}, got {name!r}"
            f"{'; did you mean ' + ' or '.join(close) + '?' if close else ''}"
        )
    kind = MEASUREMENTS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"--measure: expected setting=value with a setting of {name} "
                f"({', '.join(known)}), got {part!r}"
            )
        options[key] = _value(value)
    return kind(**options)


def _value(text: str) -> Any:
    if "+" in text.strip("+"):
        return tuple(_value(part) for part in text.split("+"))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text

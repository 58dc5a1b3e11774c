"""See which image frequencies a vision model relies on.

>>> import hfc_probe
>>> hfc_probe.FrequencyAccuracy(radii=(4, 8)).radii
(4, 8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ground.lazy import attributes
from .version import __version__

if TYPE_CHECKING:
    from . import detection, fourier, kernels
    from .data.samples import PixelSpace, Samples
    from .ground.errors import InputError
    from .measurements import (
        AdversarialAccuracy,
        AmplitudePhase,
        BandAttribution,
        Calibration,
        ComponentExamples,
        CorruptionAccuracy,
        CriticalBand,
        FourierHeatmap,
        FourierSensitivity,
        FrequencyAccuracy,
        InputSpectrum,
        KernelSpectra,
        Measurement,
        Result,
        TruncatedSVD,
    )
    from .probe.attach import attach
    from .probe.probe import Probe
    from .probe.schedule import Every

__all__ = [
    "AdversarialAccuracy",
    "AmplitudePhase",
    "BandAttribution",
    "Calibration",
    "ComponentExamples",
    "CorruptionAccuracy",
    "CriticalBand",
    "Every",
    "FourierHeatmap",
    "FourierSensitivity",
    "FrequencyAccuracy",
    "InputError",
    "InputSpectrum",
    "KernelSpectra",
    "Measurement",
    "PixelSpace",
    "Probe",
    "Result",
    "Samples",
    "TruncatedSVD",
    "__version__",
    "attach",
    "detection",
    "fourier",
    "kernels",
]

if not TYPE_CHECKING:  # a type checker shall miss a name that is not there
    __getattr__ = attributes(
        __name__,
        {
            **{name: "measurements" for name in __all__ if name[0].isupper()},
            "Every": "probe.schedule",
            "InputError": "ground.errors",
            "PixelSpace": "data.pixels",
            "Probe": "probe.probe",
            "Samples": "data.samples",
            "attach": "probe.attach",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

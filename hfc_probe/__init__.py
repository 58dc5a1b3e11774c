"""See which image frequencies a vision model lives on.

>>> import hfc_probe
>>> hfc_probe.FrequencyAccuracy(radii=(4, 8)).radii
(4, 8)
"""

from . import detection, fourier, kernels
from .errors import InputError
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
from .probe import Probe, attach
from .samples import PixelSpace, Samples
from .schedule import Every
from .version import __version__

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

"""See which image frequencies a vision model lives on.

>>> import hfc_probe
>>> hfc_probe.FrequencyAccuracy(radii=(4, 8)).radii
(4, 8)
"""

from . import fourier, kernels
from .errors import InputError
from .measurements import (
    FourierHeatmap,
    FourierSensitivity,
    FrequencyAccuracy,
    KernelSpectra,
    Measurement,
    Result,
)
from .probe import Probe, attach
from .samples import PixelSpace, Samples
from .schedule import Every
from .version import __version__

__all__ = [
    "Every",
    "FourierHeatmap",
    "FourierSensitivity",
    "FrequencyAccuracy",
    "InputError",
    "KernelSpectra",
    "Measurement",
    "PixelSpace",
    "Probe",
    "Result",
    "Samples",
    "__version__",
    "attach",
    "fourier",
    "kernels",
]

"""Measurements: one a file, settings in, :class:`Result` out."""

from .base import Measurement, Result, Subject
from .fourier_heatmap import FourierHeatmap, FourierHeatmapResult
from .fourier_sensitivity import FourierSensitivity, FourierSensitivityResult
from .frequency_accuracy import FrequencyAccuracy, FrequencyAccuracyResult
from .kernel_spectra import KernelSpectra, KernelSpectraResult

__all__ = [
    "FourierHeatmap",
    "FourierHeatmapResult",
    "FourierSensitivity",
    "FourierSensitivityResult",
    "FrequencyAccuracy",
    "FrequencyAccuracyResult",
    "KernelSpectra",
    "KernelSpectraResult",
    "Measurement",
    "Result",
    "Subject",
]

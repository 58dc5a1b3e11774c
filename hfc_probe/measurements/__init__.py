"""Measurements: one a file, settings in, :class:`Result` out."""

from .adversarial_accuracy import AdversarialAccuracy, AdversarialAccuracyResult
from .base import Measurement, Result, Subject
from .component_examples import ComponentExamples, ComponentExamplesResult
from .fourier_heatmap import FourierHeatmap, FourierHeatmapResult
from .frequency_accuracy import FrequencyAccuracy, FrequencyAccuracyResult
from .kernel_spectra import KernelSpectra, KernelSpectraResult

__all__ = [
    "AdversarialAccuracy",
    "AdversarialAccuracyResult",
    "ComponentExamples",
    "ComponentExamplesResult",
    "FourierHeatmap",
    "FourierHeatmapResult",
    "FrequencyAccuracy",
    "FrequencyAccuracyResult",
    "KernelSpectra",
    "KernelSpectraResult",
    "Measurement",
    "Result",
    "Subject",
]

"""Measurements: one a file, settings in, :class:`Result` out."""

from ..core.measurement import Measurement
from ..core.result import Result
from ..model.subject import Subject
from .adversarial_accuracy import AdversarialAccuracy, AdversarialAccuracyResult
from .amplitude_phase import AmplitudePhase, AmplitudePhaseResult
from .band_attribution import BandAttribution, BandAttributionResult
from .calibration import Calibration, CalibrationResult
from .component_examples import ComponentExamples, ComponentExamplesResult
from .corruption_accuracy import CorruptionAccuracy, CorruptionAccuracyResult
from .critical_band import CriticalBand, CriticalBandResult
from .fourier_heatmap.settings import FourierHeatmap, FourierHeatmapResult
from .fourier_sensitivity import FourierSensitivity, FourierSensitivityResult
from .frequency_accuracy import FrequencyAccuracy, FrequencyAccuracyResult
from .input_spectrum import InputSpectrum, InputSpectrumResult
from .kernel_spectra import KernelSpectra, KernelSpectraResult
from .truncated_svd import TruncatedSVD, TruncatedSVDResult

__all__ = [
    "AdversarialAccuracy",
    "AdversarialAccuracyResult",
    "AmplitudePhase",
    "AmplitudePhaseResult",
    "BandAttribution",
    "BandAttributionResult",
    "Calibration",
    "CalibrationResult",
    "ComponentExamples",
    "ComponentExamplesResult",
    "CorruptionAccuracy",
    "CorruptionAccuracyResult",
    "CriticalBand",
    "CriticalBandResult",
    "FourierHeatmap",
    "FourierHeatmapResult",
    "FourierSensitivity",
    "FourierSensitivityResult",
    "FrequencyAccuracy",
    "FrequencyAccuracyResult",
    "InputSpectrum",
    "InputSpectrumResult",
    "KernelSpectra",
    "KernelSpectraResult",
    "Measurement",
    "Result",
    "Subject",
    "TruncatedSVD",
    "TruncatedSVDResult",
]

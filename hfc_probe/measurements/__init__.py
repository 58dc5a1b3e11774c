"""Measurements: one a file, settings in, :class:`Result` out. The registry has a line for each."""

from ..core.measurement import Measurement as Measurement
from ..core.result import Result as Result
from ..model.subject import Subject as Subject
from .adversarial_accuracy import *
from .amplitude_phase import *
from .band_attribution import *
from .calibration import *
from .component_examples import *
from .corruption_accuracy import *
from .critical_band import *
from .fourier_heatmap.settings import *
from .fourier_sensitivity import *
from .frequency_accuracy import *
from .input_spectrum import *
from .kernel_spectra import *
from .truncated_svd import *

"""The Fourier heatmap (Yin et al., NeurIPS 2019) and its estimators."""

from .result import FourierHeatmapResult
from .settings import FourierHeatmap

__all__ = ["FourierHeatmap", "FourierHeatmapResult"]

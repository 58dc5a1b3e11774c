"""The first layer as it acts on pixels: found by running the model, measured by its response."""

from .finding import measure
from .weights import Stem

__all__ = ["Stem", "measure"]

"""The probe: attach, schedule, state."""

from .attach import attach
from .probe import Probe
from .schedule import Every

__all__ = ["Every", "Probe", "attach"]

"""See which image frequencies a vision model relies on.

>>> import hfc_probe
>>> hfc_probe.FrequencyAccuracy(radii=(4, 8)).radii
(4, 8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .ground.lazy import attributes
from .version import __version__ as __version__

if TYPE_CHECKING:  # a type checker shall miss a name that is not there
    from . import detection as detection
    from . import fourier as fourier
    from . import kernels as kernels
    from .core.intervals import wilson as wilson
    from .data.samples import PixelSpace as PixelSpace
    from .data.samples import Samples as Samples
    from .ground.errors import InputError as InputError
    from .measurements import *
    from .measurements.image_score import ImageScore as ImageScore
    from .measurements.loading import load as load
    from .measurements.scores import SetScore as SetScore
    from .probe.attach import attach as attach
    from .probe.probe import Probe as Probe
    from .probe.schedule import Every as Every
else:
    _HOMES = {
        "Every": "probe.schedule",
        "ImageScore": "measurements.image_score",
        "InputError": "ground.errors",
        "Measurement": "core.measurement",
        "PixelSpace": "data.pixels",
        "Probe": "probe.probe",
        "Result": "core.result",
        "Samples": "data.samples",
        "SetScore": "measurements.scores",
        "attach": "probe.attach",
        "load": "measurements.loading",
        "wilson": "core.intervals",
    }
    _look_up = attributes(__name__, _HOMES, others="measurements")

    def __getattr__(name: str) -> Any:
        if name != "__all__":
            return _look_up(name)
        from .measurements import registry

        built_in = [kind.__name__ for kind in registry.MEASUREMENTS.values()]
        return sorted(["__version__", "detection", "fourier", "kernels", *_HOMES, *built_in])

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})

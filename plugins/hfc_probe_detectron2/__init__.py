"""Frequency audits of detectron2 models: in one call, as an evaluator, or during training.

    from hfc_probe_detectron2 import audit
    result = audit(model, "coco_2017_val", radii=(64, 128), cfg=cfg)

detectron2 is not on PyPI; RetinaNet and most other models need none of its compiled code.
"""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hfc_probe_detectron2 needs detectron2, which is not on PyPI; install it as told in "
        "https://detectron2.readthedocs.io/en/latest/tutorials/install.html, and what it needs "
        "with pip install 'hfc_probe[detectron2]'"
    ) from error

from .data import CatalogImages
from .evaluator import BandEvaluator
from .hook import DetectionAuditHook, insert_hook
from .model import FrequencyModel
from .run import audit

__all__ = [
    "BandEvaluator",
    "CatalogImages",
    "DetectionAuditHook",
    "FrequencyModel",
    "audit",
    "insert_hook",
]

"""COCO audits: a detector on original, low- and high-frequency images.

>>> from hfc_probe.detection import DetectionAudit
>>> DetectionAudit().radii
(128,)
"""

from .audit import DetectionAudit
from .coco import (
    BrokenImageError,
    CocoImages,
    DetectionDataset,
    Detections,
    GroundTruth,
    detections_from,
    from_results,
    to_results,
)
from .result import Changes, DetectionAuditResult

__all__ = [
    "BrokenImageError",
    "Changes",
    "CocoImages",
    "DetectionAudit",
    "DetectionAuditResult",
    "DetectionDataset",
    "Detections",
    "GroundTruth",
    "detections_from",
    "from_results",
    "to_results",
]

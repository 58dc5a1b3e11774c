"""COCO audits: a detector on original, low- and high-frequency images.

>>> from hfc_probe.detection import DetectionAudit
>>> DetectionAudit().radii
(128,)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ground.lazy import attributes

if TYPE_CHECKING:
    from .audit import DetectionAudit
    from .coco import (
        CocoImages,
        DetectionDataset,
        Detections,
        GroundTruth,
        detections_from,
        from_results,
        to_results,
    )
    from .heatmap import DetectionHeatmap, DetectionHeatmapResult
    from .pictures import BrokenImageError
    from .result import Changes, DetectionAuditResult
    from .sensitivity import DetectionSensitivity, DetectionSensitivityResult

__all__ = [
    "BrokenImageError",
    "Changes",
    "CocoImages",
    "DetectionAudit",
    "DetectionAuditResult",
    "DetectionDataset",
    "DetectionHeatmap",
    "DetectionHeatmapResult",
    "DetectionSensitivity",
    "DetectionSensitivityResult",
    "Detections",
    "GroundTruth",
    "detections_from",
    "from_results",
    "to_results",
]

if not TYPE_CHECKING:
    __getattr__ = attributes(
        __name__,
        {
            **dict.fromkeys(__all__, "coco"),
            "BrokenImageError": "pictures",
            "Changes": "result",
            "DetectionAudit": "audit",
            "DetectionAuditResult": "result",
            "DetectionHeatmap": "heatmap",
            "DetectionHeatmapResult": "heatmap",
            "DetectionSensitivity": "sensitivity",
            "DetectionSensitivityResult": "sensitivity",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

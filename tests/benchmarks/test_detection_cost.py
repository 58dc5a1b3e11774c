"""What an audit costs beyond its forward passes: RetinaNet R50-FPN at 800 pixels.

    python -m pytest tests/benchmarks/test_detection_cost.py -s

The audit of some images (original, LFC, HFC: three passes each) against three plain forward
passes of the same images, in turn, in one process. JSON goes to $HFC_PROBE_BENCHMARKS, where
that is set.
"""

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hfc_probe.detection import CocoImages, DetectionAudit
from tests.conftest import DATA

IMAGES = int(os.environ.get("HFC_PROBE_BENCHMARK_IMAGES", "2"))
ROUNDS = int(os.environ.get("HFC_PROBE_BENCHMARK_ROUNDS", "3"))


class Counted(CocoImages):
    loads = 0

    def load(self, image_id):
        self.loads += 1
        return super().load(image_id)


def test_an_audit_costs_its_forward_passes_and_little_more():
    from torchvision.models import get_model

    folder = DATA / "coco"
    if not folder.is_dir():
        pytest.skip(f"no COCO files in {folder}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None)
    model = model.eval().to(device)
    data = Counted(folder / "val2017", folder / "instances_val2017.json")
    audit = DetectionAudit(radii=(128,), bootstrap=0)
    chosen = audit.measure(lambda images: [([], [], [])], data, limit=IMAGES).image_ids
    data.loads = 0
    images = [CocoImages.load(data, i).to(device) for i in chosen]

    def synchronised():
        """Wall clock and processor time; the latter does not see who else is on the machine."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    def plain():
        start = synchronised()
        with torch.no_grad():
            for image in images:
                for _ in audit.variants:
                    model([image])
        return synchronised() - start

    def audited():
        start = synchronised()
        audit.measure(model, data, limit=IMAGES)
        return synchronised() - start

    plain()  # warm-up
    rows = []
    for turn in range(ROUNDS):  # in turn, so that a busy machine slows both
        pair = (plain(), audited()) if turn % 2 == 0 else (audited(), plain())[::-1]
        (wall, processor), (wall_audit, processor_audit) = pair
        rows.append({"wall": wall_audit / wall, "processor": processor_audit / processor})
        print(
            f"\nplain {wall:.2f} s (processor {processor:.2f}), audit {wall_audit:.2f} s "
            f"({processor_audit:.2f}), ratio {rows[-1]['wall']:.3f} ({rows[-1]['processor']:.3f})"
        )
    ratio = {k: statistics.median(row[k] for row in rows) for k in ("wall", "processor")}
    print(f"median ratios {ratio} over {ROUNDS} rounds of {IMAGES} images on {device.type}")
    keep = os.environ.get("HFC_PROBE_BENCHMARKS")
    if keep:
        content = {"device": device.type, "images": IMAGES, "rounds": rows, "median_ratio": ratio}
        Path(keep, "detection_cost.json").write_text(json.dumps(content, indent=1))
    assert data.loads == IMAGES * ROUNDS  # one pass over the data per audit
    # On a busy machine the wall clock compares neighbours, not code.
    assert min(ratio.values() if device.type == "cpu" else [ratio["wall"]]) <= 1.10

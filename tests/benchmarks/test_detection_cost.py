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
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

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
        rows.append({"plain": pair[0], "audit": pair[1], "ratio": pair[1] / pair[0]})
        print(f"\nplain {pair[0]:.2f} s, audit {pair[1]:.2f} s, ratio {rows[-1]['ratio']:.3f}")
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"median ratio {ratio:.3f} over {ROUNDS} rounds of {IMAGES} images on {device.type}")
    keep = os.environ.get("HFC_PROBE_BENCHMARKS")
    if keep:
        content = {"device": device.type, "images": IMAGES, "rounds": rows, "median_ratio": ratio}
        Path(keep, "detection_cost.json").write_text(json.dumps(content, indent=1))
    assert data.loads == IMAGES * ROUNDS  # one pass over the data per audit
    assert ratio <= 1.10

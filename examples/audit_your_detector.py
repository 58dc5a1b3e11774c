"""Audit a detector of your own: anything that finds boxes in a list of images.

python examples/audit_your_detector.py IMAGES ANNOTATIONS.json OUT

Here a torchvision model stands for it. Yours needs a function that takes a list of (3, H, W)
images in [0, 1] and returns boxes, scores and category ids for each.
"""

import sys

import torch
from torchvision.models import get_model

from hfc_probe.detection import CocoImages, DetectionAudit


def main(images: str, annotations: str, out: str, limit: int | None = 100) -> None:
    torch.manual_seed(0)
    model = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)

    def detector(batch):
        found = model(batch)
        # Category ids of the annotations; torchvision's are COCO's own.
        return [(f["boxes"], f["scores"], f["labels"]) for f in found]

    audit = DetectionAudit(radii=(32, 128), ignore_unknown=True)
    result = audit.measure(
        detector,
        CocoImages(images, annotations),
        model=model,  # kept in evaluation mode, and left as it was
        limit=limit,
        resume=f"{out}/finished",
        progress=True,
    )
    result.save_all(out)
    print(result)


if __name__ == "__main__":
    main(*sys.argv[1:4])

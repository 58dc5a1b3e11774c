"""An adapter that goes through 8 bits is noticed, on a real detector."""

import pytest
import torch

from hfc_probe.detection import DetectionAudit
from hfc_probe.detection.signed import sign_doubt

from ..conftest import needs_coco
from .real_detector import FastestDet, needs_detector


def rounded(image):
    return (image * 255).round().clamp(0, 255).to(torch.uint8).float() / 255


def wrapped(image):
    return torch.from_numpy((image * 255).numpy().astype("int64").astype("uint8")).float() / 255


@pytest.mark.parametrize(
    ("adapter", "said"),
    [(lambda image: image, None), (rounded, "clips"), (wrapped, "wraps")],
)
def test_what_an_adapter_does_to_the_sign(real, adapter, said):
    needs_detector()
    data, _ = real
    detector = FastestDet(data.truth)
    image = data.load(sorted(data.truth.images)[0])
    doubt = sign_doubt(lambda images: detector([adapter(i) for i in images]), image)
    assert doubt is None if said is None else f"as in one that {said} at 0 and 1" in doubt


@needs_coco
def test_it_is_said_before_the_table(real):
    needs_detector()
    data, _ = real
    detector = FastestDet(data.truth)
    audit = DetectionAudit(radii=(64,), bootstrap=0)
    result = audit.measure(lambda images: detector([rounded(i) for i in images]), data, limit=2)
    assert "Caution: the detector finds exactly the same in a signed image" in str(result)
    grey = DetectionAudit(radii=(64,), bootstrap=0, hfc_background="mean", pixel_mean=(0.45,) * 3)
    result = grey.measure(lambda images: detector([rounded(i) for i in images]), data, limit=2)
    assert not result.caveats  # HFC on a grey background are hardly ever signed

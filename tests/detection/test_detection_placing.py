"""``radii="auto"``: radii where a detector's answer changes."""

import numpy as np
import pytest
import torch

from hfc_probe import InputError
from hfc_probe.detection import DetectionAudit
from hfc_probe.detection.placing import place

from ..conftest import needs_coco
from ..toys import Tally
from .known_answer import PlantedShapes


class Until:
    """Finds all objects of an image as long as it shows its waves."""

    def __init__(self, data, cycles):
        self.data = data
        self.tally = Tally(calls=0)
        grid = torch.arange(128) / 128
        self.wave = 0.05 * torch.cos(2 * torch.pi * cycles * grid).expand(3, 128, 128)

    def images(self):
        return {k: 0.1 + 0.8 * p + self.wave for k, p in self.data.pictures.items()}

    def __call__(self, images):
        self.tally["calls"] += 1
        if self.tally["calls"] == self.tally.get("stop"):
            raise KeyboardInterrupt
        return [self.one(image) for image in images]

    def one(self, image):
        if float((image * self.wave).sum() / self.wave.square().sum()) < 0.5:
            return [], [], []
        # Every picture's objects, its own among them.
        targets = list(self.data.targets.values())
        boxes = torch.cat([one["boxes"] for one in targets])
        labels = torch.cat([one["labels"] for one in targets])
        return boxes, torch.full((len(labels),), 0.9), labels


@pytest.fixture
def waved(request):
    data = PlantedShapes(6, seed=4)
    detector = Until(data, getattr(request, "param", 25))
    data.pictures = {k: image.clamp(0, 1) for k, image in detector.images().items()}
    return data, detector


@needs_coco
@pytest.mark.parametrize(("waved", "pair"), [(25, (24, 25)), (60, (59, 61))], indirect=["waved"])
def test_radii_gather_where_the_detector_s_answer_changes(waved, pair):
    data, detector = waved
    result = DetectionAudit(radii="auto", bootstrap=0).measure(detector, data)
    assert len(result.radii) == 12
    assert list(result.radii) == sorted(set(result.radii))
    # The wave is in LFC(25), not in LFC(24): both are there, and others near them. Radii less than
    # 6 % apart are not parted further.
    assert set(pair) <= set(result.radii)
    assert sum(0.72 <= r / pair[1] <= 1.28 for r in result.radii) >= 5
    low = [result.metrics[f"lfc_r{r:02d}"][0] > 0 for r in result.radii]
    assert low == [r >= pair[1] for r in result.radii]
    assert result.settings["placed"] is True
    assert 'placed where AP changes on 6 of the images (radii="auto")' in str(result)


@needs_coco
def test_an_interrupted_audit_keeps_the_radii_it_placed(waved, tmp_path):
    data, detector = waved
    audit = DetectionAudit(radii="auto", bootstrap=0)
    whole = audit.measure(detector, data)
    calls = detector.tally["calls"]
    detector.tally |= {"calls": 0, "stop": calls - 30}  # in the second image from the end
    with pytest.raises(KeyboardInterrupt):
        audit.measure(detector, data, resume=tmp_path / "finished")
    detector.tally.clear()
    detector.tally["calls"] = 0
    again = audit.measure(detector, data, resume=tmp_path / "finished")
    assert again.to_dict() == whole.to_dict()
    # Two finished images to compare, two to finish, three signed ones: no first look.
    assert detector.tally["calls"] == (2 + 2) * 25 + 3


def test_a_curve_that_never_changes_is_covered_evenly():
    radii = place(lambda asked: [(0.5, 0.5) for _ in asked], 1, 400, whole=True)
    ratios = np.diff(np.log([1, *radii, 400]))
    assert len(radii) == 12
    assert ratios.max() < 2.5 * ratios.min()
    few = place(lambda asked: [(0.5, 0.5) for _ in asked], 1, 6, whole=True)
    assert few == (2, 3, 4, 5)  # no other whole numbers are there
    share = place(lambda asked: [(r, 0.0) for r in asked], 1 / 128, 1.4, whole=False)
    assert sum(r > 0.5 for r in share) >= 4  # where a straight line changes most


def test_radii_in_words_other_than_auto_are_refused():
    with pytest.raises(InputError, match="radii: expected"):
        DetectionAudit(radii="many")
    with pytest.raises(InputError, match=r'radii: expected numbers, got "auto", which .*measure'):
        _ = DetectionAudit(radii="auto").variants

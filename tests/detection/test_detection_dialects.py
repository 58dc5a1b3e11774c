"""Annotations that are nearly COCO's: read, or refused by a sentence that names the reason."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hfc_probe import InputError
from hfc_probe.detection import (
    CocoImages,
    DetectionAudit,
    Detections,
    GroundTruth,
    evaluation,
    to_results,
)
from hfc_probe.detection.errors_by_kind import errors_of
from hfc_probe.detection.operating_point import operating_point

from ..conftest import needs_coco
from .test_detection_evaluation import noisy
from .test_detection_iou_types import shifted_masks


def content(**changes):
    entry = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 0}
    for target, values in changes.items():
        {"image": entry, "annotation": box}[target].update(values)
    return {"images": [entry], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}


def test_null_areas_are_those_of_the_boxes_and_it_is_said():
    truth = GroundTruth.read(content(annotation={"area": None, "iscrowd": None}))
    assert truth.annotations[0]["area"] == 12
    assert truth.annotations[0]["iscrowd"] == 0
    assert "area is missing and the box's area is used (1 annotations)" in truth.notes


def test_sizes_as_text_are_numbers_and_other_text_is_refused():
    truth = GroundTruth.read(content(image={"width": "40", "height": 30.0}))
    assert (truth.images[1]["width"], truth.images[1]["height"]) == (40, 30)
    with pytest.raises(InputError, match=r"sizes in whole pixels.* could not convert .*'wide'"):
        GroundTruth.read(content(image={"width": "wide"}))


def test_panoptic_annotations_are_refused_as_such():
    panoptic = content()
    panoptic["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    with pytest.raises(InputError, match="got panoptic segments; use the instances file"):
        GroundTruth.read(panoptic)


@pytest.mark.parametrize("place", ["val2017/000000000001.png", "000000000001.png"])
def test_lvis_names_its_files_by_url_and_its_protocol_is_said(tmp_path, place):
    lvis = content(image={"coco_url": "http://images.cocodataset.org/val2017/000000000001.png"})
    del lvis["images"][0]["file_name"]
    lvis["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / place)
    images = CocoImages(tmp_path, lvis)
    assert images.load(1).shape == (3, 30, 40)
    assert "evaluated as LVIS does" in images.truth.notes[0]


@needs_coco
@pytest.mark.parametrize(
    ("detector", "iou_type", "max_dets"),
    [
        ("noisy", "bbox", 300),
        ("noisy", "bbox", 4),
        ("noisy", "segm", 300),
        ("trained on COCO", "bbox", 300),
    ],
)
def test_ap_of_federated_annotations_equals_lvis_own_package(
    coco_content, detector, iou_type, max_dets, request
):
    lvis = pytest.importorskip("lvis", reason="lvis is not installed")
    rng = np.random.default_rng(0)
    content = json.loads(json.dumps(coco_content))
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    ids = [c["id"] for c in content["categories"]]
    for category in content["categories"]:
        category |= {"frequency": "rcf"[rng.integers(3)], "image_count": 9}
    for image in content["images"]:
        here = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent = rng.choice([k for k in ids if k not in here], size=20, replace=False)
        image["neg_category_ids"] = absent.tolist()
        image["not_exhaustive_category_ids"] = [k for k in here if rng.random() < 0.3]
    truth = GroundTruth.read(content)
    if detector == "noisy":
        found = shifted_masks(truth, 1) if iou_type == "segm" else noisy(truth, 1, extra=20)
    else:
        _, found = request.getfixturevalue("real")
    ours = evaluation.evaluate(
        truth, sorted(truth.images), found, max_dets=max_dets, iou_type=iou_type
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)  # the package is older than numpy 1.24
        known = lvis.LVIS.__new__(lvis.LVIS)
        known.logger, known.dataset = logging.getLogger("lvis"), content
        known._create_index()
        run = lvis.LVISEval(
            known, lvis.LVISResults(known, to_results(found), max_dets=max_dets), iou_type
        )
        run.params.max_dets = max_dets
        run.run()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert 0.05 < ours.metrics[0] < 0.9
    assert ours.metrics.tolist() == [run.results[name] for name in names]
    assert ours.groups.tolist() == [run.results[name] for name in evaluation.GROUPS]
    assert len(set(ours.groups)) == 3
    coco = replace(truth, images={i: {} for i in truth.images})
    other = evaluation.evaluate(coco, sorted(truth.images), noisy(truth, 1, extra=20))
    assert other.metrics[0] != ours.metrics[0]


def test_an_audit_of_lvis_has_ap_by_frequency_of_the_category():
    lvis = content(image={"neg_category_ids": [], "not_exhaustive_category_ids": []})
    lvis["categories"] = [{"id": 1, "name": "cat", "frequency": "r"},
                          {"id": 2, "name": "dog", "frequency": "f"}]  # fmt: skip
    lvis["annotations"].append({**lvis["annotations"][0], "id": 2, "category_id": 2})
    truth = GroundTruth.read(lvis)
    audit = DetectionAudit(radii=(4,), bootstrap=0)
    cat = {1: Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.9]), np.array([1]))}
    result = audit.evaluate(truth, {"original": cat, "lfc_r04": cat, "hfc_r04": {}})
    scalars, heads = result.scalars(), result.table()[0]
    assert scalars["hfc_detection/APr/lfc_r04"] == pytest.approx(1)
    assert scalars["hfc_detection/APr/hfc_r04"] == scalars["hfc_detection/APf/original"] == 0
    assert np.isnan(scalars["hfc_detection/APc/original"])  # there is no such category
    assert result.table()[1][0][heads.index("rare")] == "100.0"
    assert result.arrays()["lfc_frequency"].shape == (1, 3)
    del lvis["images"][0]["neg_category_ids"]  # plain COCO with a key that has no meaning there
    assert "APr" not in str(audit.evaluate(GroundTruth.read(lvis), dict.fromkeys(
        audit.variants, cat)).scalars())  # fmt: skip


def test_what_lvis_did_not_look_for_is_no_mistake_at_a_threshold_either():
    image = {"neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    lvis = content(image=image)
    lvis["categories"] += [{"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]
    truth = GroundTruth.read(lvis)
    right, other = [1.0, 2, 3, 4], [20.0, 20, 5, 5]
    boxes, labels = [right, other, other, other], [1, 1, 2, 3]
    found = {1: Detections(np.array(boxes), np.full(4, 0.9), np.array(labels))}
    point = operating_point(truth, [1], found, 0.5)
    # Another cat need not be annotated, nobody looked for dogs, there is no cow.
    assert point.counts == (1, 2, 1)
    assert point.confusion.sum() == 2
    assert errors_of(truth, [1], found).counts.tolist() == [0, 0, 0, 0, 1, 0]


def test_lvis_leaves_out_boxes_without_area():
    image = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = GroundTruth.read(content(image=image))
    boxes, labels = np.array([[5.0, 5, 0, 9], [1, 2, 3, 4]]), np.array([1, 1])
    found = {1: Detections(boxes, np.array([0.9, 0.8]), labels)}
    assert evaluation.evaluate(truth, [1], found).metrics[0] == pytest.approx(1)

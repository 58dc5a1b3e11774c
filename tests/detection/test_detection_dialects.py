"""Annotations that are nearly COCO's: read, or refused by a sentence that names the reason."""

import pytest
from PIL import Image

from hfc_probe import InputError
from hfc_probe.detection import CocoImages, GroundTruth


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
    assert "the annotations are LVIS's" in images.truth.notes[0]

"""YOLO, Pascal VOC and FiftyOne: the same objects as in COCO's JSON, or a sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from hfc_probe import InputError
from hfc_probe.detection import CocoImages, DetectionAudit, Detections, GroundTruth
from hfc_probe.detection.fiftyone_samples import read_samples, write_samples

from ..conftest import needs_coco

NAMES = ["cat", "dog"]
OBJECTS = {  # by file: size, then name and x, y, width, height
    "000007.png": ((40, 30), [("dog", [4.0, 3.0, 20.0, 12.0]), ("cat", [0.0, 0.0, 40.0, 30.0])]),
    "000009.png": ((20, 50), []),
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "val"
    folder.mkdir(parents=True)
    for name, (size, _) in OBJECTS.items():
        Image.new("RGB", size).save(folder / name)
    return folder


def yolo(root, images, yaml="path: .\nval: images/val\nnames:\n  0: cat\n  1: dog\n"):
    (root / "labels" / "val").mkdir(parents=True)
    for name, ((width, height), objects) in OBJECTS.items():
        lines = [
            f"{NAMES.index(kind)} {(x + w / 2) / width} {(y + h / 2) / height} "
            f"{w / width} {h / height}"
            for kind, (x, y, w, h) in objects
        ]
        if lines:  # no file is no object
            (root / "labels" / "val" / name).with_suffix(".txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def voc(root, images):
    (root / "Annotations").mkdir()
    for name, ((width, height), objects) in OBJECTS.items():
        boxes = "".join(
            f"<object><name>{kind}</name><difficult>{int(kind == 'cat')}</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            "</bndbox></object>"
            for kind, (x, y, w, h) in objects
        )
        (root / "Annotations" / name).with_suffix(".xml").write_text(
            f"<annotation><filename>{name}</filename><size><width>{width}</width>"
            f"<height>{height}</height></size>{boxes}</annotation>"
        )
    return root


def shares(name):
    (width, height), objects = OBJECTS[name]
    return [
        {"label": kind, "bounding_box": [x / width, y / height, w / width, h / height]}
        for kind, (x, y, w, h) in objects
    ]


def fiftyone_export(root, images):
    samples = [
        {
            "filepath": f"data/{name}",
            "metadata": {"width": OBJECTS[name][0][0], "height": OBJECTS[name][0][1]},
            "ground_truth": {"_cls": "Detections", "detections": shares(name)},
            "a_model": {"_cls": "Detections", "detections": [{"label": "cat", "confidence": 0.5,
                                                              "bounding_box": [0, 0, 1, 1]}]},
        }
        for name in OBJECTS
    ]  # fmt: skip
    (root / "export").mkdir()
    (root / "export" / "metadata.json").write_text("{}")
    (root / "export" / "samples.json").write_text(json.dumps({"samples": samples}))
    return root / "export"


def fiftyone_detections(root, images):
    labels = {name.partition(".")[0]: shares(name) or None for name in OBJECTS}
    file = root / "labels.json"
    file.write_text(json.dumps({"classes": NAMES, "labels": labels}))
    return file


@pytest.mark.parametrize(
    ("write", "first"),
    [(yolo, 0), (voc, 1), (fiftyone_export, 0), (fiftyone_detections, 0)],
)
def test_every_form_gives_the_same_objects(tmp_path, images, write, first):
    data = CocoImages(images, write(tmp_path, images))
    assert list(data.truth.images) == [7, 9]
    assert data.truth.categories == {first: "cat", first + 1: "dog"}
    assert data.load(9).shape == (3, 50, 20)
    found = [(data.truth.categories[a["category_id"]], a["bbox"]) for a in data.truth.annotations]
    assert [kind for kind, _ in found] == ["dog", "cat"]
    for (_, box), (_, expected) in zip(found, OBJECTS["000007.png"][1], strict=True):
        np.testing.assert_allclose(box, expected, rtol=0, atol=1e-9)
    assert data.truth.images[7]["width"] == 40
    difficult = [a["iscrowd"] for a in data.truth.annotations]
    assert difficult == ([0, 1] if write is voc else [0, 0])
    notes = " ".join(data.truth.notes)
    assert ("1 difficult objects count as crowds" in notes) == (write is voc)


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [cat, dog]  # in a line\nnc: 2\nval: images/val\n",
        "names:\n  - cat\n  - 'dog'\nval: images/val\n",
        "path: ../elsewhere\nval: images/val\nnames: {0: cat, 1: dog}\n",
    ],
)
def test_yolos_names_in_every_spelling_and_images_found_by_its_file(tmp_path, images, yaml):
    truth = GroundTruth.read(yolo(tmp_path, images, yaml))
    assert truth.categories == {0: "cat", 1: "dog"}
    assert len(truth.annotations) == 2


def test_yolos_polygons_are_masks_with_their_boxes(tmp_path, images):
    file = yolo(tmp_path, images)
    (tmp_path / "labels" / "val" / "000009.txt").write_text("1 0.1 0.2 0.5 0.2 0.5 0.6\n")
    truth = GroundTruth.read(file)
    assert truth.annotations[-1]["bbox"] == [2, 10, 8, 20]
    assert truth.annotations[-1]["segmentation"] == [[2, 10, 10, 10, 10, 30]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "labels" / "val" / "000007.txt").write_text("5 0 0 1 1"),
         r"expected YOLO annotations in .*'5 0 0 1 1' is no class of 2"),
        (lambda root: (root / "data.yaml").write_text("val: images/val\n"), "names of the classes"),
        (lambda root: (root / "labels").rename(root / "other"), "no folder of labels"),
    ],
)  # fmt: skip
def test_a_spoilt_yolo_folder_is_one_sentence(tmp_path, images, spoil, message):
    file = yolo(tmp_path, images)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        CocoImages(images, file)


def test_a_spoilt_voc_file_and_an_empty_folder_are_one_sentence(tmp_path, images):
    with pytest.raises(InputError, match=r"YOLO's data\.yaml, a folder of Pascal VOC or FiftyOne"):
        CocoImages(images, tmp_path)
    voc(tmp_path, images)
    (tmp_path / "Annotations" / "000007.xml").write_text(
        "<annotation><object><name>cat</name></object></annotation>"
    )
    with pytest.raises(InputError, match=r"expected VOC annotations .*<bndbox/xmin> is missing"):
        CocoImages(images, tmp_path)


def test_yolos_classes_are_their_numbers_in_whatever_order_the_file_has_them(tmp_path, images):
    swapped = yolo(tmp_path, images, "val: images/val\nnames:\n  1: dog\n  0: cat\n")
    assert GroundTruth.read(swapped).categories == {0: "cat", 1: "dog"}
    swapped.write_text("val: images/val\nnames:\n  1: cat\n  2: dog\n")
    with pytest.raises(InputError, match="names of classes 1, 2, not from 0 on"):
        GroundTruth.read(swapped)


def test_yolos_keypoints_are_no_polygons_and_polygons_have_their_own_area(tmp_path, images):
    file = yolo(tmp_path, images)
    label = tmp_path / "labels" / "val" / "000009.txt"
    label.write_text("1 0.1 0.2 0.5 0.2 0.5 0.6\n")
    assert GroundTruth.read(file).annotations[-1]["area"] == pytest.approx(80)
    file.write_text(file.read_text() + "kpt_shape: [2, 2]\n")
    label.write_text("1 0.5 0.5 0.5 0.2 0.4 0.4 0.9 0.9\n")
    posed = GroundTruth.read(file).annotations[-1]
    assert posed["bbox"] == pytest.approx([5, 20, 10, 10])
    assert "segmentation" not in posed


def test_names_that_are_one_number_stay_names(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("7.png", "007.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    assert sorted(GroundTruth.read(tmp_path).images) == ["007", "7"]


def test_fiftyones_truth_is_one_field_for_all_samples(tmp_path, images):
    export = fiftyone_export(tmp_path, images)
    content = json.loads((export / "samples.json").read_text())
    for sample in content["samples"]:
        sample["boxes"] = sample.pop("ground_truth")  # after the model's field
    content["samples"][0]["a_model"]["detections"] = []  # that finds nothing here
    content["samples"][1]["boxes"] = None
    (export / "samples.json").write_text(json.dumps(content))
    assert len(GroundTruth.read(export).annotations) == 2
    content["samples"][0]["others"] = content["samples"][0]["boxes"]
    (export / "samples.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="others could all be the truth; call it ground_truth"):
        GroundTruth.read(export)


@pytest.mark.parametrize("posed", [False, True])
def test_yolos_repeated_lines_count_once_as_in_ultralytics(tmp_path, images, posed):
    utils = pytest.importorskip("ultralytics.data.utils", reason="ultralytics is not installed")
    yaml = "val: images/val\nnames: [cat, dog]\n" + ("kpt_shape: [1, 3]\n" if posed else "")
    file = yolo(tmp_path, images, yaml)
    labels = tmp_path / "labels" / "val" / "000007.txt"
    box, points = "0.5 0.5 0.2 0.2", (" 0.5 0.5 2", " 0.6 0.5 2") if posed else ("", "")
    lines = [f"0 {box}{points[0]}", f"1 {box}{points[0]}", f"0 {box}{points[1]}",
             f"0 0.50 5e-1 0.2000000000001 0.2{points[0]}"]  # fmt: skip
    labels.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    truth = GroundTruth.read(file)
    # With the keypoints left out, as for a detector of boxes.
    found = utils.verify_image_label(
        (str(images / "000007.png"), str(labels), "", False, 2, int(posed), 3, False)
    )
    assert sorted(a["category_id"] for a in truth.annotations) == sorted(found[1][:, 0]) == [0, 1]
    assert "2 duplicate labels removed" in found[-1]
    assert truth.notes == (
        "2 lines that repeat another of the same labels file count once, as in ultralytics "
        "(000007.png)",
    )


def test_yolos_polygons_of_one_box_are_several_objects(tmp_path, images):
    file = yolo(tmp_path, images)
    triangles = ["0 0.1 0.1 0.5 0.1 0.5 0.5", "0 0.1 0.1 0.5 0.5 0.1 0.5"]
    (tmp_path / "labels" / "val" / "000007.txt").write_text("\n".join(2 * triangles))
    truth = GroundTruth.read(file)
    assert len(truth.annotations) == 2
    assert truth.annotations[0]["bbox"] == truth.annotations[1]["bbox"]
    assert "2 lines that repeat another" in truth.notes[0]


@pytest.fixture
def audited(tmp_path, images):
    """Two images of two objects and none; on LFC(0.5) the cat is called a dog, HFC find nothing."""
    data = CocoImages(images, voc(tmp_path, images))
    for annotation in data.truth.annotations:
        annotation["iscrowd"] = 0
    dog, cat = (a["bbox"] for a in data.truth.annotations)

    def found(*rows):
        boxes, scores, labels = zip(*rows, strict=True)
        return Detections(np.array(boxes), np.array(scores), np.array(labels))

    low = found((dog, 0.9, 2), (cat, 0.8, 2))
    predictions = {
        "original": {7: found((dog, 0.9, 2), (cat, 0.8, 1), (cat, 0.1, 2))},
        "lfc_r00.5": {7: low, 9: found(([1.0, 2.0, 3.0, 4.0], 0.95, 1))},
        "hfc_r00.5": {},
    }
    audit = DetectionAudit(radii=(0.5,), units="nyquist", bootstrap=0)
    return audit.evaluate(data.truth, predictions).reading(data), data


@needs_coco
def test_fiftyone_gets_each_images_ap_and_its_right_false_and_missed_boxes(audited, tmp_path):
    result, data = audited
    write_samples(result, tmp_path / "fiftyone")
    first, second = json.loads((tmp_path / "fiftyone" / "samples.json").read_text())["samples"]
    assert first["filepath"] == str(data.folder.resolve() / "000007.png")
    numbers = read_samples(tmp_path / "fiftyone")
    seven, nine = numbers["000007.png"], numbers["000009.png"]
    assert [seven[f"original_{what}"] for what in ("tp", "fp", "fn")] == [2, 0, 0]
    assert [seven[f"lfc_r00_5_{what}"] for what in ("tp", "fp", "fn")] == [1, 1, 1]
    assert [seven[f"hfc_r00_5_{what}"] for what in ("tp", "fp", "fn")] == [0, 0, 2]
    assert [nine[f"lfc_r00_5_{what}"] for what in ("tp", "fp", "fn")] == [0, 1, 0]
    assert seven["AP_original"] == pytest.approx(1)
    assert seven["AP_lfc_r00_5"] == pytest.approx(0.5)  # of two classes one
    assert "AP_original" not in nine  # nothing to find
    assert [d["lfc_r00_5"] for d in first["ground_truth"]["detections"]] == ["tp", "fn"]
    assert [d["eval"] for d in first["lfc_r00_5"]["detections"]] == ["tp", "fp"]
    box = second["lfc_r00_5"]["detections"][0]["bounding_box"]
    np.testing.assert_allclose(box, [1 / 20, 2 / 50, 3 / 20, 4 / 50])
    again = CocoImages(data.folder, tmp_path / "fiftyone").truth  # the objects, not the detections
    assert [a["bbox"] for a in again.annotations] == [
        pytest.approx(a["bbox"]) for a in data.truth.annotations
    ]
    with pytest.raises(InputError, match=r"with samples\.json, got .*export it as"):
        read_samples(tmp_path)


@needs_coco
def test_fiftyone_itself_reads_what_was_written(audited, tmp_path):
    foud = pytest.importorskip("fiftyone.utils.data", reason="fiftyone is not installed")
    result, _ = audited
    write_samples(result, tmp_path / "fiftyone")
    # Its importer alone: a data set needs its database.
    importer = foud.FiftyOneDatasetImporter(str(tmp_path / "fiftyone"))
    importer = importer._to_legacy_importer() if importer._is_legacy_format_data() else importer
    with importer:
        first, second = importer
    assert first.AP_original == pytest.approx(1)
    assert (first.lfc_r00_5_tp, second.lfc_r00_5_fp) == (1, 1)
    assert [d.label for d in first.original.detections] == ["dog", "cat"]
    assert [d.eval for d in first.lfc_r00_5.detections] == ["tp", "fp"]
    assert first.metadata.width == 40

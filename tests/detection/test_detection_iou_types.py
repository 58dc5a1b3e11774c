"""AP and AR of masks and keypoints against pycocotools itself, in audits, on disk, in words."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch

from hfc_probe import InputError
from hfc_probe.detection import (
    CocoImages,
    DetectionAudit,
    Detections,
    GroundTruth,
    detections_from,
    evaluation,
    from_results,
    to_results,
)
from hfc_probe.detection.masks import encoded
from hfc_probe.detection.scoring import scored_images

from ..conftest import needs_coco
from .known_answer import PlantedShapes


def cocoeval(content, results, iou_type):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def shifted_masks(truth, seed):
    """Masks of the objects, moved by some pixels; some missing, of another class or twice."""
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    found = {}
    for image_id, image in truth.images.items():
        size = (image["height"], image["width"])
        rows = []
        for a in truth.annotations:
            if a["image_id"] != image_id or rng.random() < 0.2:
                continue
            given = a["segmentation"]
            rle = mask.frPyObjects(given, *size)
            pixels = mask.decode(mask.merge(rle) if isinstance(rle, list) else rle)
            label = rng.choice(list(truth.categories)) if rng.random() < 0.15 else a["category_id"]
            for _ in range(rng.integers(1, 3)):
                moved = np.roll(pixels, rng.integers(-6, 7, size=2), axis=(0, 1))
                rows.append((moved, round(rng.random(), 2), label))
        pixels = np.stack([r[0] for r in rows]) if rows else np.zeros((0, *size))
        scores, labels = np.array([r[1] for r in rows]), [r[2] for r in rows]
        entry = {"boxes": np.zeros((len(rows), 4)), "scores": scores, "labels": np.array(labels)}
        (found[image_id],) = detections_from([{**entry, "masks": pixels[:, None]}], 1, "segm")
    return found


def persons(seed, count=12):
    """Objects with keypoints, some hidden, some crowds, some without any; and detections."""
    rng = np.random.default_rng(seed)
    images = [{"id": k + 1, "file_name": f"{k}", "height": 300, "width": 300} for k in range(count)]
    annotations, found = [], {}
    for image in images:
        points, labels = [], []
        for _ in range(rng.integers(1, 6)):
            side = rng.uniform(20, 150)
            corner = rng.uniform(0, 150, size=2)
            places = corner + side * rng.random((17, 2))
            visible = rng.integers(0, 3, size=17) * (rng.random() > 0.2)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "category_id": 1,
                "bbox": [*corner, side, side], "area": 0.6 * side**2,
                "iscrowd": int(rng.random() < 0.1), "num_keypoints": int((visible > 0).sum()),
                "keypoints": np.c_[places * (visible > 0)[:, None], visible].ravel().tolist(),
            })  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                noise = rng.normal(size=(17, 2)) * side * rng.choice([0.01, 0.05, 0.2])
                points.append(np.c_[places + noise, np.ones(17)])
                labels.append(1)
        scores = np.round(rng.random(len(points)), 2)
        found[image["id"]] = Detections(
            np.zeros((len(points), 4)), scores, np.array(labels, dtype=np.int64),
            keypoints=np.array(points).reshape(-1, 17, 3),
        )  # fmt: skip
    content = {"images": images, "annotations": annotations,
               "categories": [{"id": 1, "name": "person"}]}  # fmt: skip
    return content, found


def same(value, theirs):
    return np.isnan(value) if theirs < 0 else value == theirs


@needs_coco
def test_ap_and_ar_of_real_masks_equal_pycocotools_to_the_last_digit(coco_content):
    truth = GroundTruth.read(coco_content)
    found = shifted_masks(truth, 1)
    ours = evaluation.evaluate(truth, sorted(truth.images), found, iou_type="segm")
    theirs = cocoeval(coco_content, to_results(found), "segm")
    assert any(a["iscrowd"] for a in truth.annotations)
    assert 0.1 < ours.metrics[0] < 0.9
    assert all(map(same, [*ours.metrics, *ours.recalls], theirs.stats[:9]))
    precision = theirs.eval["precision"][:, :, :, 0, 2]
    for k, ap in enumerate(ours.classes):
        values = precision[:, :, k][precision[:, :, k] > -1]
        assert same(ap, np.mean(values) if values.size else -1)


@pytest.mark.parametrize("seed", range(5))
def test_ap_and_ar_of_keypoints_equal_pycocotools_to_the_last_digit(seed):
    content, found = persons(seed)
    truth = GroundTruth.read(content)
    ours = evaluation.evaluate(
        truth, sorted(truth.images), found, max_dets=20, iou_type="keypoints"
    )
    theirs = cocoeval(content, to_results(found), "keypoints").stats
    assert 0 < ours.metrics[0] < 1
    assert [*ours.metrics[[0, 1, 2, 4, 5]], ours.recalls[2]] == theirs[:6].tolist()
    assert np.isnan(ours.metrics[3])  # COCO has no small persons


@needs_coco
@pytest.mark.parametrize("seed", range(3))
def test_ar_of_boxes_equals_pycocotools(coco_content, seed):
    from .test_detection_evaluation import noisy

    truth = GroundTruth.read(coco_content)
    found = noisy(truth, seed)
    ours = evaluation.evaluate(truth, sorted(truth.images), found).recalls
    assert ours.tolist() == cocoeval(coco_content, to_results(found), "bbox").stats[6:9].tolist()


class Squares:
    """A detector of the brightest square whose answer is its mask; counts its calls."""

    def __call__(self, images):
        return [self.one(image.mean(0)) for image in images]

    def one(self, grey):
        masks = torch.stack([grey > level for level in (0.5, 0.7)])[:, None].float()
        y, x = torch.nonzero(masks[0, 0] > 0, as_tuple=True)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 1, 1]
        boxes = torch.tensor([[float(v) for v in box]] * 2)
        return {"boxes": boxes, "scores": torch.tensor([0.9, 0.4]),
                "labels": torch.tensor([1, 1]), "masks": masks}  # fmt: skip


class Drawn:
    """Images with one bright square each, annotated by a polygon."""

    def __init__(self, count=4):
        self.pictures, images, annotations = {}, [], []
        for k in range(1, count + 1):
            x, y, side = 5 * k, 4 * k, 20 + k
            picture = torch.zeros(3, 64, 80)
            picture[:, y : y + side, x : x + side] = 1
            self.pictures[k] = picture
            images.append({"id": k, "file_name": f"{k}.png", "height": 64, "width": 80})
            ring = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append({"id": k, "image_id": k, "category_id": 1, "iscrowd": 0,
                                "bbox": [x, y, side, side], "area": side**2,
                                "segmentation": [ring]})  # fmt: skip
        self.truth = GroundTruth.read({"images": images, "annotations": annotations,
                                       "categories": [{"id": 1, "name": "square"}]})  # fmt: skip

    def load(self, image_id):
        return self.pictures[image_id]


@pytest.mark.slow
def test_an_audit_of_masks_finds_them_resumes_and_says_what_it_compared(tmp_path):
    data, audit = Drawn(), DetectionAudit(radii=(2,), bootstrap=50, iou_type="segm")
    result = audit.measure(Squares(), data, resume=tmp_path / "kept")
    scalars = result.scalars()
    assert scalars["hfc_detection/segm_AP/original"] == 1.0
    assert scalars["hfc_detection/segm_AR1/original"] == 1.0
    assert scalars["hfc_detection/segm_AP/lfc_r02"] < 1.0
    assert result.labels()["hfc_detection/segm_AP/lfc_r02"].text == "mask AP on LFC(2)"
    assert result.errors()["original"].counts.tolist() == [0, 0, 0, 4, 0, 0]
    assert "AP of masks in %" in str(result)
    assert "AR100" in str(result)
    (line,) = (tmp_path / "kept").glob("part-*.jsonl")
    assert line.stat().st_size < 20_000  # RLE: as pixels these masks are 120,000 numbers
    again = audit.measure(Squares(), data, resume=tmp_path / "kept")
    np.testing.assert_equal(again.scalars(), scalars)
    with pytest.raises(InputError, match="got iou_type 'segm' instead of None; choose"):
        DetectionAudit(radii=(2,), bootstrap=50).measure(Squares(), data, resume=tmp_path / "kept")
    files = {file.name: file for file in result.save_all(tmp_path / "out")}
    rows = json.loads(files["results_original.json"].read_text())
    assert set(rows[0]) == {"image_id", "category_id", "segmentation", "score"}
    read = from_results(rows, data.truth)
    assert read[1].masks == result.predictions["original"][1].masks
    assert read[1].boxes[0].tolist() == [5, 4, 21, 21]


def test_a_detector_of_boxes_alone_is_told_so():
    data = PlantedShapes(2, seed=1)

    def boxes_alone(images):
        return [{"boxes": [[0, 0, 9, 9]], "scores": [0.5], "labels": [3]} for _ in images]

    with pytest.raises(InputError, match="expected masks beside the boxes for segm AP, got none"):
        DetectionAudit(radii=(6,), iou_type="segm").measure(boxes_alone, data)
    with pytest.raises(InputError, match="expected keypoints beside the boxes"):
        DetectionAudit(radii=(6,), iou_type="keypoints").measure(boxes_alone, data)
    found = {i: Detections(np.zeros((1, 4)), np.ones(1), np.array([3])) for i in data.truth.images}
    with pytest.raises(InputError, match='expected detections with masks for "segm", got boxes'):
        evaluation.evaluate(data.truth, sorted(data.truth.images), found, iou_type="segm")


def test_objects_without_masks_or_with_other_keypoints_are_refused():
    mask = encoded(torch.ones(1, 128, 128), 1)
    data = PlantedShapes(2, seed=1)
    found = {i: Detections(np.zeros((1, 4)), np.ones(1), np.array([3]), mask)
             for i in data.truth.images}  # fmt: skip
    with pytest.raises(InputError, match=r"segmentation of polygons or RLE.*for annotation"):
        evaluation.evaluate(data.truth, sorted(data.truth.images), found, iou_type="segm")
    content, detected = persons(0)
    truth = GroundTruth.read(content)
    fewer = {i: d._replace(keypoints=d.keypoints[:, :5]) for i, d in detected.items()}
    with pytest.raises(InputError, match="COCO's 17 keypoints of a person, got 17 annotated and 5"):
        evaluation.evaluate(truth, sorted(truth.images), fewer, iou_type="keypoints")


@pytest.mark.parametrize("form", ["(n, H, W)", "(n, 1, H, W)", "bool", "bytes", "RLE"])
def test_masks_of_every_form_are_one_encoding(form):
    pixels = torch.zeros(2, 9, 12)
    pixels[0, 2:5, 3:8] = 0.8
    pixels[1, 1:4] = 0.4  # below one half: empty
    expected = encoded(pixels, 2)
    from pycocotools import mask

    assert mask.decode(dict(expected[0])).sum() == 15
    assert mask.area(list(expected)).tolist() == [15, 0]
    given = {
        "(n, H, W)": pixels,
        "(n, 1, H, W)": pixels[:, None],
        "bool": pixels > 0.5,
        "bytes": (pixels > 0.5).to(torch.uint8).numpy(),
        "RLE": list(expected),
    }[form]
    assert encoded(given, 2) == expected
    with pytest.raises(InputError, match=r"masks \(n, H, W\) or .*, n being 3 as of the boxes"):
        encoded(given, 3)


@needs_coco
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["maskrcnn", "keypointrcnn"])
def test_torchvisions_own_detectors_are_audited_as_they_are(coco, coco_content, kind):
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(f"{kind}_resnet50_fpn", weights=None, weights_backbone=None, min_size=160,
                      max_size=240, box_score_thresh=0.0, box_detections_per_img=3)  # fmt: skip
    iou_type = "segm" if kind == "maskrcnn" else "keypoints"
    content = {**coco_content}
    for a in content["annotations"]:
        a |= {"keypoints": [1.0] * 51, "num_keypoints": 17}
    audit = DetectionAudit(radii=(32,), bootstrap=0, iou_type=iou_type, ignore_unknown=True)
    result = audit.measure(model.eval(), CocoImages(coco / "val2017", content), limit=2)
    found = next(iter(result.predictions["original"].values()))
    shapes = found.masks if iou_type == "segm" else found.keypoints
    assert len(shapes) == len(found.scores) > 0


def test_masks_of_another_size_than_the_image_are_refused():
    data = Drawn(1)
    right = torch.zeros(1, 64, 80)
    right[:, 4:25, 5:26] = 1
    found = Detections(np.array([[5.0, 4, 21, 21]]), np.ones(1), np.array([1]))
    whole = {1: found._replace(masks=encoded(right, 1))}
    assert evaluation.evaluate(data.truth, [1], whole, iou_type="segm").metrics[0] > 0.99
    turned = {1: found._replace(masks=encoded(right.transpose(1, 2), 1))}
    with pytest.raises(InputError, match=r"got .*\(64, 80\) and \(80, 64\) for image 1; give"):
        evaluation.evaluate(data.truth, [1], turned, iou_type="segm")


def test_more_masks_than_a_byte_counts_are_evaluated():
    data, count = Drawn(1), 300
    (mask,) = encoded(torch.ones(1, 64, 80), 1)
    many = Detections(np.ones((count, 4)), np.ones(count), np.ones(count, int), (mask,) * count)
    assert evaluation.evaluate(data.truth, [1], {1: many}, iou_type="segm").metrics[0] == 0


def test_placed_radii_are_those_where_masks_change():
    data = Drawn(1)
    whole = (data.pictures[1][:1] > 0.5).float()

    def detector(images):
        """The box always, its mask as long as the edges are sharp."""
        sharp = float(images[0].diff().max())
        found = {"boxes": [[5.0, 4, 26, 25]], "scores": [1.0], "labels": [1]}
        return [{**found, "masks": whole * (sharp > 0.5)}]

    of_boxes, of_masks = (
        DetectionAudit(radii="auto", bootstrap=0, iou_type=kind).measure(detector, data)
        for kind in ("bbox", "segm")
    )
    low = [of_masks.metrics[f"lfc_r{r:02d}"][0] > 0.5 for r in of_masks.radii]
    first = low.index(True)
    assert of_masks.radii[first] - of_masks.radii[first - 1] == 1
    assert of_boxes.radii != of_masks.radii


def test_objects_without_keypoints_place_no_radii():
    content, _ = persons(0, count=2)
    for annotation in content["annotations"]:
        if annotation["image_id"] == 1:
            annotation |= {"num_keypoints": 0, "keypoints": [0] * 51}
    truth = GroundTruth.read(content)
    assert scored_images(truth, [1, 2]) == [1, 2]
    assert scored_images(truth, [1, 2], "keypoints") == [2]


def test_no_detections_at_all_are_none_of_any_kind():
    nothing = {"boxes": [], "scores": [], "labels": [], "masks": [], "keypoints": []}
    for kind in ("bbox", "segm", "keypoints"):
        (found,) = detections_from([nothing], 1, kind)
        assert len(found.boxes) == 0
    assert found.keypoints.shape == (0, 17, 3)

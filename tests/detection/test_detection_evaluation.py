"""AP against pycocotools itself: of a data set, an image, an object, a resampled data set."""

import contextlib
import io
import json

import numpy as np
import pytest

from hfc_probe import InputError
from hfc_probe.detection import (
    DetectionAudit,
    Detections,
    GroundTruth,
    evaluation,
    from_results,
    resampling,
    to_results,
)

from ..benchmarks import detection_coverage
from ..conftest import needs_coco
from .known_answer import PlantedShapes


def noisy(truth, seed, noise=0.05, extra=4):
    """Detections near the objects, some missing, mislabelled or invented, some scores equal."""
    rng = np.random.default_rng(seed)
    labels_known = list(truth.categories)
    found = {}
    for image_id in truth.images:
        rows = []
        for a in truth.annotations:
            if a["image_id"] == image_id and rng.random() > 0.2:
                box = np.array(a["bbox"]) * (1 + noise * rng.normal(size=4))
                wrong = rng.random() < 0.15
                label = rng.choice(labels_known) if wrong else a["category_id"]
                rows.append((box, round(rng.random(), 2), label))
        for _ in range(rng.integers(extra)):
            rows.append((rng.random(4) * 200, round(rng.random(), 2), rng.choice(labels_known)))
        found[image_id] = Detections(
            np.array([r[0] for r in rows]).reshape(-1, 4),
            np.array([r[1] for r in rows], dtype=np.float64),
            np.array([r[2] for r in rows], dtype=np.int64),
        )
    return found


def cocoeval(content, results, image_ids=None):
    """Pycocotools as anybody would call it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        if image_ids is not None:
            run.params.imgIds = list(image_ids)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def or_nan(value):
    return np.nan if value < 0 else value


@needs_coco
def test_ap_of_real_annotations_equals_pycocotools_to_the_last_digit(coco_content):
    truth = GroundTruth.read(coco_content)
    found = noisy(truth, 1)
    ours = evaluation.evaluate(truth, sorted(truth.images), found)
    theirs = cocoeval(coco_content, to_results(found))
    assert any(a["iscrowd"] for a in truth.annotations)
    assert 0.05 < ours.metrics[0] < 0.9
    assert ours.metrics.tolist() == [or_nan(v) for v in theirs.stats[:6]]
    precision = theirs.eval["precision"][:, :, :, 0, 2]
    for k, ap in enumerate(ours.classes):
        values = precision[:, :, k][precision[:, :, k] > -1]
        assert np.isnan(ap) if not values.size else ap == np.mean(values)


@needs_coco
def test_ap_of_each_image_equals_pycocotools_on_that_image_alone(coco_content):
    truth = GroundTruth.read(coco_content)
    found = noisy(truth, 2)
    image_ids = sorted(truth.images)
    ours = evaluation.evaluate(truth, image_ids, found).images
    undefined = 0
    for k, image_id in enumerate(image_ids):
        alone = or_nan(cocoeval(coco_content, to_results(found), [image_id]).stats[0])
        if np.isnan(alone):
            undefined += 1
            assert np.isnan(ours[k])
        else:
            assert abs(ours[k] - alone) <= 1e-12
    assert undefined == 2  # the images without annotations


def slow_matches(objects, found, threshold=0.5):
    """Greedy matching of one class in one image, by the book: best score first."""

    def iou(a, b):
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        inside = max(width, 0) * max(height, 0)
        return inside / (a[2] * a[3] + b[2] * b[3] - inside)

    matched = {}
    for box, score in sorted(found, key=lambda pair: -pair[1]):
        best, best_iou = None, threshold
        for o in objects:
            overlap = iou(box, o["bbox"])
            if o["id"] not in matched and overlap >= best_iou:
                best, best_iou = o["id"], overlap
        if best is not None:
            matched[best] = score
    return matched


@needs_coco
def test_objects_are_found_with_the_score_of_a_greedy_matching():
    truth = PlantedShapes(30, seed=3).truth
    found = noisy(truth, 3)
    result = evaluation.evaluate(truth, sorted(truth.images), found)
    expected = {}
    for image_id in truth.images:
        for category in truth.categories:
            objects = [
                a
                for a in truth.annotations
                if a["image_id"] == image_id and a["category_id"] == category
            ]
            here = found[image_id]
            chosen = here.labels == category
            pairs = zip(here.boxes[chosen].tolist(), here.scores[chosen].tolist(), strict=True)
            expected |= slow_matches(objects, list(pairs))
    objects = evaluation.objects_in(truth, sorted(truth.images))
    got = {
        o["id"]: s for o, s in zip(objects, result.score.tolist(), strict=True) if not np.isnan(s)
    }
    assert got == expected
    assert 0 < len(got) < len(objects)


@needs_coco
def test_a_match_points_at_the_detection_that_made_it():
    truth = PlantedShapes(5, seed=4).truth
    found = {}
    for image_id in truth.images:
        boxes = [a["bbox"] for a in truth.annotations if a["image_id"] == image_id]
        labels = [a["category_id"] for a in truth.annotations if a["image_id"] == image_id]
        scores = np.linspace(0.2, 0.9, len(boxes))
        found[image_id] = Detections(np.array(boxes), scores, np.array(labels))
    result = evaluation.evaluate(truth, sorted(truth.images), found)
    assert result.metrics[0] == 1.0
    for k, o in enumerate(evaluation.objects_in(truth, sorted(truth.images))):
        assert found[o["image_id"]].boxes[result.match[k]].tolist() == o["bbox"]


@needs_coco
def test_nothing_detected_is_ap_zero_and_no_object_is_undefined():
    content = PlantedShapes(4, seed=5).content
    blob = content["categories"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == blob]
    content["images"] = [*content["images"], {"id": 5, "file_name": "5", "height": 9, "width": 9}]
    truth = GroundTruth.read(content)
    result = evaluation.evaluate(truth, sorted(truth.images), {})
    assert result.metrics[0] == 0.0
    assert result.classes[0] == 0.0
    assert np.isnan(result.classes[1])
    with_blobs = {a["image_id"] for a in content["annotations"]}
    for k, image_id in enumerate(sorted(truth.images)):
        assert result.images[k] == 0.0 if image_id in with_blobs else np.isnan(result.images[k])


@needs_coco
def test_resampling_equals_pycocotools_on_a_data_set_with_copies(coco_content):
    truth = GroundTruth.read(coco_content)
    image_ids = sorted(truth.images)
    # Scores that are all different: with ties the order of copies would matter.
    rng = np.random.default_rng(0)
    found = {
        i: d._replace(scores=rng.permutation(10**6)[: len(d.scores)] / 10**6 + 1e-9 * k)
        for k, (i, d) in enumerate(noisy(truth, 6).items())
    }
    weights = resampling.bootstrap_weights(len(image_ids), 2, seed=1)
    assert (weights.sum(1) == len(image_ids)).all()
    assert (weights == 0).any()
    ours = resampling.resampled_metrics(evaluation.evaluate(truth, image_ids, found), weights)
    for row, drawn in zip(ours, weights, strict=True):
        content = {"categories": coco_content["categories"], "images": [], "annotations": []}
        results = []
        for image_id, count in zip(image_ids, drawn, strict=True):
            for copy in range(int(count)):
                new = copy * 10**9 + image_id
                content["images"].append({**truth.images[image_id], "id": new})
                content["annotations"] += [
                    {**a, "image_id": new, "id": 10**7 * copy * 10**5 + a["id"]}
                    for a in truth.annotations
                    if a["image_id"] == image_id
                ]
                results += [{**r, "image_id": new} for r in to_results({image_id: found[image_id]})]
        stats = cocoeval(content, results).stats
        np.testing.assert_allclose(row, stats[:6], rtol=0, atol=1e-12)


def test_resampling_a_class_of_many_hits_is_that_of_its_copies_one_by_one():
    rng = np.random.default_rng(3)
    images, shown, replicates = 300, 2400, 300
    score = np.sort(rng.random(shown))[::-1]
    hit = rng.random((10, shown)) < 0.8 * score * np.linspace(1, 0.3, 10)[:, None]
    counts = hit | (rng.random((10, shown)) < 0.9)  # the others lie within crowds
    image = rng.integers(0, images, shown)
    objects = np.bincount(image, hit[0], images).astype(int) + rng.integers(0, 3, images)
    matches = evaluation.ClassMatches(image, hit, counts, objects)
    weights = resampling.bootstrap_weights(images, replicates, seed=0)
    ours = resampling.resampled([matches], weights)
    for b in (0, 270, 299):  # of several groups of replicates
        copies = np.repeat(np.arange(shown), weights[b, image].astype(int))
        recall = np.cumsum(hit[:, copies], 1) / (weights[b] @ objects)
        precision = np.cumsum(hit[:, copies], 1) / np.cumsum(counts[:, copies], 1).clip(1)
        levels = [
            [precision[t, recall[t] >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
            for t in range(10)
        ]
        ap = np.mean(levels, 1)
        np.testing.assert_allclose(ours[b], [ap.mean(), ap[0], ap[5]], rtol=0, atol=1e-12)
    assert 0.2 < ours[0, 0] < 0.9


@needs_coco
def test_the_interval_of_an_ap_is_that_of_half_samples_corrected_by_their_halves():
    data = PlantedShapes(31, seed=7)
    audit = DetectionAudit(radii=(12,), bootstrap=50)
    found = noisy(data.truth, 8)
    result = audit.evaluate(data.truth, dict.fromkeys(audit.variants, found))
    image_ids = np.array(result.image_ids)

    def metrics(chosen):
        return evaluation.evaluate(data.truth, image_ids[chosen].tolist(), found).metrics

    halves, quarters = resampling.half_samples(len(image_ids), 50, seed=0)
    assert halves.shape == (2, 9, 31)
    assert (halves.sum(2) == [[15], [16]]).all()
    assert (halves.sum(0) == 1).all()
    assert quarters.shape == (2, 2, 9, 31)
    assert (quarters.sum(0) == halves).all()
    assert set(quarters.sum(3).ravel()) == {7, 8}
    assert len(np.unique(halves[0], axis=0)) == 9
    of_halves = np.array([[metrics(half > 0) for half in part] for part in halves])
    of_quarters = np.array(
        [[[metrics(one > 0) for one in part] for part in parts] for parts in quarters]
    )
    centre = 2 * metrics(image_ids > 0) - of_halves.mean((0, 1))
    reach = 1.959964 * (2 * of_halves - of_quarters.mean(0)).std((0, 1))
    for k, name in ((0, "AP"), (1, "AP50"), (4, "AP_medium")):
        expected = np.clip([centre[k] - reach[k], centre[k] + reach[k]], 0, 1)
        for variant in audit.variants:
            bounds = result.intervals()[f"hfc_detection/{name}/{variant}"]
            np.testing.assert_allclose(bounds, expected, rtol=0, atol=1e-6)
    assert "hfc_detection/AP_large/original" not in result.intervals()  # there are none
    assert list(result.difference_intervals) == list(audit.variants[1:])  # also in other processes


@needs_coco
def test_intervals_of_few_images_are_left_out_where_they_cannot_be():
    data = PlantedShapes(3, seed=7)
    audit = DetectionAudit(radii=(12,), bootstrap=20)
    found = noisy(data.truth, 8)
    result = audit.evaluate(data.truth, dict.fromkeys(audit.variants, found))
    assert "hfc_detection/AP/original" not in result.intervals()  # no quarters of three images
    assert np.isnan(result.difference_intervals["lfc_r12"]).all()
    assert "[" not in result.verdict().partition(";")[0]


@pytest.mark.slow
def test_intervals_hold_the_ap_of_a_simulated_population():
    truth = detection_coverage.known()
    for images, draws in ((50, 150), (200, 100)):
        *shares, _ = detection_coverage.coverage(images, draws, truth, replicates=300)
        # 0.91 to 0.99 of many draws, see docs/audit_a_detector.md; three standard errors of so few.
        assert min(map(min, shares)) > 0.83, (images, shares)


def test_a_change_is_as_wide_as_complementary_halves_differ():
    values, rng = np.array([-0.2]), np.random.default_rng(0)
    bias, luck = rng.normal(-0.02, 0.03, (1, 400, 1)), rng.normal(0, 0.05, (1, 400, 1))
    halves = values + bias + np.concatenate([luck, -luck])  # both halves share the bias
    ((low, high),) = resampling.interval_of(values, halves, np.stack([halves] * 2), change=True)
    assert (low + high) / 2 == pytest.approx(-0.2 - bias.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt((luck**2).mean()), rel=1e-4)
    ((low, high),) = resampling.interval_of(-values, -halves, np.stack([-halves] * 2))
    assert (high - low) / 2 == pytest.approx(1.96 * halves.std(), rel=1e-4)


@needs_coco
def test_interval_covers_the_difference_and_is_zero_for_equal_detections():
    data = PlantedShapes(40, seed=7)
    good, bad = noisy(data.truth, 8, noise=0.01), noisy(data.truth, 9, noise=0.15)
    audit = DetectionAudit(radii=(12,), bootstrap=300)
    result = audit.evaluate(data.truth, {"original": good, "lfc_r12": good, "hfc_r12": bad})
    assert result.difference_intervals["lfc_r12"].tolist() == [[0, 0]] * 3
    low, high = result.difference_intervals["hfc_r12"][0]
    delta = result.metrics["hfc_r12"][0] - result.metrics["original"][0]
    assert low < delta < high < 0
    again = audit.evaluate(data.truth, {"original": good, "lfc_r12": good, "hfc_r12": bad})
    assert (
        again.difference_intervals["hfc_r12"].tolist()
        == result.difference_intervals["hfc_r12"].tolist()
    )


@needs_coco
def test_gains_and_drops_count_any_change_and_those_beyond_margin_and_floor():
    content = {
        "images": [{"id": k, "file_name": f"{k}", "height": 100, "width": 100} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 10 * k + n, "image_id": k, "category_id": 1, "bbox": [40 * n, 0, 30, 30],
             "area": 900, "iscrowd": 0}
            for k in (1, 2, 3) for n in (0, 1)
        ],
    }  # fmt: skip
    truth = GroundTruth.read(content)

    def finds(*numbers):
        boxes = np.array([[40.0 * n, 0, 30, 30] for n in numbers]).reshape(-1, 4)
        return Detections(boxes, np.full(len(numbers), 0.9), np.ones(len(numbers), dtype=int))

    original = {1: finds(0), 2: finds(), 3: finds(0, 1)}
    low = {1: finds(0, 1), 2: finds(1), 3: finds(1)}
    audit = DetectionAudit(radii=(12,), floor=0.1)
    result = audit.evaluate(truth, {"original": original, "lfc_r12": low, "hfc_r12": {}})
    gains, drops = result.changes("lfc_r12", "gain"), result.changes("lfc_r12", "drop")
    assert sorted(gains.images_any) == [0, 1]
    assert gains.images.tolist() == [0]  # the original finds nothing in image 2: no baseline
    assert drops.images.tolist() == drops.images_any.tolist() == [2]
    ids = [o["id"] for o in result.objects]
    assert sorted(ids[k] for k in gains.objects_any) == [11, 21]
    assert [ids[k] for k in gains.objects] == [11]
    assert [ids[k] for k in drops.objects] == [30]
    scalars = result.scalars()
    assert scalars["hfc_detection/images_gain_any/lfc_r12"] == 2
    assert scalars["hfc_detection/images_gain/lfc_r12"] == 1
    nothing = DetectionAudit(radii=(12,), margin=0.6).evaluate(
        truth, {"original": original, "lfc_r12": low, "hfc_r12": {}}
    )
    assert len(nothing.changes("lfc_r12").images) == 0


def test_results_file_round_trip_and_unknown_image_ids():
    truth = PlantedShapes(3, seed=9).truth
    found = noisy(truth, 10)
    again = from_results(json.loads(json.dumps(to_results(found))), truth)
    for image_id, here in again.items():
        for ours, theirs in zip(here[:3], found[image_id][:3], strict=True):
            assert ours.tolist() == theirs.tolist()
    with pytest.raises(InputError, match=r"image ids of the annotations, got 77;"):
        from_results([{"image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}], truth)
    with pytest.raises(InputError, match="list of image_id, category_id, bbox and score"):
        from_results([{"image_id": 1000}], truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "lists of images, annotations and categories"),
        (lambda c: c.update(images=[]), "at least one entry of images"),
        (lambda c: c["annotations"][0].pop("bbox"), "COCO's fields"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 1]), "COCO's fields"),
        (lambda c: c["annotations"][1].update(id=1), "each annotation id once"),
        (lambda c: c["annotations"][0].update(image_id=5), "each image_id .* got 5"),
        (lambda c: c["annotations"][0].update(category_id=99), "each category_id .* got 99"),
    ],
)
def test_annotations_that_are_not_coco_are_told_in_one_sentence(change, message):
    content = json.loads(json.dumps(PlantedShapes(3, seed=11).content))
    change(content)
    with pytest.raises(InputError, match=message):
        GroundTruth.read(content)


def test_what_is_missing_or_treacherous_in_annotations_is_noted():
    content = json.loads(json.dumps(PlantedShapes(3, seed=11).content))
    content["annotations"][0].pop("area")
    content["annotations"][0].pop("iscrowd")
    content["annotations"][1]["id"] = 0
    notes = " ".join(GroundTruth.read(content).notes)
    assert "area is missing" in notes
    assert "iscrowd is missing" in notes
    assert "annotation of id 0" in notes


@needs_coco
def test_image_ids_may_be_names():
    data = PlantedShapes(6, seed=12)
    content = json.loads(json.dumps(data.content))
    for entry in content["images"]:
        entry["id"] = f"img_{entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"img_{entry['image_id']}"
    found = noisy(data.truth, 13)
    truth = GroundTruth.read(content)
    named = {f"img_{image_id}": here for image_id, here in found.items()}
    ours = evaluation.evaluate(truth, sorted(truth.images), named)
    theirs = evaluation.evaluate(data.truth, sorted(data.truth.images), found)
    assert ours.metrics[:3].tolist() == theirs.metrics[:3].tolist()
    assert np.array_equal(ours.images, theirs.images, equal_nan=True)
    assert ours.metrics[0] > 0


def test_a_file_that_is_no_json(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(InputError, match=r"COCO JSON file, got notes\.txt"):
        GroundTruth.read(file)
    with pytest.raises(InputError, match="no such file"):
        GroundTruth.read(tmp_path / "absent.json")

"""Errors by kind against a reference that follows the paper's words, one detection at a time."""

import numpy as np
import pytest

from hfc_probe.detection import DetectionAudit, Detections, GroundTruth
from hfc_probe.detection.doubts import corners, ious
from hfc_probe.detection.errors_by_kind import KINDS, errors_of

from ..conftest import needs_coco
from .known_answer import PlantedShapes
from .test_detection_evaluation import noisy

SQUARE = [20.0, 20.0, 20.0, 20.0]
TRUTH = GroundTruth.read(
    {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": SQUARE}],
        "categories": [{"id": 1}, {"id": 2}],
    }
)


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([(SQUARE, 0.9, 1)], []),
        ([(SQUARE, 0.9, 2)], ["classification"]),
        ([([30, 20, 20, 20], 0.9, 1)], ["localization"]),
        ([([30, 20, 20, 20], 0.9, 2)], ["both", "missed"]),
        ([(SQUARE, 0.9, 1), (SQUARE, 0.8, 1)], ["duplicate"]),
        ([([70, 70, 20, 20], 0.9, 1)], ["background", "missed"]),
        ([], ["missed"]),
    ],
)
def test_each_kind_is_what_the_paper_says(rows, kinds):
    found = Detections(
        np.array([r[0] for r in rows], dtype=float).reshape(-1, 4),
        np.array([r[1] for r in rows], dtype=float),
        np.array([r[2] for r in rows], dtype=np.int64),
    )
    errors = errors_of(TRUTH, [1], {1: found})
    assert [k for k, n in zip(KINDS, errors.counts, strict=True) for _ in range(n)] == kinds
    if kinds in (["classification"], ["localization"]):
        assert errors.ap50 == 0
        assert errors.cost[KINDS.index(kinds[0])] == pytest.approx(
            1
        )  # mending it finds the only object


def slow_ap(rows, objects):
    """Mean over classes of the 101-point AP of (score, label, right)."""
    means = []
    for category, count in objects.items():
        ranked = sorted((r for r in rows if r[1] == category), key=lambda r: -r[0])
        points, met = [], 0
        for rank, (_, _, right) in enumerate(ranked, 1):
            met += right
            points.append((met / count if count else 0.0, met / rank))
        levels = [max((p for r, p in points if r >= level), default=0.0) if count else 0.0
                  for level in np.linspace(0, 1, 101)]  # fmt: skip
        means.append(sum(levels) / 101)
    return sum(means) / len(means)


def in_a_crowd(box, label, annotations):
    """Whether more than half of a box (x, y, width, height) is in a crowd of its class."""
    x, y, width, height = box
    for a in annotations:
        left, top, across, down = a["bbox"]
        shared = max(min(x + width, left + across) - max(x, left), 0)
        shared *= max(min(y + height, top + down) - max(y, top), 0)
        if a["iscrowd"] and a["category_id"] == label and shared > width * height / 2:
            return True
    return False


def slow(truth, found, max_dets=100):
    """Counts and costs by the paper's §2.2 and §2.3, with every object and box in plain loops."""
    rows, fixes, lost, objects = [], {k: {} for k in KINDS}, {}, {}
    for image_id in truth.images:
        here = [a for a in truth.annotations if a["image_id"] == image_id]
        targets = [a for a in here if not a["iscrowd"]]
        for t in targets:
            objects[t["category_id"]] = objects.get(t["category_id"], 0) + 1
        d = found[image_id]
        order = sorted(range(len(d.scores)), key=lambda k: -d.scores[k])
        order = [k for k in order if d.labels[k] in truth.categories][:max_dets]
        aims = np.array([t["bbox"] for t in targets]).reshape(-1, 4)
        overlap = ious(corners(d.boxes), corners(aims))
        user, right = {}, set()
        for k in order:
            own = [(overlap[k, t], -t) for t in range(len(targets))
                   if t not in user and targets[t]["category_id"] == d.labels[k]]  # fmt: skip
            if own and max(own)[0] >= 0.5:
                user[-max(own)[1]] = k
                right.add(k)
        helped = set()
        for k in order:
            if k not in right and in_a_crowd(d.boxes[k], d.labels[k], here):
                continue
            place = len(rows)
            rows.append((d.scores[k], d.labels[k], k in right))
            if k in right:
                continue
            own = [(overlap[k, t], -t) for t, a in enumerate(targets)
                   if a["category_id"] == d.labels[k]]  # fmt: skip
            other = [(overlap[k, t], -t) for t, a in enumerate(targets)
                     if a["category_id"] != d.labels[k]]  # fmt: skip
            target = None
            if own and 0.1 <= max(own)[0] <= 0.5:
                kind, target = "localization", -max(own)[1]
            elif other and max(other)[0] >= 0.5:
                kind, target = "classification", -max(other)[1]
            elif own and max(own)[0] >= 0.5:
                kind = "duplicate"
            elif max((o for o, _ in own + other), default=0) <= 0.1:
                kind = "background"
            else:
                kind = "both"
            mended = None
            if target is not None and target not in user and target not in helped:
                helped.add(target)
                mended = (d.scores[k], targets[target]["category_id"], True)
            fixes[kind][place] = mended
        for t, a in enumerate(targets):
            if t not in user and t not in helped:
                lost[a["category_id"]] = lost.get(a["category_id"], 0) + 1
    base = slow_ap(rows, objects)
    cost = []
    for kind in KINDS[:-1]:
        new = [fixes[kind].get(k, row) for k, row in enumerate(rows)]
        cost.append(slow_ap([row for row in new if row is not None], objects) - base)
    left = {k: n - lost.get(k, 0) for k, n in objects.items()}
    counts = [len(fixes[kind]) for kind in KINDS[:-1]] + [sum(lost.values())]
    return counts, [max(c, 0) for c in [*cost, slow_ap(rows, left) - base]], base


def found_labels(truth, image_id):
    return np.array([a["category_id"] for a in truth.annotations if a["image_id"] == image_id])


UNKNOWN = 99


def planted(seed):
    """Shapes of which every fifth annotation is a crowd, and detections of all kinds of mistakes.

    A third of the images gets detections of a category that the annotations do not have.
    """
    data = PlantedShapes(20, seed=seed)
    content = {**data.content, "annotations": [
        {**a, "iscrowd": int(k % 5 == 0)} for k, a in enumerate(data.content["annotations"])
    ]}  # fmt: skip
    truth = GroundTruth.read(content)
    found = noisy(truth, seed, noise=0.12)
    rng = np.random.default_rng(seed)  # scores that are all different
    found = {i: d._replace(scores=rng.random(len(d.scores))) for i, d in found.items()}
    twice = next(i for i, d in found.items() if len(d.scores))
    # A duplicate of each, and objects of one image called by the other class.
    called = next(i for i, d in found.items() if len(d.scores) and i != twice)
    boxes = np.array([a["bbox"] for a in truth.annotations if a["image_id"] == called])
    other = np.full(len(boxes), 11) - found_labels(truth, called)
    found[called] = Detections(boxes, rng.random(len(boxes)), other)
    d = found[twice]
    found[twice] = Detections(*(np.concatenate([part, part]) for part in d[:3]))
    found[twice].scores[len(d.scores) :] *= 0.9
    for image_id in list(found)[::3]:
        d = found[image_id]
        strange = Detections(d.boxes + 1, 1 + rng.random(len(d.scores)), 0 * d.labels + UNKNOWN)
        found[image_id] = Detections(*map(np.concatenate, zip(d[:3], strange[:3], strict=True)))
    return truth, found


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("max_dets", [3, 100])
def test_counts_and_costs_equal_the_slow_reference(seed, max_dets):
    truth, found = planted(seed)
    errors = errors_of(truth, sorted(truth.images), found, max_dets=max_dets)
    counts, cost, ap50 = slow(truth, found, max_dets)
    assert errors.counts.tolist() == counts
    assert min(counts[k] for k in (0, 1, 4, 5)) > 0
    np.testing.assert_allclose(errors.cost, cost, rtol=0, atol=1e-12)
    assert errors.ap50 == pytest.approx(ap50, abs=1e-12)


def test_detections_of_unknown_categories_neither_count_nor_take_a_place():
    """120 of an unknown class rank above the one that is right."""
    boxes = np.array([[70.0, 70, 20, 20]] * 120 + [SQUARE])
    scores = np.array([*np.linspace(0.99, 0.6, 120), 0.55])
    found = Detections(boxes, scores, np.array([UNKNOWN] * 120 + [1]))
    audit = DetectionAudit(radii=(12,), bootstrap=0, ignore_unknown=True)
    result = audit.evaluate(TRUTH, {n: {1: found} for n in audit.variants})
    errors = result.errors()["original"]
    assert (result.metrics["original"][1], errors.ap50) == pytest.approx((1, 1))
    assert not errors.counts.any()
    assert not errors.cost.any()
    assert result.threshold == 0.55
    assert result.operating_point("original").f1 == 1


def test_a_detection_within_a_crowd_is_no_mistake():
    content = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "iscrowd": 1},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [92, 92, 8, 8]},
        ],
        "categories": [{"id": 1}],
    }
    found = Detections(np.array([[10.0, 10, 20, 20]]), np.array([0.9]), np.array([1]))
    errors = errors_of(GroundTruth.read(content), [1], {1: found})
    assert errors.counts.tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.slow
@needs_coco
def test_ap50_of_a_real_detector_and_what_it_loses(real, tmp_path):
    data, found = real
    audit = DetectionAudit(radii=(32, 64), bootstrap=0)
    fewer = {i: Detections(*(part[: len(part) // 20] for part in d[:3])) for i, d in found.items()}
    variants = {n: fewer if n == "lfc_r32" else found for n in audit.variants}
    result = audit.evaluate(data.truth, variants)
    errors = result.errors()
    # COCO takes 100 detections of each class, TIDE 100 of the image.
    assert errors["original"].ap50 == pytest.approx(result.metrics["original"][1], abs=0.005)
    assert errors["lfc_r32"].counts[5] > errors["original"].counts[5]
    result.save_all(tmp_path)
    head, first, *_ = (tmp_path / "errors.csv").read_text().splitlines()
    assert head == "variant,kind,count,cost_AP50"
    assert first.startswith(f"original,classification,{errors['original'].counts[0]},")
    panels = result.errors_figure().axes
    line = next(one for one in panels[0].lines if one.get_label() == "missed").get_ydata()
    np.testing.assert_allclose(line, [100 * errors[n].cost[5] for n in ("lfc_r32", "lfc_r64")])

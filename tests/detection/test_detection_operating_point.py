"""Precision, recall, F1 and confusions: a scene counted by hand, and the audit's own matches."""

import numpy as np
import pytest

from hfc_probe.detection import Detections, GroundTruth
from hfc_probe.detection.operating_point import best_threshold, operating_point

from .test_detection_errors import planted


def truth_of(*objects):
    return GroundTruth.read(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 100}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [
                {
                    "id": k, "image_id": 1, "category_id": category, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": crowd,
                }
                for k, (category, box, crowd) in enumerate(objects, 1)
            ],
        }
    )  # fmt: skip


def test_a_scene_counted_by_hand():
    truth = truth_of(
        (3, [0, 0, 10, 10], 0), (7, [20, 0, 10, 10], 0), (7, [40, 0, 10, 10], 0),
        (3, [60, 60, 40, 40], 1),
    )  # fmt: skip
    found = Detections(
        boxes=np.array(
            [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 10, 10], [70, 70, 9, 9], [40, 0, 10, 10],
             [0, 50, 5, 5]], dtype=np.float64,
        ),
        scores=np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.5]),
        labels=np.array([3, 7, 3, 3, 7, 99]),
    )  # fmt: skip
    point = operating_point(truth, [1], {1: found}, 0.5)
    # A cat found, a dog called cat, a dog missed, a false dog; the crowd is left out.
    np.testing.assert_array_equal(point.confusion, [[1, 0, 0], [1, 0, 1], [0, 1, 0]])
    assert (point.precision, point.recall, point.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    low = operating_point(truth, [1], {1: found}, 0.0)
    assert (low.precision, low.recall) == pytest.approx((2 / 4, 2 / 3))
    assert low.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    none = operating_point(truth, [1], {}, 0.5)
    assert np.isnan(none.precision)
    assert (none.recall, none.f1) == (0, 0)


def test_a_detection_in_a_crowd_of_its_class_is_no_confusion():
    """COCO ignores a cat found on a dog that stands in a crowd of cats."""
    truth = truth_of((3, [0, 0, 90, 90], 1), (7, [10, 10, 40, 40], 0))
    found = {1: Detections(np.array([[10.0, 10, 40, 40]]), np.array([0.9]), np.array([3]))}
    point = operating_point(truth, [1], found, 0.5)
    np.testing.assert_array_equal(point.confusion, [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert np.isnan(point.precision)


def test_the_score_of_the_threshold_counts():
    truth = truth_of((3, [0, 0, 10, 10], 0))
    found = {1: Detections(np.array([[0.0, 0, 10, 10]]), np.array([0.7]), np.array([3]))}
    assert best_threshold(truth, [1], found) == 0.7
    assert operating_point(truth, [1], found, 0.7).f1 == 1
    assert operating_point(truth, [1], found, np.nextafter(0.7, 1)).f1 == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_no_other_threshold_has_a_larger_f1(seed):
    """Crowds and unknown categories count in neither."""
    truth, found = planted(seed)
    ids = sorted(truth.images)
    best = best_threshold(truth, ids, found)
    scores = np.concatenate([d.scores for d in found.values()])
    f1 = {float(s): operating_point(truth, ids, found, s).f1 for s in scores}
    assert f1[best] == max(f1.values()) > 0
    assert best_threshold(truth, ids, {}) is None


def test_f1_of_images_drawn_is_that_of_a_data_set_of_them():
    truth, found = planted(1)
    ids = sorted(truth.images)
    point = operating_point(truth, ids, found, 0.3)
    assert point.f1_interval(np.full((2, len(ids)), 3.0)) == pytest.approx((point.f1, point.f1))
    half = np.isin(np.arange(len(ids)), range(0, len(ids), 2)).astype(float)
    alone = operating_point(truth, ids[::2], found, 0.3).f1
    assert 0 < alone != point.f1
    assert point.f1_interval(half[None]) == pytest.approx((alone, alone))
    assert np.isnan(point.f1_interval(np.zeros((0, len(ids))))).all()


def test_right_detections_are_those_that_cocoeval_matches(real):
    from hfc_probe.detection.evaluation import evaluate

    data, found = real
    ids = sorted(found)
    score = evaluate(data.truth, ids, found).score
    point = operating_point(data.truth, ids, found, 0.54)
    matched = int((score[np.isfinite(score)] >= 0.54).sum())
    assert matched > 50
    assert abs(int(np.trace(point.confusion)) - matched) <= 1
    assert point.confusion[:-1].sum() == len(score)

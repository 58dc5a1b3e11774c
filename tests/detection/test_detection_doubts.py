"""A real detector's boxes and labels, spoilt in every way that users spoil them."""

import dataclasses

import numpy as np
import pytest

from hfc_probe.detection import DetectionAudit, Detections
from hfc_probe.detection.doubts import doubts_about, ious


def spoilt(truth, found, change):
    out = {}
    for image_id, rows in found.items():
        size = [truth.images[image_id][k] for k in ("width", "height")] * 2
        x, y, width, height = rows.boxes.T
        corners = np.stack([x, y, x + width, y + height], 1)
        given, labels = change(corners, rows.labels, np.array(size, dtype=float))
        boxes = np.concatenate([given[:, :2], given[:, 2:] - given[:, :2]], 1)
        out[image_id] = Detections(boxes, rows.scores, labels)
    return out


def said(real, change):
    data, found = real
    image_ids = sorted(data.truth.images)
    return doubts_about(data.truth, image_ids, spoilt(data.truth, found, change))


def test_nothing_is_said_of_the_detector_as_it_is(real):
    assert said(real, lambda corners, labels, size: (corners, labels)) == ()


def sides(c):
    return c[:, 2:] - c[:, :2]


BOXES = {
    "x0, y0, width, height, and": lambda c, s: np.concatenate([c[:, :2], sides(c)], 1),
    "the centre, width, height, and": lambda c, s: np.concatenate(
        [(c[:, :2] + c[:, 2:]) / 2, sides(c)], 1
    ),
    "y0, x0, y1, x1, and": lambda c, s: c[:, [1, 0, 3, 2]],
    "x1, y1, x0, y0, and": lambda c, s: c[:, [2, 3, 0, 1]],
    "x0, y0, x1, y1, as shares of the image": lambda c, s: c / s,
    "the centre, width, height, as shares of the image": lambda c, s: (
        np.concatenate([(c[:, :2] + c[:, 2:]) / 2, sides(c)], 1) / s
    ),
}


@pytest.mark.parametrize("form", BOXES)
def test_the_form_of_the_boxes_is_recognised(real, form):
    (line,) = said(real, lambda c, labels, size: (BOXES[form](c, size), labels))
    assert f"the boxes look like {form}" in line
    assert line.endswith("in that form); convert them")


def test_shares_of_images_whose_sizes_are_unknown(real):
    data, found = real
    unsized = {k: {"id": k, "file_name": v["file_name"]} for k, v in data.truth.images.items()}
    truth = dataclasses.replace(data.truth, images=unsized)
    given = spoilt(data.truth, found, lambda c, labels, size: (c / size, labels))
    (line,) = doubts_about(truth, sorted(unsized), given)
    assert "pixels of the corner: normalised coordinates? multiply them" in line


def test_boxes_of_the_detectors_input_are_far_outside(real):
    (line,) = said(real, lambda c, labels, size: (c * 4, labels))
    assert "boxes have their centre outside the image; are they in pixels of" in line


def test_boxes_of_no_size(real):
    (line,) = said(real, lambda c, labels, size: (c[:, [0, 1, 0, 1]], labels))
    assert "have no positive width or height; give x0, y0, x1, y1" in line


def test_numberings_of_the_labels(real):
    ids = np.array(sorted(real[0].truth.categories))
    for numbered, name in (
        (lambda labels: labels + 1, "one too high"),
        (lambda labels: labels - 1, "one too low"),
        (lambda labels: np.searchsorted(ids, labels), "positions from 0 to 79"),
        (lambda labels: np.searchsorted(ids, labels) + 1, "positions from 1 to 80"),
    ):
        (line,) = said(real, lambda c, labels, size, n=numbered: (c, n(labels)))
        assert f"the labels look like {name}" in line
    shuffled = np.random.default_rng(0).permutation(ids)
    (line,) = said(real, lambda c, labels, s: (c, shuffled[np.searchsorted(ids, labels)]))
    assert "the labels look permuted" in line
    assert f"such as {shuffled[0]} for 1)" in line  # person is the most frequent
    guesses = np.random.default_rng(0)
    assert said(real, lambda c, labels, s: (c, guesses.choice(ids, len(labels)))) == ()


def test_doubts_are_said_before_any_number_and_written(real):
    data, found = real
    audit = DetectionAudit(radii=(64,), bootstrap=20, ignore_unknown=True)
    high = spoilt(data.truth, found, lambda c, labels, size: (c, labels + 1))
    result = audit.evaluate(data.truth, dict.fromkeys(audit.variants, high))
    lines = str(result).splitlines()
    assert lines[1].startswith("Caution: the labels look like one too high")
    assert result.to_dict()["caveats"] == list(result.caveats)
    nothing = audit.evaluate(data.truth, {n: {} for n in audit.variants})
    assert "nothing was detected on the original images" in nothing.caveats[0]
    assert np.isnan(nothing.difference_intervals["lfc_r64"]).all()
    assert "+0.0 [" not in str(nothing)


def test_ious_are_areas_in_closed_form():
    a, b = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 2, 6, 6], [0, 0, 4, 4], [5, 5, 5, 9]])
    np.testing.assert_allclose(ious(a, b), [[4 / 28, 1, 0]])

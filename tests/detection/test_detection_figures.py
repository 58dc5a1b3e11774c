"""Figures show the numbers they claim to show."""

import matplotlib.patches
import numpy as np
import pytest

from hfc_probe import InputError
from hfc_probe.detection import DetectionAudit, Detections, GroundTruth

from ..conftest import needs_coco
from .known_answer import PlantedShapes
from .test_detection_evaluation import noisy


@pytest.fixture(scope="module")
def data():
    return PlantedShapes(25, seed=6)


def result_of(data, radii):
    audit = DetectionAudit(radii=radii, bootstrap=100)
    worse = {name: 0.02 * (1 + k) for k, name in enumerate(audit.variants)}
    predictions = {n: noisy(data.truth, k, noise=worse[n]) for k, n in enumerate(worse)}
    return audit.evaluate(data.truth, predictions).reading(data)


def texts(figure):
    found = figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in found if artist.get_text()]


@needs_coco
def test_bars_of_a_single_radius_are_the_metrics(data):
    result = result_of(data, (12,))
    (axes,) = result.figure().axes
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(3, 4)
    for row, name in zip(heights, result.variants, strict=True):
        expected = np.nan_to_num(100 * result.metrics[name][[0, 3, 4, 5]])
        np.testing.assert_allclose(row, expected)
    assert axes.get_ylabel() == "average precision (%)"
    bars = [tuple(line.get_ydata()) for line in axes.lines]
    own = [tuple(100 * result.intervals_of[n][k]) for n in result.variants for k in (0, 3, 4, 5)]
    assert bars == [bounds for bounds in own if np.isfinite(bounds[0])]
    assert "HFC, r = 12 (zero background)" in texts(axes.figure)


@needs_coco
def test_curves_of_several_radii_are_the_metrics(data):
    result = result_of(data, (6, 12, 40))
    panels = result.figure().axes
    assert len(panels) == 4
    for axes, column in zip(panels, (0, 3, 4, 5), strict=True):
        low, high = (line.get_ydata() for line in axes.lines[:2])
        np.testing.assert_allclose(low, 100 * result.arrays()["lfc"][:, column])
        np.testing.assert_allclose(high, 100 * result.arrays()["hfc"][:, column])
        assert axes.get_xlabel() == "radius r (cycles/image)"
        own = 100 * np.stack([result.arrays()[f"lfc_{b}"][:, column] for b in ("lower", "upper")])
        if np.isfinite(own).all():
            band = axes.collections[0].get_paths()[0].vertices[:, 1]  # of the LFC's own AP
            assert {round(v, 6) for v in own.flat} <= {round(v, 6) for v in band}


@needs_coco
def test_an_infinite_radius_is_left_out_of_the_axis(data):
    result = result_of(data, (12, float("inf")))
    assert list(result.figure().axes[0].get_xticks()) == [12]
    assert result.variants == ("original", "lfc_r12", "lfc_rinf", "hfc_r12", "hfc_rinf")


@needs_coco
def test_the_scatter_has_a_point_for_every_image_with_objects(data):
    result = result_of(data, (12,))
    (axes,) = result.scatter_figure("hfc_r12").axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    expected = np.stack([result.images_ap["original"], result.images_ap["hfc_r12"]], axis=1)
    np.testing.assert_allclose(sorted(points.tolist()), sorted((100 * expected).tolist()))


@needs_coco
def test_found_false_and_missed_boxes_at_the_best_threshold(data):
    result = result_of(data, (12,))
    figure = result.examples_figure("drop", variant="hfc_r12", top=2)
    assert f"score ≥ {result.threshold:.2f}" in figure.get_supxlabel()
    chosen = result.changes("hfc_r12", "drop").images[:2]
    shown_false = 0
    for row, position in enumerate(chosen):
        image_id = result.image_ids[position]
        mine = [k for k, o in enumerate(result.objects) if o["image_id"] == image_id]
        for column, name in enumerate(("original", "hfc_r12")):
            axes = figure.axes[2 * row + column]
            boxes = [p for p in axes.patches if isinstance(p, matplotlib.patches.Rectangle)]
            dashed = [box for box in boxes if box.get_linestyle() not in ("-", "solid")]
            found = [k for k in mine if result.score[name][k] >= result.threshold]
            above = int((result.predictions[name][image_id].scores >= result.threshold).sum())
            assert len(dashed) == len(mine) - len(found)
            assert len(boxes) == len(mine) + above - len(found)
            shown_false += above - len(found)
            said = texts(axes)
            for k in mine:
                category = result.truth.categories[result.objects[k]["category_id"]]
                start = f"{category} {result.score[name][k]:.2f}, IoU " if k in found else category
                assert any(text.startswith(start) for text in said)
            ap = 100 * result.images_ap[name][position]
            assert f"AP {ap:.1f} %" in axes.get_title()
            assert f"{len(found)} of {len(mine)} found, {above - len(found)} false" in " ".join(
                said
            )
        change = result.images_ap["hfc_r12"][position] - result.images_ap["original"][position]
        assert f"(−{abs(100 * change):.1f})" in axes.get_title()
    assert shown_false > 0


@needs_coco
def test_unknown_categories_and_crowds_are_drawn_as_no_mistake(data):
    content = {**data.content, "annotations": [
        {**a, "iscrowd": int(k == 0)} for k, a in enumerate(data.content["annotations"])
    ]}  # fmt: skip
    crowd, other = (a for a in content["annotations"][:2])
    assert crowd["image_id"] == other["image_id"]
    boxes = np.array([crowd["bbox"], other["bbox"], other["bbox"], [0, 0, 9, 9]], dtype=float)
    labels = np.array([crowd["category_id"], other["category_id"], 99, other["category_id"]])
    found = {crowd["image_id"]: Detections(boxes, np.array([0.9, 0.9, 0.9, 0.9]), labels)}
    audit = DetectionAudit(radii=(12,), bootstrap=0, ignore_unknown=True)
    variants = {n: {} if n == "lfc_r12" else found for n in audit.variants}
    result = audit.evaluate(GroundTruth.read(content), variants).reading(data)
    said = result.examples_figure("drop").axes[0].get_title()
    assert " 1 false" in said


@needs_coco
def test_no_gain_no_picture_and_no_data_set_is_said(data):
    result = result_of(data, (12,))
    same = DetectionAudit(radii=(12,), bootstrap=0).evaluate(
        data.truth, dict.fromkeys(result.variants, result.predictions["original"])
    )
    assert same.examples_figure("gain") is None
    with pytest.raises(InputError, match=r"result\.reading\(CocoImages"):
        result.reading(None).examples_figure("drop", variant="hfc_r12")
    with pytest.raises(InputError, match="expected one of lfc_r12, hfc_r12, got 'lfc_r99'"):
        result.scatter_figure("lfc_r99")

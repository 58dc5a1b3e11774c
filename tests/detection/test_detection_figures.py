"""Figures show the numbers they claim to show."""

import csv
import io

import matplotlib.patches
import numpy as np
import pytest

from hfc_probe import InputError
from hfc_probe.core.intervals import wilson
from hfc_probe.detection import DetectionAudit, Detections, GroundTruth
from hfc_probe.detection.rows import FILES

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
def test_precision_recall_and_f1_are_in_the_table_the_picture_and_the_json(data):
    result = result_of(data, (6, 12))
    heads, rows = result.table()
    assert heads[-3:] == [f"F1 at score ≥ {result.threshold:.2f}", "precision", "recall"]
    content = result.to_dict()
    for row, name in zip(rows, result.variants, strict=True):
        matrix = result.operating_point(name).confusion
        right, shown, objects = np.trace(matrix), matrix[:, :-1].sum(), matrix[:-1].sum()
        for cell, of, what in zip(row[-2:], (shown, objects), ("precision", "recall"), strict=True):
            low, high = (float(v) for v in wilson(right, of))
            value, start, end = 100 * right / of, 100 * low, 100 * high
            assert cell == f"{value:.1f} [{start:.1f}, {end:.1f}] ({right} of {of})"
            tag = f"hfc_detection/{what}/{name}"
            assert content["scalars"][tag] == pytest.approx(right / of)
            assert result.intervals()[tag] == (low, high)
            assert result.labels()[tag].quantity == what
        f1, start, end = (100 * v for v in result.shares(name)["F1"])
        assert f1 == pytest.approx(200 * right / (shown + objects))
        assert start < f1 < end
        assert row[-3] == f"{f1:.1f} [{start:.1f}, {end:.1f}]"
        assert result.intervals()[f"hfc_detection/F1/{name}"] == result.shares(name)["F1"][1:]
    arrays = result.arrays()
    assert arrays["lfc_f1"].tolist() == [result.shares(f"lfc_{r}")["F1"][0] for r in ("r06", "r12")]
    counts = [arrays[f"hfc_recall_{part}"].tolist() for part in ("correct", "count")]
    assert counts == [[result.operating_point(f"hfc_{r}").counts[k] for r in ("r06", "r12")]
                      for k in (0, 2)]  # fmt: skip
    assert arrays["original_precision_count"] == result.operating_point("original").counts[1]
    assert content["threshold"] == result.threshold
    axes, *panels = result.operating_figure().axes
    for container in axes.containers:
        what, part = container.get_label().split(", ")
        names = [f"{part.lower()}_{r}" for r in ("r06", "r12")]
        line, _, (bars,) = container
        shares = 100 * np.array([result.shares(n)[what] for n in names])
        np.testing.assert_allclose(line.get_ydata(), shares[:, 0])
        ends = [segment[:, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, shares[:, 1:], atol=1e-9)
    for panel, name in zip(panels, ("original", "lfc_r12"), strict=True):
        matrix = result.operating_point(name).confusion
        order = [tick.get_text() for tick in panel.get_yticklabels()]
        place = {"blob": 0, "checker": 1, "false": 2}
        shown = np.zeros_like(matrix)
        for text in panel.texts:
            column, row = text.get_position()
            column = place.get(order[column], 2)
            shown[place[order[row]], column] = int(text.get_text())
        np.testing.assert_array_equal(shown, matrix)


@needs_coco
def test_the_confusions_as_csv_name_classes_and_leave_neither_empty(data):
    """A class may be called none."""
    content = {**data.content, "categories": [{"id": 3, "name": "none"}, {"id": 8, "name": "b"}]}
    truth = GroundTruth.read(content)
    audit = DetectionAudit(radii=(12,), bootstrap=0)
    result = audit.evaluate(truth, {n: noisy(truth, 1) for n in audit.variants})
    matrix = np.zeros((3, 3), dtype=int)
    place = {("3", "none"): 0, ("8", "b"): 1, ("", ""): 2}
    for row in csv.DictReader(io.StringIO(FILES["confusion.csv"](result))):
        if row["variant"] == "original":
            true, seen = ((row[f"{k}_id"], row[k]) for k in ("true", "detected"))
            matrix[place[true], place[seen]] = row["count"]
    np.testing.assert_array_equal(matrix, result.operating_point("original").confusion)


@needs_coco
def test_no_threshold_is_called_the_best_if_nothing_is_right(data):
    far = Detections(np.array([[0.0, 0, 1, 1]]), np.array([0.9]), np.array([3]))
    audit = DetectionAudit(radii=(12,), bootstrap=50)
    right = noisy(data.truth, 1)
    variants = {n: dict.fromkeys(data.truth.images, far) for n in audit.variants}
    result = audit.evaluate(data.truth, {**variants, "lfc_r12": right}).reading(data)
    said = result.examples_figure("gain").get_supxlabel()
    assert "score ≥ 0.50, as nothing on the originals is right at any score" in said
    assert "largest" not in said
    assert result.table()[1][0][-3] == "0.0"  # no interval of what was never seen
    assert not {"hfc_detection/F1/original"} & result.intervals().keys()


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

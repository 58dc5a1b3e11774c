"""What somebody who audits a detector sees in the tab: errors by kind, and its heatmap."""

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file
from hfc_probe.detection import DetectionAudit, DetectionHeatmap, Detections, GroundTruth

from ..conftest import needs_coco
from ..detection.test_detection_heatmap import SECRET, Blinded, Squares
from .test_browser import download, hover, rows_of, served
from .test_one_place import label

SQUARE = [20.0, 20.0, 20.0, 20.0]
TRUTH = GroundTruth.read(
    {
        "images": [{"id": k, "height": 100, "width": 100} for k in (1, 2)],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "bbox": SQUARE} for k in (1, 2)],
        "categories": [{"id": 1}, {"id": 2}],
    }
)


def found(category, box=(20, 20, 20, 20)):
    """The same detection in both images."""
    one = Detections(np.array([box], float), np.ones(1), np.array([category]))
    return dict.fromkeys((1, 2), one)


@needs_coco
def test_errors_by_kind_are_drawn_from_the_numbers(tab, environment, tmp_path):
    audit = DetectionAudit(radii=(4, 8), bootstrap=20)
    predictions = {
        "original": found(1),
        "lfc_r04": found(2),  # another class
        "lfc_r08": found(1, (30, 20, 20, 20)),  # beside it
        "hfc_r04": found(1) | {1: Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))},
        "hfc_r08": {},
    }
    with SummaryWriter(str(tmp_path / "detector")) as writer:
        event_file._log_tensors(audit.evaluate(TRUTH, predictions), writer, 3)
        writer.add_image("hfc_detection/errors", np.zeros((3, 20, 30), np.uint8), 3)
        writer.add_image("hfc_detection/by_image", np.zeros((3, 20, 30), np.uint8), 3)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=detections")
        assert label(tab, "detection_errors") == "Errors by kind against radius at step 3"
        cost, count = {}, {}
        for row in rows_of(download(tab, "detection_errors", "CSV")):
            place = row["panel"], row["line"], float(row["radius r (cycles/image)"])
            cost[place], count[place] = float(row["AP50 lost to this kind"]), float(row["count"])
        assert {place for place, value in cost.items() if value} == {
            ("LFC", "classification", 4),
            ("LFC", "localization", 8),
            ("HFC", "missed", 4),  # at 8 nothing is found at all, which no mending helps
        }
        assert cost["LFC", "classification", 4] == cost["LFC", "localization", 8] == 1
        assert cost["HFC", "missed", 4] == pytest.approx(1 - 51 / 101)  # half of the objects
        assert (count["LFC", "classification", 4], count["HFC", "missed", 4]) == (2, 1)
        card = tab.plot("detection_errors")
        card.get_by_role("button", name="Table").press("Enter")
        assert "classification\t4\t1" in card.locator("table").inner_text()
        pictures = " ".join(tab.find(".picture figcaption").all_inner_texts())
        assert "by image" in pictures
        assert "errors" not in pictures  # drawn above, from the numbers


@needs_coco
def test_a_heatmap_of_a_detector_says_what_is_lost_of_what(tab, environment, tmp_path):
    data = Squares()
    for name in ("a", "b"):
        result = DetectionHeatmap(crop=7, score="IoU").measure(Blinded(data, name == "b"), data)
        with SummaryWriter(str(tmp_path / name)) as writer:
            event_file._log_tensors(result, writer, 3)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=heatmap")
        tab.page.wait_for_timeout(300)
        said = label(tab, "heatmap")
        assert said.startswith(
            "IoU lost under Fourier noise of RMS 0.07 per pixel, exhaustive estimator, 4 images, "
            "106 passes: A: a, step 3, of 1.00 without noise; B: b, step 3, of 1.00 without noise"
        )
        assert "A − B, grey: no clear difference" in said  # each has a threshold of its own
        rows = rows_of(download(tab, "heatmap", "CSV"))
        lost = {(int(r["i"]), int(r["j"])): float(r["value"]) for r in rows if r["panel"] == "A: a"}
        assert {place for place, value in lost.items() if value > 0.5} == {SECRET, (-2, 3)}
        assert "IoU lost: 0 [0, 0]" in hover(tab, "heatmap", 0.06, 90)
        tab.open(address, "p.hfc.view=overview")
        (first, _) = tab.plot("overview_heatmap").locator("canvas").all()
        assert first.get_attribute("aria-label") == "IoU lost under Fourier noise of a"

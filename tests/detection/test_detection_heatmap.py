"""The heatmap of detectors: planted frequencies, a slow reference, a real detector."""

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import hfc_probe
from hfc_probe import InputError, fourier
from hfc_probe.detection import DetectionHeatmap, GroundTruth
from hfc_probe.measurements.fourier_heatmap.engine import direction_signs

from ..conftest import ROOT, needs_coco
from ..toys import Tally

SIZES = [(24, 36), (40, 25), (31, 31), (28, 52), (24, 24)]
SECRET = (2, -3)  # under noise of this frequency the detector is blind


class Squares:
    """Grey images of several sizes with a bright square; the last has two, the first none."""

    def __init__(self, sizes=tuple(SIZES)):
        images, annotations = [], []
        self.pictures = {}
        for k, (height, width) in enumerate(sizes):
            picture = torch.full((3, height, width), 0.5)
            for x in (4, 14)[: 0 if k == 0 else 2 if k == len(sizes) - 1 else 1]:
                picture[:, 6:12, x : x + 6] = 0.6
                box = {"bbox": [x, 6, 6, 6], "area": 36, "category_id": 7, "iscrowd": 0}
                annotations.append({**box, "id": len(annotations) + 1, "image_id": k})
            self.pictures[k] = picture
            images.append({"id": k, "file_name": f"{k}.png", "height": height, "width": width})
        categories = [{"id": 7, "name": "square"}]
        self.content = {"images": images, "annotations": annotations, "categories": categories}
        self.truth = GroundTruth.read(self.content)

    def load(self, image_id):
        return self.pictures[image_id].clone()


class Blinded:
    """Finds every square, unless the image has much of one frequency; it counts what it is shown.

    With ``partly`` the boxes shift a little the more of it there is.
    """

    def __init__(self, data, partly=False):
        self.data, self.partly = data, partly
        self.tally = Tally(shown=0)

    def __call__(self, images):
        self.tally["shown"] += len(images)
        return [self.one(image) for image in images]

    def one(self, image):
        (k,) = [n for n, p in self.data.pictures.items() if p.shape == image.shape]
        boxes = [a["bbox"] for a in self.data.truth.annotations if a["image_id"] == k]
        corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).reshape(-1, 4)
        rest = image - self.data.pictures[k]
        wave = fourier.basis(*SECRET, *image.shape[1:])
        amount = float((rest * wave).sum((1, 2)).abs().mean()) / image[0].numel() ** 0.5
        if self.partly:
            corners = corners + 8 * amount
        elif amount > 0.03:
            corners = corners[:0]
        count = len(corners)
        return corners, torch.full((count,), 0.9), torch.full((count,), 7)


def cell(result, i, j):
    rows, columns = result.frequencies()
    return rows.tolist().index(i), columns.tolist().index(j)


@needs_coco
@pytest.mark.parametrize("score", ["AP", "recall", "IoU"])
def test_a_detector_that_is_blind_under_one_frequency_loses_all_there_and_nothing_elsewhere(score):
    data = Squares()
    detector = Blinded(data)
    heatmap = DetectionHeatmap(crop=9, score=score)
    result = heatmap.measure(detector, data)
    expected = np.zeros((9, 9))
    for sign in (1, -1):
        expected[cell(result, sign * SECRET[0], sign * SECRET[1])] = 1
    np.testing.assert_allclose(result.error, expected, atol=1e-6)
    assert result.clean_score()[0] == pytest.approx(1)
    assert result.image_ids == (1, 2, 3, 4)  # the first shows no object
    assert result.passes == detector.tally["shown"] == heatmap.cost(4) == 4 * 42 + 2
    assert "costs most" in result.sentence()
    assert "(+2, -3) with 1.000" in result.sentence() or "(-2, +3) with 1.000" in result.sentence()


@needs_coco
def test_the_map_is_that_of_a_slow_loop_over_images_of_their_own_sizes():
    data = Squares()
    result = DetectionHeatmap(
        crop=7, score="IoU", norm_per_pixel=0.1, threshold=0.5, seed=3
    ).measure(Blinded(data, partly=True), data, batch_size=3)
    detector = Blinded(data, partly=True)
    for i, j in ((0, 0), SECRET, (1, 2)):
        lost = []
        for position, k in enumerate(result.image_ids):
            picture = data.pictures[k]
            height, width = picture.shape[1:]
            signs = direction_signs(3, i, j, 1 << 20, 1 << 20, 4, 3)[position]
            noise = 0.1 * (height * width) ** 0.5 * fourier.basis(i, j, height, width)
            found = detector.one((picture + signs * noise).clamp(0, 1))[0]
            here = [a["bbox"] for a in data.truth.annotations if a["image_id"] == k]
            overlaps = []
            for x, y, w, h in here:
                best = 0.0
                for x0, y0, x1, y1 in found.tolist():
                    inside = max(0, min(x1, x + w) - max(x0, x)) * max(
                        0, min(y1, y + h) - max(y0, y)
                    )
                    best = max(best, inside / (w * h + (x1 - x0) * (y1 - y0) - inside))
                overlaps.append(best if best >= 0.5 else 0.0)
            lost.append(1 - np.mean(overlaps))
        at = cell(result, i, j)
        assert result.error[at] == pytest.approx(np.mean(lost), abs=1e-5)
        half = 1.96 * np.std(lost, ddof=1) / 2
        assert result.upper[at] - result.error[at] == pytest.approx(half, abs=1e-5)
    assert 0.05 < result.error[cell(result, *SECRET)] < 1


class Shifted(Blinded):
    """Boxes shift by the noise that passes a Gaussian filter around DC, on some images more."""

    REACH = 4.0  # cycles per image

    def one(self, image):
        corners, scores, labels = super().one(image)
        (k,) = [n for n, p in self.data.pictures.items() if p.shape == image.shape]
        rest = (image - self.data.pictures[k])[0]
        height, width = rest.shape
        i = torch.fft.fftfreq(height) * height
        j = torch.fft.fftfreq(width) * width
        gain = torch.exp(-(i[:, None] ** 2 + j**2) / (2 * self.REACH**2))
        passed = float(torch.fft.ifft2(torch.fft.fft2(rest) * gain).real.square().mean().sqrt())
        return corners + 20 * passed * self.share(k), scores, labels

    @staticmethod
    def share(k):
        return 0.3 + 0.35 * (k % 3)


@needs_coco
def test_a_model_of_few_passes_finds_the_map_known_in_closed_form():
    data = Squares([(20 + k, 50 - k // 2) for k in range(61)])
    settings = DetectionHeatmap(crop=15, score="IoU", threshold=0.5)
    few = DetectionHeatmap(crop=15, score="IoU", threshold=0.5, forwards=settings.cost(60) // 20)
    detector = Shifted(data)
    result = few.measure(detector, data)
    i, j = result.frequencies()
    gain = np.exp(-(i[:, None] ** 2 + j**2) / (2 * Shifted.REACH**2))
    lost = []
    for k in result.image_ids:
        inside = (6 - np.minimum(20 * 0.07 * gain * Shifted.share(k), 6)) ** 2
        overlap = inside / (72 - inside)
        lost.append(1 - np.where(overlap >= 0.5, overlap, 0))
    expected = np.mean(lost, axis=0)
    blind = np.zeros_like(gain, dtype=bool)  # what Blinded adds
    for sign in (1, -1):
        blind[cell(result, sign * SECRET[0], sign * SECRET[1])] = True
    away = (result.error - expected)[~blind]
    assert result.passes == few.forwards == detector.tally["shown"]
    assert result.passes <= 0.05 * settings.cost(60)
    assert np.ptp(expected) > 0.2
    assert np.sqrt((away**2).mean()) < 0.03
    inside = (result.lower <= expected) & (expected <= result.upper)
    assert inside[~blind].mean() > 0.85


@needs_coco
def test_a_saved_heatmap_comes_back_and_the_tab_finds_its_map(tmp_path):
    data = Squares()
    result = DetectionHeatmap(crop=5).measure(Blinded(data), data)
    again = hfc_probe.load(result.save(tmp_path / "map.json"))
    assert str(again) == str(result)
    np.testing.assert_array_equal(again.arrays()["lost"], result.arrays()["lost"])
    axes = result.axes()["lost"]
    assert [axis["name"] for axis in axes["axes"]] == ["i", "j"]
    assert axes["axes"][0]["values"] == [-2, -1, 0, 1, 2]
    assert result.group == "detection_heatmap/AP"
    assert result.scalars()["hfc_detection_heatmap/AP/original"] == pytest.approx(1)
    titles = [axes.get_title() for axes in result.figure().axes]
    assert titles[0] == "AP lost under Fourier noise, RMS 0.07 per pixel"


@needs_coco
def test_what_cannot_make_a_map_is_refused_in_a_sentence():
    data = Squares()
    cases = [
        (DetectionHeatmap(crop=25), r"crop: expected at most the sides .*, got 25 and image 4"),
        (DetectionHeatmap(crop=9, forwards=50), "forwards: expected at least 88 .*, got 50"),
    ]
    for heatmap, message in cases:
        with pytest.raises(InputError, match=message):
            heatmap.measure(Blinded(data), data)
    with pytest.raises(InputError, match="found without noise, got a mean AP of 0 on 4 images"):
        DetectionHeatmap(crop=5).measure(lambda images: [([], [], []) for _ in images], data)
    calls = []

    def moody(images):
        calls.append(1)
        return [(torch.tensor([[len(calls), 0.0, 50, 50]]), [0.9], [7]) for _ in images]

    with pytest.raises(InputError, match="got others in a second call"):
        DetectionHeatmap(crop=5).measure(moody, data)
    with pytest.raises(InputError, match=r"score: expected .*, got 'F1'"):
        DetectionHeatmap(score="F1")


@needs_coco
def test_ids_that_coco_leaves_unused_are_left_out_as_in_an_audit():
    data = Squares()
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    data.content["categories"] = [
        {"id": k, "name": str(k)} for k in range(1, 91) if k not in unused
    ]
    data.truth = GroundTruth.read(data.content)
    blinded = Blinded(data)
    label = Tally()

    def detector(images):
        """All squares, and in a corner something else."""
        found = []
        for boxes, scores, labels in blinded(images):
            more = torch.tensor([[0.0, 0, 3, 3]]), torch.ones(1), torch.tensor([label["other"]])
            parts = zip((boxes, scores, labels), more, strict=True)
            found.append(tuple(torch.cat(pair) for pair in parts))
        return found

    for label["other"] in (83, -1):  # which adapters give a class without a name
        result = DetectionHeatmap(crop=3).measure(detector, data)
        assert result.clean_score()[0] == pytest.approx(1)
    label["other"] = 91
    with pytest.raises(InputError, match=r"annotations \(1, 2, .*got 91 on original; map the"):
        DetectionHeatmap(crop=3).measure(detector, data)
    with pytest.raises(InputError, match=r"limit: expected a whole number of samples .*, got 0"):
        DetectionHeatmap(crop=3).measure(detector, data, limit=0)


@needs_coco
def test_an_interval_of_what_noise_costs_reaches_below_0():
    data = Squares([(20 + k, 50 - k // 2) for k in range(13)])

    class Mixed(Blinded):
        """Noise mends the boxes of every third image and moves the others further away."""

        def one(self, image):
            corners, scores, labels = super().one(image)
            (k,) = [n for n, p in data.pictures.items() if p.shape == image.shape]
            noisy = float((image - data.pictures[k]).abs().max()) > 1e-3
            return corners + (1.0 if not noisy else 1.6 * (k % 3 > 0)), scores, labels

    result = DetectionHeatmap(crop=3, score="IoU", threshold=0.1).measure(Mixed(data), data)
    assert float(result.error.min()) > 0
    np.testing.assert_allclose(result.error - result.lower, result.upper - result.error)
    assert float(result.lower.max()) < 0


class Mortal(Shifted):
    """Its process is killed after as many images as the environment says."""

    def __call__(self, images):
        if self.tally["shown"] >= float(os.environ.get("LAST_IMAGE", "inf")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)


KILLED = """
import sys
from hfc_probe.measurements.fourier_heatmap import checkpoint
from tests.detection import test_detection_heatmap as here
checkpoint._CHECKPOINT_SECONDS = 0
data = here.Squares(here.MANY)
heatmap = here.DetectionHeatmap(**eval(sys.argv[2]))
heatmap.measure(here.Mortal(data), data, resume=sys.argv[1])
"""
MANY = [(20 + k, 50 - k // 2) for k in range(31)]


@needs_coco
@pytest.mark.slow  # 4 s each: a process of its own
@pytest.mark.parametrize(("forwards", "last"), [(None, 300), (450, 250)])
def test_a_killed_map_resumes_and_ends_the_same_byte_for_byte(tmp_path, caplog, forwards, last):
    settings = {"crop": 9, "score": "IoU", "threshold": 0.5, "forwards": forwards}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kept"), repr(settings)]
    environment = {**os.environ, "LAST_IMAGE": str(last)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    data, heatmap = Squares(MANY), DetectionHeatmap(**settings)
    expected = heatmap.measure(Mortal(data), data)
    detector = Mortal(data)
    result = heatmap.measure(detector, data, resume=tmp_path / "kept")
    for name, values in expected.arrays().items():
        assert result.arrays()[name].tobytes() == values.tobytes(), name
    assert result.passes == expected.passes
    # Again are shown the images without noise, the first twice more, and what was under way.
    assert detector.tally["shown"] <= expected.passes - last + 30 + 2 + 2
    assert "another" not in caplog.text


@needs_coco
def test_an_unfinished_map_of_another_detector_or_other_objects_is_not_continued(tmp_path, caplog):
    def interrupted(data, detector):
        def stopped(images):
            if detector.tally["shown"] > 60:
                raise KeyboardInterrupt
            return detector(images)

        return stopped

    data = Squares()
    heatmap = DetectionHeatmap(crop=9, score="IoU", threshold=0.5)
    other = Squares()
    other.truth = GroundTruth.read(
        {
            **other.content,
            "annotations": [
                {**a, "bbox": [*a["bbox"][:3], 5]} for a in other.content["annotations"]
            ],
        }
    )
    for last, changed in ((Blinded(data), data), (Blinded(data, partly=True), other)):
        with pytest.raises(KeyboardInterrupt):
            heatmap.measure(interrupted(data, Blinded(data, partly=True)), data, resume=tmp_path)
        assert (tmp_path / "heatmap.npz").exists()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            result = heatmap.measure(last, changed, resume=tmp_path)
        assert "the map starts afresh" in caplog.text
        assert last.tally["shown"] == result.passes == heatmap.cost(4)
        assert not (tmp_path / "heatmap.npz").exists()


@needs_coco
def test_a_modelled_map_of_very_many_frequencies_says_what_its_intervals_hold():
    data = Squares([(24, 36), (48, 50), (50, 48), (52, 54)])  # the first has no square
    options = {"stride": 1, "norm_per_pixel": 0.05, "samples": 3}
    for crop, passes, said in ((21, 500, 0), (47, 2400, 1)):
        heatmap = DetectionHeatmap(crop=crop, forwards=passes, **options)
        found = heatmap.measure(Blinded(data, partly=True), data)
        assert found.estimator == "model"
        assert sum("held 81 %" in one for one in found.caveats) == said


@needs_coco
def test_detectors_whose_weights_cannot_be_seen_are_not_taken_for_one():
    data, heatmap = Squares(), DetectionHeatmap(crop=1, norm_per_pixel=0.05)
    one, again, other = (
        heatmap.measure(Blinded(data, partly=partly), data).provenance["weights"]
        for partly in (False, False, True)
    )
    assert one == again != other

"""Another detector's detections are never taken over."""

import functools
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfc_probe import InputError
from hfc_probe.detection import CocoImages, DetectionAudit, Detections
from hfc_probe.detection.identity import detector_identity, same_answer
from hfc_probe.detection.store import PredictionStore

from ..conftest import needs_coco
from .known_answer import BLOB, PlantedShapes
from .real_detector import FastestDet, needs_detector

AUDIT = DetectionAudit(radii=(12,), bootstrap=0)


def boxed(images, left=10.0):
    return [([[left, 10.0, 50.0, 50.0]], [0.9], [BLOB]) for _ in images]


def closure(left):
    def detect(images):
        return boxed(images, left)

    return detect


class Settings:
    def __init__(self, size):
        self.size = size


class Attributes:
    """What a detector is known by sits in attributes of several kinds."""

    def __init__(self, value):
        self.value = value

    def __call__(self, images):
        return boxed(images)


def compiled(source):
    names = {"boxed": boxed}
    exec(source, names)
    return names["detect"]


def resized(size, mean=0.5):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    model.transform = GeneralizedRCNNTransform(size, 300, [mean] * 3, [0.25] * 3)
    return model


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (closure(10.0), closure(11.0), "attributes"),
        (functools.partial(boxed, left=10.0), functools.partial(boxed, left=11.0), "attributes"),
        (Attributes(1), Attributes(2), "attributes"),
        (Attributes((1, 2)), Attributes((1, 3)), "attributes"),
        (Attributes({"size": 1}), Attributes({"size": 2}), "attributes"),
        (Attributes({3, 4}), Attributes({3, 5}), "attributes"),
        (Attributes(np.arange(3)), Attributes(np.arange(1, 4)), "attributes"),
        (Attributes(torch.arange(3)), Attributes(torch.arange(1, 4)), "attributes"),
        (Attributes(Settings(200)), Attributes(Settings(120)), "attributes"),
        (Attributes([Settings(200)]).__call__, Attributes([Settings(9)]).__call__, "attributes"),
        (resized(200), resized(120), "attributes"),
        (resized(200), resized(200, mean=0.4), "attributes"),
        (nn.Linear(2, 2), nn.Linear(2, 2), "weights"),
        (
            compiled("def detect(images): return boxed(images, 10.0)"),
            compiled("def detect(images): return boxed(images, 11.0)"),
            "code",
        ),
        (
            compiled("def size(): return 200\ndef detect(images): return boxed(images, size())"),
            compiled("def size(): return 120\ndef detect(images): return boxed(images, size())"),
            "code",
        ),
    ],
)
def test_detectors_that_differ_in_one_thing_are_known_by_it(one, other, differs):
    a, b = detector_identity(one), detector_identity(other)
    assert [key for key in a if a[key] != b[key]] == [differs]


def test_the_same_detector_made_again_is_the_same():
    for make in (
        lambda: closure(10.0),
        lambda: Attributes([Settings(1), {"a": {"x", "y"}}]),
        lambda: resized(200),
        lambda: compiled("def detect(images): return boxed(images, 10.0)  # a comment"),
    ):
        assert detector_identity(make()) == detector_identity(make())


def test_a_reference_to_itself_ends():
    loop = Attributes(None)
    loop.value = [loop]
    assert detector_identity(loop)["detector"] == "Attributes"


@needs_coco
def test_what_differs_is_named(tmp_path):
    data = PlantedShapes(3, seed=3)
    AUDIT.measure(Attributes(1), data, resume=tmp_path)
    with pytest.raises(InputError, match=r"got other attributes \(value\); choose another"):
        AUDIT.measure(Attributes(2), data, resume=tmp_path)


LOADED = None


class Lazy:
    """Loads its network into a global at the first image, counts its calls and keeps answers."""

    def __init__(self, left=10.0):
        self.left, self.calls, self.answers = left, 0, {}

    def __call__(self, images):
        global LOADED
        if LOADED is None:
            LOADED = nn.Linear(2, 2)
        self.calls += 1
        return self.answers.setdefault(self.calls, boxed(images, self.left))


@needs_coco
def test_what_calls_change_does_not_make_another_detector(tmp_path):
    global LOADED
    LOADED = None
    data = PlantedShapes(6, seed=3)
    AUDIT.measure(Lazy(), data, limit=4, resume=tmp_path)
    again = Lazy()
    assert AUDIT.measure(again, data, resume=tmp_path).samples == 6
    assert AUDIT.measure(again, data, resume=tmp_path).samples == 6
    LOADED = None  # as in another process
    assert AUDIT.measure(Lazy(), data, resume=tmp_path).samples == 6
    with pytest.raises(InputError, match=r"got other attributes \(left\); choose another"):
        AUDIT.measure(Lazy(11.0), data, resume=tmp_path)


@needs_coco
def test_calling_a_module_changes_nothing_that_it_is_known_by(tmp_path):
    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))

        def forward(self, images):
            self.inner(images[0][None])
            return boxed(images)

    data = PlantedShapes(3, seed=3)
    AUDIT.measure(Boxes(), data, resume=tmp_path)
    with pytest.raises(InputError, match=r"got weights '[0-9a-f]+' instead of"):
        AUDIT.measure(Boxes(), data, resume=tmp_path)


def test_a_path_in_a_users_detector_counts_and_its_cached_parts_do_not():
    path = Path("weights.pt")
    before = detector_identity(Attributes(path))
    assert {path: 1}[path]  # hashing stores the hash, which differs from process to process
    assert detector_identity(Attributes(path)) == before
    assert detector_identity(Attributes(Path("other.pt"))) != before


class Hidden(Attributes):
    """Answers by something that cannot be seen from outside."""

    def __init__(self):
        super().__init__(None)

    def __call__(self, images):
        return boxed(images, left=float(WHERE[0]))


class _Opaque(list):
    """A list of a class of its own: an object without attributes."""


WHERE = _Opaque([10])


@needs_coco
def test_an_answer_that_changed_is_refused_before_anything_is_taken_over(tmp_path):
    data = PlantedShapes(6, seed=3)
    WHERE[0] = 10
    AUDIT.measure(Hidden(), data, limit=3, resume=tmp_path)
    WHERE[0] = 14
    with pytest.raises(InputError, match=r"got one that finds other boxes in image 10\d\d;"):
        AUDIT.measure(Hidden(), data, resume=tmp_path)
    WHERE[0] = 10
    assert AUDIT.measure(Hidden(), data, resume=tmp_path).samples == 6


@needs_coco
def test_how_many_images_are_taken_over_is_said(tmp_path, caplog):
    data = PlantedShapes(6, seed=3)
    AUDIT.measure(Attributes(1), data, limit=4, resume=tmp_path)
    with caplog.at_level(logging.WARNING, "hfc_probe"):
        AUDIT.measure(Attributes(1), data, resume=tmp_path)
    assert f"4 of 6 images taken from an earlier run ({tmp_path})" in caplog.text


@needs_coco
def test_another_limit_changes_the_companions_that_images_are_padded_with(tmp_path):
    data = PlantedShapes(6, seed=3)
    AUDIT.measure(Attributes(1), data, limit=4, batch_size=2, resume=tmp_path)
    with pytest.raises(InputError, match=r"batches \d+ instead of \d+"):
        AUDIT.measure(Attributes(1), data, batch_size=2, resume=tmp_path)


@needs_coco
def test_replaced_files_are_refused_by_name(tmp_path):
    data = PlantedShapes(3, seed=4)
    for image_id in data.pictures:
        Image.new("RGB", (128, 128)).save(tmp_path / f"{image_id}.png")
    images = CocoImages(tmp_path, data.content)
    AUDIT.measure(Attributes(1), images, resume=tmp_path / "finished")
    Image.new("RGB", (128, 128), "white").save(tmp_path / "1007.png")
    with pytest.raises(InputError, match="other files under the same names for 1007; choose"):
        AUDIT.measure(Attributes(1), images, resume=tmp_path / "finished")


@needs_coco
def test_a_real_session_with_another_preprocessing_is_known_by_its_answer(coco, tmp_path):
    needs_detector()
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")

    class Scaled(FastestDet):
        def one(self, image):
            return super().one(image * WHERE[0])

    WHERE[0] = 1
    audit = DetectionAudit(radii=(64,), bootstrap=0)
    first = audit.measure(Scaled(data.truth), data, limit=5, resume=tmp_path)
    assert first.metrics["original"][1] > 0.1
    again = audit.measure(Scaled(data.truth), data, limit=5, resume=tmp_path)
    assert again.to_dict() == first.to_dict()
    WHERE[0] = 0.9
    with pytest.raises(InputError, match="finds other boxes in image"):
        audit.measure(Scaled(data.truth), data, limit=5, resume=tmp_path)


def test_two_runs_into_one_directory_are_refused(tmp_path):
    first = PredictionStore(tmp_path, {})
    with pytest.raises(InputError, match=r"nobody else writes into .*, got another run that"):
        PredictionStore(tmp_path, {})
    first.close()
    PredictionStore(tmp_path, {}).close()


FULL = """
import resource, signal, sys
from hfc_probe import InputError
from hfc_probe.detection.coco import Detections
from hfc_probe.detection.store import PredictionStore
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
store = PredictionStore(sys.argv[1], {})
found = {"original": Detections(np.ones((9, 4)), np.ones(9), np.ones(9, dtype=int))}
try:
    for k in range(50):
        store.add(k, found)
except InputError as error:
    store.close()
    print(error)
"""


def test_a_full_disk_is_a_sentence_and_what_was_finished_is_kept(tmp_path):
    pytest.importorskip("resource", reason="limits of a file's size are of Unix")
    run = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True
    )
    assert run.stdout == (
        f"output: expected a place that can be written, got {tmp_path} (File too large); what was "
        "finished before is kept\n"
    )
    kept = PredictionStore(tmp_path, {})
    kept.close()
    assert sorted(kept.finished) == list(range(len(kept.finished)))
    assert len(kept.finished) > 3


def answer(count, shift=0.0, gone=()):
    boxes = np.array([[40.0 * k + shift, 5.0, 20.0, 20.0] for k in range(count)]).reshape(-1, 4)
    kept = [k for k in range(count) if k not in gone]
    return Detections(boxes[kept], np.full(len(kept), 0.3), np.full(len(kept), BLOB))


@pytest.mark.parametrize(
    ("counts", "changes", "same"),
    [
        ((4, 3, 2), [{"gone": {3}}, {}, {}], True),  # one of a handful at a score threshold
        ((4, 3, 2), [{"gone": {3}}, {"gone": {0}}, {}], False),
        ((4, 3, 2), [{"shift": 3.0}, {}, {}], False),
        ((30, 30, 30), [{"gone": {1, 2, 3}}, {}, {"gone": {7}}], True),
        ((30, 30, 30), [{"gone": {1, 2, 3, 4}}, {}, {}], False),  # one variant alone
        ((1, 0, 0), [{"gone": {0}}, {}, {}], False),  # nothing in common
        ((1, 1, 1), [{"shift": 3.0}, {"shift": 3.0}, {"shift": 3.0}], False),
        ((0, 0, 0), [{}, {}, {}], True),
    ],
)
def test_a_handful_of_detections_may_lose_one_to_rounding(counts, changes, same):
    names = AUDIT.variants
    before = {n: answer(count) for n, count in zip(names, counts, strict=True)}
    now = {n: answer(c, **how) for n, c, how in zip(names, counts, changes, strict=True)}
    assert same_answer(before, now) == same
    assert same_answer(now, before) == same

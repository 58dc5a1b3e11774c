"""The audit on a detector whose answer is known, and everything that can go wrong around it."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfc_probe import InputError
from hfc_probe.detection import BrokenImageError, CocoImages, DetectionAudit, GroundTruth
from hfc_probe.fourier import corner, split

from ..conftest import needs_coco
from ..toys import Tally
from .known_answer import BLOB, CHECKER, PlantedShapes
from .test_detection_evaluation import cocoeval

AUDIT = DetectionAudit(radii=(12,), bootstrap=200)


@pytest.fixture(scope="session")
def shapes():
    return PlantedShapes(40, seed=1)


@pytest.fixture(scope="session")
def audited(trained, shapes):
    return AUDIT.measure(trained, shapes)


class Bright:
    """A detector without weights: one box around what is brighter than the image."""

    def __init__(self, label=BLOB):
        self.label = label
        self.tally = Tally(calls=0)

    @property
    def calls(self):
        return self.tally["calls"]

    def __call__(self, images):
        if self.calls == self.tally.get("stop"):
            raise KeyboardInterrupt
        self.tally["calls"] += 1
        return [self._one(image) for image in images]

    def _one(self, image):
        grey = image.mean(0)
        rows, columns = torch.nonzero(grey > grey.median() + 0.15, as_tuple=True)
        if not len(rows):
            return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
        x, y = columns.float(), rows.float()
        centre = torch.stack([x.min() + x.max() + 1, y.min() + y.max() + 1]) / 2
        # A Gaussian bump reaches about twice as far as its bright core.
        half = 1.1 * torch.stack([x.max() - x.min() + 1, y.max() - y.min() + 1])
        box = torch.cat([centre - half, centre + half])
        return box[None], grey.max()[None], torch.tensor([self.label])


def by_class(result, variant):
    return dict(zip(sorted(result.truth.categories), result.classes[variant], strict=True))


@needs_coco
def test_checkers_vanish_from_the_lfc_and_blobs_from_the_hfc(audited):
    original, low, high = (by_class(audited, n) for n in ("original", "lfc_r12", "hfc_r12"))
    assert min(original.values()) > 0.2
    assert low[BLOB] > 0.5 * original[BLOB]
    assert low[CHECKER] < 0.1 * original[CHECKER]
    assert high[BLOB] < 0.1 * original[BLOB]
    assert high[CHECKER] > 0.3 * original[CHECKER]


@needs_coco
def test_objects_lost_on_the_lfc_are_the_checkers(audited):
    drops = audited.changes("lfc_r12", "drop")
    kinds = [audited.objects[k]["category_id"] for k in drops.objects]
    assert len(kinds) > 4
    assert kinds.count(CHECKER) > 0.8 * len(kinds)


@needs_coco
def test_original_equals_pycocotools_on_the_results_file_that_was_written(audited, tmp_path):
    audited.save_all(tmp_path)
    results = json.loads((tmp_path / "results_original.json").read_text())
    theirs = cocoeval(audited_content(audited), results).stats[:6]
    assert [v for v in audited.metrics["original"] if not np.isnan(v)] == [
        v for v in theirs if v >= 0
    ]


def audited_content(result):
    truth = result.truth
    return {
        "images": list(truth.images.values()),
        "annotations": [dict(a) for a in truth.annotations],
        "categories": [{"id": k, "name": n} for k, n in truth.categories.items()],
    }


@needs_coco
def test_a_radius_beyond_the_corner_changes_nothing_to_the_last_digit(trained, shapes):
    beyond = corner(128, 128) + 1
    audit = DetectionAudit(radii=(beyond,), bootstrap=50)
    result = audit.measure(trained, shapes, limit=12)
    original, low, high = (result.metrics[n] for n in audit.variants)
    assert original[0] > 0.1
    assert np.array_equal(original, low, equal_nan=True)
    assert high[0] < original[0]
    assert "is beyond the corner of every image (90.51): LFC is the original" in result.sentence()
    assert not any("corner" in note for note in AUDIT.measure(Bright(), shapes, limit=3).notes)


@needs_coco
def test_the_hfc_background_moves_the_number_and_is_written_everywhere(trained, shapes, audited):
    seen = {}

    def spy(images):
        seen.setdefault("images", []).append(images[0].clone())
        return trained(images)

    other = DetectionAudit(radii=(12,), hfc_background="mean", bootstrap=0)
    result = other.measure(trained, shapes, limit=15)
    zero = DetectionAudit(radii=(12,), bootstrap=0).measure(trained, shapes, limit=15)
    assert result.metrics["hfc_r12"][0] != zero.metrics["hfc_r12"][0]
    assert result.metrics["lfc_r12"].tolist()[:3] == zero.metrics["lfc_r12"].tolist()[:3]
    assert "mean background" in str(result)
    assert "zero background" in str(audited)
    assert result.to_dict()["settings"]["hfc_background"] == "mean"
    assert result.to_dict()["settings"]["pixel_mean"] == [0.5, 0.5, 0.5]
    assert result.axes()["hfc"]["hfc_background"] == "mean"
    texts = " ".join(t.get_text() for t in result.figure().findobj(match=_is_text))
    assert "mean background" in texts
    with_mean = DetectionAudit(
        radii=(12,), hfc_background="mean", pixel_mean=(0.4, 0.5, 0.6), bootstrap=0
    )
    with_mean.measure(spy, shapes, model=trained, limit=1)
    image = shapes.load(with_mean.measure(Bright(), shapes, limit=1).image_ids[0])
    _, high = split(image, 12)
    expected = high + torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(seen["images"][2], expected, rtol=0, atol=1e-6)
    assert float(high.min()) < 0  # signed: uint8 would have wrapped it


def _is_text(artist):
    return hasattr(artist, "get_text")


@needs_coco
def test_one_pass_loads_each_image_once_and_shows_each_variant_once():
    data, detector = PlantedShapes(6, seed=2), Bright()
    DetectionAudit(radii=(4, 12), bootstrap=0).measure(detector, data)
    # The first is loaded once more, to show whether signed images are seen.
    assert sorted(data.loads) == sorted([*data.pictures, min(data.pictures)])
    assert detector.calls == 6 * 5 + 3


@needs_coco
def test_batches_are_split_image_by_image_before_padding():
    shown = []

    def detector(images):
        shown.append([image.clone() for image in images])
        return [{"boxes": [], "scores": [], "labels": []} for _ in images]

    content = {
        "images": [{"id": k, "height": 20, "width": 30 + k} for k in (1, 2)],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }

    class Data:
        truth = GroundTruth.read(content)

        def load(self, image_id):
            return pictures[image_id]

    pictures = {k: torch.rand(3, 20, 30 + k) for k in (1, 2)}
    DetectionAudit(radii=(5,), bootstrap=0).measure(detector, Data(), batch_size=2)
    for k in (0, 1):
        low, high = split(pictures[k + 1], 5)
        assert torch.equal(shown[0][k], pictures[k + 1])
        assert torch.equal(shown[1][k], low)
        assert torch.equal(shown[2][k], high)


@needs_coco
def test_nyquist_units_cut_both_axes_of_an_image_alike():
    shown = []

    def detector(images):
        shown.append(images[0])
        return [([], [], [])]

    wave = torch.cos(2 * torch.pi * 20 * torch.arange(96) / 96)  # 20 cycles: 0.42 of Nyquist
    image = 0.5 + 0.4 * wave.expand(1, 32, 96)

    class Data:
        truth = GroundTruth.read(
            {
                "images": [{"id": 1, "height": 32, "width": 96}],
                "annotations": [],
                "categories": [{"id": 1}],
            }
        )

        def load(self, image_id):
            return image

    DetectionAudit(radii=(16,), bootstrap=0).measure(detector, Data())
    DetectionAudit(radii=(0.5,), units="nyquist", bootstrap=0).measure(detector, Data())
    cycles, nyquist = shown[1], shown[7]  # three more calls show whether signs are seen
    assert float(cycles.std()) < 1e-6  # 20 cycles per image are beyond 16
    torch.testing.assert_close(nyquist, image, rtol=0, atol=1e-5)  # and within half of Nyquist


@needs_coco
def test_the_detector_is_left_exactly_as_it_was(trained, shapes):
    trained.train()
    trained.backbone.eval()
    modes = [m.training for m in trained.modules()]
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    AUDIT.measure(trained, shapes, limit=2)
    assert [m.training for m in trained.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    trained.eval()


@needs_coco
def test_a_detector_wrapped_by_a_user_in_a_few_lines(shapes):
    class TheirModel(nn.Module):  # speaks (1, C, H, W) and returns one array per image
        def forward(self, batch):
            boxes, scores, labels = Bright()._one(batch[0])
            return torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)

    model = TheirModel()

    def detector(images):  # what the user writes
        rows = [model(image[None]) for image in images]
        return [
            {"boxes": r[:, :4], "scores": r[:, 4], "labels": r[:, 5].long(), "masks": None}
            for r in rows
        ]

    wrapped = AUDIT.measure(detector, shapes, limit=20)
    direct = AUDIT.measure(Bright(), shapes, limit=20)
    assert wrapped.metrics["original"].tolist()[:3] == direct.metrics["original"].tolist()[:3]
    assert wrapped.metrics["original"][1] > 0


@needs_coco
def test_an_interrupted_audit_goes_on_and_the_result_is_the_same(tmp_path):
    data = PlantedShapes(8, seed=3)
    audit = DetectionAudit(radii=(4, 12), bootstrap=50)
    whole = audit.measure(Bright(), data)
    first = Bright()
    first.tally["stop"] = 5 * 3 + 2  # three images and a part of the fourth
    with pytest.raises(KeyboardInterrupt):
        audit.measure(first, data, resume=tmp_path / "finished")
    part = next((tmp_path / "finished").iterdir())
    with part.open("ab") as file:  # and a line that was being written
        file.write(b'{"image_id": 1021, "variants": {"orig')
    rest = Bright()
    result = audit.measure(rest, data, resume=tmp_path / "finished")
    assert rest.calls == 5 * (5 + 2) + 3  # two of the finished ones are compared
    assert result.to_dict() == whole.to_dict()
    none = Bright()
    again = audit.measure(none, data, resume=tmp_path / "finished")
    assert none.calls == 5 * 2 + 3
    assert again.to_dict() == whole.to_dict()


@needs_coco
def test_finished_images_of_another_audit_are_refused(tmp_path, trained):
    data = PlantedShapes(2, seed=3)
    AUDIT.measure(Bright(), data, resume=tmp_path)
    with pytest.raises(InputError, match=r"radii \[12\] instead of \[13\]; choose another"):
        DetectionAudit(radii=(13,)).measure(Bright(), data, resume=tmp_path)
    other = PlantedShapes(3, seed=3)
    with pytest.raises(InputError, match=r"images '2 named [0-9a-f]{8}' instead of '3 named"):
        AUDIT.measure(Bright(), other, resume=tmp_path)
    with pytest.raises(InputError, match=r"batch_size 1 instead of 2"):
        AUDIT.measure(Bright(), data, resume=tmp_path, batch_size=2)
    with pytest.raises(InputError, match=r"got detector 'Bright' instead of 'RetinaNet'; choose"):
        AUDIT.measure(trained, data, resume=tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Five planted images as PNG files; one missing, one cut off."""
    data = PlantedShapes(5, seed=4)
    for image_id, picture in data.pictures.items():
        pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{image_id}.png")
    names = sorted(tmp_path.iterdir())
    names[1].unlink()
    names[3].write_bytes(names[3].read_bytes()[:400])
    return tmp_path, data.content, [names[1].stem, names[3].stem]


@needs_coco
def test_broken_images_stop_the_audit_by_name_and_nothing_is_lost(folder, tmp_path):
    path, content, broken = folder
    data = CocoImages(path, content)
    with pytest.raises(InputError, match=rf"{broken[0]}\.png .*no such file"):
        AUDIT.measure(Bright(), data, resume=tmp_path / "finished")
    detector = Bright()
    result = AUDIT.measure(detector, data, resume=tmp_path / "finished", skip_broken=True)
    assert detector.calls == 3 * 3 + 3  # the first image was finished before the stop, and compared
    assert [str(k) for k in result.skipped] == broken
    assert result.samples == 3
    assert "2 images were left out" in result.sentence()
    assert f"{broken[1]}.png" in result.sentence()
    assert "2 broken ones left out" in str(result)
    alone = AUDIT.measure(
        Bright(),
        CocoImages(path, _without(content, [int(b) for b in broken])),
    )
    assert result.metrics["original"].tolist()[:3] == alone.metrics["original"].tolist()[:3]


def _without(content, image_ids):
    return {
        "images": [i for i in content["images"] if i["id"] not in image_ids],
        "annotations": [a for a in content["annotations"] if a["image_id"] not in image_ids],
        "categories": content["categories"],
    }


def test_an_image_of_another_size_than_annotated_is_broken(folder):
    path, content, _ = folder
    content = json.loads(json.dumps(content))
    content["images"][0]["width"] = 64
    with pytest.raises(BrokenImageError, match=r"expected 64×128 pixels in 1000\.png .* 128×128"):
        CocoImages(path, content).load(1000)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda n: [], "list of 1 entries, one per image, got 0"),
        (lambda n: {"boxes": []}, "list of 1 entries, one per image, got dict"),
        (lambda n: [{"boxes": []}], "mapping with boxes, scores and labels"),
        (lambda n: [([[0, 0, 1, 1]], [0.5, 0.4], [3, 3])], r"got \(1, 4\), \(2,\) and \(2,\)"),
        (lambda n: [([[0, 0, 1, float("nan")]], [0.5], [3])], "finite boxes and scores"),
        (lambda n: [([[0, 0, 1, 1]], [0.5], [4])], r"category ids .*\(3, 8\), got 4 on original"),
    ],
)
def test_what_a_detector_must_not_return(output, message, shapes):
    with pytest.raises(InputError, match=message):
        AUDIT.measure(output, shapes, limit=1)


@needs_coco
def test_unknown_categories_can_be_left_out_and_are_counted(shapes):
    audit = DetectionAudit(radii=(12,), ignore_unknown=True, bootstrap=0)
    result = audit.measure(Bright(label=77), shapes, limit=20)
    assert result.metrics["original"][0] == 0
    assert "of categories that the annotations do not have (77)" in " ".join(result.notes)


def test_cocos_unused_ids_are_left_out_and_counted_and_others_refused(shapes):
    ids = [k for k in range(1, 91) if k not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]
    content = {**shapes.content, "categories": [{"id": k, "name": f"{k}"} for k in ids]}
    coco = PlantedShapes(2, seed=0)
    coco.truth = GroundTruth.read({**content, "images": coco.content["images"],
                                   "annotations": coco.content["annotations"]})  # fmt: skip
    result = AUDIT.measure(Bright(label=83), coco)
    assert "of categories that the annotations do not have (83)" in " ".join(result.notes)
    with pytest.raises(InputError, match="got 91 on original"):
        AUDIT.measure(Bright(label=91), coco)


@needs_coco
def test_no_detection_at_all_is_ap_zero_and_said(shapes):
    result = AUDIT.measure(lambda images: [([], [], [])] * len(images), shapes, limit=5)
    assert result.metrics["original"][0] == 0
    assert "nothing at all was detected on original" in result.sentence()
    result.figure()
    result.scatter_figure()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radii": ()}, "radii: expected numbers of at least 0"),
        ({"radii": (8, 4)}, "radii: expected increasing"),
        ({"radii": (-1,)}, "at least 0"),
        ({"units": "pixels"}, 'units: expected "cycles" or "nyquist"'),
        ({"hfc_background": "grey"}, 'hfc_background: expected "zero" or "mean"'),
        ({"at": "mapper"}, 'at: expected "image" or "input"'),
        ({"max_dets": 0}, "max_dets: expected a whole number of at least 1"),
        ({"margin": 2}, "margin: expected a number from 0 to 1"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(InputError, match=message):
        DetectionAudit(**settings)


def test_mean_background_needs_a_mean(shapes):
    with pytest.raises(InputError, match="pass pixel_mean"):
        DetectionAudit(hfc_background="mean").measure(Bright(), shapes)


def test_images_outside_the_unit_range_are_refused(shapes):
    class Bytes:
        truth = shapes.truth

        def load(self, image_id):
            return shapes.load(image_id) * 255

    with pytest.raises(InputError, match=r"images in \[0, 1\], got .*divided by 255"):
        AUDIT.measure(Bright(), Bytes())


@needs_coco
def test_limit_is_a_seeded_choice_that_grows(shapes):
    few = AUDIT.measure(Bright(), shapes, limit=5)
    assert few.image_ids == AUDIT.measure(Bright(), shapes, limit=5).image_ids
    assert few.samples == 5
    other = DetectionAudit(radii=(12,), seed=1, bootstrap=0).measure(Bright(), shapes, limit=5)
    assert other.image_ids != few.image_ids


@needs_coco
def test_tensorboard_gets_the_tags_of_the_design(audited, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        audited.log(writer, 7)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    for metric in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"):
        for variant in ("original", "lfc_r12", "hfc_r12"):
            (scalar,) = events.Scalars(f"hfc_detection/{metric}/{variant}")
            value = audited.scalars()[f"hfc_detection/{metric}/{variant}"]
            assert scalar.step == 7
            assert np.isnan(value) or scalar.value == pytest.approx(value, abs=1e-6)
    assert "hfc_detection/examples_drop" in events.Tags()["images"]
    (tensor,) = events.Tensors("detection_audit/lfc")
    assert [tensor.tensor_proto.tensor_shape.dim[k].size for k in (0, 1)] == [1, 6]


def test_missing_pycocotools_is_one_sentence(monkeypatch, shapes):
    import sys

    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(InputError, match=r"pip install 'hfc_probe\[detection\]'"):
        AUDIT.measure(Bright(), shapes, limit=1)

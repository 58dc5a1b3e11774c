"""The plugin on the real detectron2: its own RetinaNet, trainer, loader and evaluator."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe.ground.errors import InputError

from ..toys import Log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plugin(detectron2):
    import hfc_probe_detectron2

    return hfc_probe_detectron2


@pytest.fixture(scope="module")
def retinanet(config):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    return build_model(config).eval()


class Oracle(nn.Module):
    """A meta-architecture that knows the objects, and sees them the better the more contrast."""

    def __init__(self, entries, contiguous):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor([103.0, 116.0, 123.0]).view(-1, 1, 1))
        self.entries = {e["image_id"]: e for e in entries}
        self.contiguous = contiguous
        self.shown = Log()  # a plain list would be put back

    def forward(self, inputs):
        from detectron2.structures import Boxes, Instances

        out = []
        for x in inputs:
            self.shown.append(x["image"])
            entry = self.entries[x["image_id"]]
            contrast = float(x["image"].float().std())
            generator = torch.Generator().manual_seed(int(x["image_id"]) % 1000)
            boxes, labels = [], []
            for a in entry["annotations"]:
                noise = torch.randn(4, generator=generator) * 200 / (contrast + 20)
                left, top, width, height = a["bbox"]
                boxes.append(torch.tensor([left, top, left + width, top + height]) + noise)
                labels.append(self.contiguous(a["category_id"]))
            found = Instances((entry["height"], entry["width"]))
            found.pred_boxes = Boxes(torch.stack(boxes) if boxes else torch.zeros(0, 4))
            found.scores = torch.rand(len(boxes), generator=generator)
            found.pred_classes = torch.tensor(labels, dtype=torch.long)
            out.append({"instances": found})
        return out


@pytest.fixture
def oracle(ten):
    from detectron2.data import DatasetCatalog

    return Oracle(DatasetCatalog.get(ten[0]), lambda label: label)


def test_original_equals_coco_evaluator_in_the_same_pass(plugin, config, ten, oracle):
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset
    from hfc_probe_detectron2.data import loader_for, mapper_for

    from hfc_probe.detection import DetectionAudit

    audit = DetectionAudit(radii=(8, 32), bootstrap=20)
    evaluator = plugin.BandEvaluator(ten[0], audit)
    results = inference_on_dataset(
        plugin.FrequencyModel(oracle, audit),
        loader_for(ten[0], mapper_for(oracle, config)),
        [COCOEvaluator(ten[0], output_dir=None), evaluator],
    )
    ours = results["hfc_detection"]
    assert ours["AP/original"] > 0.05
    assert ours["AP/lfc_r08"] < ours["AP/original"]
    for theirs, name in (
        ("AP", "AP"),
        ("AP50", "AP50"),
        ("AP75", "AP75"),
        ("APs", "AP_small"),
        ("APm", "AP_medium"),
        ("APl", "AP_large"),
    ):
        assert results["bbox"][theirs] == 100 * ours[f"{name}/original"]


def test_the_original_image_is_filtered_and_then_resized(plugin, config, ten, oracle):
    from detectron2.data import DatasetMapper
    from PIL import Image

    from hfc_probe.detection import DetectionAudit
    from hfc_probe.fourier import split

    as_it_is = DatasetMapper(is_train=False, augmentations=[], image_format="BGR")
    settings = DetectionAudit(radii=(0.2, 2), units="nyquist", bootstrap=0)
    options = {"settings": settings, "limit": 1, "quiet": True}
    result = plugin.audit(oracle, ten[0], mapper=as_it_is, **options)
    image = result.dataset.load(result.image_ids[0])  # as the core feeds it
    low, high = (255 * part[[2, 1, 0]] for part in split(image, 0.2, units="nyquist"))
    torch.testing.assert_close(oracle.shown[1], low, rtol=0, atol=255e-6)
    torch.testing.assert_close(oracle.shown[2], high, rtol=0, atol=255e-6)
    assert "LFC holds d ≤ r of the original image" in str(result)
    oracle.shown.clear()
    plugin.audit(oracle, ten[0], cfg=config, **options)
    original, low, high, beyond, _ = oracle.shown
    assert original.dtype == torch.uint8  # exactly as the mapper gives it
    assert tuple(low.shape) == tuple(original.shape)
    assert original.shape[1] < image.shape[1]
    # Beyond the corner the LFC is the original, resized alike but for Pillow's rounding.
    assert float((beyond - original).abs().max()) < 1.01
    expected = split(255 * image[[2, 1, 0]], 0.2, units="nyquist")[1]
    theirs = [Image.fromarray(p.numpy()).resize(high.shape[:0:-1], 2) for p in expected]
    expected = torch.stack([torch.from_numpy(np.array(p)) for p in theirs])
    torch.testing.assert_close(high, expected, rtol=0, atol=1e-3)


def test_a_mapper_that_does_more_than_resizing_is_refused(plugin, config, ten, oracle):
    from hfc_probe_detectron2.data import mapper_for

    from hfc_probe.detection import DetectionAudit

    read = mapper_for(oracle, config)

    def darker(entry):
        found = read(entry)
        return {**found, "image": found["image"] // 2}

    with pytest.raises(InputError, match=r"reads a file and resizes it.*at=\"input\""):
        plugin.audit(oracle, ten[0], (20,), mapper=darker, quiet=True)
    settings = DetectionAudit(radii=(20,), at="input", bootstrap=0)
    plugin.audit(oracle, ten[0], settings=settings, mapper=darker, limit=1, quiet=True)


def test_at_input_images_are_filtered_as_they_come_from_the_mapper(plugin, config, ten, oracle):
    from hfc_probe.detection import DetectionAudit
    from hfc_probe.fourier import split

    settings = DetectionAudit(radii=(20,), at="input", bootstrap=0)
    result = plugin.audit(oracle, ten[0], settings=settings, cfg=config, limit=1, quiet=True)
    assert "of the detector's resized input" in str(result)
    original, low, high = oracle.shown
    assert result.samples == 1
    assert original.dtype == torch.uint8  # exactly as the mapper gives it
    expected_low, expected_high = split(original.float(), 20)
    assert torch.equal(low, expected_low)
    assert torch.equal(high, expected_high)
    assert float(high.min()) < 0


def test_mean_background_is_the_models_pixel_mean(plugin, config, ten, oracle):
    from hfc_probe.detection import DetectionAudit
    from hfc_probe.fourier import split

    settings = DetectionAudit(radii=(20,), hfc_background="mean", at="input", bootstrap=0)
    result = plugin.audit(oracle, ten[0], settings=settings, cfg=config, limit=1, quiet=True)
    original, _, high = oracle.shown
    expected = split(original.float(), 20)[1] + torch.tensor([103.0, 116.0, 123.0]).view(-1, 1, 1)
    torch.testing.assert_close(high, expected, rtol=0, atol=1e-4)
    assert result.settings["pixel_mean"] == (103.0, 116.0, 123.0)


def test_retinanet_from_its_own_config_is_left_as_it_was(plugin, config, ten, retinanet):
    retinanet.train()
    retinanet.backbone.bottom_up.eval()
    modes = [m.training for m in retinanet.modules()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    result = plugin.audit(retinanet, ten[0], radii=(32,), cfg=config, limit=3, quiet=True)
    assert result.samples == 3
    assert result.metrics["original"][0] < 0.05  # random weights
    assert [m.training for m in retinanet.modules()] == modes
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    retinanet.eval()


def test_a_data_set_known_only_to_the_catalog(plugin, config, ten, oracle):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    entries = DatasetCatalog.get(ten[0])
    DatasetCatalog.register("hfc_no_json", lambda: entries)
    names = MetadataCatalog.get(ten[0]).thing_classes
    MetadataCatalog.get("hfc_no_json").set(thing_classes=names)
    try:
        by_catalog = plugin.audit(oracle, "hfc_no_json", radii=(16,), cfg=config, quiet=True)
    finally:
        DatasetCatalog.remove("hfc_no_json")
        MetadataCatalog.remove("hfc_no_json")
    by_json = plugin.audit(oracle, ten[0], radii=(16,), cfg=config, quiet=True)
    # Areas differ (polygons are recomputed), so compare what does not depend on size.
    assert by_catalog.metrics["original"][:3] == pytest.approx(by_json.metrics["original"][:3])


def test_a_loader_with_a_name_resumes(plugin, config, ten, oracle, tmp_path):
    from detectron2.data import build_detection_test_loader

    loader = build_detection_test_loader(config, ten[0])
    first = plugin.audit(oracle, loader, (16,), dataset_name=ten[0], resume=tmp_path, quiet=True)
    calls = len(oracle.shown)
    again = plugin.audit(oracle, loader, (16,), dataset_name=ten[0], resume=tmp_path, quiet=True)
    assert calls == 10 * 3
    assert len(oracle.shown) == calls + 2 * 3  # two finished images are compared
    assert again.to_dict() == first.to_dict()


def test_images_turned_upright_by_exif_are_counted(plugin, config, ten, oracle, tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from PIL import Image

    entries = [dict(entry) for entry in DatasetCatalog.get(ten[0])]
    for entry in entries[:2]:
        picture = Image.open(entry["file_name"])
        exif = picture.getexif()
        exif[0x0112] = 3  # half a turn, which leaves the size as annotated
        entry["file_name"] = str(tmp_path / Path(entry["file_name"]).name)
        picture.save(entry["file_name"], exif=exif)
    DatasetCatalog.register("hfc_turned", lambda: entries)
    MetadataCatalog.get("hfc_turned").set(
        thing_classes=MetadataCatalog.get(ten[0]).thing_classes,
    )
    try:
        result = plugin.audit(oracle, "hfc_turned", radii=(16,), cfg=config, quiet=True)
    finally:
        DatasetCatalog.remove("hfc_turned")
        MetadataCatalog.remove("hfc_turned")
    assert "2 images were turned upright by EXIF" in str(result)


def test_a_missing_file_stops_or_is_left_out_by_name(plugin, config, ten, oracle):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    entries = [dict(entry) for entry in DatasetCatalog.get(ten[0])]
    entries[3]["file_name"] += ".gone"
    DatasetCatalog.register("hfc_gone", lambda: entries)
    MetadataCatalog.get("hfc_gone").set(
        json_file=str(ten[1]),
        thing_classes=MetadataCatalog.get(ten[0]).thing_classes,
        thing_dataset_id_to_contiguous_id=MetadataCatalog.get(
            ten[0]
        ).thing_dataset_id_to_contiguous_id,
    )
    try:
        with pytest.raises(OSError, match="gone"):
            plugin.audit(oracle, "hfc_gone", cfg=config, quiet=True)
        result = plugin.audit(oracle, "hfc_gone", cfg=config, skip_broken=True, quiet=True)
    finally:
        DatasetCatalog.remove("hfc_gone")
        MetadataCatalog.remove("hfc_gone")
    assert result.samples == 9
    assert list(result.skipped) == [entries[3]["image_id"]]
    assert "gone" in result.sentence()


def test_what_cannot_work_is_one_sentence(plugin, config, ten, oracle):
    with pytest.raises(InputError, match="registered with detectron2, got 'coco_2027_val'"):
        plugin.audit(oracle, "coco_2027_val")
    with pytest.raises(InputError, match="a loader with dataset_name="):
        plugin.audit(oracle, [1, 2])
    wrong = Oracle(oracle.entries.values(), lambda label: 500)
    with pytest.raises(InputError, match=r"classes from 0 to 79, .* got 500"):
        plugin.audit(wrong, ten[0], cfg=config, limit=2, quiet=True)


def test_lazy_config_and_a_json_of_the_users_own_on_the_command_line(
    detectron2, ten, tmp_path, coco_images
):
    from detectron2.config import LazyConfig, instantiate
    from hfc_probe_detectron2.command import audit

    from hfc_probe.detection import DetectionAudit

    file = Path(detectron2.__file__).parents[1] / "configs/COCO-Detection/retinanet_R_50_FPN_1x.py"
    if not file.is_file():
        pytest.skip("this detectron2 comes without its configs")
    lazy = LazyConfig.load(str(file))
    torch.manual_seed(0)
    torch.save({"model": instantiate(lazy.model).state_dict()}, tmp_path / "weights.pth")
    result = audit(
        DetectionAudit(radii=(64,), bootstrap=0),
        config=str(file),
        weights=str(tmp_path / "weights.pth"),
        dataset="hfc_mine",
        images=str(coco_images),
        annotations=str(ten[1]),
        opts=(
            "dataloader.test.mapper.augmentations.0.short_edge_length=96",
            "model.test_score_thresh=0.0",
        ),
        device=torch.device("cpu"),
        limit=2,
        batch_size=1,
        resume=tmp_path / "finished",
        skip_broken=False,
        progress=False,
    )
    assert result.samples == 2
    assert sum(len(d.scores) for d in result.predictions["original"].values()) > 0


@pytest.fixture
def coco_images():
    from tests.conftest import DATA

    return DATA / "coco" / "val2017"


def train(config, out, processes=1):
    """Run DefaultTrainer with the hook in a process of its own; returns what it printed."""
    script = ROOT / "tests" / "hfc_probe_detectron2" / "train_with_hook.py"
    file = out / "config.yaml"
    config = config.clone()
    config.OUTPUT_DIR = str(out)
    file.write_text(config.dump())
    command = [sys.executable, str(script), str(file), str(processes)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return [json.loads(line[7:]) for line in run.stdout.splitlines() if line.startswith("REPORT ")]


def test_the_hook_in_default_trainer_and_two_processes_give_the_numbers_of_one(
    config, ten, tmp_path, monkeypatch
):
    import detectron2
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    places = [str(ROOT), str(ROOT / "plugins"), str(Path(detectron2.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", ":".join(places))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HFC_PROBE_TEN", str(ten[1]))
    reports = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        reports += train(config, out, processes)
        events = EventAccumulator(str(out), size_guidance={"images": 0}).Reload()
        steps = [event.step for event in events.Scalars("hfc_detection/AP/lfc_r32")]
        assert steps == [2]  # the last of three iterations, when the writer writes
        assert "hfc_backbone.bottom_up.stem.conv1/smoothness_mean" in events.Tags()["scalars"]
        assert "hfc_cost/seconds/detection_audit" in events.Tags()["scalars"]
        images = events.Tags()["images"]
        assert "hfc_backbone.bottom_up.stem.conv1/kernels" in images
        assert "hfc_detection/by_image" in images
    assert len(reports) == 1 + 2
    for report in reports:
        assert report["modes_kept"]
        assert report["rng_kept"]
        assert report["samples"] == 10
        assert report["scalars"] == reports[0]["scalars"]
        assert report["detections"] == reports[0]["detections"]
    original, low, _ = reports[0]["detections"].values()
    assert original[0][1] > 0
    assert original != low


@pytest.mark.parametrize("name", ["detectron2_retinanet_audit", "detectron2_train_with_hook"])
def test_the_examples(config, ten, coco_images, retinanet, tmp_path, monkeypatch, name):
    import detectron2

    places = [str(ROOT), str(ROOT / "plugins"), str(Path(detectron2.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", ":".join(places))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "config.yaml").write_text(config.dump())
    torch.save({"model": retinanet.state_dict()}, tmp_path / "weights.pth")
    out = tmp_path / "out"
    command = [
        *(sys.executable, ROOT / "examples" / f"{name}.py"),
        *("--config-file", tmp_path / "config.yaml", "--num-gpus", 1),
        *("--images", coco_images, "--annotations", ten[1], "--limit", 2),
        *("MODEL.WEIGHTS", tmp_path / "weights.pth", "OUTPUT_DIR", out, "SOLVER.MAX_ITER", 1),
    ]
    command = [str(part) for part in command]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-4000:]
    if "audit" in name:
        assert "Detection audit, 2 images" in run.stdout
        assert (out / "detection_audit.png").is_file()
    else:
        lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
        assert "hfc_detection/AP/lfc_r128" in lines[-1]

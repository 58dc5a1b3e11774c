"""``hfc-probe detect`` as a user runs it: in one process, interrupted, under torchrun."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hfc_probe.cli.main import main
from hfc_probe.detection import DetectionAuditResult

from ..conftest import cli_runner, needs_coco
from .known_answer import PlantedShapes
from .real_detector import FILE

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = '''
import torch
from torch import nn


class Spots(nn.Module):
    """One box around what is brighter than the image; without training."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.15))

    def forward(self, images):
        return [self.one(image.mean(0)) for image in images]

    def one(self, grey):
        y, x = torch.nonzero(grey > grey.median() + self.level, as_tuple=True)
        if not len(x):
            return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
        x, y = x.float(), y.float()
        box = torch.stack([x.min(), y.min(), x.max(), y.max()])
        grow = 0.55 * (box[2:] - box[:2])
        box = torch.cat([box[:2] - grow, box[2:] + grow])
        return {"boxes": box[None], "scores": grey.max()[None], "labels": torch.tensor([3])}
'''


@pytest.fixture
def planted(tmp_path):
    """Images, annotations and a detector in files, and the options that name them."""
    data = PlantedShapes(9, seed=5)
    (tmp_path / "images").mkdir()
    for image_id, picture in data.pictures.items():
        pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.png")
    (tmp_path / "annotations.json").write_text(json.dumps(data.content))
    (tmp_path / "spots.py").write_text(DETECTOR)
    options = [
        *("--model", f"{tmp_path / 'spots.py'}:Spots", "--images", str(tmp_path / "images")),
        *("--annotations", str(tmp_path / "annotations.json"), "--radii", "6,12"),
        *("--device", "cpu", "--bootstrap", "100"),
    ]
    return tmp_path, options


def detect(*arguments):
    return CliRunner().invoke(main, ["detect", *map(str, arguments)])


def said(run):
    """The output without the progress bar."""
    return run.output[run.output.index("Detection audit") :]


@needs_coco
def test_cautions_are_in_the_json_and_said_when_all_else_is_quiet(planted):
    path, options = planted
    text = (path / "spots.py").read_text().replace("torch.tensor(0.15)", "torch.tensor(9.0)")
    (path / "spots.py").write_text(text)  # nothing is that bright
    options = map(str, [*options, "--bootstrap", "0", "--out", path / "out", "--json", "--quiet"])
    run = cli_runner().invoke(main, ["detect", *options])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)["cautions"]
    assert any("nothing was detected" in one for one in found)
    assert all(f"Caution: {one}" in run.stderr for one in found)


@needs_coco
def test_files_and_words(planted):
    path, options = planted
    run = detect(*options, "--out", path / "out")
    assert run.exit_code == 0, run.output
    assert "original" in run.output
    assert "LFC, r = 12" in run.output
    assert "HFC, r = 6 (zero background)" in run.output
    assert f"tensorboard --logdir {path / 'out'}" in run.output
    names = {file.name for file in (path / "out").iterdir()}
    assert {"detection_audit.json", "detection_audit.png", "by_image.png"} <= names
    content = json.loads((path / "out" / "detection_audit.json").read_text())
    assert content["scalars"]["hfc_detection/AP50/original"] > 0
    rows = list(csv.DictReader((path / "out" / "images.csv").open()))
    assert [int(row["image_id"]) for row in rows] == [1000 + 7 * k for k in range(9)]
    classes = list(csv.DictReader((path / "out" / "classes.csv").open()))
    assert [row["category"] for row in classes] == ["blob", "checker"]
    assert float(classes[0]["AP_original"]) > 0
    objects = list(csv.DictReader((path / "out" / "objects.csv").open()))
    found = sum(row["score_original"] != "" for row in objects)
    assert 0 < found < len(objects)
    results = json.loads((path / "out" / "results_lfc_r06.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}


@pytest.mark.slow
@needs_coco
def test_the_same_command_again_says_the_same_and_changed_code_is_refused(planted):
    path, options = planted
    first = detect(*options, "--out", path / "out")
    again = detect(*options, "--out", path / "out")
    assert again.exit_code == 0, again.output
    assert said(again) == said(first)
    (path / "spots.py").write_text(DETECTOR.replace("0.55", "0.65"))
    changed = detect(*options, "--out", path / "out")
    assert changed.exit_code == 2
    assert re.search("got code '[0-9a-f]+' instead of '[0-9a-f]+'; choose another", changed.output)
    (path / "spots.py").write_text(DETECTOR)
    other = detect(*options, "--units", "nyquist", "--radii", "0.5", "--out", path / "out")
    assert other.exit_code == 2
    assert "choose another directory" in other.output


LAZY = """
import spots

MODEL = None


class Lazy:
    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        global MODEL
        MODEL = MODEL or spots.Spots()
        self.calls += 1
        return MODEL(images)
"""


@pytest.mark.slow
@needs_coco
def test_the_same_command_again_with_a_detector_that_loads_at_the_first_image(planted):
    path, options = planted
    (path / "lazy.py").write_text(LAZY)
    options = [*options, "--model", f"{path / 'lazy.py'}:Lazy", "--out", path / "out"]
    first, again = detect(*options), detect(*options)
    assert again.exit_code == 0, again.output
    assert said(again) == said(first)


@pytest.mark.slow
@needs_coco
def test_two_processes_give_the_numbers_of_one(planted):
    path, options = planted
    assert detect(*options, "--out", path / "one").exit_code == 0
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "hfc_probe", "detect", *options, "--out", str(path / "two")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = sorted((path / "two" / "finished").iterdir())
    assert [len(p.read_text().splitlines()) - 1 for p in parts] == [5, 4]
    one, two = (path / name / "detection_audit.json" for name in ("one", "two"))
    assert json.loads(one.read_text()) == json.loads(two.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "torchvision:retinanet"], "did you mean retinanet_resnet50_fpn"),
        (["--model", "torchvision:ssd300_vgg16"], "--weights: expected a checkpoint file"),
        (["--radii", "12,four"], "--radii: expected numbers"),
        (["--radii", "12,6"], "radii: expected increasing"),
        (["--annotations", "absent.json"], "absent.json (no such file)"),
        (["--images", "absent"], "images: expected a folder of images, got absent"),
        (["--detectron2-config", "x.yaml"], "either --model or --detectron2-config"),
        (["--dataset", "coco_2017_val"], "belong to --detectron2-config"),
        (["--hfc-background", "mean"], "pass pixel_mean"),
        (["--model", "torchvision:resnet18"], "it is a classifier, which hfc-probe audit measures"),
        (
            ["--model", "onnx:x.onnx,decode=mine.py"],
            "expected onnx:FILE,decode=path/to/file.py:function (and ,prepare=… if the input is",
        ),
        (
            ["--model", "mine"],
            "torchvision:NAME, hf:NAME_OR_DIR, ultralytics:FILE_OR_NAME, onnx:",
        ),
        (["--classes", "5"], "--classes: expected with a torchvision detector and a checkpoint"),
        (["--at", "input"], "hfc_probe_detectron2 can filter a model's input"),
        (["--radii", "0.5"], "multiply by half the image's side"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(planted, change, message):
    path, options = planted
    run = detect(*options, *change, "--out", path / "out")
    assert run.exit_code == 2
    assert message in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not (path / "out").exists()


CLASSIFIERS = """
import torch
from torch import nn


def classifier():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def logits():
    return lambda images: torch.zeros(len(images), 10)
"""


@needs_coco
@pytest.mark.parametrize("name", ["classifier", "logits"])
def test_a_classifier_is_sent_to_audit(planted, name):
    path, options = planted
    (path / "classifiers.py").write_text(CLASSIFIERS)
    run = detect(*options, "--model", f"{path / 'classifiers.py'}:{name}", "--out", path / "out")
    assert run.exit_code == 2, run.output
    assert "a classifier is measured by hfc-probe audit" in run.output
    assert len(run.output.strip().splitlines()) == 1


@needs_coco
def test_an_untrained_detector_is_said(planted):
    path, options = planted
    (path / "spots.py").write_text(
        DETECTOR.replace("super().__init__()", "super().__init__(); self.c = nn.Linear(2, 2)")
    )
    run = detect(*options, "--out", path / "out")
    assert run.exit_code == 0, run.output
    assert "Caution: no --weights, and Spots draws c.weight, c.bias at random" in run.output


@needs_coco
def test_broken_images(planted):
    path, options = planted
    (path / "images" / "1007.png").write_bytes(b"no picture")
    run = detect(*options, "--out", path / "out")
    assert run.exit_code == 2
    assert "1007.png" in run.output
    assert "finished" in {file.name for file in (path / "out").iterdir()}
    run = detect(*options, "--skip-broken", "--limit", "9", "--out", path / "out")
    assert run.exit_code == 0
    assert "1 images were left out" in run.output


@pytest.fixture
def ssd(tmp_path):
    """A checkpoint of torchvision's smallest detector, for five classes instead of 91."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=5
    )
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.slow
@needs_coco
def test_a_torchvision_checkpoint_of_other_classes_on_real_images(coco, ssd, tmp_path):
    run = detect(
        *("--model", "torchvision:ssdlite320_mobilenet_v3_large", "--weights", ssd),
        *("--images", coco / "val2017", "--annotations", coco / "instances_val2017.json"),
        *("--limit", 3, "--hfc-background", "mean", "--device", "cpu", "--out", tmp_path / "out"),
    )
    assert run.exit_code == 0, run.output
    content = json.loads((tmp_path / "out" / "detection_audit.json").read_text())
    assert content["settings"]["radii"] == [128]
    assert content["settings"]["pixel_mean"] == [0.5, 0.5, 0.5]  # SSDlite's own
    assert content["scalars"]["hfc_detection/AP/original"] < 0.05  # random weights
    results = json.loads((tmp_path / "out" / "results_original.json").read_text())
    assert {r["category_id"] for r in results} <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    "name", ["retinanet_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_the_number_of_classes_is_read_from_the_checkpoint(tmp_path, name):
    from torchvision.models import get_model

    from hfc_probe.cli.detectors import load_detector

    torch.manual_seed(0)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = load_detector(f"torchvision:{name}", str(tmp_path / "weights.pth"))
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_the_plugin_is_found_by_its_entry_point_and_not_imported(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is needed to read the entry points")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    code = (
        "import sys, hfc_probe.cli;"
        "from hfc_probe.cli.detect import GROUP;"
        "from importlib.metadata import entry_points;"
        "found = [e for e in entry_points(group=GROUP) if e.name == 'detectron2'];"
        "print(found[0].value, 'hfc_probe_detectron2' in sys.modules)"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["hfc_probe_detectron2.command:audit", "False"]


@pytest.mark.slow
@needs_coco
def test_the_example_of_a_detector_of_your_own(coco, tmp_path):
    from tests.conftest import load_example

    example = load_example("audit_your_detector")
    example.main(
        str(coco / "val2017"),
        str(coco / "instances_val2017.json"),
        str(tmp_path / "out"),
        limit=2,
    )
    content = json.loads((tmp_path / "out" / "detection_audit.json").read_text())
    assert content["samples"] == 2
    assert "hfc_detection/AP/lfc_r32" in content["scalars"]


@pytest.mark.slow
@needs_coco
def test_rescaling_is_written_everywhere_and_is_another_audit(planted):
    folder, options = planted
    run = detect(*options, "--rescale", "max", "--out", folder / "out")
    assert run.exit_code == 0, run.output
    assert (
        "LFC holds d ≤ r of the original image, every image divided by its maximum, at most"
        in run.output
    )
    assert "HFC, r = 12 (zero background, rescaled)" in run.output
    saved = json.loads((folder / "out" / "detection_audit.json").read_text())
    assert saved["settings"]["rescale"] == "max"
    # Finished images of the rescaled audit are not those of one without.
    other = detect(*options, "--out", folder / "out")
    assert other.exit_code == 2
    assert "rescale" in other.output


DECODE = """
import sys
sys.path.insert(0, {root!r})
from tests.detection import real_detector
from tests.detection.real_detector import prepare

IDS = {ids}


def decode(outputs, height, width):
    return real_detector.decode(outputs[0][0], height, width, IDS)
"""


def detect_coco(coco, tmp_path, model, *more):
    options = ["--images", str(coco / "val2017")]
    options += ["--annotations", str(coco / "instances_val2017.json"), "--out", str(tmp_path / "o")]
    return CliRunner().invoke(main, ["detect", "--model", model, *options, *more])


@pytest.mark.slow
def test_an_onnx_file_is_the_detector_it_holds(real, coco, tmp_path):
    data, found = real
    (tmp_path / "mine.py").write_text(
        DECODE.format(root=str(ROOT), ids=sorted(data.truth.categories))
    )
    mine = tmp_path / "mine.py"
    model = f"onnx:{FILE},decode={mine}:decode,prepare={mine}:prepare"
    ran = detect_coco(coco, tmp_path, model, "--limit", "3", "--bootstrap", "0")
    assert ran.exit_code == 0, ran.output
    written = json.loads((tmp_path / "o" / "results_original.json").read_text())
    images = {row["image_id"] for row in written}
    assert len(images) == 3
    assert len(written) == sum(len(found[i].scores) for i in images)
    ran = detect_coco(coco, tmp_path, f"onnx:{FILE}")
    assert ran.exit_code != 0
    assert "expected onnx:FILE,decode=path/to/file.py:function" in ran.output


@needs_coco
def test_a_folder_of_transformers_is_the_detector_it_holds(coco, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    names = dict(enumerate(["person", "cat", "N/A"]))
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=[96, 128], num_detection_tokens=8, num_labels=3, id2label=names,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path / "yolos")
    size = {"shortest_edge": 96, "longest_edge": 128}
    transformers.YolosImageProcessor(size=size).save_pretrained(tmp_path / "yolos")
    options = ("--limit", "2", "--bootstrap", "0", "--ignore-unknown")
    ran = detect_coco(coco, tmp_path, f"hf:{tmp_path / 'yolos'}", *options)
    if "use_fast" in ran.output:
        pytest.skip("this version of transformers has no processor that keeps signed floats")
    assert ran.exit_code == 0, ran.output
    written = json.loads((tmp_path / "o" / "results_original.json").read_text())
    assert len(written) == 2 * 8
    assert {row["category_id"] for row in written} <= {-1, 1, 17}
    ran = detect_coco(coco, tmp_path, f"hf:{tmp_path / 'absent'}")
    assert "to be an object detector of transformers" in ran.output
    ran = detect_coco(coco, tmp_path, f"hf:{tmp_path / 'yolos'}", "--weights", "x.pth")
    assert "expected none with hf:…, which brings its own, got x.pth" in ran.output


@needs_coco
def test_the_heatmap_of_a_detector_is_written_beside_its_audit(planted):
    path, options = planted
    run = detect(*options, "--heatmap", 3, "--limit", 3, "--out", path / "out")
    assert run.exit_code == 0, run.output
    assert "Detection heatmap 3×3, AP lost to Fourier noise of RMS 0.07" in run.output
    names = {file.name for file in (path / "out").iterdir()}
    assert {"detection_heatmap.json", "detection_heatmap.png"} <= names
    content = json.loads((path / "out" / "detection_heatmap.json").read_text())
    assert content["samples"] == 3
    log = EventAccumulator(str(path / "out"), {"tensors": 0, "images": 0}).Reload().Tags()
    assert "detection_heatmap/AP/lost" in log["tensors"]
    assert "hfc_detection_heatmap/AP" in log["images"]
    idle = detect(*options, "--forwards", 100, "--out", path / "out")
    assert idle.exit_code == 2
    assert "--forwards: expected with --heatmap only" in idle.output


STOPPED = """

def stop_if(grey):
    import pathlib
    if grey.std() > 0.1 and pathlib.Path(__file__).with_name("stop").exists():
        raise KeyboardInterrupt
"""


@needs_coco
@pytest.mark.slow  # 6 s: two audits and a half, with their figures
def test_an_interrupted_audit_goes_on_by_its_config(planted):
    path, options = planted
    code = DETECTOR.replace("        y, x =", "        stop_if(grey)\n        y, x =") + STOPPED
    (path / "spots.py").write_text(code)
    expected = detect(*options, "--out", path / "whole")
    (path / "stop").touch()
    assert detect(*options, "--out", path / "out").exit_code != 0
    assert not (path / "out" / "detection_audit.json").exists()
    (path / "stop").unlink()
    again = detect("--config", path / "out" / "detect.yaml")
    assert again.exit_code == 0, again.output
    assert said(again).replace("/out", "/whole") == said(expected)


@needs_coco
def test_an_audit_is_kept_if_the_heatmap_after_it_fails(planted, monkeypatch):
    path, options = planted
    kept = []
    monkeypatch.setattr(
        DetectionAuditResult, "save_all", lambda result, out: kept.append((result.samples, out))
    )
    run = detect(*options, "--heatmap", 200, "--limit", 2, "--out", path / "out")
    assert run.exit_code == 2
    assert "crop: expected at most the sides of every image, got 200" in run.output
    assert kept == [(2, path / "out")]

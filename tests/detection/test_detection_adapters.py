"""Detectors of other libraries: the same boxes as by the library's own inference."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from hfc_probe import InputError
from hfc_probe.cli.detectors import load_detector
from hfc_probe.detection import CocoImages, DetectionAudit, detections_from, to_results
from hfc_probe.detection.detectors import (
    from_mmdet,
    from_onnx,
    from_transformers,
    from_ultralytics,
)
from hfc_probe.detection.identity import detector_identity
from hfc_probe.detection.signed import sign_doubt

from ..conftest import needs_coco
from .real_detector import FILE, FastestDet, decode, needs_detector, prepare
from .test_detection_evaluation import cocoeval, or_nan

ROOT = Path(__file__).resolve().parents[2]


def test_onnx_boxes_are_those_of_a_session_by_hand(real, tmp_path):
    data, found = real
    ids = sorted(data.truth.categories)

    def decoded(outputs, height, width):
        return decode(outputs[0][0], height, width, ids)

    detector = from_onnx(FILE, decoded, prepare=prepare)
    for image_id in sorted(data.truth.images)[:10]:
        (ours,) = detections_from(detector([data.load(image_id)]), 1)
        for one, other in zip(ours, found[image_id], strict=True):
            np.testing.assert_array_equal(one, other)
    image = data.load(sorted(data.truth.images)[0])
    plain = from_onnx(FILE, decoded)([image])[0]  # RGB in place of BGR, and resized by itself
    bgr = detector([image[[2, 1, 0]]])[0]
    torch.testing.assert_close(plain["scores"], bgr["scores"])
    assert detector_identity(detector) == detector_identity(
        from_onnx(FILE, decoded, prepare=prepare)
    )
    assert detector_identity(detector) != detector_identity(from_onnx(FILE, decoded))
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(FILE.read_bytes())
    assert detector_identity(detector) == detector_identity(
        from_onnx(moved, decoded, prepare=prepare)
    )
    detector.digest = "of other content"
    assert detector_identity(detector) != detector_identity(
        from_onnx(moved, decoded, prepare=prepare)
    )
    moved.write_bytes(b"junk")
    with pytest.raises(
        InputError,
        match=r"file that onnxruntime can load, got .*moved.onnx \(.*\); export it again",
    ):
        from_onnx(moved, decoded)
    with pytest.raises(InputError, match=r"expected an ONNX file, got absent\.onnx, which cannot"):
        from_onnx("absent.onnx", decoded)


@pytest.fixture(scope="module")
def yolos():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=[96, 128], num_detection_tokens=8, num_labels=3,
        id2label={0: "person", 1: "cat", 2: "N/A"},
    )  # fmt: skip
    model = transformers.YolosForObjectDetection(config).eval()
    size = {"shortest_edge": 96, "longest_edge": 128}
    processor = transformers.YolosImageProcessor(size=size)
    try:
        from_transformers(model, processor, {1: "person", 2: "cat"})
    except InputError as error:
        if "use_fast" in str(error):  # older versions have no such processor for this model
            pytest.skip(str(error))
    return model, processor


@needs_coco
def test_transformers_boxes_are_those_of_its_own_inference(yolos, coco):
    model, processor = yolos
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")
    detector = from_transformers(model, processor, data.truth.categories)
    ids = {name: k for k, name in data.truth.categories.items()}
    for image_id in sorted(data.truth.images)[:10]:
        image = data.load(image_id)
        path = coco / "val2017" / data.truth.images[image_id]["file_name"]
        inputs = processor(images=[Image.open(path).convert("RGB")], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
            (ours,) = detector([image])
        (theirs,) = processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[image.shape[-2:]]
        )
        assert len(ours["scores"]) > 0
        # Theirs rounds the resized picture to 8 bits.
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=2e-3)
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1.0)
        named = [ids.get(model.config.id2label[k], -1) for k in theirs["labels"].tolist()]
        assert np.mean(np.array(named) == ours["labels"].numpy()) > 0.9
    assert sign_doubt(detector, image) is None
    audit = DetectionAudit(radii=(64,), bootstrap=0, ignore_unknown=True)
    assert audit.measure(detector, data, limit=1).samples == 1


def test_other_names_and_no_processor_are_refused(yolos):
    model, processor = yolos
    with pytest.raises(InputError, match="names of the categories, got cat; rename them in"):
        from_transformers(model, processor, {1: "person"})
    with pytest.raises(InputError, match="image processor for object detection, got Identity"):
        from_transformers(model, torch.nn.Identity())


@pytest.fixture(scope="module")
def retinanet():
    """A RetinaNet of MMDetection with random weights that finds boxes."""
    mmdet = pytest.importorskip("mmdet", reason="mmdet is not installed")
    apis = pytest.importorskip("mmdet.apis", reason="mmcv with its compiled ops is not installed")
    from mmengine import Config

    torch.manual_seed(0)
    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    config = Config.fromfile(configs / "retinanet" / "retinanet_r18_fpn_1x_coco.py")
    config.model.backbone.init_cfg = None
    config.test_dataloader.dataset.pipeline[1].scale = (333, 200)
    model = apis.init_detector(config, None, device="cpu")
    with torch.no_grad():
        model.bbox_head.retina_cls.weight.normal_(0, 0.3)
        model.bbox_head.retina_reg.weight.normal_(0, 0.02)
        model.bbox_head.retina_cls.bias.fill_(-2)
    return model


@needs_coco
def test_mmdetection_boxes_are_those_of_its_own_inference(retinanet, coco):
    from mmcv.transforms import Compose
    from mmdet.apis import inference_detector
    from mmdet.utils import get_test_pipeline_cfg

    reading = Compose(deepcopy(get_test_pipeline_cfg(retinanet.cfg)))
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")
    detector, ids = from_mmdet(retinanet, data.truth.categories), sorted(data.truth.categories)
    count, apart = 0, []
    for image_id in sorted(data.truth.images)[:10]:
        image = data.load(image_id)
        with torch.no_grad():
            (ours,) = detector([image])
        pixels = (255 * image).permute(1, 2, 0).numpy()[..., ::-1].copy()
        exact = inference_detector(retinanet, pixels).pred_instances
        torch.testing.assert_close(ours["boxes"], exact.bboxes, rtol=0, atol=0)
        torch.testing.assert_close(ours["scores"], exact.scores, rtol=0, atol=0)
        assert ours["labels"].tolist() == [ids[k] for k in exact.labels.tolist()]
        count += len(exact.scores)
        # From the file the library makes the same input, but rounded to 8 bits twice.
        file = coco / "val2017" / data.truth.images[image_id]["file_name"]
        theirs = reading({"img_path": str(file), "img_id": 0})["inputs"]
        fed = detector.pipeline({"img": pixels, "img_id": 0})["inputs"]
        assert fed.shape == theirs.shape
        apart.append(float((fed - theirs).abs().mean()))
    assert count > 100
    assert max(apart) < 0.6  # of 255
    assert sign_doubt(detector, data.load(image_id)) is None
    mean = detector.pixel_mean
    torch.testing.assert_close(mean, torch.tensor([123.675, 116.28, 103.53]) / 255)


def test_what_is_no_detector_of_mmdetection_is_refused(retinanet):
    with pytest.raises(InputError, match="with its configuration, got Identity; use mmdet"):
        from_mmdet(torch.nn.Identity())
    with pytest.raises(InputError, match="names of the categories, got"):
        from_mmdet(retinanet, {1: "person"})


@pytest.fixture(scope="module")
def yolo(coco, tmp_path_factory):
    """A YOLO with random weights that finds boxes: normalised on real images, its head raised."""
    ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolo11n.yaml", task="detect")
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")
    names = list(data.truth.categories.values())
    model.model.names = dict(enumerate(names))
    detector = from_ultralytics(model, imgsz=320)
    batch = [detector._letterboxed(data.load(i)) for i in sorted(data.truth.images)[:16]]
    for part in model.model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.5
    with torch.no_grad():
        model.model.train()
        for image in 3 * [b for b in batch if b.shape == batch[0].shape]:
            model.model(image)
        scores = model.model.eval()(batch[0])[0][:, 4:]
        spread = scores.logit().std()
        for head in model.model.model[-1].cv3:
            head[-1].weight *= 1.5 / spread
            head[-1].bias.fill_(-1)
    file = tmp_path_factory.mktemp("yolo") / "random.pt"
    model.model.eval()
    model.save(file)
    return file, data


def test_a_yolo_is_not_changed_and_its_input_is_rounded_up_as_by_the_library():
    ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    model = ultralytics.YOLO("yolo11n.yaml", task="detect")
    network = model.model.train()
    before = [p.requires_grad for p in network.parameters()]
    detector = from_ultralytics(model, imgsz=100)
    assert [p.requires_grad for p in network.parameters()] == before
    assert network.training
    assert detector._letterboxed(torch.rand(3, 90, 60)).shape == (1, 3, 128, 96)
    with pytest.raises(InputError, match="imgsz: expected a whole number of at least 1"):
        from_ultralytics(model, imgsz=[64, 96])


@needs_coco
def test_ultralytics_boxes_are_those_of_its_own_inference(yolo, coco):
    from ultralytics import YOLO

    file, data = yolo
    mine = YOLO(file)
    mine.fuse()  # as its own inference does
    detector = from_ultralytics(mine, data.truth.categories, imgsz=320)
    options = {"imgsz": 320, "conf": 0.001, "iou": 0.7, "max_det": 300, "verbose": False}
    ids = {name: k for k, name in data.truth.categories.items()}
    theirs, count = YOLO(file), 0
    for image_id in sorted(data.truth.images)[:10]:
        image = data.load(image_id)
        with torch.no_grad():
            (ours,) = detector([image])
        # A tensor goes to the network as it is: no 8 bits, the very same pixels.
        fed = detector._letterboxed(image)
        (exact,) = theirs.predict(fed, **options)
        assert len(exact.boxes) == len(ours["scores"])
        torch.testing.assert_close(ours["scores"], exact.boxes.conf, rtol=0, atol=1e-4)
        names = [theirs.names[int(k)] for k in exact.boxes.cls]
        assert [ids[name] for name in names] == ours["labels"].tolist()
        # Its own reading of the file rounds the resized picture to 8 bits.
        path = coco / "val2017" / data.truth.images[image_id]["file_name"]
        (read,) = theirs.predict(path, **options)
        best = read.boxes.conf.argsort(descending=True)[:20]
        near = (ours["boxes"][:, None] - read.boxes.xyxy[best]).abs().amax(-1) < 3
        near &= (ours["scores"][:, None] - read.boxes.conf[best]).abs() < 0.02
        assert near.any(0).float().mean() >= 0.9
        count += int((ours["scores"] > 0.25).sum())
    assert count > 50  # boxes that the library itself would draw
    assert sign_doubt(detector, image) is None
    audit = DetectionAudit(radii=(32,), bootstrap=0)
    assert audit.measure(detector, data, limit=1).samples == 1


@needs_coco
@pytest.mark.slow
def test_boxes_of_several_classes_are_those_of_ultralytics_own_validator(yolo, coco, tmp_path):
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionValidator

    file, data = yolo
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    chosen = sorted(data.truth.images)[:10]
    for image_id in chosen:
        name = data.truth.images[image_id]["file_name"]
        (tmp_path / "images" / name).symlink_to(coco / "val2017" / name)
        (tmp_path / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
    mine = YOLO(file)
    names = json.dumps(mine.names)
    (tmp_path / "data.yaml").write_text(
        f"path: {tmp_path}\ntrain: images\nval: images\nnames: {names}\n"
    )
    kept = {}

    class Keeping(DetectionValidator):
        def update_metrics(self, preds, batch):
            one = self._prepare_batch(0, batch)
            kept[int(Path(one["im_file"]).stem)] = (batch["img"], preds[0])
            super().update_metrics(preds, batch)

    YOLO(file).val(
        Keeping, data=tmp_path / "data.yaml", imgsz=320, batch=1, workers=0, plots=False,
        verbose=False, project=str(tmp_path / "runs"),
    )  # fmt: skip
    mine.fuse()
    detector = from_ultralytics(mine, imgsz=320, multi_label=True)
    several = 0
    for image_id in chosen:
        # Validation pads otherwise than prediction: its own input, in whose pixels both answer.
        fed, theirs = kept[image_id]
        detector._letterboxed = lambda image, fed=fed: fed
        with torch.no_grad():
            (ours,) = detector([fed[0]])
        height, width = fed.shape[2:]
        inside = theirs["bboxes"].clamp(min=0).minimum(torch.tensor([width, height] * 2))
        assert len(ours["scores"]) == len(theirs["conf"])
        torch.testing.assert_close(ours["scores"], theirs["conf"], rtol=0, atol=1e-4)
        same = (ours["boxes"][:, None] - inside).abs().amax(-1) < 0.01
        same &= ours["labels"][:, None] == theirs["cls"]
        same &= (ours["scores"][:, None] - theirs["conf"]).abs() < 1e-4
        # In another order, and another of two kept, where scores are nearly equal.
        assert same.any(0).float().mean() > 0.98
        assert same.any(1).float().mean() > 0.98
        several += len(ours["boxes"]) - len(ours["boxes"].unique(dim=0))
    assert several > 10  # boxes that have another class, too


@needs_coco
def test_ultralytics_in_the_command_and_what_is_no_yolo(yolo, coco, tmp_path):
    from hfc_probe.cli.main import main

    file, _ = yolo
    options = ["--images", coco / "val2017", "--annotations", coco / "instances_val2017.json"]
    options += ["--limit", 1, "--bootstrap", 0, "--device", "cpu", "--out", tmp_path / "out"]
    run = CliRunner().invoke(main, ["detect", "--model", f"ultralytics:{file}", *map(str, options)])
    assert run.exit_code == 0, run.output
    absent = ["detect", "--model", f"ultralytics:{tmp_path / 'absent.yaml'}", *map(str, options)]
    assert (
        "to be a checkpoint of ultralytics, a file or a name"
        in CliRunner().invoke(main, absent).output
    )
    with pytest.raises(InputError, match=r"expected a YOLO of ultralytics .* got NoneType"):
        from_ultralytics(torch.nn.Identity())


def found_by_onnx(coco, data, folder, request):
    """FastestDet, really trained."""
    needs_detector()
    file = folder / "mine.py"
    file.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.detection import real_detector\n"
        f"prepare, ids = real_detector.prepare, {sorted(data.truth.categories)}\n"
        "def decode(outputs, height, width):\n"
        "    return real_detector.decode(outputs[0][0], height, width, ids)\n"
    )
    own = FastestDet(data.truth)
    spec = f"onnx:{FILE},decode={file}:decode,prepare={file}:prepare"
    return spec, None, lambda image: own([image])[0]


def found_by_torchvision(coco, data, folder, request):
    from torchvision.models import get_model

    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    model = get_model(name, weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        for part in model.head.classification_head.parameters():
            part *= 8  # scores that differ
    torch.save(model.state_dict(), folder / "random.pth")
    return f"torchvision:{name}", str(folder / "random.pth"), lambda image: model([image])[0]


def found_by_transformers(coco, data, folder, request):
    model, processor = request.getfixturevalue("yolos")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    ids = {name: k for k, name in data.truth.categories.items()}

    def own(image):
        inputs = processor(images=[image], do_rescale=False, return_tensors="pt")
        size = [tuple(image.shape[-2:])]
        (found,) = processor.post_process_object_detection(model(**inputs), 0.0, size)
        names = [model.config.id2label[k] for k in found["labels"].tolist()]
        return found | {"labels": torch.tensor([ids.get(name, -1) for name in names])}

    return f"hf:{folder}", None, own


def found_by_ultralytics(coco, data, folder, request):
    from ultralytics import YOLO
    from ultralytics.utils.ops import scale_boxes

    file, _ = request.getfixturevalue("yolo")
    model = YOLO(file)
    letterboxed = from_ultralytics(YOLO(file))._letterboxed
    ids = {name: k for k, name in data.truth.categories.items()}

    def own(image):
        fed = letterboxed(image)
        (found,) = model.predict(fed, conf=0.001, iou=0.7, max_det=300, verbose=False)
        boxes = scale_boxes(fed.shape[2:], found.boxes.xyxy.clone(), image.shape[1:])
        names = [model.names[int(k)] for k in found.boxes.cls]
        labels = torch.tensor([ids[name] for name in names], dtype=torch.int64)
        return {"boxes": boxes, "scores": found.boxes.conf, "labels": labels}

    return f"ultralytics:{file}", None, own


@needs_coco
@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "within"),
    [
        (found_by_onnx, 0.0),
        (found_by_torchvision, 0.0),
        (found_by_transformers, 0.0),
        (found_by_ultralytics, 1e-3),  # the library fuses layers first, which moves last digits
    ],
)
def test_ap_by_every_path_is_pycocotools_of_the_librarys_own_inference(
    path, within, coco, tmp_path, request
):
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")
    spec, weights, own = path(coco, data, tmp_path, request)
    content = json.loads((coco / "instances_val2017.json").read_text())
    content["images"] = [i for i in content["images"] if i["id"] in sorted(data.truth.images)[:10]]
    with torch.no_grad():
        results = to_results({
            image["id"]: detections_from([own(data.load(image["id"]))], 1)[0]
            for image in content["images"]
        })  # fmt: skip
    if path is not found_by_onnx:  # untrained: objects where it finds some, moved a little
        rng = np.random.default_rng(0)
        known = [r for r in results if r["category_id"] in data.truth.categories][::3]
        content["annotations"] = [
            {"id": k + 1, "image_id": r["image_id"], "category_id": r["category_id"],
             "bbox": (np.array(r["bbox"]) * rng.normal(1, 0.03, 4)).tolist(),
             "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
            for k, r in enumerate(known)
        ]  # fmt: skip
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    planted = CocoImages(coco / "val2017", content)
    detector = load_detector(spec, weights, categories=planted.truth.categories)
    audit = DetectionAudit(radii=(64,), bootstrap=0, ignore_unknown=True)
    ours = audit.measure(detector, planted).metrics["original"]
    theirs = cocoeval(content, results).stats[:6]
    print(f"\n{path.__name__}: AP {100 * ours[0]:.2f}, AP50 {100 * ours[1]:.2f}; "
          f"pycocotools {100 * theirs[0]:.2f}, {100 * theirs[1]:.2f}")  # fmt: skip
    assert 0.01 < ours[0] < 0.99
    np.testing.assert_allclose(ours, [or_nan(v) for v in theirs], rtol=0, atol=within)

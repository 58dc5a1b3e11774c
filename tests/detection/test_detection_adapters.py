"""Detectors of other libraries: the same boxes as by the library's own inference."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfc_probe import InputError
from hfc_probe.detection import CocoImages, DetectionAudit, detections_from
from hfc_probe.detection.detectors import from_onnx, from_transformers
from hfc_probe.detection.identity import detector_identity
from hfc_probe.detection.signed import sign_doubt

from ..conftest import needs_coco
from .real_detector import FILE, decode, prepare


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

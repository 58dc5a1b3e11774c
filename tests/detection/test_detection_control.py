"""Gains on the LFC against those under a filter that nobody sees."""

import hashlib

import numpy as np
import pytest
import torch

from hfc_probe import fourier
from hfc_probe.detection import DetectionAudit, GroundTruth
from hfc_probe.detection.variants import REMOVED, barely_filtered

from ..conftest import needs_coco

SIZE, COUNT = 48, 30
FOUND = ([[8.0, 8.0, 24.0, 24.0]], [0.9], [1])


class Scenes:
    """Noise with one annotated object; every second image has waves of 15 cycles per image."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.wave = 0.2 * torch.cos(2 * torch.pi * 15 * torch.arange(SIZE) / SIZE)
        self.pictures = {
            k: 0.5 + 0.05 * torch.rand(3, SIZE, SIZE, generator=generator) + (k % 2) * self.wave
            for k in range(COUNT)
        }
        box = {"category_id": 1, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0}
        size = {"height": SIZE, "width": SIZE}
        self.truth = GroundTruth.read(
            {
                "images": [{"id": k, "file_name": f"{k}.png", **size} for k in range(COUNT)],
                "annotations": [{**box, "id": k + 1, "image_id": k} for k in range(COUNT)],
                "categories": [{"id": 1, "name": "thing"}],
            }
        )

    def load(self, image_id):
        return self.pictures[image_id]


AUDIT = DetectionAudit(radii=(10,), bootstrap=0, control=True)


@needs_coco
def test_a_detector_that_waves_mislead_gains_more_than_under_a_filter_that_nobody_sees():
    data = Scenes()

    def misled(images):
        waves = [float((image * data.wave).mean() / data.wave.square().mean()) for image in images]
        return [([], [], []) if wave > 0.5 else FOUND for wave in waves]

    result = AUDIT.measure(misled, data)
    assert len(result.changes("lfc_r10").images_any) == COUNT // 2
    assert {name: len(images) for name, images in result.changed_by_control().items()} == {
        "gain": 0,
        "drop": 0,
    }
    assert "15 of 30 images" in result.sentence()
    assert (
        "a filter that nobody sees, of 1/255, raises 0 and lowers 0: more, McNemar's test on the "
        "gains, p = 6.1e-05"
    ) in result.sentence()
    assert result.scalars()["hfc_detection/images_gain_any/control"] == 0
    expected = [1.0, 0.0] * (COUNT // 2)
    assert result.arrays()["control_image"].tolist() == pytest.approx(expected)


@needs_coco
def test_a_detector_that_any_change_throws_gains_as_often_under_a_filter_that_nobody_sees():
    def moody(images):
        bits = [hashlib.md5(image.numpy().tobytes()).digest()[0] & 1 for image in images]
        return [FOUND if bit else ([], [], []) for bit in bits]

    result = AUDIT.measure(moody, Scenes())
    gains = result.changes("lfc_r10").images_any
    assert 3 < len(gains) < 15
    assert 3 < len(result.changed_by_control()["gain"]) < 15
    assert "no clear difference, McNemar's test on the gains, p = " in result.sentence()


@needs_coco
def test_without_a_control_the_sentence_has_the_sign_test():
    plain = DetectionAudit(radii=(10,), bootstrap=0)
    result = plain.measure(lambda images: [FOUND for _ in images], Scenes())
    assert "sign test, p = 1)" in result.sentence()
    assert "hfc_detection/images_gain_any/control" not in result.scalars()


@needs_coco
def test_an_audit_with_a_control_resumes(tmp_path):
    data = Scenes()
    calls = []

    def detector(images):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return [FOUND for _ in images]

    with pytest.raises(KeyboardInterrupt):
        AUDIT.measure(detector, data, resume=tmp_path)
    again = AUDIT.measure(detector, data, resume=tmp_path)
    whole = AUDIT.measure(detector, data)
    assert again.to_dict() == whole.to_dict()
    assert len(again.control) == COUNT


@pytest.mark.parametrize("size", [(31, 40), (48, 48)])
def test_the_control_removes_the_highest_frequencies_up_to_a_255th(size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.4
    rest = image - barely_filtered(image, REMOVED)
    assert float(rest.square().mean().sqrt()) <= REMOVED
    spectrum = torch.fft.fft2(rest).abs().sum(0)
    distance = fourier.distance(*size, centred=False)
    inner = float(distance[spectrum > 1e-3].min())
    assert inner > 0.5 * float(distance.max())
    # All beyond, and one ring more would be too much.
    expected = image - fourier.split(image, inner - 0.01)[0]
    np.testing.assert_allclose(rest.numpy(), expected.numpy(), atol=1e-6)
    smaller = float(distance[distance < inner].max())
    more = image - fourier.split(image, smaller - 0.01)[0]
    assert float(more.square().mean().sqrt()) > REMOVED

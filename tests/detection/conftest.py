"""Real COCO files where they are present, and one detector trained per session."""

import json
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"


@pytest.fixture(scope="session")
def coco():
    """Folder with val2017/ and instances_val2017.json."""
    if not (SHARED / "instances_val2017.json").is_file():
        pytest.skip(f"no COCO files in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def coco_content(coco):
    return json.loads((coco / "instances_val2017.json").read_text())


def pytest_collection_modifyitems(items):
    """Tests that wait for a training are slow; the detector in the shared data has been trained."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def trained():
    """A detector of blobs and checkers; 12 to 40 s on one core."""
    from .known_answer import PlantedShapes, train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small layers: a second thread costs more than it brings
    try:
        return train(PlantedShapes(64, seed=0), steps=160)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real(coco):
    """The COCO sample, and what a detector that was trained on COCO finds on its originals."""
    from hfc_probe.detection import CocoImages, detections_from

    from .real_detector import FastestDet, needs_detector

    needs_detector()
    data = CocoImages(coco / "val2017", coco / "instances_val2017.json")
    detector = FastestDet(data.truth)
    return data, {
        image_id: detections_from(detector([data.load(image_id)]), 1)[0]
        for image_id in data.truth.images
    }

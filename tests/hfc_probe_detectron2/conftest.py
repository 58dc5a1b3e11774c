"""The real detectron2, or a visible skip; HFC_PROBE_REQUIRE_DETECTRON2=1 makes that a failure."""

import json
import os

import pytest

from tests.conftest import DATA

COUNT = 10
collect_ignore = ["train_with_hook.py"]  # a script, which imports detectron2


@pytest.fixture(scope="session")
def detectron2():
    if os.environ.get("HFC_PROBE_REQUIRE_DETECTRON2"):
        import detectron2
    else:
        detectron2 = pytest.importorskip(
            "detectron2", reason="detectron2 is not installed (it is not on PyPI)"
        )
    return detectron2


@pytest.fixture(scope="session")
def ten(detectron2, tmp_path_factory):
    """Ten real COCO images, registered; the name and the JSON file."""
    source = DATA / "coco" / "instances_val2017.json"
    if not source.is_file():
        pytest.skip(f"no COCO files in {source.parent}")
    from detectron2.data.datasets import register_coco_instances

    content = json.loads(source.read_text())
    content["images"] = content["images"][:COUNT]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    file = tmp_path_factory.mktemp("coco") / "ten.json"
    file.write_text(json.dumps(content))
    register_coco_instances("hfc_ten", {}, str(file), str(source.parent / "val2017"))
    return "hfc_ten", file


@pytest.fixture(scope="session")
def config(detectron2, ten):
    """RetinaNet R50-FPN from detectron2's own config, at a size that a test can afford."""
    from pathlib import Path

    from detectron2.config import get_cfg

    places = [
        Path(detectron2.__file__).parents[1] / "configs",
        Path(detectron2.__file__).parent / "model_zoo" / "configs",
    ]
    file = next(p / "COCO-Detection" / "retinanet_R_50_FPN_1x.yaml" for p in places if p.is_dir())
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.INPUT.MIN_SIZE_TEST = 128
    cfg.INPUT.MIN_SIZE_TRAIN = (128,)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (ten[0],)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.0  # the same weights however many processes train
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0  # and detections, though untrained
    cfg.SOLVER.MAX_ITER = 3
    return cfg

"""Train with DefaultTrainer and the hook; run by the tests in a process of its own."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, defaults, launch
from hfc_probe_detectron2 import DetectionAuditHook, insert_hook
from torch.nn.parallel import DistributedDataParallel

if not torch.cuda.is_available():
    # detectron2 names a GPU to DistributedDataParallel whatever the model is on.
    def on_cpu(model, **options):
        several = torch.distributed.is_initialized()
        return DistributedDataParallel(model, **options) if several else model

    defaults.create_ddp_model = on_cpu


class Watched(DetectionAuditHook):
    """Notes whether an audit changed anything."""

    modes_kept = rng_kept = True

    def _measure(self):
        model = self.trainer.model
        modes = [m.training for m in model.modules()]
        states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
        super()._measure()
        self.modes_kept &= modes == [m.training for m in model.modules()]
        self.rng_kept &= (
            random.getstate() == states[0]
            and bool((np.random.get_state()[1] == states[1]).all())
            and torch.equal(torch.get_rng_state(), states[2])
        )


def main(file):
    images = Path(__file__).resolve().parents[2].parent / "shared/data/coco/val2017"
    cfg = get_cfg()
    cfg.merge_from_file(file)
    name = cfg.DATASETS.TRAIN[0]
    register_coco_instances(name, {}, os.environ["HFC_PROBE_TEN"], str(images))
    cfg.DATASETS.TEST = ()
    torch.manual_seed(0)
    trainer = DefaultTrainer(cfg)
    hook = Watched(2, name, radii=(32,), cfg=cfg, limit=None, strict=True)
    insert_hook(trainer, hook)
    trainer.train()
    report = {
        "modes_kept": hook.modes_kept,
        "rng_kept": hook.rng_kept,
        "samples": hook.result.samples,
        "detections": {
            name: [
                [float(d.boxes.sum()), float(d.scores.sum()), d.labels.tolist()[:5]]
                for d in found.values()
            ]
            for name, found in hook.result.predictions.items()
        },
        "scalars": {k: str(v) for k, v in hook.result.scalars().items()},
    }
    print("REPORT " + json.dumps(report), flush=True)


if __name__ == "__main__":
    launch(main, int(sys.argv[2]), dist_url="auto", args=(sys.argv[1],))

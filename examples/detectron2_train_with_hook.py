"""Train a detectron2 detector and watch which frequencies it relies on.

python examples/detectron2_train_with_hook.py --num-gpus 8 \
        --config-file configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml OUTPUT_DIR run
tensorboard --logdir run

The hook is the only addition to a plain DefaultTrainer. It audits 200 images of the config's
first test set every 5,000 iterations and after the last one.
"""

from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from hfc_probe_detectron2 import DetectionAuditHook, insert_hook


class Trainer(DefaultTrainer):
    period, limit = 5000, 200

    def build_hooks(self):
        hooks = super().build_hooks()
        hook = DetectionAuditHook(
            self.period, self.cfg.DATASETS.TEST[0], radii=(64, 128), cfg=self.cfg, limit=self.limit
        )
        insert_hook(hooks, hook)  # on all ranks, before the hook that writes
        return hooks

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {}  # your own evaluation, as before


def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if args.annotations:
        register_coco_instances("my_images", {}, args.annotations, args.images)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("my_images",)
    cfg.freeze()
    default_setup(cfg, args)
    Trainer.period, Trainer.limit = args.period, args.limit
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--images", help="folder of the images of --annotations")
    parser.add_argument("--annotations", help="a COCO JSON file to train on and to audit")
    parser.add_argument("--period", type=int, default=5000, help="iterations between audits")
    parser.add_argument("--limit", type=int, default=200, help="images of an audit")
    arguments = parser.parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )

"""Audit a detectron2 RetinaNet (or another detector) by frequency, as section 7 of the HFC paper.

python examples/detectron2_retinanet_audit.py \
        --config-file configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml --num-gpus 2 \
        MODEL.WEIGHTS model_final.pth OUTPUT_DIR audit

The data set is the config's own test set (COCO val2017 under $DETECTRON2_DATASETS), or a COCO
JSON named with --images and --annotations.
"""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from hfc_probe_detectron2 import audit

from hfc_probe.detection import DetectionAudit


def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if args.annotations:
        register_coco_instances("my_images", {}, args.annotations, args.images)
        cfg.DATASETS.TEST = ("my_images",)
    cfg.freeze()
    default_setup(cfg, args)

    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    result = audit(
        model,
        cfg.DATASETS.TEST[0],
        settings=DetectionAudit(radii=tuple(args.radii), hfc_background=args.hfc_background),
        cfg=cfg,
        limit=args.limit,
        resume=f"{cfg.OUTPUT_DIR}/finished",
    )
    if comm.is_main_process():
        result.save_all(cfg.OUTPUT_DIR)
        print(result)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--images", help="folder of the images of --annotations")
    parser.add_argument("--annotations", help="a COCO JSON file")
    parser.add_argument("--radii", type=float, nargs="+", default=[128])
    parser.add_argument("--hfc-background", choices=["zero", "mean"], default="zero")
    parser.add_argument("--limit", type=int, help="maximum number of images")
    arguments = parser.parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )

#!/usr/bin/env python
r"""Trains or evaluates what a LazyConfig file describes.

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_mvitv2_t.py --num-gpus 8
tools/lazyconfig_train_net.py --config-file … --eval-only train.init_checkpoint=model.pth
tools/lazyconfig_train_net.py --config-file … train.max_iter=1000 optimizer.lr=1e-4
tools/lazyconfig_train_net.py --config-file … --train-json train.json --train-images train/ \
    --val-json val.json --val-images val/
"""

import argparse
import logging
import sys

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mvit_det.engine import (
    evaluate_checkpoint,
    load_config,
    resolve_device,
    set_own_data,
    train,
    use_own_data,
)
from mvit_det.errors import MViTDetError


def parse_arguments() -> argparse.Namespace:
    """Detectron2's arguments, `--device`, `--trust-checkpoint` and data of one's own."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where to run; by default CUDA if there is any, and the CPU if not",
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="let a file of weights run code while it is read; only if you know where it is from",
    )
    own = parser.add_argument_group("data of your own, in COCO's format")
    for split, use in (("train", "training"), ("val", "evaluation")):
        own.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations for {use}")
        own.add_argument(f"--{split}-images", metavar="DIR", help="folder of their pictures")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Runs in each process."""
    config = load_config(arguments.config_file, arguments.opts)
    setup_logger(config.train.output_dir, distributed_rank=comm.get_rank(), name="mvit_det")
    set_own_data(
        config,
        train_json=arguments.train_json,
        train_images=arguments.train_images,
        val_json=arguments.val_json,
        val_images=arguments.val_images,
    )
    use_own_data(
        config,
        evaluate_only=arguments.eval_only,
        resume=arguments.resume,
        trust_checkpoint=arguments.trust_checkpoint,
    )
    resolve_device(config, arguments.device)
    default_setup(config, arguments)
    if arguments.eval_only:
        evaluate_checkpoint(config, arguments.resume, arguments.trust_checkpoint)
    else:
        train(config, arguments.resume, arguments.trust_checkpoint)
    logging.getLogger("mvit_det").info("Outputs are in %s", config.train.output_dir)


if __name__ == "__main__":
    arguments = parse_arguments()
    try:
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except MViTDetError as error:
        sys.exit(f"error: {error}")

#!/usr/bin/env python
r"""Trains or evaluates what a LazyConfig file describes.

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_mvitv2_t.py --num-gpus 8
tools/lazyconfig_train_net.py --config-file … --epochs 12 --batch-size 16 --grad-accum-steps 4
tools/lazyconfig_train_net.py --config-file … --eval-only train.init_checkpoint=model.pth
tools/lazyconfig_train_net.py --config-file … train.max_iter=1000 optimizer.lr=1e-4
tools/lazyconfig_train_net.py --config-file … --train-json train.json --train-images train/ \
    --val-json val.json --val-images val/ --epochs 12
torchrun --standalone --nproc-per-node=8 tools/lazyconfig_train_net.py --config-file …

Exit codes: 0 done; 1 something is wrong, in one line; 2 wrong usage; 130 or 143 stopped by Ctrl-C
or SIGTERM, with a checkpoint that --resume goes on from.
"""

import argparse
import logging

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mvit_det.config import (
    fit_schedule,
    load_config,
    prepare_output_dir,
    resolve_device,
    set_custom_dataset,
    use_custom_dataset,
)
from mvit_det.config.custom_dataset import PATHS
from mvit_det.engine import evaluate_checkpoint, launch, train
from mvit_det.errors import ConfigError


def parse_arguments() -> argparse.Namespace:
    """Detectron2's arguments, and our own."""
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
    parser.add_argument(
        "--debug", action="store_true", help="show where in the code an error comes from"
    )
    own = parser.add_argument_group("data of your own, in COCO's format")
    for split, use in (("train", "training"), ("val", "evaluation")):
        own.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations for {use}")
        own.add_argument(f"--{split}-images", metavar="DIR", help="folder of their images")
    schedule = parser.add_argument_group(
        "schedule", "the learning rate, its warm-up and its steps are fitted, and printed"
    )
    schedule.add_argument("--epochs", type=float, help="passes over the training images")
    schedule.add_argument(
        "--batch-size", type=int, help="images of a step, over all processes and parts"
    )
    schedule.add_argument(
        "--grad-accum-steps",
        type=int,
        help="parts in which each process sees its share of a batch: less memory, more time",
    )
    return parser.parse_args()


def _says_how_long(arguments: argparse.Namespace) -> bool:
    return arguments.epochs is not None or any(
        option.startswith("train.max_iter=") for option in arguments.opts
    )


def main(arguments: argparse.Namespace) -> None:
    """Runs in each process."""
    config = load_config(arguments.config_file, arguments.opts)
    prepare_output_dir(config)
    setup_logger(config.train.output_dir, distributed_rank=comm.get_rank(), name="mvit_det")
    if arguments.train_json and not (arguments.eval_only or _says_how_long(arguments)):
        raise ConfigError(
            "say how long to train on your data: '--epochs 12' is a good start (the schedules of "
            "the configs are for the images of COCO)"
        )
    set_custom_dataset(config, **{path: getattr(arguments, path) for path in PATHS})
    use_custom_dataset(
        config,
        evaluate_only=arguments.eval_only,
        resume=arguments.resume,
        trust_checkpoint=arguments.trust_checkpoint,
    )
    resolve_device(config, arguments.device)
    schedule = {
        name: getattr(arguments, name) for name in ("epochs", "batch_size", "grad_accum_steps")
    }
    if any(number is not None for number in schedule.values()):
        fit_schedule(config, **schedule)
    default_setup(config, arguments)
    if arguments.eval_only:
        evaluate_checkpoint(config, arguments.resume, arguments.trust_checkpoint)
    else:
        train(config, arguments.resume, arguments.trust_checkpoint)
    logging.getLogger("mvit_det").info("Outputs are in %s", config.train.output_dir)


if __name__ == "__main__":
    arguments = parse_arguments()
    launch(
        main,
        (arguments,),
        debug=arguments.debug,
        device=arguments.device,
        num_processes=arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
    )

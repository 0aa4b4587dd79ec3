#!/usr/bin/env python
r"""Trains or evaluates the model of a LazyConfig file.

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_mvitv2_t.py --num-gpus 8
tools/lazyconfig_train_net.py --config-file … --epochs 12 --batch-size 16 --grad-accum-steps 4
tools/lazyconfig_train_net.py --config-file … --eval-only train.init_checkpoint=model.pth
tools/lazyconfig_train_net.py --config-file mask_rcnn_mvitv2_t --eval-only
tools/lazyconfig_train_net.py --config-file … train.max_iter=1000 optimizer.lr=1e-4
tools/lazyconfig_train_net.py --config-file … --train-json train.json --train-images train/ \
    --val-json val.json --val-images val/ --epochs 12
torchrun --standalone --nproc-per-node=8 tools/lazyconfig_train_net.py --config-file …

Exit codes: 0 done; 1 error, explained in one line; 2 wrong usage; 130 or 143 stopped by Ctrl-C or
SIGTERM, with a checkpoint from which --resume continues.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from mvit_det.config import (
    check_schedule,
    config_file,
    find_config,
    fit_schedule,
    prepare_output_dir,
    rename_flags,
    resolve_device,
    set_custom_dataset,
    use_custom_dataset,
)
from mvit_det.config.custom_dataset import PATHS
from mvit_det.config.image_folders import FOLDERS, use_image_folders
from mvit_det.engine import evaluate_checkpoint, launch, train
from mvit_det.errors import ConfigError


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads a command line; flags and overrides can be mixed."""
    parser = argparse.ArgumentParser(
        epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config file, or name of a published detector, such as mask_rcnn_mvitv2_t",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in train.output_dir if there is one",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU"
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="let a weights file run code while it is read; only if you know its origin",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "opts", nargs="*", metavar="field=value", help="overrides of fields of the config"
    )
    custom = parser.add_argument_group(
        "custom dataset", "in COCO's format, or for classifiers directories of images per class"
    )
    for split, use in (("train", "training"), ("val", "evaluation")):
        custom.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations for {use}")
        custom.add_argument(f"--{split}-images", metavar="DIR", help="directory of their images")
        custom.add_argument(
            f"--{split}-folder", metavar="DIR", help=f"images per class for {use} (classifiers)"
        )
    schedule = parser.add_argument_group(
        "schedule", "learning rate, warm-up and steps are adapted, and logged"
    )
    schedule.add_argument("--epochs", type=float, help="passes over the training images")
    schedule.add_argument(
        "--batch-size", type=int, help="images per optimizer step, over all ranks and micro-batches"
    )
    schedule.add_argument(
        "--grad-accum-steps",
        type=int,
        help="micro-batches per optimizer step on each rank: less memory, more time",
    )
    ranks = parser.add_argument_group("ranks", "with torchrun, its own options take their place")
    ranks.add_argument("--num-gpus", type=int, default=1, help="ranks per machine")
    ranks.add_argument("--num-machines", type=int, default=1)
    ranks.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    ranks.add_argument(
        "--dist-url",
        # As Detectron2 does, a port per user, so that a training left behind is noticed.
        default=f"tcp://127.0.0.1:{2**15 + 2**14 + getattr(os, 'getuid', int)() % 2**14}",
        help="address at which the ranks find each other",
    )
    # Without 'intermixed', overrides would have to be one block.
    parsed = parser.parse_intermixed_args(rename_flags(arguments))
    if not parsed.config_file:
        parser.error(
            "--config-file is missing: name a config, such as "
            "configs/shapes/mask_rcnn_mvitv2_pico.py, or a published detector, such as "
            "mask_rcnn_mvitv2_t"
        )
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Runs on each rank."""
    schedule = {
        name: getattr(arguments, name) for name in ("epochs", "batch_size", "grad_accum_steps")
    }
    check_schedule(**schedule)
    config, published = find_config(arguments.config_file, arguments.opts)
    overridden = {option.partition("=")[0].lstrip("+") for option in arguments.opts}
    if published and arguments.eval_only and "train.init_checkpoint" not in overridden:
        config.train.init_checkpoint = published
    # Which Detectron2 logs.
    arguments.config_file = str(config_file(arguments.config_file))
    has_length = arguments.epochs is not None or "train.max_iter" in overridden
    if (arguments.train_json or arguments.train_folder) and not (arguments.eval_only or has_length):
        raise ConfigError(
            "the length of a training on a custom dataset is missing: '--epochs 12' is a good "
            "start (the schedules of the configs are for COCO)"
        )
    prepare_output_dir(config)
    setup_logger(config.train.output_dir, distributed_rank=comm.get_rank(), name="mvit_det")
    set_custom_dataset(config, **{path: getattr(arguments, path) for path in (*PATHS, *FOLDERS)})
    use_custom_dataset(
        config,
        evaluate_only=arguments.eval_only,
        resume=arguments.resume,
        trust_checkpoint=arguments.trust_checkpoint,
    )
    use_image_folders(
        config,
        evaluate_only=arguments.eval_only,
        resume=arguments.resume,
        trust_checkpoint=arguments.trust_checkpoint,
    )
    resolve_device(config, arguments.device)
    if any(value is not None for value in schedule.values()):
        fit_schedule(config, **schedule)
    default_setup(config, arguments)
    if arguments.eval_only:
        evaluate_checkpoint(config, arguments.resume, arguments.trust_checkpoint)
    else:
        train(config, arguments.resume, arguments.trust_checkpoint)
    logging.getLogger("mvit_det").info("Outputs are in %s", config.train.output_dir)


if __name__ == "__main__":
    arguments = parse_arguments(sys.argv[1:])
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

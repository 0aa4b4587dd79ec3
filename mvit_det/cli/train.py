"""Trains or evaluates the model of a LazyConfig file."""

import argparse
import contextlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from ..checkpoint.run_folder import RunFolder
from ..checkpoint.state import from_main_process
from ..config import (
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
from ..config.custom_dataset import PATHS
from ..config.dataset_folder import set_dataset
from ..config.image_folders import FOLDERS, use_image_folders
from ..engine import evaluate_checkpoint, launch, train
from ..engine.evaluate import EVALUATION
from ..errors import ConfigError
from ..model_zoo import MODELS
from .arguments import Parser
from .main import allow_any_text

EXAMPLES = (
    "{prog} --data parts/ --epochs 12 train.output_dir=output/parts",
    "{prog} --config-file mask_rcnn_mvitv2_t --num-gpus 8 --batch-size 16 optimizer.lr=1e-4",
    "{prog} --config-file shapes/mask_rcnn_mvitv2_pico --device cpu --resume",
)
EVALUATION_EXAMPLES = (
    "{prog} --config-file mask_rcnn_mvitv2_t",
    "{prog} --config-file output/config.yaml --weights output/model_final.pth",
    "{prog} --config-file output/config.yaml --data others/ --device cpu",
)
DEFAULT_CONFIG = "mask_rcnn_mvitv2_t"
# Flags, and fields of the config that set the same.
FIELDS = {
    "weights": "train.init_checkpoint",
    "device": "train.device",
    "epochs": "train.max_iter",
    "batch_size": "dataloader.train.total_batch_size",
    "grad_accum_steps": "train.grad_accum_steps",
}
DETAILS = """\
Flags and overrides can be mixed. With torchrun:
  torchrun --standalone --nproc-per-node=8 -m mvit_det.cli train --config-file …

exit codes: 0 done; 1 error, explained in one line; 2 wrong usage; 130 or 143 stopped by Ctrl-C or
SIGTERM, with a checkpoint from which --resume continues"""


def parse_arguments(
    arguments: Sequence[str], prog: str = "mvit-det train", evaluate_only: bool = False
) -> argparse.Namespace:
    """Reads a command line; flags and overrides can be mixed.

    Args:
        arguments: without the name of the program.
        prog: the name of the program.
        evaluate_only: parse for `mvit-det eval`, which has the flags of evaluations only.
    """
    arguments = rename_flags(arguments)
    parser = Parser(
        prog,
        arguments,
        usage="--config-file CONFIG [options] [field=value …]",
        summary="Evaluates trained weights." if evaluate_only else "Trains a model.",
        examples=EVALUATION_EXAMPLES if evaluate_only else EXAMPLES,
        details=DETAILS,
    )
    shown = "overrides of fields of the config" if parser.shows_all else argparse.SUPPRESS
    parser.add_argument("opts", nargs="*", metavar="field=value", help=shown)
    parser.add_config(weights=False)
    _add_custom_dataset(parser, evaluate_only)
    parser.set_defaults(
        weights=None, resume=False, epochs=None, batch_size=None, grad_accum_steps=None
    )
    if evaluate_only:
        parser.set_defaults(eval_only=True)
        source = parser.add_mutually_exclusive_group()
        source.add_argument(
            "--weights", metavar="PATH",
            help="file or URL; default: those of the published model",
        )  # fmt: skip
        source.add_argument(
            "--resume", action="store_true", help="evaluate the last checkpoint in train.output_dir"
        )
    else:
        _add_training(parser)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU"
    )
    _add_ranks(parser)
    parser.add_trust()
    parser.add_rare("--debug", action="store_true", help="show the traceback of an error")
    # Without 'intermixed', overrides would have to be one block.
    parsed = parser.parse_intermixed_args(arguments)
    _check_ranks(parser, parsed)
    if parsed.data and not parsed.config_file and not evaluate_only:
        parsed.config_file = DEFAULT_CONFIG
    if not parsed.config_file:
        parser.error(
            "--config-file is missing: name a config, such as shapes/mask_rcnn_mvitv2_pico, or a "
            "published detector, such as mask_rcnn_mvitv2_t"
        )
    return parsed


def _check_ranks(parser: Parser, parsed: argparse.Namespace) -> None:
    for name in ("num_gpus", "num_machines"):
        if getattr(parsed, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"argument {flag}: must be at least 1, not {getattr(parsed, name)}")
    if not 0 <= parsed.machine_rank < parsed.num_machines:
        parser.error(
            f"argument --machine-rank: must be from 0 to {parsed.num_machines - 1}, as there are "
            f"{parsed.num_machines} machines (--num-machines), not {parsed.machine_rank}"
        )
    if parsed.dist_url != "auto" and not parsed.dist_url.startswith(("tcp://", "file://")):
        parser.error(
            f"argument --dist-url: '{parsed.dist_url}' is no address, such as tcp://10.0.0.1:29400"
        )


def main(arguments: Sequence[str], prog: str, evaluate_only: bool = False) -> int:
    """Starts the ranks; returns 0, or exits with the code of `launch`."""
    options = parse_arguments(arguments, prog, evaluate_only)
    launch(
        run,
        (options,),
        debug=options.debug,
        device=options.device,
        num_processes=options.num_gpus,
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        dist_url=options.dist_url,
    )
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Runs on each rank."""
    schedule = {
        name: getattr(arguments, name) for name in ("epochs", "batch_size", "grad_accum_steps")
    }
    check_schedule(**schedule)
    overridden = {option.partition("=")[0].lstrip("+") for option in arguments.opts}
    for name, field in FIELDS.items():
        if getattr(arguments, name) is not None and field in overridden:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} and {field} set the same; give one of them")
    config, published = find_config(arguments.config_file, arguments.opts)
    if arguments.weights:
        model = MODELS.get(arguments.weights)
        config.train.init_checkpoint = model.url if model else arguments.weights
    elif published and arguments.eval_only and "train.init_checkpoint" not in overridden:
        config.train.init_checkpoint = published
    # Which Detectron2 logs.
    arguments.config_file = str(config_file(arguments.config_file))
    has_length = arguments.epochs is not None or "train.max_iter" in overridden
    custom = arguments.data or arguments.train_json or arguments.train_folder
    if custom and not (arguments.eval_only or has_length):
        raise ConfigError(
            "the length of a training on a custom dataset is missing: '--epochs 12' is a good "
            "start (the schedules of the configs are for COCO)"
        )
    prepare_output_dir(config)
    with contextlib.ExitStack() as lock:
        if not arguments.eval_only:
            # Before anything is written to the folder of a training that is running.
            folder = RunFolder(config.train.output_dir)
            from_main_process(lambda: lock.enter_context(folder.locked()))
        _run(config, arguments, schedule, overridden)


def _run(
    config: DictConfig,
    arguments: argparse.Namespace,
    schedule: dict[str, Any],
    overridden: set[str],
) -> None:
    folder = Path(config.train.output_dir)
    if arguments.eval_only:
        # It may be that of a training, which keeps its config and log.
        folder /= EVALUATION
    _open_log(folder)
    if arguments.data:
        set_dataset(
            config, arguments.data, val_fraction=arguments.val_fraction, seed=arguments.split_seed
        )
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
        fit_schedule(config, **schedule, explicit=overridden)
    _set_up(config, arguments, folder)
    if arguments.eval_only:
        evaluate_checkpoint(config, arguments.resume, arguments.trust_checkpoint)
    else:
        train(config, arguments.resume, arguments.trust_checkpoint)
    logging.getLogger("mvit_det").info("Outputs are in %s", config.train.output_dir)


def _open_log(folder: Path) -> None:
    """Has all loggers write to `log.txt`; Detectron2 logs to standard output from `_set_up` on."""
    for name in ("mvit_det", "detectron2", "fvcore"):
        logger = setup_logger(
            str(folder), comm.get_rank(), name=name, configure_stdout=name == "mvit_det"
        )
        allow_any_text(*(getattr(each, "stream", None) for each in logger.handlers))


def _set_up(config: DictConfig, arguments: argparse.Namespace, folder: Path) -> None:
    """Does what Detectron2's `default_setup` does, and writes `config.yaml` all or nothing."""
    without_folder = config.copy()
    without_folder.train.output_dir = None
    default_setup(without_folder, arguments)
    if comm.is_main_process():
        # With a second file, if it holds objects that YAML does not know.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            LazyConfig.save(config, str(Path(temporary, "config.yaml")))
            for path in Path(temporary).iterdir():
                path.replace(folder / path.name)


def _add_custom_dataset(parser: Parser, evaluate_only: bool) -> None:
    parser.add_argument(
        "--data", metavar="PATH",
        help="custom dataset: folder in COCO's, YOLO's, Pascal VOC's or LabelMe's format"
        + ("" if evaluate_only else f"; default of --config-file with it: {DEFAULT_CONFIG}"),
    )  # fmt: skip
    parser.add_rare(
        "--val-fraction", type=float, default=0.1, metavar="SHARE",
        help="of the images, where --data has no validation split; default: 0.1",
    )  # fmt: skip
    parser.add_rare(
        "--split-seed", type=int, default=0, metavar="K",
        help="seed for the choice of these images; default: 0",
    )  # fmt: skip
    for split, use in (("train", "training"), ("val", "evaluation")):
        parser.add_rare(f"--{split}-json", metavar="FILE", help=f"COCO's annotations for {use}")
        parser.add_rare(f"--{split}-images", metavar="DIR", help="directory of their images")
        parser.add_rare(
            f"--{split}-folder", metavar="DIR",
            help=f"classifiers: directories of images or videos per class for {use}",
        )  # fmt: skip


def _add_training(parser: Parser) -> None:
    parser.add_argument("--epochs", type=float, help="passes over the training images")
    parser.add_argument(
        "--batch-size", type=int, help="images per optimizer step, over all ranks and micro-batches"
    )
    parser.add_rare(
        "--grad-accum-steps",
        type=int,
        help="micro-batches per optimizer step on each rank: less memory, more time",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint, if there is one"
    )
    parser.add_rare("--eval-only", action="store_true", help="as 'mvit-det eval'")


def _add_ranks(parser: Parser) -> None:
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="ranks per machine")
    parser.add_rare("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    parser.add_rare("--machine-rank", type=int, default=0, metavar="N",
                    help="number of this machine, from 0")  # fmt: skip
    parser.add_rare(
        "--dist-url",
        # As Detectron2 does, a port per user, so that a training left behind is noticed.
        default=f"tcp://127.0.0.1:{2**15 + 2**14 + getattr(os, 'getuid', int)() % 2**14}",
        help="address at which the ranks find each other",
    )

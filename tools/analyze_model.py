#!/usr/bin/env python
"""Counts the parameters and multiply-adds of the models of config files.

    tools/analyze_model.py configs/COCO/*.py --size 800 1280
    tools/analyze_model.py configs/COCO/recipes/*.py --memory --size 1250 1333

The whole detector runs on one random image with random weights. All 1000 proposals and 100
detections are kept, the largest load of the heads.

--memory estimates, on the CPU, the memory that a training needs on one GPU: a forward pass in
training on one image, and on two.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.benchmarking.memory_estimate import GIB, RESERVE, RESERVE_SHARE, estimate_memory
from mvit_det.cli.arguments import expand_homes
from mvit_det.cli.main import guarded
from mvit_det.config import build_model, load_config
from mvit_det.errors import ConfigError
from mvit_det.modeling.clip_classifier import ClipClassifier

# Modules of each part, of which a detector has some.
PARTS = {
    "backbone": ("backbone",),
    "proposals": ("proposal_generator",),
    "heads": ("roi_heads", "head", "sem_seg_head"),
}
SMALLEST = 32  # pixels, the total stride of the backbone
HEADER = ["config", "parameters (M)", *(f"{part} (G)" for part in (*PARTS, "all"))]
STATE = {"parameters": "parameters", "gradients": "gradients", "optimizer": "optimizer",
         "ema": "EMA", "activations_once": "activations, once"}  # fmt: skip
MEMORY_HEADER = ["config", *STATE.values(), "images × each", "reserve", "all (GiB)"]
FORMULA = (
    "Estimated, not measured on a GPU: parameters + gradients + optimizer + EMA\n"
    "+ activations kept for the backward pass, once and for each image of a micro-batch\n"
    f"+ a reserve of {RESERVE / GIB:.1f} GiB and {RESERVE_SHARE:.0%} of all that; in GiB,\n"
    "on one GPU, with images of {size} pixels."
)


def parse_side(text: str) -> int:
    """Reads a side in pixels, which is at least `SMALLEST`."""
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of pixels of at least {SMALLEST}")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="LazyConfig files")
    add("--size", nargs=2, type=parse_side, default=(800, 1280), metavar=("HEIGHT", "WIDTH"))
    add("--memory", action="store_true", help="estimate the GPU memory of a training")
    add("--opts", nargs="*", default=[], help="overrides of the configs, key.of.field=value")
    return parser.parse_args(expand_homes(sys.argv[1:]))


def count(path: str, size: tuple[int, int], overrides: Sequence[str]) -> list[str]:
    """A row of parameters and multiply-adds."""
    config = load_config(path, overrides)
    # Random weights give low scores; keep all boxes.
    if "roi_heads" in config.model:
        heads = config.model.roi_heads
        for predictor in heads.get("box_predictors") or [heads.box_predictor]:
            predictor.update(test_score_thresh=0.0, test_nms_thresh=1.0)
        config.model.proposal_generator.nms_thresh = 1.0
    torch.manual_seed(0)
    model = build_model(config).eval()
    if isinstance(model, ClipClassifier):
        raise ConfigError(f"'{path}' is a classifier of videos; this tool counts models of images")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counts = count_multiply_adds(model, size)
    return [Path(path).stem, f"{parameters / 1e6:.1f}", *map(format_billions, counts)]


def count_multiply_adds(model: nn.Module, size: tuple[int, int]) -> list[float]:
    """Multiply-adds of a forward pass, by part of a detector and in total.

    Args:
        model: a detector or an image classifier, in evaluation mode.
        size: height and width of the image in pixels.
    """
    image = {"image": torch.rand(3, *size) * 255}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model([image])
    counts = counter.get_flop_counts()
    root = type(model).__name__
    # The counter takes a multiplication and an addition for two operations.
    found = [
        sum(sum(counts.get(f"{root}.{name}", {}).values()) for name in names) / 2
        for names in PARTS.values()
    ]
    return [*found, counter.get_total_flops() / 2]


def format_billions(number: float) -> str:
    """Formats billions as an integer, small ones with two digits."""
    billions = number / 1e9
    return f"{billions:.0f}" if billions >= 10 else f"{billions:.2g}"


def estimate(path: str, size: tuple[int, int], overrides: Sequence[str]) -> list[str]:
    """A row of memory, in GiB."""
    config = load_config(path, overrides)
    if "classifier" in config.model:
        raise ConfigError(f"'{path}' is a classifier; --memory estimates the training of detectors")
    estimated = estimate_memory(config, size)
    return [
        Path(path).stem,
        *(f"{getattr(estimated, field) / GIB:.2f}" for field in STATE),
        f"{estimated.images} × {estimated.activations_each / GIB:.2f}",
        f"{estimated.reserve / GIB:.2f}",
        f"{estimated.total / GIB:.1f}",
    ]


def main() -> None:
    """Prints the table."""
    arguments = parse_arguments()
    size = tuple(arguments.size)
    row, header = (estimate, MEMORY_HEADER) if arguments.memory else (count, HEADER)
    rows = [row(path, size, arguments.opts) for path in arguments.configs]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=arguments.memory))
    if arguments.memory:
        print(f"\n{FORMULA.format(size=f'{size[0]} × {size[1]}')}")


if __name__ == "__main__":
    sys.exit(guarded(main, code=1))

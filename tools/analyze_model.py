#!/usr/bin/env python
"""Counts parameters and multiply-adds of the models that config files describe.

    tools/analyze_model.py configs/COCO/*.py --size 800 1280
    tools/analyze_model.py configs/COCO/recipes/*.py --memory --size 1250 1333

The whole detector runs on one random image, with random weights. So that heads count what they
cost at most, all 1000 proposals and 100 detections are kept.

With --memory, what a training needs on one GPU is estimated instead, on the CPU: a forward pass in
training of one image, and of two.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from detectron2.config import instantiate
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.benchmarking.memory_estimate import GIB, RESERVE, RESERVE_SHARE, estimate_memory
from mvit_det.config import load_config
from mvit_det.errors import MViTDetError

# Modules of each part, of which a detector has some.
PARTS = {
    "backbone": ("backbone",),
    "proposals": ("proposal_generator",),
    "heads": ("roi_heads", "head", "sem_seg_head"),
}


def count_parameters(model: nn.Module) -> float:
    """Parameters in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def count_multiply_adds(model: nn.Module, size: tuple[int, int]) -> dict[str, float]:
    """Multiply-adds of a forward pass in billions, by part of the detector and in all.

    Args:
        model: a detector in evaluation mode.
        size: height and width of the image in pixels.
    """
    image = {"image": torch.rand(3, *size) * 255}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model([image])
    counts = counter.get_flop_counts()
    root = type(model).__name__
    # The counter takes a multiplication and an addition for two operations.
    found = {
        part: sum(sum(counts.get(f"{root}.{name}", {}).values()) for name in names)
        for part, names in PARTS.items()
    }
    return {part: count / 2e9 for part, count in {**found, "all": sum(found.values())}.items()}


def analyze(path: str, size: tuple[int, int], overrides: Sequence[str]) -> list[str]:
    """One row of the table."""
    config = load_config(path, overrides)
    # Random weights know no object; keep what they find all the same.
    if "roi_heads" in config.model:
        heads = config.model.roi_heads
        for predictor in heads.get("box_predictors") or [heads.box_predictor]:
            predictor.update(test_score_thresh=0.0, test_nms_thresh=1.0)
        config.model.proposal_generator.nms_thresh = 1.0
    torch.manual_seed(0)
    model = instantiate(config.model).eval()
    counts = count_multiply_adds(model, size)
    name = path.rpartition("/")[2].removesuffix(".py")
    return [name, f"{count_parameters(model):.1f}", *(f"{count:.0f}" for count in counts.values())]


def estimate(path: str, size: tuple[int, int], overrides: Sequence[str]) -> list[str]:
    """One row of the table of memory."""
    estimated = estimate_memory(load_config(path, overrides), size)
    each = estimated.activations_each / GIB
    parts = {
        part: f"{getattr(estimated, part) / GIB:.2f}"
        for part in ("parameters", "gradients", "optimizer", "average", "activations_once")
    }
    return [
        path.rpartition("/")[2].removesuffix(".py"),
        *parts.values(),
        f"{estimated.images} × {each:.2f}",
        f"{estimated.reserve / GIB:.2f}",
        f"{estimated.total / GIB:.1f}",
    ]


MEMORY_HEADER = ["config", "parameters", "gradients", "optimizer", "average"]
MEMORY_HEADER += ["activations, once", "images × each", "reserve", "all (GiB)"]
FORMULA = (
    "Estimated, not measured on a GPU: parameters + gradients + optimizer + averaged weights\n"
    "+ activations that the backward pass needs, once and for each image that is seen at once\n"
    f"+ a reserve of {RESERVE / GIB:.1f} GiB and {RESERVE_SHARE:.0%} of all that; in GiB,"
    "\non one GPU, with images of {size} pixels."
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="LazyConfig files")
    parser.add_argument(
        "--size", nargs=2, type=int, default=(800, 1280), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument(
        "--memory", action="store_true", help="estimate what a training needs of a GPU's memory"
    )
    parser.add_argument("--opts", nargs="*", default=[], help="changes, key.of.field=value")
    arguments = parser.parse_args()
    height, width = arguments.size
    row = estimate if arguments.memory else analyze
    try:
        rows = [row(path, (height, width), arguments.opts) for path in arguments.configs]
    except MViTDetError as error:
        sys.exit(f"error: {error}")
    header = ["config", "parameters (M)", *(f"{part} (G)" for part in (*PARTS, "all"))]
    if arguments.memory:
        print(tabulate(rows, MEMORY_HEADER, tablefmt="github", disable_numparse=True))
        print(f"\n{FORMULA.format(size=f'{height} × {width}')}")
    else:
        print(tabulate(rows, header, tablefmt="github"))


if __name__ == "__main__":
    main()

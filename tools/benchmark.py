#!/usr/bin/env python
"""Measures speed and memory of mvit_det against Detectron2's own MViT with equal weights.

tools/benchmark.py                                   a set of measurements, in minutes
tools/benchmark.py --device cuda                     the same on a GPU
tools/benchmark.py --image-size 640 800 --what train,memory
tools/benchmark.py --detector --what train           a whole Mask R-CNN
tools/benchmark.py --checkpoint scale2,scale3        what checkpointing costs and saves
tools/benchmark.py --mask-padding                    what masking the padding costs
tools/benchmark.py --sweep                           from 256² to 2048² pixels, with a plot

Both sides run in turn. The table shows medians and, in brackets, the least and the most of all
repeats. The floor is the time that the floating-point operations of the forward pass would take at
the rate of square matrix products, measured between the repeats; that of a training step is three
times as much. Peak memory is that of one pass in a process of its own, above that before it.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from mvit_det.benchmarking import (
    PRESETS,
    SIZES,
    SWEEP_SIDES,
    WHAT,
    Case,
    Row,
    as_json,
    compare,
    draw,
    format_rows,
    preset,
    sweep,
    time_per_pixel,
)
from mvit_det.errors import MViTDetError

# Options of a case of one's own, which the presets decide themselves.
OWN = ("image_size", "batch", "dtype", "what", "detector", "checkpoint", "mask_padding", "against")


def parse_what(text: str) -> list[str]:
    """Reads "forward,train,memory" or a part of it."""
    names = text.split(",")
    unknown = [name for name in names if name not in WHAT]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(WHAT)}")
    return names


def parse_checkpoint(text: str) -> tuple[str, ...]:
    """Reads "all", or names of stages: "scale2,scale3"."""
    names = tuple(text.split(","))
    stages = ("scale2", "scale3", "scale4", "scale5")
    unknown = [name for name in names if name not in stages]
    if unknown and names != ("all",):
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(stages)}, all")
    return names


def parse_arguments() -> argparse.Namespace:
    """What to measure, and how."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="t", help="of the model; default: t")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--compile", action="store_true", help="run both sides' backbones through torch.compile")
    add("--threads", type=int, default=0, metavar="N", help="of the CPU; default: PyTorch's")
    add("--repeats", type=int, metavar="N", help="default: 3 to 20, depending on the case")
    add("--output", type=Path, default=Path("output/benchmark"), metavar="DIR",
        help="folder for benchmark.json and benchmark.png; default: output/benchmark")  # fmt: skip

    sets = parser.add_argument_group("a set of measurements").add_mutually_exclusive_group()
    sets.add_argument("--preset", choices=PRESETS,
        help="quick: minutes, and what runs without other options; full: more of it")  # fmt: skip
    sets.add_argument("--sweep", action="store_true",
        help="grow the image as far as memory allows, and draw a plot")  # fmt: skip

    add = parser.add_argument_group("a case of your own, also for --sweep").add_argument
    add("--image-size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"),
        help="in pixels, several times if need be; default: 800 1216")  # fmt: skip
    add("--batch", type=int, metavar="N", help="images at once; default: 1")
    add("--dtype", metavar="TYPE", help="fp32, or bf16 or fp16 for autocast; default: fp32")
    add("--what", type=parse_what, metavar="WHAT",
        help="forward, train and memory, with commas between; memory is that of the passes named, "
        "of a training step if none is; default: all")  # fmt: skip
    add("--detector", action="store_true", default=None, help="measure a whole Mask R-CNN")
    add("--checkpoint", type=parse_checkpoint, metavar="STAGES",
        help="scale2 to scale5 with commas between, or all: compute their blocks again in the "
        "backward pass")  # fmt: skip
    add("--mask-padding", action="store_true", default=None, help="keep padding out of attention")
    add("--against", choices=("detectron2", "mvit_det"),
        help="mvit_det: without checkpointing and masking, which is the default with either of "
        "them; else detectron2")  # fmt: skip

    arguments = parser.parse_args()
    chosen = {name: value for name in OWN if (value := getattr(arguments, name)) is not None}
    if arguments.preset and chosen:
        option = next(iter(chosen)).replace("_", "-")
        parser.error(f"argument --{option}: not allowed with argument --preset")
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error(f"argument --repeats: must be positive, not {arguments.repeats}")
    if not chosen and not arguments.sweep:
        arguments.preset = arguments.preset or "quick"
    return arguments


def make_cases(arguments: argparse.Namespace) -> list[Case]:
    """A case for each image size."""
    own_options = arguments.checkpoint or arguments.mask_padding
    case = Case(
        size=arguments.size,
        batch=1 if arguments.batch is None else arguments.batch,
        dtype=arguments.dtype or "fp32",
        device=arguments.device,
        compile=arguments.compile,
        detector=bool(arguments.detector),
        checkpoint=arguments.checkpoint or (),
        mask_padding=bool(arguments.mask_padding),
        baseline=arguments.against or ("mvit_det" if own_options else "detectron2"),
        threads=arguments.threads,
    )
    sizes = arguments.image_size
    if not sizes:
        sizes = [(side, side) for side in SWEEP_SIDES] if arguments.sweep else [(800, 1216)]
    cases = [replace(case, image_size=tuple(size)) for size in sizes]
    return sorted(cases, key=lambda case: case.pixels)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Runs everything, telling what is being done."""

    def announce(what: list[str], case: Case) -> None:
        print(f"Measuring {' and '.join(what)}: {case.describe()} …", file=sys.stderr, flush=True)

    warmup = 3 if arguments.device == "cuda" else 1
    rows: list[Row] = []
    if arguments.preset:
        measurements = preset(
            arguments.preset,
            size=arguments.size,
            device=arguments.device,
            compile=arguments.compile,
            threads=arguments.threads,
        )
        for item in measurements:
            announce(list(item.what), item.case)
            repeats = arguments.repeats or item.repeats
            rows += compare(item.case, item.what, repeats, warmup)
        return rows + time_per_pixel(rows)

    cases = make_cases(arguments)
    what = arguments.what or list(WHAT)
    repeats = arguments.repeats or 5
    if arguments.sweep:
        for row in sweep(cases, what, repeats, warmup):
            rows.append(row)
            print(format_rows([row]).splitlines()[2], file=sys.stderr, flush=True)
    else:
        for case in cases:
            announce(what, case)
            rows += compare(case, what, repeats, warmup)
    return rows + time_per_pixel(rows)


def main() -> None:
    """Measures, prints the table and writes the files."""
    arguments = parse_arguments()
    if arguments.threads > 0:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    print(format_rows(rows))
    arguments.output.mkdir(parents=True, exist_ok=True)
    written = [arguments.output / "benchmark.json"]
    text = json.dumps(as_json(rows, sys.argv), indent=2)
    written[0].write_text(text + "\n", encoding="utf-8")
    if arguments.sweep:
        written.append(arguments.output / "benchmark.png")
        draw(rows, written[-1])
    print(f"\nWrote {' and '.join(map(str, written))}")


if __name__ == "__main__":
    try:
        main()
    except MViTDetError as error:
        sys.exit(f"error: {error}")

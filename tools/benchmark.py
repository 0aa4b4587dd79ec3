#!/usr/bin/env python
"""Measures speed and memory against Detectron2's, timm's or torchvision's MViT, with equal weights.

tools/benchmark.py                                   a set of measurements, in minutes
tools/benchmark.py --device cuda                     the same on a GPU
tools/benchmark.py --image-size 640 800 --what train,memory
tools/benchmark.py --detector --what train           a whole Mask R-CNN
tools/benchmark.py --checkpoint scale2,scale3        the cost and gain of checkpointing
tools/benchmark.py --mask-padding                    the cost of masking the padding
tools/benchmark.py --task classification --size s    a classifier against timm's
tools/benchmark.py --task video                      a video classifier against torchvision's
tools/benchmark.py --task video --clip-lengths 8 16 32 64
tools/benchmark.py --loader flowers/train            the training loader of classifiers
tools/benchmark.py --sweep                           from 256² to 2048² pixels, with a plot
tools/benchmark.py --attention --dtype bf16          the attention kernels, on a model's shapes
tools/benchmark.py --recipes configs/COCO/recipes/*.py --device cuda
tools/benchmark.py --runtime                         PyTorch, ONNX Runtime and OpenVINO
tools/benchmark.py --runtime --task video            the same for a video classifier
tools/benchmark.py --gpu                             tests and all tables of a GPU, in ten minutes

Both sides run by turns. The table shows medians and, in brackets, the minimum and the maximum of
all repeats. The floor is the time that the floating-point operations of the forward pass would take
at the rate of square matrix products, measured between the repeats; for a training step it is three
times as long. Peak memory is that of one pass in a process of its own, above the memory in use
before it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
    gpu,
    preset,
    provenance,
    sweep,
    time_per_pixel,
)
from mvit_det.benchmarking.attention import compare_kernels, format_kernels
from mvit_det.benchmarking.case import BASELINES, TASKS
from mvit_det.benchmarking.loading import compare_loaders
from mvit_det.benchmarking.recipes import format_recipes, measure_recipes
from mvit_det.benchmarking.runtimes import (
    RUNTIMES,
    RuntimeRow,
    compare_runtimes,
    format_runtimes,
)
from mvit_det.cli.arguments import expand_homes, output_path, prepare_folder
from mvit_det.cli.main import guarded
from mvit_det.data.folders import write_text

ROOT = Path(__file__).resolve().parents[1]
# The largest micro-batch of COCO's augmentations, and a usual image.
RECIPE_SIZES = ((1250, 1333), (800, 1216))
STAGES = ("scale2", "scale3", "scale4", "scale5")
# Options of a single case, which presets set themselves.
CASE_OPTIONS = (
    "task", "image_size", "batch", "dtype", "what", "detector", "checkpoint", "mask_padding",
    "against",
)  # fmt: skip
RUNTIME_OPTIONS = ("task", "image_size", "detector")


def parse_what(text: str) -> tuple[str, ...]:
    """Reads "forward,train,memory" or some of them."""
    names = tuple(text.split(","))
    for name in names:
        if name not in WHAT:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(WHAT)}")
    return names


def parse_checkpoint(text: str) -> tuple[str, ...]:
    """Reads "all", or names of stages: "scale2,scale3"."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in STAGES]
    if unknown and names != ("all",):
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(STAGES)}, all")
    return names


def parse_runtimes(text: str) -> tuple[str, ...]:
    """Reads "pytorch,openvino bf16" or other runtimes."""
    names = tuple(text.split(","))
    for name in names:
        if name not in RUNTIMES:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(RUNTIMES)}")
    return names


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, help="of the model; default: t, of video models s")
    add("--device", choices=("cpu", "cuda"), help="default: cpu, and cuda with --gpu")
    add("--compile", action="store_true", help="run both sides' backbones through torch.compile")
    add("--threads", type=int, default=0, metavar="N", help="of the CPU; default: PyTorch's")
    add("--repeats", type=int, metavar="N", help="default: 3 to 20, depending on the case")
    add("--output", type=output_path, default=Path("output/benchmark"), metavar="DIR",
        help="folder for benchmark.json, .md and .png; default: output/benchmark")  # fmt: skip

    sets = parser.add_argument_group("a set of measurements").add_mutually_exclusive_group()
    sets.add_argument("--preset", choices=PRESETS,
        help="quick: minutes, the default without other options; full: more of it")  # fmt: skip
    sets.add_argument("--sweep", action="store_true",
        help="grow the image as far as memory allows, and draw a plot")  # fmt: skip
    sets.add_argument("--runtime", type=parse_runtimes, nargs="?", const=RUNTIMES, metavar="NAMES",
        help="inference on the CPU, of detector and backbone (with --detector of the first only) "
        "or with --task video of a video classifier, "
        f"in these runtimes, separated by commas; default: {','.join(RUNTIMES)}")  # fmt: skip
    sets.add_argument("--attention", action="store_true",
        help="compare the attention kernels on the shapes of a model's blocks")  # fmt: skip
    sets.add_argument("--recipes", nargs="+", type=Path, metavar="CONFIG",
        help="memory, against its estimate, and time of the training steps of configs")  # fmt: skip
    sets.add_argument("--loader", type=Path, metavar="DIR",
        help="images/s on one core of the training loader of classifiers, against timm's, on a "
        "folder of class folders")  # fmt: skip
    sets.add_argument("--gpu", action="store_true",
        help="run the GPU's tests, kernels, benchmark and recipes; with --device cpu a rehearsal "
        "at tiny sizes")  # fmt: skip

    single = parser.add_argument_group("a single case, also for --sweep and --attention")
    add = single.add_argument
    add("--task", choices=TASKS,
        help="detection: a backbone, or a detector; classification: a classifier; video: a "
        "classifier of clips; default: detection")  # fmt: skip
    add("--image-size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"),
        help="in pixels, may be repeated; default: 800 1216, of classifiers 224 224")  # fmt: skip
    add("--clip-lengths", type=int, nargs="+", metavar="FRAMES",
        help="frames of the clips; several make a sweep with a plot; default: 16")  # fmt: skip
    add("--batch", type=int, metavar="N", help="per batch; default: 1, of image classifiers 8")
    add("--dtype", metavar="TYPE", help="fp32, or bf16 or fp16 for autocast; default: fp32")
    add("--what", type=parse_what, metavar="WHAT",
        help="forward, train and memory, separated by commas; memory is that of the passes named, "
        "of a training step if none is; default: all")  # fmt: skip
    add("--detector", action="store_true", default=None, help="measure a whole Mask R-CNN")
    add("--checkpoint", type=parse_checkpoint, metavar="STAGES",
        help="scale2 to scale5 separated by commas, or all: checkpoint their blocks")  # fmt: skip
    add("--mask-padding", action="store_true", default=None, help="keep padding out of attention")
    add("--against", choices=sorted({name for names in BASELINES.values() for name in names}),
        help="mvit_det: without checkpointing and masking, the default with either of them; "
        "else detectron2, of classifiers timm, of clips torchvision")  # fmt: skip

    arguments = parser.parse_args(expand_homes(sys.argv[1:]))
    chosen = [name for name in CASE_OPTIONS if getattr(arguments, name) is not None]
    if arguments.preset and chosen:
        option = chosen[0].replace("_", "-")
        parser.error(f"argument --{option}: not allowed with argument --preset")
    if arguments.runtime and (others := [name for name in chosen if name not in RUNTIME_OPTIONS]):
        option = others[0].replace("_", "-")
        parser.error(f"argument --{option}: not allowed with argument --runtime")
    if arguments.runtime and arguments.task == "classification":
        parser.error("argument --task: --runtime measures detection or video")
    if arguments.runtime and arguments.device == "cuda":
        parser.error("argument --runtime: measures on the CPU only")
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error(f"argument --repeats: must be positive, not {arguments.repeats}")
    if arguments.loader and arguments.task in ("detection", "video"):
        parser.error("argument --task: --loader measures classification")
    if arguments.clip_lengths and arguments.task != "video":
        parser.error("argument --clip-lengths: needs --task video")
    arguments.size = arguments.size or ("s" if arguments.task == "video" else "t")
    arguments.sweep = arguments.sweep or len(arguments.clip_lengths or ()) > 1
    modes = ("sweep", "runtime", "attention", "recipes", "loader", "gpu")
    if not (chosen or any(getattr(arguments, mode) for mode in modes)):
        arguments.preset = arguments.preset or "quick"
    arguments.device = arguments.device or ("cuda" if arguments.gpu else "cpu")
    return arguments


def make_cases(arguments: argparse.Namespace) -> list[Case]:
    """The cases to measure."""
    case = Case(
        size=arguments.size,
        device=arguments.device,
        compile=arguments.compile,
        threads=arguments.threads,
        warmup=3 if arguments.device == "cuda" else 1,
    )
    repeats = {"repeats": arguments.repeats} if arguments.repeats else {}
    if arguments.preset:
        return [replace(c, **repeats) for c in preset(arguments.preset, case)]
    chosen = {name: getattr(arguments, name) for name in CASE_OPTIONS}
    options = {name: value for name, value in chosen.items() if value is not None}
    if arguments.loader or options.get("task") == "classification":
        options = {"image_size": [(224, 224)], "batch": 8, **options, "task": "classification"}
    if arguments.task == "video":
        options = {"image_size": [(224, 224)], **options}
    upstream, ours = BASELINES[options.get("task", case.task)]
    options["baseline"] = options.pop("against", None) or (
        ours if options.keys() & {"checkpoint", "mask_padding"} else upstream
    )
    sizes = options.pop("image_size", None) or (
        [(side, side) for side in SWEEP_SIDES] if arguments.sweep else [case.image_size]
    )
    cases = [
        replace(case, image_size=tuple(size), frames=frames, **options, **repeats)
        for size in sizes
        for frames in arguments.clip_lengths or [case.frames]
    ]
    return sorted(cases, key=lambda case: case.pixels)


def measure(cases: Sequence[Case], is_sweep: bool) -> Iterator[Row]:
    """Measures all cases, and says on standard error what is going on."""
    if is_sweep:
        for row in sweep(cases):
            announce(format_rows([row]).splitlines()[2])
            yield row
        return
    for case in cases:
        announce(f"Measuring {' and '.join(case.what)}: {case.describe()} …")
        yield from compare(case)


def measure_runtimes(arguments: argparse.Namespace) -> list[RuntimeRow]:
    """Measures the runtimes of the command line."""
    rows: list[RuntimeRow] = []
    is_video = arguments.task == "video"
    parts = ["video"] if is_video else ["detector"]
    if not (is_video or arguments.detector):
        parts.append("backbone")
    for image_size in arguments.image_size or [(224, 224) if is_video else (800, 1216)]:
        announce(f"Measuring {', '.join(arguments.runtime)} …")
        rows += compare_runtimes(
            arguments.size,
            tuple(image_size),
            arguments.output / "models",
            parts=parts,
            runtimes=arguments.runtime,
            repeats=arguments.repeats or 5,
            threads=arguments.threads,
        )
    return rows


def measure_arguments(arguments: argparse.Namespace) -> tuple[str, list[Any], str]:
    """Measures what the command line asks for; returns a name of the files, rows and tables."""
    device = arguments.device
    if arguments.runtime:
        runtimes = measure_runtimes(arguments)
        return "runtimes", runtimes, format_runtimes(runtimes)
    if arguments.recipes:
        memory_size, *_, time_size = map(tuple, 2 * (arguments.image_size or RECIPE_SIZES))
        recipes = list(measure_recipes(arguments.recipes, device, memory_size, time_size))
        return "recipes", recipes, format_recipes(recipes)
    cases = make_cases(arguments)
    if arguments.attention:
        kernels = [row for case in cases for row in compare_kernels(case)]
        return "attention", kernels, format_kernels(kernels)
    if arguments.loader:
        loaders = [compare_loaders(arguments.loader, case) for case in cases]
        return "loader", loaders, format_rows(loaders)
    rows = list(measure(cases, arguments.sweep))
    rows += time_per_pixel(rows)
    return "benchmark", rows, format_rows(rows)


def announce(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def write(folder: Path, name: str, text: str, content: object) -> list[Path]:
    """Prints the tables and writes them, as Markdown and JSON.

    Raises:
        OutputError: a file cannot be written.
    """
    print(text)
    files = {f"{name}.json": json.dumps(content, indent=2), f"{name}.md": text}
    return [write_text(folder / file, each + "\n") for file, each in files.items()]


def run_gpu(arguments: argparse.Namespace) -> None:
    """Runs everything that needs a GPU, or says why not."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("Skipped: PyTorch finds no CUDA device on this machine.")
        return
    folder = arguments.output
    prepare_folder(folder)
    steps = gpu.plan(arguments.device, ROOT)
    outcomes = gpu.run(steps, ROOT, folder, arguments.device, announce)
    print((folder / "gpu.md").read_text(encoding="utf-8"))
    print(f"Wrote {folder / 'gpu.json'}, {folder / 'gpu.md'}")
    failed = [outcome.step.title for outcome in outcomes if outcome.status != "passed"]
    if failed:
        sys.exit(f"error: not all steps passed: {', '.join(failed)}; see {folder / 'gpu.md'}")


def main() -> None:
    """Measures, prints the tables and writes the files."""
    arguments = parse_arguments()
    if arguments.threads > 0:
        torch.set_num_threads(arguments.threads)
    if arguments.gpu:
        run_gpu(arguments)
        return
    prepare_folder(arguments.output)
    name, rows, text = measure_arguments(arguments)
    content = (
        as_json(rows, sys.argv)
        if name in ("benchmark", "loader")
        else {**provenance(sys.argv), "rows": [asdict(row) for row in rows]}
    )
    written = write(arguments.output, name, text, content)
    if arguments.sweep:
        written.append(arguments.output / "benchmark.png")
        draw(rows, written[-1])
    print(f"\nWrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(guarded(main, code=1))

"""Exports a trained detector to a file that runs without Detectron2."""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..config import find_config
from ..export import FORMATS, Differences, Exportable, compare, export, prepare_detector
from ..export.evaluation import evaluate
from ..export.exporting import save_openvino
from ..export.quantization import GROUPS, groups_of, quantize
from ..export.torch_session import TorchSession
from ..prediction.files import IMAGE_EXTENSIONS, find_inputs
from ..runtime import OnnxPredictor, OpenVinoPredictor
from ..runtime.sessions import OnnxSession, OpenVinoSession, Session
from .arguments import Parser

# Differences that --check allows: pixels, scores and IoU.
MAX_BOX, MAX_SCORE, MIN_MASK_IOU = 0.5, 1e-3, 0.99


EXAMPLES = (
    "{prog} --config-file output/config.yaml --weights output/model_final.pth \\\n"
    "      --format openvino --size 800x1344 --output detector.xml --check photos",
    "{prog} --config-file mask_rcnn_mvitv2_t --format onnx --size 800x1344 --output t.onnx",
    "{prog} --config-file … --weights … --format openvino --size 800x1344 \\\n"
    "      --output detector.xml --int8 photos --evaluate",
)
DETAILS = """\
Files have a fixed size, into which images are fitted with their aspect ratio kept. Of several sizes
each gets a file, named detector-800x1344.onnx and so on; the predictors of mvit_det.runtime take
all of them and choose by image. With --int8, detector-int8.xml is written as well.

exit codes: 0 all files are written, and equal PyTorch where checked; 1 a file differs; 2 a mistake
in the command or its files"""


def parse_size(text: str) -> tuple[int, int]:
    """Reads "800x1344": height and width in pixels."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH, such as 800x1344")
    return int(match[1]), int(match[2])


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        prog,
        arguments,
        usage="--config-file CONFIG --format FORMAT --size HxW … --output PATH [options]",
        summary="Writes a detector to a file that runs without Detectron2.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add, rare = parser.add_argument, parser.add_rare
    parser.add_config()
    add("--format", required=True, choices=FORMATS, help="format of the file")
    add("--size", required=True, nargs="+", type=parse_size, metavar="HxW",
        help="of the canvas in pixels; one file for each")  # fmt: skip
    add("--output", required=True, type=Path, metavar="PATH",
        help="the file to write: .onnx, .xml (openvino) or .pt2 (torch)")  # fmt: skip
    rare("--part", choices=("detector", "backbone"), default="detector",
        help="backbone: feature maps only; default: detector")  # fmt: skip
    rare("--score-threshold", type=float, metavar="SCORE",
        help="lowest score that the file can return, 0 to 1; default: the config's")  # fmt: skip
    rare("--opset", type=int, default=18, metavar="N", help="of ONNX, 18 or higher; default: 18")
    add("--check", nargs="+", metavar="PATH",
        help="images, folders or patterns: compare the file with PyTorch on them")  # fmt: skip
    add("--evaluate", action="store_true",
        help="evaluate the files as the config says, and print their AP")  # fmt: skip
    add("--int8", nargs="+", metavar="PATH",
        help="images, some hundred, with which to quantise an OpenVINO file")  # fmt: skip
    rare("--keep", nargs="+", default=[], choices=GROUPS, metavar="GROUP",
        help=f"layers that --int8 leaves in higher precision, of {', '.join(GROUPS)}")  # fmt: skip
    rare("--measure-groups", action="store_true",
        help="with --int8 and --evaluate: also print the AP with one group in int8 at a time, "
        "which shows what to --keep")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published detector")
    if options.check and options.part == "backbone":
        parser.error("argument --check: not with --part backbone, which finds nothing to compare")
    if options.evaluate and options.part == "backbone":
        parser.error("argument --evaluate: not with --part backbone, which finds nothing")
    if options.int8 and options.format != "openvino":
        parser.error("argument --int8: only with --format openvino")
    if options.evaluate and options.format == "torch":
        parser.error("argument --evaluate: only with --format onnx or openvino")
    if options.measure_groups and not (options.int8 and options.evaluate):
        parser.error("argument --measure-groups: needs --int8 and --evaluate")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    return run(parse_arguments(arguments, prog))


def find_images(names: list[str] | None) -> list[Path]:
    """The images among files, folders and patterns."""
    return [path for path in find_inputs(names or []) if path.suffix.lower() in IMAGE_EXTENSIONS]


def check(exportable: Exportable, path: Path, images: list[Path]) -> bool:
    """Prints how far a file is from PyTorch; returns whether that is within the limits."""
    sessions: dict[str, Callable[[Path], Session]] = {".onnx": OnnxSession, ".xml": OpenVinoSession}
    session = sessions.get(path.suffix, TorchSession)(path)
    found: Differences = compare(exportable, session, images)
    print(f"'{path}' compared with PyTorch: {found.describe()}", flush=True)
    return (
        not found.missing + found.extra
        and found.box <= MAX_BOX
        and found.score <= MAX_SCORE
        and found.mask_iou >= MIN_MASK_IOU
    )


def print_metrics(path: Path, name: str, options: argparse.Namespace) -> None:
    """Evaluates a file and prints its AP."""
    predictor_class = OnnxPredictor if path.suffix == ".onnx" else OpenVinoPredictor
    config, _ = find_config(options.config_file, options.opts)
    with tempfile.TemporaryDirectory() as folder:
        config.train.output_dir = folder
        metrics = evaluate(predictor_class(path), config)
    values = ", ".join(f"{task} AP {each['AP']:.2f}" for task, each in metrics.items())
    print(f"{name}: {values}", flush=True)


def write_int8(path: Path, images: list[Path], options: argparse.Namespace) -> Path:
    """Quantises a file, and shows the effect of each group of layers where that is asked for."""

    def write(keep: list[str], target: Path) -> None:
        model, metadata = quantize(path, images, keep)
        save_openvino(model, replace(metadata, precision="int8"), target)

    if options.measure_groups:
        with tempfile.TemporaryDirectory() as folder:
            groups = groups_of(path)
            for group in groups:
                write([each for each in groups if each != group], Path(folder, "model.xml"))
                print_metrics(Path(folder, "model.xml"), f"int8 in {group} only", options)
    target = path.with_stem(f"{path.stem}-int8")
    write(options.keep, target)
    return target


def run(options: argparse.Namespace) -> int:
    """Writes the files and returns the exit code."""
    images, calibration = find_images(options.check), find_images(options.int8)
    differs = False
    for size in options.size:
        exportable = prepare_detector(
            options.config_file,
            options.weights,
            size=size,
            part=options.part,
            score_threshold=options.score_threshold,
            overrides=options.opts,
            trust_checkpoint=options.trust_checkpoint,
        )
        path = options.output
        if len(options.size) > 1:
            path = path.with_stem(f"{path.stem}-{size[0]}x{size[1]}")
        export(exportable, path, options.format, options.opset)
        print_written(path)
        if images and not check(exportable, path, images):
            differs = True
            print(
                f"'{path}' differs from PyTorch by more than {MAX_BOX} pixels, {MAX_SCORE} of a "
                f"score or {MIN_MASK_IOU} of IoU",
                file=sys.stderr,
            )
        if options.evaluate:
            print_metrics(path, f"'{path}'", options)
        if options.int8:
            quantized = write_int8(path, calibration, options)
            print_written(quantized)
            if images:
                check(exportable, quantized, images)
            if options.evaluate:
                print_metrics(quantized, f"'{quantized}'", options)
    return int(differs)


def print_written(path: Path) -> None:
    """Prints the name and size of a file, with OpenVINO's weights beside it."""
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"Wrote {' and '.join(map(str, files))} ({megabytes:.0f} MB)", flush=True)

"""Exports a trained detector or classifier to a file that runs without Detectron2."""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from ..config import find_config
from ..data.clip_cutting import STILL_EXTENSIONS
from ..data.videos import VIDEO_EXTENSIONS
from ..errors import ImageError
from ..export import FORMATS, PARTS, Exportable, compare, export, prepare
from ..export.comparison import MAX_BOX, MAX_SCORE, MIN_MASK_IOU
from ..export.evaluation import evaluate_file, evaluate_pytorch, format_metrics, open_session
from ..export.exporting import save_openvino
from ..export.preparation import takes_videos
from ..export.quantization import GROUPS, groups_of, quantize
from ..prediction.files import find_inputs
from .arguments import Parser, output_path

EXAMPLES = (
    "{prog} --config-file output/config.yaml --weights output/model_final.pth \\\n"
    "      --format openvino --size 800x1344 --output detector.xml --check photos",
    "{prog} --config-file … --weights … --format openvino --size 800x1344 \\\n"
    "      --output detector.xml --int8 photos --evaluate",
    "{prog} --config-file video_mvitv2_s_k400 --format onnx --output clips.onnx",
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
        usage="--config-file CONFIG --format FORMAT [--size HxW …] --output PATH [options]",
        summary="Writes a detector or a classifier to a file that runs without Detectron2.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add, rare = parser.add_argument, parser.add_rare
    parser.add_config()
    add("--format", required=True, choices=FORMATS, help="format of the file")
    add("--size", nargs="+", default=[None], type=parse_size, metavar="HxW",
        help="of the canvas in pixels, one file for each; classifiers have a default")  # fmt: skip
    add("--output", required=True, type=output_path, metavar="PATH",
        help="the file to write: .onnx, .xml (openvino) or .pt2 (torch)")  # fmt: skip
    rare("--part", choices=PARTS, default="model",
        help="backbone: a detector's feature maps only; default: model")  # fmt: skip
    rare("--score-threshold", type=float, metavar="SCORE",
        help="lowest score that the file can return, 0 to 1; default: the config's")  # fmt: skip
    rare("--opset", type=int, default=18, metavar="N", help="of ONNX, 18 or higher; default: 18")
    add("--check", nargs="+", metavar="PATH",
        help="images or videos, folders or patterns: compare the file with PyTorch")  # fmt: skip
    add("--evaluate", action="store_true",
        help="evaluate PyTorch and the files as the config says, and print a table")  # fmt: skip
    add("--int8", nargs="+", metavar="PATH",
        help="some hundred images or videos, to quantise an OpenVINO file with")  # fmt: skip
    rare("--keep", nargs="+", default=[], choices=GROUPS, metavar="GROUP",
        help=f"layers that --int8 leaves in higher precision, of {', '.join(GROUPS)}")  # fmt: skip
    rare("--measure-groups", action="store_true",
        help="with --int8 and --evaluate: also print the AP with one group in int8 at a time, "
        "which shows what to --keep")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published model")
    if options.check and options.part == "backbone":
        parser.error("argument --check: not with --part backbone, which finds nothing to compare")
    if options.evaluate and options.part == "backbone":
        parser.error("argument --evaluate: not with --part backbone, which finds nothing")
    if options.int8 and options.format != "openvino":
        parser.error("argument --int8: only with --format openvino")
    if options.measure_groups and not (options.int8 and options.evaluate):
        parser.error("argument --measure-groups: needs --int8 and --evaluate")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    return run(parse_arguments(arguments, prog))


def find_sources(names: list[str] | None, are_videos: bool) -> list[Path | str]:
    """The images or the videos among files, folders, patterns and URLs.

    Raises:
        ImageError: a name stands for none of them, or for no file at all.
    """
    others = STILL_EXTENSIONS if are_videos else VIDEO_EXTENSIONS
    found: dict[Path | str, None] = {}
    for name in names or []:
        files = find_inputs([name])
        kept = [path for path in files if not str(path).lower().endswith(others)]
        if not kept:
            kind, expected = ("an image", "videos") if are_videos else ("a video", "images")
            raise ImageError(
                f"'{files[0]}' is {kind}, but the model takes {expected}; name {expected} instead"
            )
        found.update(dict.fromkeys(kept))
    return list(found)


def check(exportable: Exportable, path: Path, sources: list[Path | str]) -> bool:
    """Prints how far a file is from PyTorch; returns whether that is within the limits."""
    found = compare(exportable, open_session(path), sources)
    print(f"'{path}' compared with PyTorch: {found.describe()}", flush=True)
    return found.are_within_limits


def write_int8(
    path: Path, sources: list[Path | str], config: DictConfig, options: argparse.Namespace
) -> Path:
    """Quantises a file, and shows the effect of each group of layers where that is asked for."""

    def write(keep: list[str], target: Path) -> None:
        model, metadata = quantize(path, sources, keep)
        save_openvino(model, replace(metadata, precision="int8"), target)

    if options.measure_groups:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            groups, model = groups_of(path), Path(folder, "model.xml")
            for group in groups:
                write([each for each in groups if each != group], model)
                ((_, metrics),) = evaluate_file(model, config)
                rows.append((f"int8 in {group} only", metrics))
        print(format_metrics(rows), flush=True)
    target = path.with_stem(f"{path.stem}-int8")
    write(options.keep, target)
    return target


def run(options: argparse.Namespace) -> int:
    """Writes the files and returns the exit code."""
    config, published = find_config(options.config_file, options.opts)
    are_videos = takes_videos(config)
    checked = find_sources(options.check, are_videos)
    calibration = find_sources(options.int8, are_videos)
    rows = []
    if options.evaluate:
        rows.append(("PyTorch", evaluate_pytorch(config, options.weights or published or "")))
    differs = False
    for size in options.size:
        exportable = prepare(
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
        if checked and not check(exportable, path, checked):
            differs = True
            print(
                f"'{path}' differs from PyTorch by more than {MAX_BOX} pixels, {MAX_SCORE} of a "
                f"score or {MIN_MASK_IOU} of IoU",
                file=sys.stderr,
            )
        if options.evaluate:
            rows += evaluate_file(path, config)
        if options.int8:
            quantized = write_int8(path, calibration, config, options)
            print_written(quantized)
            if checked:
                check(exportable, quantized, checked)
            if options.evaluate:
                rows += evaluate_file(quantized, config)
    if rows:
        print(format_metrics(rows), flush=True)
    return int(differs)


def print_written(path: Path) -> None:
    """Prints the name and size of a file, with OpenVINO's weights beside it."""
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"Wrote {' and '.join(map(str, files))} ({megabytes:.0f} MB)", flush=True)

"""Draws the instances that a detector finds in images and videos, and lists them."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .. import Predictor, __version__
from ..config import config_file, find_config
from ..detection.build import set_nms_method
from ..detection.merging import METHODS as MERGE_METHODS
from ..detection.soft_nms import METHODS as SOFT_METHODS
from ..errors import ConfigError
from ..prediction.files import find_inputs, plan, predict_files, read_list, results_path
from ..prediction.predictor import DTYPES
from ..prediction.ranks import Rank
from ..prediction.tracking import LOWEST_SCORE, check_installed
from .arguments import Parser, output_path

DEFAULT_OUTPUT = Path("output/demo_predictions")
NO_WEBCAM = (
    "--webcam needs a window, which OpenCV's headless build does not have; record a file, for "
    "example with 'ffmpeg -f v4l2 -i /dev/video0 -t 10 clip.mp4', and use '--input clip.mp4'"
)
EXAMPLES = (
    "{prog} --config-file cascade_mask_rcnn_mvitv2_s --input photo.jpg --output found.jpg",
    "{prog} --config-file output/config.yaml --weights output/model_final.pth --input photos",
    "{prog} --config-file mask_rcnn_mvitv2_t --input 'photos/**/*.png' clip.mp4",
)
DETAILS = """\
Images keep their names, and videos become MP4. predictions.json in the output folder has all
instances in COCO's result format. Unreadable inputs are skipped, with a message on stderr.

An interrupted command continues where it stopped when it is given again. torchrun and srun share
the inputs among ranks, which need the same output folder; predictions.json is written at the end:
  torchrun --standalone --nproc-per-node=8 --max-restarts=3 -m mvit_det.cli predict --config-file …

exit codes: 0 success; 1 an input was skipped or a video is incomplete; 2 the command or one of its
files is wrong, or a server or disk fails; 130 interrupted. A rank that skipped inputs exits with 0,
as torchrun would take 1 for a failure and restart it."""
# Options on which predictions do not depend.
_INDEPENDENT = ("input", "input_list", "video_input", "output", "device", "batch_size", "csv")


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses the arguments of Detectron2's demo, and some more."""
    parser = Parser(
        prog,
        arguments,
        usage="--config-file CONFIG --input PATH [PATH …] [options]",
        summary="Draws and lists the objects that a detector finds in images and videos.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add, rare = parser.add_argument, parser.add_rare
    parser.add_config()
    add("--input", nargs="+", default=[], metavar="PATH",
        help="images, videos, folders of them, patterns in quotes, or URLs of images")  # fmt: skip
    rare("--input-list", metavar="FILE", help="text file with one such path per line")
    rare("--video-input", metavar="PATH", help="a video, whatever its file extension")
    rare("--webcam", action="store_true", help="not supported: record a video and use --input")
    add("--output", type=output_path, default=DEFAULT_OUTPUT, metavar="PATH",
        help=f"a folder, or a file if there is one input; default: {DEFAULT_OUTPUT}")  # fmt: skip
    add("--confidence-threshold", type=float, default=0.5, metavar="SCORE",
        help="score threshold, from 0 to 1; default: 0.5")  # fmt: skip
    add("--device", metavar="DEVICE",
        help="such as cpu, cuda or cuda:1; default: CUDA if available")  # fmt: skip
    add("--batch-size", type=int, default=1, metavar="N",
        help="maximum number of images or frames per forward pass; default: 1")  # fmt: skip
    rare("--tta", nargs="+", type=int, metavar="SIDE",
        help="test-time augmentation: sizes of the shorter side in pixels, each also "
        "flipped")  # fmt: skip
    add("--tile-size", type=int, metavar="PIXELS",
        help="detect in overlapping tiles of this size, for large images")  # fmt: skip
    rare("--merge", choices=MERGE_METHODS,
        help="how detections of several sizes or tiles are merged; default: nms")  # fmt: skip
    rare("--soft-nms", choices=SOFT_METHODS, help="soft-NMS instead of NMS in the model")
    add("--track", action="store_true",
        help="follow the objects of videos, which get ids")  # fmt: skip
    add("--csv", action="store_true", help="also write predictions.csv, beside predictions.json")
    rare("--dtype", choices=tuple(DTYPES), default="fp32",
        help="bf16 or fp16 for autocast: faster on GPUs, with rounded results; default: "
        "fp32")  # fmt: skip
    rare("--no-drawings", action="store_true",
        help="write predictions.json only, and no drawn copies of the inputs")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if options.webcam:
        parser.error(NO_WEBCAM)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published detector")
    if not (options.input or options.input_list or options.video_input):
        parser.error("give images or videos with --input")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    return run(parse_arguments(arguments, prog))


def run(options: argparse.Namespace) -> int:
    """Predicts, prints what was skipped and written, and returns the exit code."""
    rank = Rank.from_environment()
    videos = find_inputs([options.video_input]) if options.video_input else []
    listed = read_list(options.input_list) if options.input_list else []
    jobs = plan(find_inputs(options.input + listed), options.output, videos)
    threshold = options.confidence_threshold
    if options.track:
        check_installed()
        if not any(job.is_video for job in jobs):
            raise ConfigError("--track follows objects in videos, and no input is one")
    config, published = find_config(options.config_file, _inference(options) + options.opts)
    if options.soft_nms:
        set_nms_method(config.model, options.soft_nms)
    predictor = Predictor(
        config,
        options.weights or published,
        score_threshold=min(threshold, LOWEST_SCORE) if options.track else threshold,
        device=rank.device(options.device),
        dtype=options.dtype,
        batch_size=options.batch_size,
        trust_checkpoint=options.trust_checkpoint,
    )
    reports = []
    results = results_path(options.output, jobs)
    if options.no_drawings and not results:
        raise ConfigError(
            f"--no-drawings writes predictions.json, and the output '{options.output}' is a file; "
            "name a folder"
        )
    key = _key(options, published)
    for report in predict_files(
        predictor,
        jobs,
        results,
        draw=not options.no_drawings,
        write_csv=options.csv,
        track_threshold=threshold if options.track else None,
        rank=rank,
        key=key,
    ):
        reports.append(report)
        if report.problem:
            status = "incomplete" if report.images else "skipped"
            tqdm.write(f"{status}: {report.problem}", file=sys.stderr)
    written = [report for report in reports if report.images]
    images = sum(not report.job.is_video for report in written)
    frames = sum(report.images for report in written if report.job.is_video)
    of_ranks = f"Rank {rank.index} of {rank.count}: " if rank.count > 1 else ""
    print(
        f"{of_ranks}Found {sum(report.instances for report in reports)} instances in {images} "
        f"images and {len(written) - images} videos ({frames} frames); wrote them to "
        f"'{options.output}'"
    )
    earlier = sum(not report.is_new for report in reports)
    if earlier:
        print(f"{of_ranks}{earlier} of {len(reports)} inputs were done before an interruption")
    issues = [report for report in reports if report.problem]
    if issues:
        print(
            f"{of_ranks}{len(issues)} of {len(reports)} inputs had problems, see above",
            file=sys.stderr,
        )
    return 1 if issues and rank.count == 1 else 0


def _key(options: argparse.Namespace, published: str | None) -> str:
    """Stands for all that predictions depend on; the same on all machines."""
    settings = {name: value for name, value in vars(options).items() if name not in _INDEPENDENT}
    digest = hashlib.sha256(json.dumps([__version__, settings, published]).encode())
    for path in (config_file(options.config_file), Path(options.weights or "")):
        if path.is_file():
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()[:8]


def _inference(options: argparse.Namespace) -> list[str]:
    """The overrides that the options for several views of an image stand for."""
    overrides = {
        "inference.tta.short_sides": options.tta and str(options.tta).replace(" ", ""),
        "inference.slices.tile_size": options.tile_size,
        "inference.merge.method": options.merge,
    }
    return [f"{field}={value}" for field, value in overrides.items() if value is not None]

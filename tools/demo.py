#!/usr/bin/env python
"""Draws the instances that a detector finds in images and videos.

tools/demo.py --config-file output/config.yaml --weights output/model_final.pth --input photo.jpg
tools/demo.py --config-file … --weights … --input photos 'more/**/*.png' clip.mp4 --output found
tools/demo.py --config-file cascade_mask_rcnn_mvitv2_s --input photo.jpg --output found.jpg

Images keep their names, and videos become MP4. predictions.json in the output folder has all
instances in COCO's result format. Unreadable inputs are skipped, with a message on stderr.

exit codes: 0 success; 1 an input was skipped or a video is incomplete; 2 the command or one of its
files is wrong, and nothing was done; 130 interrupted.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from mvit_det import Predictor
from mvit_det.config import find_config
from mvit_det.detection.build import set_nms_method
from mvit_det.detection.merging import METHODS as MERGE_METHODS
from mvit_det.detection.soft_nms import METHODS as SOFT_METHODS
from mvit_det.errors import MViTDetError
from mvit_det.prediction.files import find_inputs, plan, predict_files, results_path

DEFAULT_OUTPUT = Path("output/demo_predictions")
NO_WEBCAM = (
    "--webcam needs a window, which OpenCV's headless build does not have; record a file, for "
    "example with 'ffmpeg -f v4l2 -i /dev/video0 -t 10 clip.mp4', and use '--input clip.mp4'"
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of Detectron2's demo, and some more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG",
        help="a config file, such as the config.yaml of a training, or the name of a published "
        "detector")  # fmt: skip
    add("--weights", metavar="PATH",
        help="file or URL; default: those of the published detector")  # fmt: skip
    add("--input", nargs="+", default=[], metavar="PATH",
        help="images, videos, folders of them, or patterns in quotes")  # fmt: skip
    add("--video-input", metavar="PATH", help="a video, whatever its file extension")
    add("--webcam", action="store_true", help="not supported: record a video and use --input")
    add("--output", type=Path, default=DEFAULT_OUTPUT, metavar="PATH",
        help=f"a folder, or a file if there is one input; default: {DEFAULT_OUTPUT}")  # fmt: skip
    add("--confidence-threshold", type=float, default=0.5, metavar="SCORE",
        help="score threshold, from 0 to 1; default: 0.5")  # fmt: skip
    add("--device", metavar="DEVICE",
        help="such as cpu, cuda or cuda:1; default: CUDA if available, else the CPU")  # fmt: skip
    add("--batch-size", type=int, default=1, metavar="N",
        help="maximum number of images or frames per forward pass; default: 1")  # fmt: skip
    add("--tta", nargs="+", type=int, metavar="SIDE",
        help="test-time augmentation: sizes of the shorter side in pixels, each also "
        "flipped")  # fmt: skip
    add("--tile-size", type=int, metavar="PIXELS",
        help="detect in overlapping tiles of this size, for large images")  # fmt: skip
    add("--merge", choices=MERGE_METHODS,
        help="how detections of several sizes or tiles are merged; default: nms")  # fmt: skip
    add("--soft-nms", choices=SOFT_METHODS, help="soft-NMS instead of NMS in the model")
    add("--trust-checkpoint", action="store_true",
        help="allow the weights file to run code while it is read; only for files from people "
        "you trust")  # fmt: skip
    add("--opts", nargs="*", default=[], metavar="KEY=VALUE", help="config overrides")
    options = parser.parse_args(arguments)
    if options.webcam:
        parser.error(NO_WEBCAM)
    if not options.input and not options.video_input:
        parser.error("give images or videos with --input")
    return options


def run(options: argparse.Namespace) -> int:
    """Predicts, prints what was skipped and written, and returns the exit code."""
    videos = find_inputs([options.video_input]) if options.video_input else []
    jobs = plan(find_inputs(options.input), options.output, videos)
    config, published = find_config(options.config_file, _inference(options) + options.opts)
    if options.soft_nms:
        set_nms_method(config.model, options.soft_nms)
    predictor = Predictor(
        config,
        options.weights or published,
        score_threshold=options.confidence_threshold,
        device=options.device,
        batch_size=options.batch_size,
        trust_checkpoint=options.trust_checkpoint,
    )
    reports = []
    for report in predict_files(predictor, jobs, results_path(options.output, jobs)):
        reports.append(report)
        if report.problem:
            status = "incomplete" if report.images else "skipped"
            tqdm.write(f"{status}: {report.problem}", file=sys.stderr)
    written = [report for report in reports if report.images]
    images = sum(not report.job.is_video for report in written)
    frames = sum(report.images for report in written if report.job.is_video)
    print(
        f"Found {sum(report.instances for report in reports)} instances in {images} images and "
        f"{len(written) - images} videos ({frames} frames); wrote them to '{options.output}'"
    )
    issues = [report for report in reports if report.problem]
    if issues:
        print(f"{len(issues)} of {len(jobs)} inputs had problems, see above", file=sys.stderr)
    return 1 if issues else 0


def _inference(options: argparse.Namespace) -> list[str]:
    """The overrides that the options for several views of an image stand for."""
    overrides = {
        "inference.tta.short_sides": options.tta and str(options.tta).replace(" ", ""),
        "inference.slices.tile_size": options.tile_size,
        "inference.merge.method": options.merge,
    }
    return [f"{field}={value}" for field, value in overrides.items() if value is not None]


def main(arguments: list[str] | None = None) -> int:
    """Runs the script and returns its exit code."""
    options = parse_arguments(arguments)
    # Our one sentence about an unreadable video would drown in the decoder's messages.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Detectron2 calls torch.meshgrid in a deprecated way; users can do nothing about it.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    try:
        return run(options)
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the outputs written so far are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Draws what a detector finds in images and videos.

tools/demo.py --config-file output/config.yaml --weights output/model_final.pth --input photo.jpg
tools/demo.py --config-file … --weights … --input photos 'more/**/*.png' clip.mp4 --output found
tools/demo.py --config-file cascade_mask_rcnn_mvitv2_s --input photo.jpg --output found.jpg

Images keep their names, and videos become MP4. predictions.json in the output folder holds all
instances in COCO's result format. Inputs that cannot be read are told of and left out.

exit codes: 0 all is done; 1 an input was left out or a video breaks off; 2 nothing could be done,
for a mistake in the command or its files; 130 interrupted.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from mvit_det import Predictor
from mvit_det.errors import MViTDetError
from mvit_det.prediction import find_config
from mvit_det.prediction.files import find_inputs, plan, predict_files, results_path

DEFAULT_OUTPUT = Path("output/demo_predictions")
NO_WEBCAM = (
    "--webcam needs a window to show images in, which this tool does without; record a file, "
    "for example with 'ffmpeg -f v4l2 -i /dev/video0 -t 10 clip.mp4', and use '--input clip.mp4'"
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments for its demo, and some more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG",
        help="a config file, such as the config.yaml of a training, or a published detector's "
        "name")  # fmt: skip
    add("--weights", metavar="PATH",
        help="file or address; by default those of the published detector")  # fmt: skip
    add("--input", nargs="+", default=[], metavar="PATH",
        help="images, videos, folders of them, or patterns in quotes")  # fmt: skip
    add("--video-input", metavar="PATH", help="a video, whatever its file is called")
    add("--webcam", action="store_true", help="not here: record a video and use --input")
    add("--output", type=Path, default=DEFAULT_OUTPUT, metavar="PATH",
        help=f"a folder, or a file for a single input; default: {DEFAULT_OUTPUT}")  # fmt: skip
    add("--confidence-threshold", type=float, default=0.5, metavar="SCORE",
        help="least score, 0 to 1; default: 0.5")  # fmt: skip
    add("--device", choices=("cpu", "cuda"),
        help="by default CUDA if there is any, and the CPU if not")  # fmt: skip
    add("--batch-size", type=int, default=1, metavar="N",
        help="most images or frames at once; default: 1")  # fmt: skip
    add("--trust-checkpoint", action="store_true",
        help="let a file of weights run code while it is read; only if you know where it is "
        "from")  # fmt: skip
    add("--opts", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    options = parser.parse_args(arguments)
    if options.webcam:
        parser.error(NO_WEBCAM)
    if not options.input and not options.video_input:
        parser.error("name images or videos with --input")
    return options


def run(options: argparse.Namespace) -> int:
    """Predicts, telling what is left out and what was written; returns the exit code."""
    videos = find_inputs([options.video_input]) if options.video_input else []
    jobs = plan(find_inputs(options.input), options.output, videos)
    config, published = find_config(options.config_file, options.opts)
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
            status = "incomplete" if report.images else "left out"
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
        print(f"{len(issues)} of {len(jobs)} inputs had issues, see above", file=sys.stderr)
    return 1 if issues else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the script and returns its exit code."""
    options = parse_arguments(arguments)
    # What is wrong with a video is said in a sentence, which the decoder's own lines would hide.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Detectron2 calls what PyTorch wants called otherwise; its users cannot help that.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    try:
        return run(options)
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was written until then is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

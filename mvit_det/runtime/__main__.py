"""Draws what an exported detector finds in images, or prints the classes of images or clips.

python -m mvit_det.runtime detector.xml photo.jpg photos/*.jpg --output found
python -m mvit_det.runtime landscape.onnx portrait.onnx photo.jpg --score-threshold 0.7
python -m mvit_det.runtime classifier.xml photo.jpg
python -m mvit_det.runtime clips.xml video.mp4

exit codes: 0 all is done; 1 an image or video was skipped; 2 nothing could be done.
"""

import argparse
import sys
import time
from pathlib import Path

from ..errors import ImageError, MViTDetError
from .classification import ClassScore, RuntimeClassifier
from .loading import AnyPredictor, make_predictor
from .predictor import RuntimePredictor
from .sessions import OnnxSession, OpenVinoSession, Session

MODEL_EXTENSIONS = (".onnx", ".xml")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_det.runtime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE",
        help="exported files (.onnx, .xml), one or several of a detector or one of a classifier, "
        "and images or videos")  # fmt: skip
    add("--output", type=Path, default=Path("output/runtime"), metavar="DIR",
        help="folder for drawn images; default: output/runtime")  # fmt: skip
    add("--runtime", choices=("openvino", "onnx"),
        help="by default openvino for .xml and onnx for .onnx")  # fmt: skip
    add("--precision", choices=("fp32", "bf16"), default="fp32",
        help="of OpenVINO's arithmetic; default: fp32")  # fmt: skip
    add("--threads", type=int, default=0, metavar="N", help="default: all")
    add("--score-threshold", type=float, default=0.5, metavar="SCORE",
        help="of detectors; default: 0.5")  # fmt: skip
    options = parser.parse_args(arguments)
    options.models = [path for path in options.files if path.suffix in MODEL_EXTENSIONS]
    options.inputs = [path for path in options.files if path.suffix not in MODEL_EXTENSIONS]
    if not options.models or not options.inputs:
        parser.error("name at least one exported file (.onnx, .xml) and one image or video")
    return options


def load(options: argparse.Namespace) -> AnyPredictor:
    """Loads the exported files."""
    runtime = options.runtime or ("openvino" if options.models[0].suffix == ".xml" else "onnx")
    sessions: list[Session] = [
        OnnxSession(path, threads=options.threads)
        if runtime == "onnx"
        else OpenVinoSession(path, threads=options.threads, precision=options.precision, batch=1)
        for path in options.models
    ]
    return make_predictor(sessions, options.score_threshold)


def describe(predictor: AnyPredictor, path: Path, output: Path) -> str:
    """Runs an image or video through a model; draws a detector's instances; returns lines."""
    start = time.perf_counter()
    if isinstance(predictor, RuntimePredictor):
        found = predictor(path)
        target = output / path.with_suffix(".png").name
        seconds = time.perf_counter() - start
        found.save(target)
        return f"{path}: {len(found)} instances in {seconds:.2f} s; wrote '{target}'"
    if isinstance(predictor, RuntimeClassifier):
        classes = _format(predictor(path))
        return f"{path}: {classes}; {time.perf_counter() - start:.2f} s"
    clips = predictor(path)
    lines = [f"{path}: {time.perf_counter() - start:.2f} s"]
    lines += [f"  {clip.start:.1f} to {clip.end:.1f} s: {_format(clip.classes)}" for clip in clips]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parse_arguments(arguments)
    skipped = 0
    try:
        predictor = load(options)
        for path in options.inputs:
            try:
                print(describe(predictor, path, options.output))
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr)
                skipped += 1
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(skipped > 0)


def _format(classes: list[ClassScore]) -> str:
    return ", ".join(f"{best.name} {best.score:.1%}" for best in classes)


if __name__ == "__main__":
    sys.exit(main())

"""Draws what an exported detector finds in images, or prints their classes.

python -m mvit_det.runtime detector.xml photo.jpg photos/*.jpg --output found
python -m mvit_det.runtime landscape.onnx portrait.onnx photo.jpg --score-threshold 0.7
python -m mvit_det.runtime classifier.xml photo.jpg

exit codes: 0 all is done; 1 an image was skipped; 2 nothing could be done.
"""

import argparse
import sys
import time
from pathlib import Path

from ..errors import ImageError, MViTDetError
from . import RuntimeClassifier, RuntimePredictor
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
        "and images")  # fmt: skip
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
    options.images = [path for path in options.files if path.suffix not in MODEL_EXTENSIONS]
    if not options.models or not options.images:
        parser.error("name at least one exported file (.onnx, .xml) and one image")
    return options


def load(options: argparse.Namespace) -> RuntimePredictor | RuntimeClassifier:
    """Loads the exported files."""
    runtime = options.runtime or ("openvino" if options.models[0].suffix == ".xml" else "onnx")
    sessions: list[Session] = [
        OnnxSession(path, threads=options.threads)
        if runtime == "onnx"
        else OpenVinoSession(path, threads=options.threads, precision=options.precision)
        for path in options.models
    ]
    if len(sessions) == 1 and sessions[0].metadata.task == "classification":
        return RuntimeClassifier(sessions[0])
    return RuntimePredictor(sessions, options.score_threshold)


def describe(predictor: RuntimePredictor | RuntimeClassifier, path: Path, output: Path) -> str:
    """Runs an image through a model; draws a detector's instances; returns a line about it."""
    start = time.perf_counter()
    found = predictor(path)
    seconds = time.perf_counter() - start
    if isinstance(found, list):
        classes = ", ".join(f"{best.name} {best.score:.1%}" for best in found)
        return f"{path}: {classes}; {seconds:.2f} s"
    target = output / path.with_suffix(".png").name
    found.save(target)
    return f"{path}: {len(found)} instances in {seconds:.2f} s; wrote '{target}'"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parse_arguments(arguments)
    skipped = 0
    try:
        predictor = load(options)
        for path in options.images:
            try:
                print(describe(predictor, path, options.output))
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr)
                skipped += 1
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(skipped > 0)


if __name__ == "__main__":
    sys.exit(main())

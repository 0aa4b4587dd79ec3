"""Draws what an exported detector finds in images.

python -m mvit_det.runtime detector.xml photo.jpg photos/*.jpg --output found
python -m mvit_det.runtime landscape.onnx portrait.onnx photo.jpg --score-threshold 0.7

exit codes: 0 all is done; 1 an image was skipped; 2 nothing could be done.
"""

import argparse
import sys
import time
from pathlib import Path

from ..errors import ImageError, MViTDetError
from . import OnnxPredictor, OpenVinoPredictor, RuntimePredictor

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
        help="exported files (.onnx, .xml), one or several of a detector, and images")  # fmt: skip
    add("--output", type=Path, default=Path("output/runtime"), metavar="DIR",
        help="folder for drawn images; default: output/runtime")  # fmt: skip
    add("--runtime", choices=("openvino", "onnx"),
        help="by default openvino for .xml and onnx for .onnx")  # fmt: skip
    add("--precision", choices=("fp32", "bf16"), default="fp32",
        help="of OpenVINO's arithmetic; default: fp32")  # fmt: skip
    add("--threads", type=int, default=0, metavar="N", help="default: all")
    add("--score-threshold", type=float, default=0.5, metavar="SCORE", help="default: 0.5")
    options = parser.parse_args(arguments)
    options.models = [path for path in options.files if path.suffix in MODEL_EXTENSIONS]
    options.images = [path for path in options.files if path.suffix not in MODEL_EXTENSIONS]
    if not options.models or not options.images:
        parser.error("name at least one exported file (.onnx, .xml) and one image")
    return options


def load(options: argparse.Namespace) -> RuntimePredictor:
    """Loads the exported files."""
    runtime = options.runtime or ("openvino" if options.models[0].suffix == ".xml" else "onnx")
    common = {"score_threshold": options.score_threshold, "threads": options.threads}
    if runtime == "onnx":
        return OnnxPredictor(options.models, **common)
    return OpenVinoPredictor(options.models, precision=options.precision, **common)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parse_arguments(arguments)
    skipped = 0
    try:
        predictor = load(options)
        for path in options.images:
            start = time.perf_counter()
            try:
                prediction = predictor(path)
            except ImageError as error:
                print(f"skipped: {error}", file=sys.stderr)
                skipped += 1
                continue
            seconds = time.perf_counter() - start
            target = options.output / path.with_suffix(".png").name
            prediction.save(target)
            print(f"{path}: {len(prediction)} instances in {seconds:.2f} s; wrote '{target}'")
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(skipped > 0)


if __name__ == "__main__":
    sys.exit(main())

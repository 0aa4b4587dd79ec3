"""Opens a page in the browser where a detector finds objects in images and videos."""

import argparse
import ipaddress
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from ..config import find_config
from ..errors import ConfigError
from ..prediction import Predictor, from_pretrained
from .arguments import Parser

EXAMPLES = (
    "{prog} --config-file mask_rcnn_mvitv2_t",
    "{prog} --weights output/model_final.pth",
    "{prog} --weights parts-detector --device cuda --port 8080",
)
DETAILS = """\
The page has no password, and answers this machine only unless --host says otherwise. To use it from
elsewhere, 'ssh -L 7860:127.0.0.1:7860 MACHINE' there. Uploads are deleted within 90 minutes,
and when the command ends.

exit codes: 0 stopped; 2 the command or one of its files is wrong"""


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog,
        arguments,
        usage="--weights PATH [--config-file CONFIG] [options]",
        summary="Opens a page in the browser that finds objects in the images dropped on it.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add, rare = parser.add_argument, parser.add_rare
    add("--config-file", metavar="CONFIG",
        help="file or name; default: the config.yaml beside the weights")  # fmt: skip
    add("--weights", metavar="PATH",
        help="file, URL, or folder of save_pretrained; default: those of the published "
        "model")  # fmt: skip
    add("--confidence-threshold", type=float, default=0.5, metavar="SCORE",
        help="score threshold at first; default: 0.5")  # fmt: skip
    add("--device", metavar="DEVICE",
        help="such as cpu, cuda or cuda:1; default: CUDA if available")  # fmt: skip
    add("--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; default: 127.0.0.1, this machine only")  # fmt: skip
    add("--port", type=int, default=7860, metavar="PORT", help="default: 7860")
    rare("--max-megabytes", type=int, default=100, metavar="N",
         help="largest upload; default: 100")  # fmt: skip
    rare("--max-megapixels", type=int, default=25, metavar="N",
         help="largest image, in million pixels; default: 25")  # fmt: skip
    rare("--max-frames", type=int, default=300, metavar="N",
         help="longest video; default: 300")  # fmt: skip
    rare("--opts", nargs="*", default=[], metavar="KEY=VALUE",
         help="overrides of fields of the config")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if not options.config_file and not options.weights:
        parser.error("give trained weights with --weights, or a published model with --config-file")
    if not 0.05 <= options.confidence_threshold <= 1:
        parser.error(
            f"--confidence-threshold is {options.confidence_threshold}; it must be 0.05 to 1"
        )
    if not 0 < options.port < 2**16:
        parser.error(f"--port is {options.port}; it must be 1 to {2**16 - 1}")
    for name in ("max_megabytes", "max_megapixels", "max_frames"):
        if getattr(options, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag} is {getattr(options, name)}; it must be at least 1")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Serves the page until the command is stopped."""
    options = parse_arguments(arguments, prog)
    # Imported here, because the help does not need Gradio.
    from ..prediction.app import Limits, build_page, serve

    limits = Limits(options.max_megabytes, options.max_megapixels, options.max_frames)
    predictor = load(options)
    title = f"Objects found by {Path(options.weights or options.config_file).name}"
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="mvit-det-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(predictor, title, threshold=options.confidence_threshold, limits=limits)
        if not _is_loopback(options.host):
            print(
                f"warning: anyone who reaches {options.host}:{options.port} can use this page, "
                "which has no password; --host 127.0.0.1 keeps it to this machine",
                file=sys.stderr,
            )
        try:
            url = serve(page, options.host, options.port, limits)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {options.host}, port {options.port}; is it in use, or the "
                "address that of another machine? Choose others with --port and --host"
            ) from error
        # Not exceptions, which Python drops where a destructor is running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(f"Open {url} in a browser; Ctrl-C stops the page", flush=True)
        stopped.wait()
        page.close(verbose=False)
    return 0


def load(options: argparse.Namespace) -> Predictor:
    """The detector of the command line, with all predictions that the page can show.

    Raises:
        ConfigError: the model is not a detector, or its config is missing.
        CheckpointError: the weights cannot be used.
    """
    from ..prediction.app import LOWEST_THRESHOLD

    weights = options.weights
    common = {"score_threshold": LOWEST_THRESHOLD, "device": options.device}
    if weights and not options.config_file and Path(weights).is_dir():
        model = from_pretrained(weights, **common)
        if not isinstance(model, Predictor):
            raise ConfigError(f"'{weights}' is a classifier, which finds no objects")
        return model
    beside = Path(weights).parent / "config.yaml" if weights else Path()
    if not options.config_file and not beside.is_file():
        raise ConfigError(f"there is no '{beside}' beside the weights; name it with --config-file")
    config, published = find_config(options.config_file or beside, options.opts)
    return Predictor(
        config, weights or published, trust_checkpoint=options.trust_checkpoint, **common
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

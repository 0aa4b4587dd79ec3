"""Classifies videos: the most probable classes of each clip, as a table, CSV or JSON, or drawn."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from .. import VideoClassifier
from ..config import find_config
from ..errors import ImageError
from ..prediction.classifier import ClassScore
from ..prediction.files import find_inputs, plan
from ..prediction.video_classifier import ClipScores
from .arguments import Parser
from .classify import explain_write_errors, open_output

EXAMPLES = (
    "{prog} --config-file video_mvitv2_s_k400 --input clip.mp4",
    "{prog} --config-file video_mvitv2_s_k400 --input videos/ --output actions.csv",
    "{prog} --config-file output/video/config.yaml \\\n"
    "      --weights output/video/model_best.pth --input clip.mp4 --draw labelled/",
)
DETAILS = """\
Videos that cannot be read are skipped, with a message on stderr.

exit codes: 0 done; 1 a video was skipped; 2 nothing was classified, because of a mistake in the
command or its files; 130 interrupted"""


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog,
        arguments,
        usage="--config-file CONFIG --input PATH [PATH …] [options]",
        summary="Lists the most probable classes of each clip of videos.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add = parser.add_argument
    parser.add_config()
    add("--input", nargs="+", required=True, metavar="PATH",
        help="videos, folders of them, or patterns in quotes")  # fmt: skip
    add("--output", type=Path, metavar="PATH",
        help="a .csv or .json file; default: standard output")  # fmt: skip
    add("--draw", type=Path, metavar="PATH",
        help="folder, or an .mp4 file, for videos with the best class of each clip")  # fmt: skip
    add("--top", type=int, default=5, metavar="K", help="classes per clip; default: 5")
    add("--device", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU")
    add("--batch-size", type=int, default=4, metavar="N",
        help="maximum number of clips per forward pass; default: 4")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published model")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    options = parse_arguments(arguments, prog)
    inputs = find_inputs(options.input)
    drawn = {}
    if options.draw:
        drawn = {job.source: job.output for job in plan(inputs, options.draw, inputs)}
    open_output(options.output)
    config, published = find_config(options.config_file, options.opts)
    classifier = VideoClassifier(
        config,
        options.weights or published,
        top=options.top,
        device=options.device,
        batch_size=options.batch_size,
        trust_checkpoint=options.trust_checkpoint,
    )
    results: dict[str, list[ClipScores]] = {}
    for path in tqdm(inputs, unit="video", disable=None):
        try:
            results[str(path)] = classifier(path)
            if path in drawn:
                classifier.draw(path, results[str(path)], drawn[path])
        except ImageError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    with explain_write_errors(options.output):
        write(results, options.output)
    return 0 if len(results) == len(inputs) else 1


def write(results: dict[str, list[ClipScores]], output: Path | None) -> None:
    """Writes a file of the format that its extension names, or tables to standard output."""
    if output is None:
        for name, clips in results.items():
            rows = [
                (f"{clip.start:.1f} to {clip.end:.1f}", *map(_percent, clip.classes))
                for clip in clips
            ]
            header = ["seconds", *range(1, len(clips[0].classes) + 1)]
            print(f"{name}\n{tabulate(rows, header)}\n")
        return
    with open(output, "w", encoding="utf-8", newline="") as file:
        if output.suffix.lower() == ".json":
            entries = [
                {"file_name": name, "clips": [asdict(clip) for clip in clips]}
                for name, clips in results.items()
            ]
            json.dump(entries, file, indent=1)
            return
        writer = csv.writer(file)
        writer.writerow(["file_name", "start", "end", "rank", "class_id", "class", "score"])
        for name, clips in results.items():
            for clip in clips:
                times = [f"{clip.start:.3f}", f"{clip.end:.3f}"]
                for rank, each in enumerate(clip.classes, start=1):
                    score = f"{each.score:.6f}"
                    writer.writerow([name, *times, rank, each.class_id, each.name, score])


def _percent(each: ClassScore) -> str:
    return f"{each.name} {100 * each.score:.1f} %"

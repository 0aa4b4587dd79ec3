"""Classifies videos: the most probable classes of each clip, as a table, CSV or JSON, or drawn."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from .. import VideoClassifier
from ..errors import ImageError
from ..prediction.classifier import ClassScore
from ..prediction.files import find_inputs, plan
from ..prediction.video_classifier import ClipScores
from .arguments import output_path
from .class_scores import load_classifier, make_parser, open_output, parse, write_output

EXAMPLES = (
    "{prog} --config-file video_mvitv2_s_k400 --input clip.mp4",
    "{prog} --config-file video_mvitv2_s_k400 --input videos/ --output actions.csv",
    "{prog} --config-file output/video/config.yaml \\\n"
    "      --weights output/video/model_best.pth --input clip.mp4 --draw labelled/",
)


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    parser = make_parser(
        prog,
        arguments,
        summary="Lists the most probable classes of each clip of videos.",
        examples=EXAMPLES,
        inputs="videos",
        unit="clip",
        batch_size=4,
    )
    parser.add_argument("--draw", type=output_path, metavar="PATH",
        help="folder, or an .mp4 file, for videos with the best class of each clip")  # fmt: skip
    options = parse(parser, arguments)
    inputs = find_inputs(options.input)
    drawn = {}
    if options.draw:
        drawn = {job.source: job.output for job in plan(inputs, options.draw, inputs)}
    open_output(options.output)
    classifier = load_classifier(VideoClassifier, options)
    results: dict[str, list[ClipScores]] = {}
    skipped = 0
    for path in tqdm(inputs, unit="video", disable=None):
        try:
            results[str(path)] = classifier(path)
            if path in drawn:
                classifier.draw(path, results[str(path)], drawn[path])
        except ImageError as error:
            skipped += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    write(results, options.output)
    return 1 if skipped else 0


def write(results: dict[str, list[ClipScores]], output: Path | None) -> None:
    """Writes a file of the format that its extension names, or tables to standard output."""
    if output is None:
        for name, clips in results.items():
            table = [
                (f"{clip.start:.1f} to {clip.end:.1f}", *map(_percent, clip.classes))
                for clip in clips
            ]
            header = ["seconds", *range(1, len(clips[0].classes) + 1)]
            print(f"{name}\n{tabulate(table, header)}\n")
        return
    entries = [
        {"file_name": name, "clips": [asdict(clip) for clip in clips]}
        for name, clips in results.items()
    ]
    rows = [
        ([name, f"{clip.start:.3f}", f"{clip.end:.3f}"], clip.classes)
        for name, clips in results.items()
        for clip in clips
    ]
    write_output(output, entries, ["file_name", "start", "end"], rows)


def _percent(each: ClassScore) -> str:
    return f"{each.name} {100 * each.score:.1f} %"

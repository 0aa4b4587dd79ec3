"""Classifies images: the most probable classes of each, as a table, CSV or JSON."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from .. import Classifier
from ..config import find_config
from ..errors import ConfigError, ImageError, OutputError
from ..prediction.classifier import ClassScore
from ..prediction.files import find_inputs
from .arguments import Parser

FORMATS = (".csv", ".json")
EXAMPLES = (
    "{prog} --config-file mvitv2_t_in1k --input photo.jpg",
    "{prog} --config-file mvitv2_t_in1k --input 'photos/**/*.png' --top 1 --output top.json",
    "{prog} --config-file output/classifier/config.yaml \\\n"
    "      --weights output/classifier/model_best.pth --input photos/ --output classes.csv",
)
DETAILS = """\
Inputs that cannot be read are skipped, with a message on stderr.

exit codes: 0 done; 1 an input was skipped; 2 nothing was classified, because of a mistake in the
command or its files; 130 interrupted"""


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog,
        arguments,
        usage="--config-file CONFIG --input PATH [PATH …] [options]",
        summary="Lists the most probable classes of images.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add = parser.add_argument
    parser.add_config()
    add("--input", nargs="+", required=True, metavar="PATH",
        help="images, folders of them, or patterns in quotes")  # fmt: skip
    add("--output", type=Path, metavar="PATH",
        help="a .csv or .json file; default: standard output")  # fmt: skip
    add("--top", type=int, default=5, metavar="K", help="classes per image; default: 5")
    add("--device", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU")
    add("--batch-size", type=int, default=16, metavar="N",
        help="maximum number of images per forward pass; default: 16")  # fmt: skip
    parser.add_trust()
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published model")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    return run(parse_arguments(arguments, prog))


def run(options: argparse.Namespace) -> int:
    """Classifies, and returns the exit code."""
    inputs = find_inputs(options.input)
    open_output(options.output)
    config, published = find_config(options.config_file, options.opts)
    classifier = Classifier(
        config,
        options.weights or published,
        top=options.top,
        device=options.device,
        batch_size=options.batch_size,
        trust_checkpoint=options.trust_checkpoint,
    )
    results: dict[str, list[ClassScore]] = {}
    skipped = 0
    for start in tqdm(range(0, len(inputs), options.batch_size), unit="batch", disable=None):
        names, prepared = [], []
        for path in inputs[start : start + options.batch_size]:
            try:
                prepared.append(classifier.prepare(path))
            except ImageError as error:
                skipped += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
            else:
                names.append(str(path))
        results.update(zip(names, classifier.classify(prepared) if prepared else []))
    with explain_write_errors(options.output):
        write(results, options.output)
    return 1 if skipped else 0


def open_output(path: Path | None) -> None:
    """Creates an output file: one that cannot be written must not cost the whole run.

    Raises:
        ConfigError: its extension is none of `FORMATS`.
        OutputError: it cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"'{path}' cannot be written: name a .csv or a .json file")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()


@contextmanager
def explain_write_errors(path: Path | None) -> Iterator[None]:
    """Turns errors of writing the output into one sentence.

    Raises:
        OutputError: the output cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}' ({error.strerror}); name another file with --output"
        ) from error


def write(results: dict[str, list[ClassScore]], output: Path | None) -> None:
    """Writes a file of the format that its extension names, or a table to standard output."""
    if output is None:
        for name, scores in results.items():
            print(name)
            for each in scores:
                print(f"  {100 * each.score:6.2f} %  {each.name}")
        return
    with open(output, "w", encoding="utf-8", newline="") as file:
        if output.suffix.lower() == ".json":
            entries = [
                {"file_name": name, "classes": [vars(each) for each in scores]}
                for name, scores in results.items()
            ]
            json.dump(entries, file, indent=1)
            return
        writer = csv.writer(file)
        writer.writerow(["file_name", "rank", "class_id", "class", "score"])
        for name, scores in results.items():
            for rank, each in enumerate(scores, start=1):
                writer.writerow([name, rank, each.class_id, each.name, f"{each.score:.6f}"])

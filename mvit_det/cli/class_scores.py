"""The common part of the commands that classify: options, the classifier, CSV and JSON files."""

import argparse
import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..config import find_config
from ..data.folders import check_writable, new_file, open_csv
from ..errors import ConfigError, OutputError
from ..prediction.classifier import ClassScore, TrainedClassifier
from .arguments import Parser, output_path

FORMATS = (".csv", ".json")
USAGE = "--config-file CONFIG --input PATH [PATH …] [options]"
DETAILS = """\
Inputs that cannot be read are skipped, with a message on stderr.

exit codes: 0 done; 1 an input was skipped; 2 nothing was classified, because of a mistake in the
command or its files; 130 interrupted"""

Kind = TypeVar("Kind", bound=TrainedClassifier)


def make_parser(
    prog: str,
    arguments: Sequence[str],
    *,
    summary: str,
    examples: Sequence[str],
    inputs: str,
    unit: str,
    batch_size: int,
) -> Parser:
    """Makes the parser of a command that lists the classes of each `unit` of its `inputs`."""
    parser = Parser(
        prog, arguments, usage=USAGE, summary=summary, examples=examples, details=DETAILS
    )
    add = parser.add_argument
    parser.add_config()
    add("--input", nargs="+", required=True, metavar="PATH",
        help=f"{inputs}, folders of them, or patterns in quotes")  # fmt: skip
    add("--output", type=output_path, metavar="PATH",
        help="a .csv or .json file; default: standard output")  # fmt: skip
    add("--top", type=int, default=5, metavar="K", help=f"classes per {unit}; default: 5")
    add("--device", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU")
    add("--batch-size", type=int, default=batch_size, metavar="N",
        help=f"maximum number of {unit}s per forward pass; default: {batch_size}")  # fmt: skip
    parser.add_trust()
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; without a config that is an error."""
    options = parser.parse_args(arguments)
    if not options.config_file:
        parser.error("--config-file is missing: name a config or a published model")
    return options


def load_classifier(kind: type[Kind], options: argparse.Namespace) -> Kind:
    """Builds the classifier that the options name."""
    config, published = find_config(options.config_file, options.opts)
    return kind(
        config,
        options.weights or published,
        top=options.top,
        device=options.device,
        batch_size=options.batch_size,
        trust_checkpoint=options.trust_checkpoint,
    )


def open_output(path: Path | None) -> None:
    """Checks an output file: one that cannot be written must not cost the whole run.

    Raises:
        ConfigError: its extension is none of `FORMATS`.
        OutputError: it cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"'{path}' cannot be written: name a .csv or a .json file")
    with _explain_write_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        check_writable(path.parent)


def write_output(
    path: Path,
    entries: Sequence[dict[str, Any]],
    columns: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Sequence[ClassScore]]],
) -> None:
    """Writes a file of the format that its extension names.

    Args:
        path: of the file.
        entries: for JSON.
        columns: names of the first columns, for CSV.
        rows: the values of these columns, and classes, each of which gets a line.

    Raises:
        OutputError: the file cannot be written.
    """
    with _explain_write_errors(path), new_file(path) as temporary, open_csv(temporary) as file:
        if path.suffix.lower() == ".json":
            json.dump(entries, file, indent=1)
            return
        writer = csv.writer(file)
        writer.writerow([*columns, "rank", "class_id", "class", "score"])
        for values, classes in rows:
            for rank, each in enumerate(classes, start=1):
                writer.writerow([*values, rank, each.class_id, each.name, f"{each.score:.6f}"])


@contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}' ({error.strerror or error}); name another file with --output"
        ) from error

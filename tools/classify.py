#!/usr/bin/env python
"""Classifies images: the most probable classes of each, as a table, CSV or JSON.

tools/classify.py --config-file mvitv2_t_in1k --input photo.jpg
tools/classify.py --config-file output/classifier/config.yaml \\
    --weights output/classifier/model_best.pth --input photos/ --output classes.csv

Inputs that cannot be read are skipped, with a message on stderr.

Exit codes: 0 done; 1 an input was skipped; 2 nothing was classified, because of a mistake in the
command or its files; 130 interrupted.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from tqdm import tqdm

from mvit_det import Classifier
from mvit_det.config import find_config
from mvit_det.errors import ConfigError, ImageError, MViTDetError, OutputError
from mvit_det.prediction.classifier import ClassScore
from mvit_det.prediction.files import find_inputs

FORMATS = (".csv", ".json")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG",
        help="a config file, such as the config.yaml of a training, or a published model's "
        "name")  # fmt: skip
    add("--weights", metavar="PATH",
        help="file or URL; by default those of the published model")  # fmt: skip
    add("--input", nargs="+", required=True, metavar="PATH",
        help="images, folders of them, or patterns in quotes")  # fmt: skip
    add(
        "--output", type=Path, metavar="PATH", help="a .csv or .json file; default: standard output"
    )
    add("--top", type=int, default=5, metavar="K", help="classes per image; default: 5")
    add("--device", choices=("cpu", "cuda"),
        help="by default CUDA if there is any, and the CPU if not")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N",
        help="most images at once; default: 16")  # fmt: skip
    add("--trust-checkpoint", action="store_true",
        help="let a file of weights run code while it is read; only if you know where it is "
        "from")  # fmt: skip
    add("--opts", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Classifies, and returns the exit code."""
    if options.output and options.output.suffix.lower() not in FORMATS:
        raise ConfigError(f"'{options.output}' cannot be written: name a .csv or a .json file")
    inputs = find_inputs(options.input)
    if options.output:
        # A folder that cannot be written must not cost the whole run.
        try:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.open("a").close()
        except OSError as error:
            raise _unwritable(options.output, error) from error
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
    try:
        write(results, options.output)
    except OSError as error:
        raise _unwritable(options.output, error) from error
    return 1 if skipped else 0


def _unwritable(path: Path | None, error: OSError) -> OutputError:
    return OutputError(f"cannot write '{path}' ({error.strerror}); name another file with --output")


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


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool and returns its exit code."""
    options = parse_arguments(arguments)
    try:
        return run(options)
    except MViTDetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Classifies images: the most probable classes of each, as a table, CSV or JSON."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from .. import Classifier
from ..errors import ImageError
from ..prediction.classifier import ClassScore
from ..prediction.files import find_inputs
from .class_scores import load_classifier, make_parser, open_output, parse, write_output

EXAMPLES = (
    "{prog} --config-file mvitv2_t_in1k --input photo.jpg",
    "{prog} --config-file mvitv2_t_in1k --input 'photos/**/*.png' --top 1 --output top.json",
    "{prog} --config-file output/classifier/config.yaml \\\n"
    "      --weights output/classifier/model_best.pth --input photos/ --output classes.csv",
)


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    parser = make_parser(
        prog,
        arguments,
        summary="Lists the most probable classes of images.",
        examples=EXAMPLES,
        inputs="images",
        unit="image",
        batch_size=16,
    )
    options = parse(parser, arguments)
    inputs = find_inputs(options.input)
    open_output(options.output)
    classifier = load_classifier(Classifier, options)
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
    write(results, options.output)
    return 1 if skipped else 0


def write(results: dict[str, list[ClassScore]], output: Path | None) -> None:
    """Writes a file of the format that its extension names, or a table to standard output."""
    if output is None:
        for name, classes in results.items():
            print(name)
            for each in classes:
                print(f"  {100 * each.score:6.2f} %  {each.name}")
        return
    entries = [
        {"file_name": name, "classes": [asdict(each) for each in classes]}
        for name, classes in results.items()
    ]
    rows = [([name], classes) for name, classes in results.items()]
    write_output(output, entries, ["file_name"], rows)

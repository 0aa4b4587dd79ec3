"""Validates a dataset in COCO's format and prints its statistics."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.coco import read_coco
from ..data.statistics import count
from ..data.validation import find_issues
from ..errors import DatasetError
from ..visualization import contact_grid
from .arguments import Parser

EXAMPLES = (
    "{prog} annotations.json --images images/",
    "{prog} annotations.json --images images/ --output output/inspection",
    "{prog} train.json --images train/ --output grid --grid-images 20",
)
DETAILS = """\
Issues come first: an error prevents training; a warning says how training treats the objects. Then
come statistics. With --output, a grid of annotated images is written if there are no errors.

exit codes: 0 no errors; 1 errors in the dataset; 2 a mistake in the command or its files"""


def parse_arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses the paths of the dataset and of the grid."""
    parser = Parser(
        prog,
        arguments,
        usage="JSON --images DIR [options]",
        summary="Finds mistakes in a dataset in COCO's format, and prints its statistics.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="annotations in COCO's format")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    add("--output", type=Path, metavar="DIR", help="folder for contact_grid.png")
    add("--grid-images", type=int, default=12, metavar="N", help="on the grid; default: 12")
    options = parser.parse_args(arguments)
    if options.grid_images < 1:
        parser.error(f"argument --grid-images: must be positive, not {options.grid_images}")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Prints issues and statistics, writes the grid, and returns the exit code."""
    options = parse_arguments(arguments, prog)
    if not options.images.is_dir():
        raise DatasetError(f"there is no folder of images '{options.images}'; check --images")
    dataset = read_coco(options.json)
    issues = find_issues(dataset, options.images)
    print("\n".join(map(str, issues)) or "no issues")
    print(f"\n{count(dataset)}")
    if any(issue.severity == "error" for issue in issues):
        return 1
    if options.output is not None:
        records = dataset.records(options.images)
        grid = contact_grid(records, dataset.class_names, options.grid_images)
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "contact_grid.png"
        Image.fromarray(grid).save(path)
        print(f"\nWrote {path}")
    return 0

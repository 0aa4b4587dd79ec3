#!/usr/bin/env python
"""Validates a dataset in COCO's format and prints its statistics.

tools/inspect_dataset.py annotations.json --images images/
tools/inspect_dataset.py annotations.json --images images/ --output output/inspection

Issues come first: an error prevents training; a warning says how training treats the objects. Then
come statistics. With --output, a grid of annotated images is written if there are no errors. The
exit code is 1 if there are errors.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from mvit_det.data.coco import read_coco
from mvit_det.data.statistics import count
from mvit_det.data.validation import find_issues
from mvit_det.errors import DatasetError, MViTDetError
from mvit_det.visualization import contact_grid


def parse_arguments() -> argparse.Namespace:
    """Parses the paths of the dataset and of the grid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="annotations in COCO's format")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    add("--output", type=Path, metavar="DIR", help="folder for contact_grid.png")
    add("--grid-images", type=int, default=12, metavar="N", help="on the grid; default: 12")
    arguments = parser.parse_args()
    if arguments.grid_images < 1:
        parser.error(f"argument --grid-images: must be positive, not {arguments.grid_images}")
    return arguments


def main() -> int:
    """Prints issues and statistics, writes the grid, and returns the exit code."""
    arguments = parse_arguments()
    if not arguments.images.is_dir():
        raise DatasetError(f"there is no folder of images '{arguments.images}'; check --images")
    dataset = read_coco(arguments.json)
    issues = find_issues(dataset, arguments.images)
    print("\n".join(map(str, issues)) or "no issues")
    print(f"\n{count(dataset)}")
    if any(issue.severity == "error" for issue in issues):
        return 1
    if arguments.output is not None:
        records = dataset.records(arguments.images)
        grid = contact_grid(records, dataset.class_names, arguments.grid_images)
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / "contact_grid.png"
        Image.fromarray(grid).save(path)
        print(f"\nWrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MViTDetError as error:
        sys.exit(f"error: {error}")

#!/usr/bin/env python
"""Says what is wrong with a data set in COCO's format, and what is in it.

tools/inspect_dataset.py annotations.json --images pictures/
tools/inspect_dataset.py annotations.json --images pictures/ --output output/inspection

Problems come first: with an error, training on the data would be refused; a warning says what
becomes of the objects. Then come statistics. With --output, a sheet of annotated pictures is
written, if there are no errors. The exit code is 1 if there are errors.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from mvit_det.data.coco_json import class_names, load_coco_json, read_coco_json
from mvit_det.data.problems import find_problems
from mvit_det.data.statistics import count
from mvit_det.errors import DatasetError, MViTDetError
from mvit_det.visualization import contact_sheet


def parse_arguments() -> argparse.Namespace:
    """The data set, and where to write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="annotations in COCO's format")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    add("--output", type=Path, metavar="DIR", help="folder for contact_sheet.png")
    add("--sheet-images", type=int, default=12, metavar="N", help="on the sheet; default: 12")
    arguments = parser.parse_args()
    if arguments.sheet_images < 1:
        parser.error(f"argument --sheet-images: must be positive, not {arguments.sheet_images}")
    return arguments


def main() -> int:
    """Prints problems and statistics, writes the sheet, and returns the exit code."""
    arguments = parse_arguments()
    if not arguments.images.is_dir():
        raise DatasetError(f"there is no folder of pictures '{arguments.images}'; check --images")
    dataset = read_coco_json(arguments.json)
    problems = find_problems(dataset, arguments.images)
    print("\n".join(map(str, problems)) or "no problems")
    print(f"\n{count(dataset)}")
    if any(problem.severity == "error" for problem in problems):
        return 1
    if arguments.output is not None:
        records = load_coco_json(str(arguments.json), str(arguments.images))
        sheet = contact_sheet(records, class_names(dataset), arguments.sheet_images)
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / "contact_sheet.png"
        Image.fromarray(sheet).save(path)
        print(f"\nWrote {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MViTDetError as error:
        sys.exit(f"error: {error}")

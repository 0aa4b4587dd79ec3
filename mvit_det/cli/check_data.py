"""Validates a dataset and prints its statistics."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.coco import CocoDataset, read_coco
from ..data.folders import new_file
from ..data.formats import Dataset, Split, read_dataset
from ..data.statistics import count
from ..data.urls import is_url
from ..data.validation import find_issues
from ..errors import DatasetError, OutputError
from ..visualization import contact_grid
from .arguments import Parser, output_path

EXAMPLES = (
    "{prog} parts/",
    "{prog} parts/data.yaml --output output/inspection",
    "{prog} annotations.json --images images/ --grid-images 20 --output grid",
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
        usage="PATH [options]",
        summary="Finds mistakes in a dataset, and prints its statistics.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add = parser.add_argument
    add("path", metavar="PATH",
        help="folder in COCO's, YOLO's, Pascal VOC's or LabelMe's format, data.yaml or COCO's JSON "
        "file")  # fmt: skip
    add("--images", metavar="DIR", help="folder of the images of a JSON file; may be a URL")
    add("--output", type=output_path, metavar="DIR", help="folder for contact_grid.png")
    add("--grid-images", type=int, default=12, metavar="N", help="on the grid; default: 12")
    options = parser.parse_args(arguments)
    if options.grid_images < 1:
        parser.error(f"argument --grid-images: must be positive, not {options.grid_images}")
    return options


def main(arguments: Sequence[str], prog: str) -> int:
    """Prints issues and statistics of each split, and returns the exit code."""
    options = parse_arguments(arguments, prog)
    if options.images is not None:
        if not is_url(options.images) and not Path(options.images).is_dir():
            raise DatasetError(f"there is no folder of images '{options.images}'; check --images")
        return _report(read_coco(options.path), options.images, options, "contact_grid")
    dataset = read_dataset(options.path)
    print(f"{dataset.kind}: {', '.join(dataset.splits)}")
    for note in dataset.notes:
        print(note)
    code = 0
    for name, split in dataset.splits.items():
        print(f"\n== {name}: {split.folder}")
        grid = "contact_grid" if len(dataset.splits) == 1 else f"contact_grid_{name}"
        code |= _report(_normalized(dataset, split), split.folder, options, grid)
    return code


def _normalized(dataset: Dataset, split: Split) -> CocoDataset:
    if split.file:
        return read_coco(split.file)
    return CocoDataset.from_dict(split.content, f"the {dataset.kind} dataset")


def _report(
    dataset: CocoDataset, folder: str | Path, options: argparse.Namespace, grid: str
) -> int:
    """Prints what is wrong with a split and what is in it, and draws some of its images."""
    issues = find_issues(dataset, folder)
    print("\n".join(map(str, issues)) or "no issues")
    print(f"\n{count(dataset)}")
    if any(issue.severity == "error" for issue in issues):
        return 1
    if options.output is not None:
        records = dataset.records(folder)
        drawn = contact_grid(records, dataset.class_names, options.grid_images)
        path = options.output / f"{grid}.png"
        try:
            with new_file(path) as temporary:
                Image.fromarray(drawn).save(temporary)
        except OSError as error:
            raise OutputError(
                f"cannot write '{path}' ({error.strerror or error}); name another folder with "
                "--output"
            ) from error
        print(f"\nWrote {path}")
    return 0

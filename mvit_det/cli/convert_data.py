"""Converts a dataset to COCO's format."""

from collections.abc import Sequence

from ..data.formats import read_dataset, write_coco
from .arguments import Parser, output_path

EXAMPLES = (
    "{prog} parts/ --output parts_coco",
    "{prog} parts/data.yaml --output parts_coco --val-fraction 0.2",
    "{prog} VOC2012/ --output voc_coco",
)
DETAILS = """\
Images stay where they are.

exit codes: 0 written; 2 a mistake, nothing is written"""


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    parser = Parser(
        prog,
        arguments,
        usage="PATH --output DIR [options]",
        summary="Writes a JSON file in COCO's format for each split of a dataset.",
        examples=EXAMPLES,
        details=DETAILS,
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="folder in YOLO's, Pascal VOC's or LabelMe's format")
    add("--output", required=True, type=output_path, metavar="DIR", help="folder for train.json, …")
    add("--val-fraction", type=float, metavar="SHARE",
        help="of the images to set aside for validation, if there is no such split")  # fmt: skip
    add("--split-seed", type=int, default=0, metavar="K",
        help="seed for the choice of these images; default: 0")  # fmt: skip
    options = parser.parse_args(arguments)
    dataset = read_dataset(options.path)
    if options.val_fraction is not None:
        dataset = dataset.with_validation(options.val_fraction, options.split_seed)
    for note in dataset.notes:
        print(note)
    for name, path in write_coco(dataset, options.output).items():
        split = dataset.splits[name]
        images, objects = len(split.content["images"]), len(split.content["annotations"])
        print(f"Wrote {path}: {images} images with {objects} objects; images in '{split.folder}'")
    return 0

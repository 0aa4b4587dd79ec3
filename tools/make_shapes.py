#!/usr/bin/env python
"""Writes a dataset of generated shapes in COCO's format: images/ and annotations.json."""

import argparse
import sys
import time

from mvit_det.cli.arguments import expand_homes, output_path
from mvit_det.cli.main import guarded
from mvit_det.data.shapes import generate_shapes


def parse_size(text: str) -> tuple[int, int]:
    """Reads "128" or "96x160" (height x width) as (height, width)."""
    numbers = text.lower().split("x")
    if len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor HEIGHTxWIDTH")
    return int(numbers[0]), int(numbers[-1])


def main(arguments: list[str] | None = None) -> int:
    """Runs the script and returns its exit code: 0, or 1 if nothing could be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=output_path, required=True, metavar="DIR", help="folder to create"
    )
    parser.add_argument("--images", type=int, default=400, metavar="N", help="default: 400")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=(128, 128),
        metavar="S",
        help="pixels: one number or HEIGHTxWIDTH; default: 128",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="default: 0")
    parser.add_argument(
        "--max-shapes", type=int, default=5, metavar="M", help="per image; default: 5"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a generated dataset in DIR"
    )
    options = parser.parse_args(expand_homes(sys.argv[1:] if arguments is None else arguments))

    start = time.perf_counter()
    try:
        dataset = generate_shapes(
            options.output,
            options.images,
            options.size,
            options.seed,
            max_shapes=options.max_shapes,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was written", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    crowds = sum(annotation["iscrowd"] for annotation in dataset["annotations"])
    shapes = len(dataset["annotations"]) - crowds
    height, width = options.size
    print(
        f"Wrote {options.images} images of {height}x{width} pixels with {shapes} shapes and "
        f"{crowds} crowds to '{options.output}' (images/ and annotations.json) in {seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))

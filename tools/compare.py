#!/usr/bin/env python
"""Trains variants alike and compares their AP, size, speed and memory.

tools/compare.py                                     the paper's attentions and positions, on shapes
tools/compare.py --tables pooling scales --seeds 1 2 3
tools/compare.py --data coco --tables attention --iterations 0
tools/compare.py --variant hwin configs/shapes/ablation_mvitv2.py \\
    --variant window configs/shapes/ablation_mvitv2.py model.backbone.bottom_up.attention=window

Every variant is trained on the same data, with the same seeds, for as many iterations. The tables
are printed and written as Markdown and JSON, with a plot of AP against time. Peak memory is that of
the first training step, in a process of its own; time per image is inference of the whole detector,
the median of some images, measured by turns when all are trained.
"""

import argparse
import json
import sys
from pathlib import Path

from mvit_det.ablation import (
    TABLES,
    Settings,
    as_json,
    compare,
    draw,
    format_tables,
    own_table,
    paper_tables,
)
from mvit_det.errors import MViTDetError


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=TABLES,
        default=["attention", "position"],
        help="of MViTv2's paper; default: attention position",
    )
    parser.add_argument(
        "--data",
        choices=("shapes", "coco"),
        default="shapes",
        help="of these tables; default: shapes, with small models",
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "CONFIG KEY=VALUE"),
        help="a row of a table of your own, instead of the paper's",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=300,
        metavar="N",
        help="of each training; 0 leaves them to the configs; default: 300",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], metavar="K", help="default: 1")
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="J",
        help="trainings at a time; default: as many as there are cores, up to 4, and 1 with CUDA",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="")
    parser.add_argument("--output", type=Path, default=Path("output/compare"), metavar="DIR")
    parser.add_argument("--opts", nargs="+", default=[], help="changes to all, key.of.field=value")
    return parser.parse_args()


def main() -> None:
    """Compares, prints the tables and writes the files."""
    arguments = parse_arguments()
    if arguments.variant:
        tables = [own_table(arguments.variant)]
    else:
        tables = paper_tables(arguments.tables, arguments.data)
    settings = Settings(
        output=arguments.output,
        iterations=arguments.iterations,
        seeds=tuple(arguments.seeds),
        device=arguments.device,
        overrides=tuple(arguments.opts),
        jobs=arguments.jobs,
    )
    results = compare(tables, settings, lambda line: print(line, file=sys.stderr, flush=True))
    text = format_tables(tables, results)
    print(text)
    written = [arguments.output / f"comparison.{ending}" for ending in ("md", "json", "png")]
    written[0].write_text(text + "\n", encoding="utf-8")
    figures = json.dumps(as_json(tables, results, settings, sys.argv), indent=2)
    written[1].write_text(figures + "\n", encoding="utf-8")
    draw(tables, results, written[2])
    print(f"\nWrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    try:
        main()
    except MViTDetError as error:
        sys.exit(f"error: {error}")

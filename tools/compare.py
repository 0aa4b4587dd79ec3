#!/usr/bin/env python
"""Trains variants under the same conditions and compares their AP, size, speed and memory.

tools/compare.py                                     the paper's attentions and positions, on shapes
tools/compare.py --tables pooling scales --seeds 1 2 3
tools/compare.py --data coco --tables attention --iterations 0
tools/compare.py --variant hwin configs/shapes/ablation_mvitv2.py \\
    --variant window configs/shapes/ablation_mvitv2.py model.backbone.bottom_up.attention=window

All variants are trained on the same data, with the same seeds, for the same number of iterations.
The tables are printed and written as Markdown and JSON, with a plot of AP against time. Peak memory
is that of the first training step, in a process of its own; time per image is the median inference
time of the whole detector, measured by turns when all are trained.
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
    custom_table,
    draw,
    format_tables,
    paper_tables,
)
from mvit_det.benchmarking import provenance
from mvit_det.cli.arguments import expand_homes, output_path, prepare_folder
from mvit_det.cli.main import guarded
from mvit_det.data.folders import write_text


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tables", nargs="+", choices=TABLES, default=["attention", "position"],
        help="of MViTv2's paper; default: attention position")  # fmt: skip
    add("--data", choices=("shapes", "coco"), default="shapes",
        help="dataset of these tables; default: shapes, with small models")  # fmt: skip
    add("--variant", nargs="+", action="append", default=[], metavar=("NAME", "CONFIG KEY=VALUE"),
        help="a row of a table of your own, instead of the paper's")  # fmt: skip
    add("--iterations", type=int, default=300, metavar="N",
        help="of each training; 0 keeps those of the configs; default: 300")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=[1], metavar="K", help="default: 1")
    add("--jobs", type=int, default=0, metavar="J",
        help="trainings at a time; default: one per core, up to 4; 1 with CUDA")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="")
    add("--output", type=output_path, default=Path("output/compare"), metavar="DIR")
    add("--opts", nargs="+", default=[], help="overrides of all configs, key.of.field=value")
    return parser.parse_args(expand_homes(sys.argv[1:]))


def main() -> None:
    """Compares, prints the tables and writes the files."""
    arguments = parse_arguments()
    prepare_folder(arguments.output)
    settings = Settings(
        output=arguments.output,
        iterations=arguments.iterations,
        seeds=tuple(arguments.seeds),
        device=arguments.device,
        overrides=tuple(arguments.opts),
        jobs=arguments.jobs,
    )
    tables = (
        [custom_table(arguments.variant)]
        if arguments.variant
        else paper_tables(arguments.tables, arguments.data)
    )
    results = compare(tables, settings, lambda line: print(line, file=sys.stderr, flush=True))
    text = format_tables(tables, results)
    print(text)
    content = {
        **provenance(sys.argv),
        "seeds": settings.seeds,
        "overrides": settings.overrides,
        "tables": as_json(tables, results),
    }
    written = [arguments.output / f"comparison.{ending}" for ending in ("md", "json", "png")]
    write_text(written[0], text + "\n")
    write_text(written[1], json.dumps(content, indent=2) + "\n")
    draw(tables, results, written[2])
    print(f"\nWrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(guarded(main, code=1))

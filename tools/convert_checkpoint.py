#!/usr/bin/env python
"""Converts weights between the formats of mvit_det, Detectron2, timm, SlowFast, torchvision and
safetensors.

tools/convert_checkpoint.py MViTv2_T_in1k.pyth mvitv2_t.safetensors --to safetensors
tools/convert_checkpoint.py output/model_final.pth detector.pkl --to detectron2
"""

import argparse
import sys

from mvit_det.checkpoint.converting import FORMATS, convert
from mvit_det.errors import MViTDetError


def main(arguments: list[str] | None = None) -> int:
    """Runs the script and returns its exit code: 0, or 1 if nothing was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT", help="file or URL, in any of the formats")
    parser.add_argument("output", metavar="OUTPUT", help="file to write")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of OUTPUT")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="allow INPUT to run code while it is read"
    )
    options = parser.parse_args(arguments)
    try:
        report = convert(
            options.input,
            options.output,
            options.to,
            overwrite=options.overwrite,
            trust=options.trust_checkpoint,
        )
    except MViTDetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was written", file=sys.stderr)
        return 130
    print(report.table())
    print(f"Wrote '{options.output}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())

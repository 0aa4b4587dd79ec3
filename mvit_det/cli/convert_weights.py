"""Converts weights between the formats of mvit_det, Detectron2, timm, SlowFast, torchvision and
safetensors.
"""

from collections.abc import Sequence

from ..checkpoint.converting import FORMATS, convert
from .arguments import Parser, output_path

EXAMPLES = (
    "{prog} MViTv2_T_in1k.pyth mvitv2_t.safetensors --to safetensors",
    "{prog} output/model_final.pth detector.pkl --to detectron2",
    "{prog} detector.pkl detector.pth --to mvit_det --overwrite",
)


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    parser = Parser(
        prog,
        arguments,
        usage="INPUT OUTPUT --to FORMAT [options]",
        summary="Converts weights between the formats of several libraries.",
        examples=EXAMPLES,
        details="mvit_det and safetensors keep the class names and category ids of a training\n"
        "exit codes: 0 written; 2 nothing was written, because of a mistake",
    )
    parser.add_argument("input", metavar="INPUT",
                        help="file or URL, in any of the formats, or folder of a sharded "
                        "checkpoint")  # fmt: skip
    parser.add_argument("output", type=output_path, metavar="OUTPUT", help="file to write")
    parser.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT",
                        help=f"of OUTPUT: {', '.join(FORMATS)}")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_trust()
    options = parser.parse_args(arguments)
    report = convert(
        options.input,
        options.output,
        options.to,
        overwrite=options.overwrite,
        trust=options.trust_checkpoint,
    )
    print(report.table())
    print(f"Wrote '{options.output}'")
    return 0

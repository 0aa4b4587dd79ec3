"""Lists the published models and the configs."""

from collections.abc import Sequence

from tabulate import tabulate

from ..model_zoo import MODELS, ZooModel, list_configs
from .arguments import Parser

EXAMPLES = (
    "{prog}",
    "{prog} --configs",
    "mvit-det predict --config-file cascade_mask_rcnn_mvitv2_s --input photo.jpg",
)
DETECTOR_HEADER = ("detector", "box AP", "mask AP", "parameters (M)", "multiply-adds (G)")
VIDEO_HEADER = (
    "video classifier", "dataset", "clips x crops", "top-1 (%)", "parameters (M)",
    "multiply-adds (G) per view",
)  # fmt: skip
CLASSIFIER_HEADER = ("classifier", "classes", "top-1 (%)", "parameters (M)", "multiply-adds (G)")


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    parser = Parser(
        prog,
        arguments,
        usage="[options]",
        summary="Lists the published models, with the publishers' results.",
        examples=EXAMPLES,
    )
    parser.add_argument("--configs", action="store_true", help="list the names of all configs")
    options = parser.parse_args(arguments)
    if options.configs:
        print("\n".join(list_configs()))
        return 0
    models = MODELS.values()
    detectors = [_detector_row(model) for model in models if model.is_detector]
    videos = [_video_row(model) for model in models if model.is_video]
    classifiers = [
        _classifier_row(model) for model in models if not (model.is_detector or model.is_video)
    ]
    print(tabulate(detectors, DETECTOR_HEADER, missingval="-"))
    print()
    print(tabulate(classifiers, CLASSIFIER_HEADER, missingval="-"))
    print()
    print(tabulate(videos, VIDEO_HEADER, missingval="-"))
    return 0


def _detector_row(model: ZooModel) -> tuple[object, ...]:
    return model.name, model.box_ap, model.mask_ap, model.parameters, model.flops


def _classifier_row(model: ZooModel) -> tuple[object, ...]:
    return model.name, model.num_classes, model.accuracy, model.parameters, model.flops


def _video_row(model: ZooModel) -> tuple[object, ...]:
    return (
        *(model.name, model.pretraining, model.views),
        *(model.accuracy, model.parameters, model.flops),
    )

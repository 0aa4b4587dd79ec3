"""COCO's metrics of an exported file, with the evaluator of its config."""

import itertools
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig

from ..data import load_records
from ..runtime.predictor import RuntimePredictor


def evaluate(
    predictor: RuntimePredictor, config: DictConfig, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Evaluates as an evaluation of the config does.

    Args:
        predictor: of the exported file.
        config: of the detector; its `dataloader.test.dataset` and `dataloader.evaluator` are used.
        limit: number of images, from the first; None takes all.

    Returns:
        Metrics by task ("bbox", "segm") and name ("AP", …), in percent.
    """
    records = load_records(config.dataloader.test.dataset.names, filter_empty=False)
    evaluator = instantiate(config.dataloader.evaluator)
    evaluator.reset()
    for record in itertools.islice(records, limit):
        prediction = predictor(record["file_name"])
        fields: dict[str, Any] = {
            "pred_boxes": Boxes(torch.from_numpy(prediction.boxes)),
            "scores": torch.from_numpy(prediction.scores),
            "pred_classes": torch.from_numpy(prediction.classes),
        }
        if prediction.masks is not None:
            fields["pred_masks"] = torch.from_numpy(prediction.masks)
        evaluator.process(
            [record], [{"instances": Instances(prediction.image.shape[:2], **fields)}]
        )
    metrics: dict[str, dict[str, float]] = evaluator.evaluate()
    return metrics

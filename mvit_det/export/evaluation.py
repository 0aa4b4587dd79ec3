"""Metrics of an exported file, with the evaluator of its config."""

import itertools
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig

from ..data import load_records
from ..runtime import RuntimeClassifier, RuntimePrediction, RuntimePredictor


def evaluate(
    predictor: RuntimePredictor | RuntimeClassifier, config: DictConfig, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Evaluates as an evaluation of the config does.

    Args:
        predictor: of the exported file.
        config: of the model; its `dataloader.test.dataset` and `dataloader.evaluator` are used.
        limit: number of images, from the first; None takes all.

    Returns:
        Metrics by task ("bbox", "segm", "classification") and name ("AP", "top1", …), in percent.
    """
    dataset = config.dataloader.test.dataset
    is_classifier = isinstance(predictor, RuntimeClassifier)
    records = (
        instantiate(dataset) if is_classifier else load_records(dataset.names, filter_empty=False)
    )
    evaluator = instantiate(config.dataloader.evaluator)
    evaluator.reset()
    for record in itertools.islice(records, limit):
        if isinstance(predictor, RuntimeClassifier):
            output = {"scores": torch.from_numpy(predictor.scores(record["file_name"]))}
        else:
            output = {"instances": _instances(predictor(record["file_name"]))}
        evaluator.process([record], [output])
    metrics: dict[str, dict[str, float]] = evaluator.evaluate()
    return metrics


def _instances(prediction: RuntimePrediction) -> Instances:
    fields: dict[str, Any] = {
        "pred_boxes": Boxes(torch.from_numpy(prediction.boxes)),
        "scores": torch.from_numpy(prediction.scores),
        "pred_classes": torch.from_numpy(prediction.classes),
    }
    if prediction.masks is not None:
        fields["pred_masks"] = torch.from_numpy(prediction.masks)
    return Instances(prediction.image.shape[:2], **fields)

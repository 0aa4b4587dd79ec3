"""The files that an evaluation leaves."""

import logging
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator

from .coco import COCOEvaluator
from .plots import draw_ap_by_class, draw_precision_recall
from .tables import write_csv, write_json

logger = logging.getLogger(__name__)


def save_report(evaluator: DatasetEvaluator, folder: str | Path) -> None:
    """Writes the metrics of a finished evaluation by class, and draws them.

    The files are `metrics.json`, `metrics.csv`, `precision_recall.png` and `ap_by_class.png`.

    Args:
        evaluator: where it is not a `COCOEvaluator`, or did not evaluate anything, as in all
            processes but the main one, there is nothing to write.
        folder: an existing one.
    """
    evaluations = evaluator.task_evaluations if isinstance(evaluator, COCOEvaluator) else {}
    if not evaluations:
        return
    folder = Path(folder)
    write_json(evaluations, folder / "metrics.json")
    write_csv(evaluations, folder / "metrics.csv")
    draw_precision_recall(evaluations, folder / "precision_recall.png")
    draw_ap_by_class(evaluations, folder / "ap_by_class.png")
    logger.info("Metrics by class, as tables and images, are in %s", folder)

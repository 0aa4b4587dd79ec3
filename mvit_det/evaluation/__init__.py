"""Evaluation of detectors: COCO's metrics as numbers, tables and plots."""

from detectron2.evaluation import inference_on_dataset

from .accuracy import AccuracyEvaluator
from .coco import COCOEvaluator
from .metrics import METRICS, TASK_NAMES, TaskEvaluation
from .report import save_report

__all__ = [
    "METRICS",
    "TASK_NAMES",
    "AccuracyEvaluator",
    "COCOEvaluator",
    "TaskEvaluation",
    "inference_on_dataset",
    "save_report",
]

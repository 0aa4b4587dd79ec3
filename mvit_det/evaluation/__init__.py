"""What a detector's predictions are worth: COCO's metrics, as numbers, tables and images."""

from .coco import COCOEvaluator
from .inference import inference_on_dataset
from .report import save_report
from .task import METRICS, TASK_NAMES, TaskEvaluation

__all__ = [
    "METRICS",
    "TASK_NAMES",
    "COCOEvaluator",
    "TaskEvaluation",
    "inference_on_dataset",
    "save_report",
]

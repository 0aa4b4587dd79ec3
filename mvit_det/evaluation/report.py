"""The files of an evaluation: metrics by class as JSON, CSV and plots."""

import csv
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .accuracy import AccuracyEvaluator
from .coco import COCOEvaluator
from .metrics import TaskEvaluation
from .plots import draw_ap_by_class, draw_precision_recall

logger = logging.getLogger(__name__)


def save_report(evaluator: DatasetEvaluator, folder: str | Path) -> None:
    """Writes the metrics of a finished evaluation by class, and plots them.

    The files are `metrics.json`, `metrics.csv`, `precision_recall.png` and `ap_by_class.png`.
    An `AccuracyEvaluator` writes its own files. Nothing is written for other evaluators, or if
    nothing was evaluated, as in all processes but the main one.

    Args:
        evaluator: the evaluator, after `evaluate`.
        folder: an existing one.
    """
    if isinstance(evaluator, AccuracyEvaluator) and comm.is_main_process():
        evaluator.save_report(folder)
    evaluations = evaluator.task_evaluations if isinstance(evaluator, COCOEvaluator) else {}
    if not evaluations:
        return
    folder = Path(folder)
    write_json(evaluations, folder / "metrics.json")
    write_csv(evaluations, folder / "metrics.csv")
    draw_precision_recall(evaluations, folder / "precision_recall.png")
    draw_ap_by_class(evaluations, folder / "ap_by_class.png")
    logger.info("Metrics by class, as tables and plots, are in %s", folder)


def write_json(evaluations: Mapping[str, TaskEvaluation], path: Path) -> None:
    """Writes all metrics, by task and by class.

    `{"bbox": {"objects": 12, "AP": 50.1, …, "classes": [{"class": "cat", "objects": 3, "AP": …},
    …]}, …}`, in percent. Where there are no objects, a metric is null.

    Args:
        evaluations: by task.
        path: of the file.
    """
    report: dict[str, dict[str, Any]] = {}
    for row in _rows(evaluations):
        task, name = row.pop("task"), row.pop("class")
        row = {key: None if _is_nan(value) else value for key, value in row.items()}
        if task not in report:
            report[task] = {**row, "classes": []}
        else:
            report[task]["classes"].append({"class": name, **row})
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_csv(evaluations: Mapping[str, TaskEvaluation], path: Path) -> None:
    """Writes a row per task and class, and one for all classes of a task, which comes first.

    The columns are task, class, objects, and the metrics in percent; where there are no objects,
    a metric's cell is empty.

    Args:
        evaluations: by task.
        path: of the file.
    """
    rows = list(_rows(evaluations))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})


def _rows(evaluations: Mapping[str, TaskEvaluation]) -> Iterator[dict[str, Any]]:
    for task, evaluation in evaluations.items():
        objects = [int(count) for count in evaluation.objects]
        yield {"task": task, "class": "all", "objects": sum(objects), **evaluation.metrics()}
        for index, name in enumerate(evaluation.class_names):
            figures = evaluation.metrics(index)
            yield {"task": task, "class": name, "objects": objects[index], **figures}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

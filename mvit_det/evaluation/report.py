"""The files of an evaluation: metrics by class as JSON, CSV and plots."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.folders import new_file, write_rows
from .accuracy import AccuracyEvaluator
from .coco import COCOEvaluator
from .matching import CONFUSION_THRESHOLD, IOU, Matches
from .metrics import TaskEvaluation
from .plots import draw_ap_by_class, draw_confusion, draw_precision_recall

logger = logging.getLogger(__name__)

_NONE: Mapping[str, Matches] = MappingProxyType({})


def save_report(evaluator: DatasetEvaluator, folder: str | Path) -> None:
    """Writes the metrics of a finished evaluation by class, and plots them.

    The files are `metrics.json`, `metrics.csv`, `precision_recall.png`, `ap_by_class.png`,
    `confusion_matrix.csv` and `confusion_matrix.png`, of boxes unless masks alone are evaluated.
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
    matches = evaluator.matches
    write_json(evaluations, folder / "metrics.json", matches)
    write_csv(evaluations, folder / "metrics.csv", matches)
    draw_precision_recall(evaluations, folder / "precision_recall.png")
    draw_ap_by_class(evaluations, folder / "ap_by_class.png")
    for task, found in list(matches.items())[:1]:
        _save_confusion(found, evaluations[task].class_names, folder)
    logger.info("Metrics by class, as tables and plots, are in %s", folder)


def write_json(
    evaluations: Mapping[str, TaskEvaluation], path: Path, matches: Mapping[str, Matches] = _NONE
) -> None:
    """Writes all metrics, by task and by class.

    `{"bbox": {"objects": 12, "AP": 50.1, …, "classes": [{"class": "cat", "objects": 3, "AP": …},
    …]}, …}`, in percent. Where there are no objects, a metric is null. With `matches`, also the
    score threshold with the highest F1 and this F1, at an IoU of 0.5.

    Args:
        evaluations: by task.
        path: of the file.
        matches: by task.
    """
    report: dict[str, dict[str, Any]] = {}
    for row in _rows(evaluations, matches):
        task, name = row.pop("task"), row.pop("class")
        row = {key: None if _is_nan(value) else value for key, value in row.items()}
        if task not in report:
            report[task] = {**row, "classes": []}
        else:
            report[task]["classes"].append({"class": name, **row})
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(
    evaluations: Mapping[str, TaskEvaluation], path: Path, matches: Mapping[str, Matches] = _NONE
) -> None:
    """Writes a row per task and class, and one for all classes of a task, which comes first.

    The columns are task, class, objects, and the metrics in percent; where there are no objects,
    a metric's cell is empty. With `matches`, also the score threshold with the highest F1 and this
    F1, at an IoU of 0.5; in the row of all classes, the best single threshold for all of them.

    Args:
        evaluations: by task.
        path: of the file.
        matches: by task.
    """
    rows = list(_rows(evaluations, matches))
    columns = list(rows[0])
    cells = [[row.get(column, math.nan) for column in columns] for row in rows]
    write_rows(path, [columns, *(["" if _is_nan(cell) else cell for cell in row] for row in cells)])


def _save_confusion(matches: Matches, class_names: Sequence[str], folder: Path) -> None:
    """Writes the confusion matrix of detections as CSV and PNG."""
    counts = matches.confusion()
    names = [*class_names, "background"]
    rows = [["true class", *names], *([name, *row] for name, row in zip(names, counts.tolist()))]
    write_rows(folder / "confusion_matrix.csv", rows)
    draw_confusion(
        counts,
        names,
        folder / "confusion_matrix.png",
        title=f"Detections with a score of at least {CONFUSION_THRESHOLD}, IoU {IOU}",
        item="share of the row",
    )


def _rows(
    evaluations: Mapping[str, TaskEvaluation], matches: Mapping[str, Matches]
) -> Iterator[dict[str, Any]]:
    for task, evaluation in evaluations.items():
        objects = [int(count) for count in evaluation.objects]
        found = matches.get(task)
        figures = {**evaluation.metrics(), **_threshold(found)}
        yield {"task": task, "class": "all", "objects": sum(objects), **figures}
        for index, name in enumerate(evaluation.class_names):
            figures = {**evaluation.metrics(index), **_threshold(found, index)}
            yield {"task": task, "class": name, "objects": objects[index], **figures}


def _threshold(matches: Matches | None, index: int | None = None) -> dict[str, float]:
    if matches is None:
        return {}
    category = None if index is None else matches.category_ids[index]
    threshold, f1 = matches.best_threshold(category)
    return {"F1": f1, "best_threshold": threshold}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

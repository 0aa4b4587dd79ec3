"""Metrics as JSON and CSV."""

import csv
import json
import math

import pytest

from mvit_det.evaluation import METRICS
from mvit_det.evaluation.report import write_csv, write_json

NAMES = ["cat", '犬, "big"', "a\nb"]


@pytest.fixture
def evaluations(make_evaluation):
    return {task: make_evaluation(NAMES, empty=[2], seed=len(task)) for task in ("bbox", "segm")}


def test_csv_has_a_row_per_class_and_one_for_all(evaluations, tmp_path):
    write_csv(evaluations, tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["task", "class", "objects", *METRICS, "AR"]
    assert [row["class"] for row in rows] == 2 * ["all", *NAMES]
    for number, row in enumerate(rows):
        evaluation = evaluations["bbox" if number < 4 else "segm"]
        index = number % 4 - 1 if number % 4 else None
        objects = evaluation.objects.sum() if index is None else evaluation.objects[index]
        assert int(row["objects"]) == objects
        for metric, figure in evaluation.metrics(index).items():
            assert row[metric] == ("" if math.isnan(figure) else str(figure))


def test_json_says_the_same(evaluations, tmp_path):
    write_json(evaluations, tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert "NaN" not in text  # which is no JSON
    report = json.loads(text)
    assert list(report) == ["bbox", "segm"]
    for task, evaluation in evaluations.items():
        classes = report[task].pop("classes")
        assert report[task] == {"objects": evaluation.objects.sum(), **evaluation.metrics()}
        assert [entry["class"] for entry in classes] == NAMES
        assert classes[0]["AP"] == evaluation.metrics(0)["AP"]
        assert classes[2] == {"class": "a\nb", "objects": 0, **dict.fromkeys((*METRICS, "AR"))}

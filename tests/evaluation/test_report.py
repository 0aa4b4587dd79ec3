"""The files of an evaluation."""

import csv
import json

import pytest
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators

from mvit_det.evaluation import COCOEvaluator, inference_on_dataset, save_report

FILES = [
    "ap_by_class.png",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "metrics.csv",
    "metrics.json",
    "precision_recall.png",
]


def test_files_hold_the_figures_that_the_evaluation_returns(shapes_root, tmp_path, truthful_model):
    records = DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val")
    model = truthful_model("shapes_val", errors=1.0)
    results = inference_on_dataset(model, [[record] for record in records], evaluator)
    save_report(evaluator, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES

    report = json.loads((tmp_path / "metrics.json").read_text())
    annotations = [a for record in records for a in record["annotations"] if not a["iscrowd"]]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = {(row["task"], row["class"]): row for row in csv.DictReader(file)}
    for task in ("bbox", "segm"):
        assert report[task]["objects"] == len(annotations)
        for metric in ("AP", "AP50", "AP75", "APs", "APm"):
            assert report[task][metric] == pytest.approx(results[task][metric])
        assert report[task]["APl"] is None
        for label, entry in enumerate(report[task]["classes"]):
            assert entry["AP"] == pytest.approx(results[task][f"AP-{entry['class']}"])
            assert entry["objects"] == sum(a["category_id"] == label for a in annotations)
            assert float(rows[task, entry["class"]]["AP"]) == entry["AP"]


def test_a_model_that_finds_nothing_leaves_a_report_too(shapes_root, tmp_path, blind_model):
    records = DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val", tasks=["bbox"])
    inference_on_dataset(blind_model(), [[record] for record in records], evaluator)
    save_report(evaluator, tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert list(report) == ["bbox"]
    assert report["bbox"]["AP"] == report["bbox"]["AR"] == 0


def test_other_evaluators_and_unfinished_ones_leave_nothing(shapes_root, tmp_path):
    DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val")
    save_report(evaluator, tmp_path)
    save_report(DatasetEvaluators([evaluator]), tmp_path)
    assert not list(tmp_path.iterdir())

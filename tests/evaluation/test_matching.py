"""Confusion matrix and best thresholds of detections."""

import csv
import itertools

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from faster_coco_eval import COCO, COCOeval_faster

from mvit_det.evaluation import COCOEvaluator, inference_on_dataset, save_report
from mvit_det.evaluation.matching import Matches


def matches(objects, predictions):
    """Matches on one image; objects are (class, box, is crowd), predictions (class, box, score)."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": name, "bbox": box, "iscrowd": crowd}
        for number, (name, box, crowd) in enumerate(objects, start=1)
    ]
    found = [
        {"image_id": 1, "category_id": name, "bbox": box, "score": score}
        for name, box, score in predictions
    ]
    truth = COCO(
        {
            "images": [{"id": 1, "width": 100, "height": 100}],
            "annotations": [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in annotations],
            "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
        }
    )
    loaded = truth.loadRes([dict(each) for each in found])
    evaluation = COCOeval_faster(truth, loaded, "bbox", print_function=lambda text: None)
    evaluation.params.maxDets = [100]
    evaluation.run()
    return Matches.of(evaluation, annotations, found)


def test_each_kind_of_mistake_has_its_cell():
    result = matches(
        [
            (3, [0, 0, 10, 10], 0),  # found twice
            (3, [20, 0, 10, 10], 0),  # taken for the other class
            (7, [40, 0, 10, 10], 0),  # missed
            (7, [60, 60, 40, 40], 1),  # a crowd
        ],
        [
            (3, [0, 0, 10, 8], 0.9),
            (3, [0, 0, 10, 10], 0.8),
            (7, [20, 0, 10, 10], 0.7),
            (7, [65, 65, 10, 10], 0.95),
            (7, [40, 0, 10, 4], 0.9),  # IoU 0.4
            (3, [40, 0, 10, 10], 0.3),  # below the threshold of the matrix
        ],
    )
    assert result.confusion().tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    # With the threshold at 0.9 class a has one hit, no mistake, and a miss.
    threshold, f1 = result.best_threshold(3)
    assert (threshold, f1) == (0.9, pytest.approx(100 * 2 / 3))
    assert np.isnan(result.best_threshold(7)).all()


def test_a_prediction_of_the_right_class_comes_before_a_better_box_of_another():
    result = matches([(3, [0, 0, 10, 10], 0)], [(7, [0, 0, 10, 10], 0.9), (3, [0, 0, 10, 6], 0.8)])
    assert result.confusion().tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_equal_scores_are_kept_or_dropped_together():
    result = matches([(3, [0, 0, 10, 10], 0)], [(3, [0, 0, 10, 10], 0.5), (3, [50, 50, 9, 9], 0.5)])
    assert result.best_threshold(3) == (0.5, pytest.approx(100 * 2 / 3))


@pytest.mark.usefixtures("shapes_root")
def test_the_report_of_a_model_with_errors_agrees_with_a_plain_count(tmp_path, truthful_model):
    records = DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val")
    model = truthful_model("shapes_val", errors=1.0)
    inference_on_dataset(model, [[record] for record in records], evaluator)
    save_report(evaluator, tmp_path)
    with (tmp_path / "confusion_matrix.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert header[-1] == rows[-1][0] == "background"
    objects = evaluator.task_evaluations["bbox"].objects
    assert counts[:-1].sum(axis=1).tolist() == objects.tolist()
    confident = sum(p["score"] >= 0.5 for p in evaluator.predictions)
    crowds = sum(a["iscrowd"] for record in records for a in record["annotations"])
    assert confident - crowds <= counts[:, :-1].sum() <= confident
    assert np.trace(counts) > 0.3 * objects.sum()

    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["task"] == "segm"]
    for row in table[1:]:
        # No other threshold has a higher F1.
        ids = evaluator.matches["segm"].category_ids
        label = ids[[r["class"] for r in table[1:]].index(row["class"])]
        assert float(row["F1"]) == pytest.approx(best_f1(evaluator.matches["segm"], label))
        assert 0 < float(row["best_threshold"]) <= 1


def best_f1(found, category_id):
    """By trying each score."""
    pairs = [
        (each["score"], index >= 0)
        for each, index in zip(found.predictions, found.objects)
        if each["category_id"] == category_id
    ]
    total = sum(a["category_id"] == category_id and not a["iscrowd"] for a in found.annotations)
    figures = []
    for threshold, _ in pairs:
        kept = list(itertools.compress(pairs, [score >= threshold for score, _ in pairs]))
        hits = sum(hit for _, hit in kept)
        figures.append(100 * 2 * hits / (len(kept) + total))
    return max(figures)

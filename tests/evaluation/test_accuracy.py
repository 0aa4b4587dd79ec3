"""Accuracy equals a plain loop's, and its tables and plots say what they count."""

import csv
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from mvit_det.evaluation.accuracy import WORST_MISTAKES, AccuracyEvaluator

NAMES = ["cat", "dog", "$x^{", "猫", "e", "f", "g"]


@pytest.fixture
def evaluator():
    MetadataCatalog.get("accuracy_test").set(thing_classes=NAMES)
    yield AccuracyEvaluator("accuracy_test")
    MetadataCatalog.remove("accuracy_test")


def make_images(folder, count):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(count, len(NAMES), generator=generator).softmax(1)
    labels = torch.randint(0, len(NAMES) - 1, (count,), generator=generator).tolist()
    inputs = []
    for index, label in enumerate(labels):
        path = folder / f"{index:03}.png"
        Image.fromarray(np.full((20, 30, 3), index, np.uint8)).save(path)
        inputs.append({"file_name": str(path), "label": label})
    return inputs, [{"scores": row} for row in scores]


def test_top1_and_top5_equal_a_plain_loop(evaluator, tmp_path):
    inputs, outputs = make_images(tmp_path, 60)
    for start in range(0, 60, 7):
        evaluator.process(inputs[start : start + 7], outputs[start : start + 7])
    ranks = [
        sorted(range(len(NAMES)), key=lambda k: -output["scores"][k]).index(record["label"])
        for record, output in zip(inputs, outputs)
    ]
    metrics = evaluator.evaluate()["classification"]
    assert metrics["top1"] == pytest.approx(100 * np.mean([rank == 0 for rank in ranks]))
    assert metrics["top5"] == pytest.approx(100 * np.mean([rank < 5 for rank in ranks]))
    assert evaluator.confusion.sum() == 60
    assert len(evaluator.mistakes) == WORST_MISTAKES
    wrong = [output["scores"].max().item() for rank, output in zip(ranks, outputs) if rank > 0]
    assert [mistake.score for mistake in evaluator.mistakes] == pytest.approx(
        sorted(wrong, reverse=True)[:WORST_MISTAKES]
    )
    evaluator.reset()
    assert all(math.isnan(value) for value in evaluator.evaluate()["classification"].values())


def test_the_report_lists_every_class(evaluator, tmp_path):
    inputs, outputs = make_images(tmp_path, 40)
    evaluator.process(inputs, outputs)
    evaluator.evaluate()
    (tmp_path / "000.png").unlink()
    evaluator.save_report(tmp_path)
    with open(tmp_path / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert sum(int(row["images"]) for row in rows) == 40
    # No image of the last class was seen.
    assert (rows[-1]["images"], rows[-1]["top1"]) == ("0", "")
    first = evaluator.confusion[0]
    assert float(rows[0]["top1"]) == pytest.approx(100 * first[0] / first.sum(), abs=0.01)
    for name in ("confusion_matrix.png", "worst_mistakes.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300


def test_a_perfect_model_has_no_mistakes_to_draw(evaluator, tmp_path):
    scores = torch.eye(len(NAMES))
    inputs = [{"file_name": "x.png", "label": label} for label in range(len(NAMES))]
    evaluator.process(inputs, [{"scores": row} for row in scores])
    assert evaluator.evaluate() == {"classification": {"top1": 100.0, "top5": 100.0}}
    evaluator.save_report(tmp_path)
    assert not (tmp_path / "worst_mistakes.png").exists()

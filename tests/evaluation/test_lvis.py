"""LVIS's AP without the package `lvis`, with the same figures."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from mvit_det.data import coco, load_records
from mvit_det.errors import ConfigError
from mvit_det.evaluation.lvis import LVISEvaluator

SIZE = 400
NAME = "federated_triangles"


def triangle(box):
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, (x0 + x1) / 2, y1]


def federated(generator):
    """Triangles of nine categories, rare to frequent; each image negates some of those it lacks."""
    images, annotations = [], []
    for image_id in range(1, 21):
        shown = set()
        for _ in range(generator.integers(1, 9)):
            corner = generator.uniform(0, 200, 2)
            box = np.concatenate([corner, corner + generator.choice([20, 60, 180], 2)])
            category = int(generator.integers(1, 10))
            rle = mask_util.merge(mask_util.frPyObjects([triangle(box)], SIZE, SIZE))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=[*box[:2], *(box[2:] - box[:2])],
                    segmentation=[triangle(box)],
                    area=float(mask_util.area(rle)),
                )
            )
            shown.add(category)
        absent = [category for category in range(1, 10) if category not in shown]
        images.append(
            dict(
                id=image_id,
                height=SIZE,
                width=SIZE,
                neg_category_ids=generator.permutation(absent)[:2].tolist(),
                not_exhaustive_category_ids=sorted(shown)[:1],
            )
        )
    categories = [
        dict(id=number, name=f"{number}", frequency="rcf"[number % 3], image_count=number)
        for number in range(1, 10)
    ]
    return dict(images=images, annotations=annotations, categories=categories)


def noisy_predictions(dataset, generator):
    """By image; some objects are missed, some found twice, some of another category."""
    found = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        for _ in range(generator.integers(0, 3)):
            box = [x, y, x + width, y + height] + generator.normal(0, 0.06, 4) * width
            category = annotation["category_id"]
            if generator.random() < 0.2:
                category = int(generator.integers(1, 10))
            found[annotation["image_id"]].append((box, category, generator.random()))
    return found


def to_instances(predictions):
    masks = [
        mask_util.decode(mask_util.merge(mask_util.frPyObjects([triangle(box)], SIZE, SIZE)))
        for box, _, _ in predictions
    ]
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.tensor(np.array([box for box, _, _ in predictions])).reshape(-1, 4)),
        scores=torch.tensor([score for _, _, score in predictions]),
        pred_classes=torch.tensor([category - 1 for _, category, _ in predictions]),
        pred_masks=torch.tensor(np.array(masks).reshape(-1, SIZE, SIZE)).bool(),
    )


@pytest.fixture
def dataset(tmp_path):
    content = federated(np.random.default_rng(0))
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    DatasetCatalog.register(NAME, lambda: content["images"])
    MetadataCatalog.get(NAME).set(evaluator_type="lvis", json_file=str(path))
    yield content
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def evaluate(dataset, limit, output_dir=None):
    evaluator = LVISEvaluator(NAME, output_dir=output_dir, max_dets_per_image=limit)
    for image_id, found in noisy_predictions(dataset, np.random.default_rng(1)).items():
        evaluator.process([{"image_id": image_id}], [{"instances": to_instances(found)}])
    return evaluator.evaluate()


@pytest.mark.parametrize("limit", [300, 3])
def test_figures_equal_those_of_lvis(dataset, limit, tmp_path, monkeypatch):
    lvis = pytest.importorskip("lvis", reason="compares with the package 'lvis'")
    monkeypatch.setattr(np, "float", float, raising=False)  # which `lvis` still uses
    results = evaluate(dataset, limit, str(tmp_path))
    truth = lvis.LVIS(MetadataCatalog.get(NAME).json_file)
    for task in ("bbox", "segm"):
        predictions = json.loads((tmp_path / "lvis_instances_results.json").read_text())
        if task == "segm":
            for prediction in predictions:
                del prediction["bbox"]
        found = lvis.LVISResults(truth, predictions, max_dets=limit)
        evaluation = lvis.LVISEval(truth, found, task)
        evaluation.run()
        expected = evaluation.get_results()
        assert len(results[task]) == 9
        for name, value in results[task].items():
            assert value == pytest.approx(100 * expected[name], abs=1e-9), (task, name)


RESULTS = {
    "bbox": {
        "AP": 33.913,
        "AP50": 52.164,
        "AP75": 38.02,
        "APs": 26.825,
        "APm": 32.28,
        "APl": 56.477,
        "APr": 30.064,
        "APc": 32.599,
        "APf": 39.076,
    },
    "segm": {
        "AP": 28.085,
        "AP50": 47.551,
        "AP75": 27.838,
        "APs": 19.94,
        "APm": 28.536,
        "APl": 47.069,
        "APr": 27.595,
        "APc": 25.948,
        "APf": 30.712,
    },
}


def test_figures(dataset):
    """Those that the package `lvis` 0.5.3 computes."""
    results = evaluate(dataset, 300)
    assert set(results) == {"bbox", "segm"}
    for task, expected in RESULTS.items():
        assert results[task] == pytest.approx(expected, abs=1e-3)


def test_perfect_predictions(dataset):
    evaluator = LVISEvaluator(NAME)
    for image in dataset["images"]:
        boxes = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        found = [(np.array(triangle_box(a)), a["category_id"], 0.9) for a in boxes]
        evaluator.process([{"image_id": image["id"]}], [{"instances": to_instances(found)}])
    results = evaluator.evaluate()
    assert {round(value, 6) for task in results.values() for value in task.values()} == {100.0}


def triangle_box(annotation):
    x, y, width, height = annotation["bbox"]
    return [x, y, x + width, y + height]


def test_nothing_predicted(dataset):
    evaluator = LVISEvaluator(NAME)
    assert evaluator.evaluate() == {}
    evaluator.process([{"image_id": 1}], [{"instances": to_instances([])}])
    assert {value for task in evaluator.evaluate().values() for value in task.values()} == {0.0}


def test_datasets_in_other_formats():
    with pytest.raises(ConfigError, match="'coco_2017_val'"):
        LVISEvaluator("coco_2017_val")


def test_one_run_parses_a_file_once(shapes_root, monkeypatch):
    DatasetCatalog.get("shapes_lvis_val")
    read, parse = [], coco.read_json
    monkeypatch.setattr(coco, "_parsed", {})
    monkeypatch.setattr(coco, "read_json", lambda path: read.append(path) or parse(path))
    load_records("shapes_lvis_val", filter_empty=False)
    for _ in range(2):
        LVISEvaluator("shapes_lvis_val")
    assert [path.name for path in read].count("val_lvis.json") == 1

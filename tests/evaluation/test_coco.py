"""Box and mask AP: equal to pycocotools, and honest where there is nothing to compare."""

import copy
import json
import logging
import math
from unittest.mock import ANY

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mvit_det.data import coco, load_records, read_coco
from mvit_det.data.catalog import register_coco
from mvit_det.errors import DatasetError
from mvit_det.evaluation import METRICS, COCOEvaluator, inference_on_dataset


def evaluate(dataset_name, model, **options):
    batches = [[record] for record in DatasetCatalog.get(dataset_name)]
    return inference_on_dataset(model, batches, COCOEvaluator(dataset_name, **options))


def reference(json_file, results, task):
    """Figures of pycocotools as a dict like Detectron2's, without the AP of each class."""
    truth = COCO(json_file)
    truth.dataset.setdefault("info", {})
    results = copy.deepcopy(results)
    if task == "segm":
        for result in results:
            del result["bbox"]
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    figures = {
        metric: 100 * figure if figure >= 0 else math.nan
        for metric, figure in zip(METRICS, evaluation.stats)
    }
    precisions = evaluation.eval["precision"][:, :, :, 0, -1]
    for index, category_id in enumerate(evaluation.params.catIds):
        valid = precisions[:, :, index][precisions[:, :, index] > -1]
        figure = 100 * valid.mean() if valid.size else math.nan
        figures["AP-" + truth.cats[category_id]["name"]] = figure
    return figures


@pytest.fixture
def small_set(tmp_path):
    """Registers a COCO JSON without info and licenses; returns a function (annotations, …)."""
    names = []

    def register(annotations, image_count=2):
        dataset = {
            "images": [
                {"id": number, "file_name": f"{number}.png", "height": 60, "width": 80}
                for number in range(1, image_count + 1)
            ],
            "categories": [{"id": 7, "name": "apple"}, {"id": 9, "name": "pear"}],
        }
        if annotations is not None:
            dataset["annotations"] = annotations
        name = f"small_{tmp_path.name}"
        json_file = tmp_path / "small.json"
        json_file.write_text(json.dumps(dataset))
        register_coco_instances(name, {}, str(json_file), str(tmp_path))
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def annotation(number, image_id=1, category_id=7, box=(10, 10, 20, 10), **more):
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [corners],
        **more,
    }


def instances(*boxes, label=0, with_masks=False):
    """Predictions of these boxes x0, y0, x1, y1 in an image of 60 × 80 pixels."""
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.scores = torch.linspace(0.9, 0.5, len(boxes))
    found.pred_classes = torch.full((len(boxes),), label)
    if with_masks:
        found.pred_masks = torch.zeros(len(boxes), 60, 80, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, boxes):
            mask[y0:y1, x0:x1] = True
    return found


def without(entry, *keys):
    return {key: value for key, value in entry.items() if key not in keys}


def test_perfect_predictions_have_ap_100(shapes_root, truthful_model):
    DatasetCatalog.get("shapes_val")
    results = evaluate("shapes_val", truthful_model("shapes_val"))
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP50"] == pytest.approx(100)
        assert math.isnan(results[task]["APl"])  # no shape is that large


@pytest.mark.parametrize("max_dets", [100, 1])
def test_figures_equal_pycocotools_on_shapes(shapes_root, tmp_path, max_dets, truthful_model):
    DatasetCatalog.get("shapes_val")
    model = truthful_model("shapes_val", errors=1.0)
    results = evaluate("shapes_val", model, output_dir=str(tmp_path), max_dets_per_image=max_dets)
    predictions = json.loads((tmp_path / "coco_instances_results.json").read_text())
    json_file = MetadataCatalog.get("shapes_val").json_file
    for task in ("bbox", "segm"):
        if max_dets == 100:
            expected = reference(json_file, predictions, task)
            assert results[task] == pytest.approx(expected, abs=1e-6, nan_ok=True)
            assert len(expected) == 11
        assert 5 < results[task]["AP"] < 95
    if max_dets == 1:
        assert results["bbox"]["AP"] < evaluate("shapes_val", model)["bbox"]["AP"]


def test_figures_equal_pycocotools_on_coco(coco_sample, tmp_path, truthful_model):
    json_file = coco_sample / "coco" / "annotations" / "instances_val2017.json"
    name = "coco_sample_for_evaluation"
    register_coco_instances(name, {}, str(json_file), str(coco_sample / "coco" / "val2017"))
    DatasetCatalog.get(name)
    try:
        results = evaluate(name, truthful_model(name, errors=1.0), output_dir=str(tmp_path))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    predictions = json.loads((tmp_path / "coco_instances_results.json").read_text())
    for task in ("bbox", "segm"):
        expected = reference(str(json_file), predictions, task)
        assert results[task] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert len(expected) == 86
        assert 5 < results[task]["AP"] < 95


def test_results_are_named_as_in_detectron2(shapes_root, caplog, truthful_model):
    caplog.set_level(logging.INFO)
    DatasetCatalog.get("shapes_val")
    results = evaluate("shapes_val", truthful_model("shapes_val", errors=0.5, with_masks=False))
    assert list(results) == ["bbox"]
    names = ["circle", "square", "triangle", "star", "cross"]
    assert list(results["bbox"]) == [*METRICS, *(f"AP-{name}" for name in names)]
    assert "Evaluation results for bbox" in caplog.text
    assert "official" not in caplog.text


def test_metrics_as_configured_lazily(shapes_root, truthful_model):
    evaluator = instantiate(LazyCall(COCOEvaluator)(dataset_name="shapes_val", tasks=["bbox"]))
    results = inference_on_dataset(
        truthful_model("shapes_val"), [[r] for r in DatasetCatalog.get("shapes_val")], evaluator
    )
    assert list(results) == ["bbox"]


def test_a_model_that_finds_nothing_has_ap_0(shapes_root, caplog, blind_model):
    results = evaluate("shapes_val", blind_model())
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == results[task]["AP50"] == results[task]["AP-star"] == 0
    assert "The model predicted nothing on all 200 images" in caplog.text


@pytest.mark.parametrize("annotations", [None, []])
def test_a_dataset_without_annotations_has_no_ap(small_set, annotations, caplog, tmp_path):
    name = small_set(annotations)
    json_file = MetadataCatalog.get(name).json_file
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {7: 0, 9: 1}
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path))
    evaluator.process([{"image_id": 1}], [{"instances": instances([1, 2, 11, 22], label=1)}])
    results = evaluator.evaluate()
    assert list(results["bbox"]) == list(METRICS)
    assert all(math.isnan(figure) for figure in results["bbox"].values())
    assert f"'{json_file}' has no annotations: all metrics are NaN" in caplog.text
    assert evaluator.task_evaluations["bbox"].class_names == ["apple", "pear"]
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert saved == [{"image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 20], "score": ANY}]
    assert evaluator.predictions == saved


def test_json_as_found_in_the_wild(small_set, truthful_model):
    """No info, area or iscrowd; an image without objects; ids from 0."""
    entries = [annotation(0), annotation(1, category_id=9, box=(40, 20, 30, 30))]
    name = small_set([without(entry, "area", "iscrowd") for entry in entries])
    DatasetCatalog.get(name)
    results = evaluate(name, truthful_model(name))
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["APs"] == results["bbox"]["AP-pear"] == pytest.approx(100)


@pytest.mark.parametrize("crowd_has_mask", [True, False])
def test_predictions_inside_a_crowd_do_not_count(small_set, crowd_has_mask):
    """A crowd without a mask is its box: it must not cost the whole dataset its mask AP."""
    crowd = annotation(2, box=(40, 20, 30, 30), iscrowd=1)
    crowd["segmentation"] = {"size": [60, 80], "counts": [40 * 60, 30 * 60, 10 * 60]}
    name = small_set([annotation(1), crowd if crowd_has_mask else without(crowd, "segmentation")])
    evaluator = COCOEvaluator(name)
    found = instances([45, 25, 55, 35], [10, 10, 30, 20], with_masks=True)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("area", [0, -5, float("nan"), "1600"])
def test_an_unusable_area_is_that_of_the_box(area, small_set):
    name = small_set([annotation(1, box=(10, 10, 40, 40), area=area)])
    evaluator = COCOEvaluator(name)
    evaluator.process([{"image_id": 1}], [{"instances": instances([10, 10, 50, 50])}])
    results = evaluator.evaluate()["bbox"]
    assert results["APm"] == pytest.approx(100)
    assert math.isnan(results["APs"])


def test_odd_spellings_are_evaluated_as_they_are_trained_on(tmp_path):
    """A byte-order mark, ids as text, a null `iscrowd`, nested polygons and a Windows path."""
    entry = annotation("1", image_id="1", iscrowd=None, category_id=7.0)
    entry["segmentation"] = [[[10, 10], [30, 10], [30, 20], [10, 20]]]
    content = {
        "images": [{"id": "1", "file_name": "day\\1.png", "height": "60", "width": 80.0}],
        "categories": [{"id": "7", "name": "apple"}],
        "annotations": [entry],
    }
    path = tmp_path / "odd.json"
    path.write_text("\N{BYTE ORDER MARK}" + json.dumps(content), encoding="utf-8")
    name = register_coco(read_coco(path), tmp_path)
    (record,) = load_records(name)
    evaluator = COCOEvaluator(name)
    found = instances([10, 10, 30, 20], with_masks=True)
    evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_one_run_parses_a_file_once(shapes_root, monkeypatch, truthful_model):
    DatasetCatalog.get("shapes_val")
    metadata = MetadataCatalog.get("shapes_val")
    read = []
    monkeypatch.setattr(coco, "_parsed", {})
    parse = coco.read_json
    monkeypatch.setattr(coco, "read_json", lambda path: read.append(path) or parse(path))
    name = register_coco(read_coco(metadata.json_file), metadata.image_root)
    records = load_records(name, filter_empty=False)
    for _ in range(2):
        COCOEvaluator(name)
    assert len(read) == 1
    assert len(records) == 200


def test_boxes_without_masks_are_evaluated_as_boxes(small_set, caplog):
    name = small_set([without(annotation(1), "segmentation")])
    evaluator = COCOEvaluator(name)
    found = instances([10, 10, 30, 20], with_masks=True)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    assert list(results) == ["bbox"]
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert "objects without masks: mask AP is skipped" in caplog.text


def test_a_class_that_the_dataset_lacks_is_an_error(small_set):
    evaluator = COCOEvaluator(small_set([annotation(1)]))
    found = instances([10, 10, 30, 20], label=79)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    with pytest.raises(ValueError, match=r"class 79, .* 2 classes"):
        evaluator.evaluate()


def test_a_dataset_in_another_format_is_converted(tmp_path):
    record = {
        "file_name": "1.png",
        "image_id": 1,
        "height": 60,
        "width": 80,
        "annotations": [
            {"bbox": [10, 10, 30, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        ],
    }
    name = f"own_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["apple"]
    try:
        evaluator = COCOEvaluator(name)
        evaluator.process([record], [{"instances": instances([10, 10, 30, 20])}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
        assert evaluator.predictions[0]["bbox"] == [10, 10, 20, 10]
        evaluator.reset()
        assert evaluator.predictions == []
        del record["height"]
        with pytest.raises(DatasetError, match=f"'{name}' has no 'height'"):
            COCOEvaluator(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_unknown_datasets_and_tasks_are_refused(shapes_root):
    with pytest.raises(DatasetError, match="'shapes_vla' .*shapes_val"):
        COCOEvaluator("shapes_vla")
    with pytest.raises(ValueError, match=r"tasks contains \['keypoints'\]; allowed are"):
        COCOEvaluator("shapes_val", tasks=["bbox", "keypoints"])

"""Box and mask AP: equal to pycocotools, and honest where there is nothing to compare."""

import copy
import json
import logging
import math
import sys

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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
    evaluator.reset()
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 22]]))
    found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([1])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    assert list(results["bbox"]) == list(METRICS)
    assert all(math.isnan(figure) for figure in results["bbox"].values())
    assert f"'{json_file}' has no annotations: all metrics are NaN" in caplog.text
    assert evaluator.task_evaluations["bbox"].class_names == ["apple", "pear"]
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert saved == [{"image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 20], "score": 0.5}]


def test_json_as_found_in_the_wild(small_set, truthful_model):
    """No info, area or iscrowd; an image without objects; ids from 0."""
    entries = [annotation(0), annotation(1, category_id=9, box=(40, 20, 30, 30))]
    name = small_set([without(entry, "area", "iscrowd") for entry in entries])
    DatasetCatalog.get(name)
    results = evaluate(name, truthful_model(name))
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["APs"] == results["bbox"]["AP-pear"] == pytest.approx(100)


def test_predictions_inside_a_crowd_do_not_count(small_set):
    crowd = annotation(2, box=(40, 20, 30, 30), iscrowd=1)
    crowd["segmentation"] = {"size": [60, 80], "counts": [40 * 60, 30 * 60, 10 * 60]}
    name = small_set([annotation(1), crowd])
    evaluator = COCOEvaluator(name, tasks=["bbox"])
    evaluator.reset()
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor([[45.0, 25, 55, 35], [10, 10, 30, 20]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.5]), torch.tensor([0, 0])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_boxes_without_masks_are_evaluated_as_boxes(small_set, caplog):
    name = small_set([without(annotation(1), "segmentation")])
    evaluator = COCOEvaluator(name)
    evaluator.reset()
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 20]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_masks = torch.ones(1, 60, 80, dtype=torch.bool)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    assert list(results) == ["bbox"]
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert "annotations without masks: mask AP is left out" in caplog.text


def test_a_class_that_the_dataset_lacks_is_an_error(small_set):
    name = small_set([annotation(1)])
    evaluator = COCOEvaluator(name)
    evaluator.reset()
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 20]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([79])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    with pytest.raises(ValueError, match=r"class 79, but .* has 2 classes; set .*num_classes=2"):
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
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path))
        evaluator.reset()
        found = Instances((60, 80))
        found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 20]]))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        evaluator.process([record], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_unkncustom_dataset_sets_and_tasks_are_refused(shapes_root):
    with pytest.raises(ValueError, match="'shapes_vla' is not registered; there are: .*shapes_val"):
        COCOEvaluator("shapes_vla")
    with pytest.raises(ValueError, match=r"tasks contains \['keypoints'\]; allowed are"):
        COCOEvaluator("shapes_val", tasks=["bbox", "keypoints"])


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_bar_and_a_file_only_log_lines(monkeypatch, capsys, caplog, is_terminal):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr("detectron2.utils.logger._LOG_TIMER", {})
    model = torch.nn.Identity()
    assert inference_on_dataset(model, [[{}]] * 20, None) == {}
    assert ("20/20" in capsys.readouterr().err) == is_terminal
    assert ("Inference done" in caplog.text) != is_terminal
    assert "Start inference on 20 batches" in caplog.text

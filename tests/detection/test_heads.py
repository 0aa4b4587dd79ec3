"""Soft-NMS as fields of all box heads; without it they are Detectron2's."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances

from mvit_det.detection.heads import BoxPredictor
from mvit_det.detection.soft_nms import soft_nms
from mvit_det.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def predictor(kind=BoxPredictor, agnostic=True, **arguments):
    torch.manual_seed(0)
    return kind(
        input_shape=8,
        box2box_transform=instantiate(
            {
                "_target_": "detectron2.modeling.box_regression.Box2BoxTransform",
                "weights": [10, 10, 5, 5],
            }
        ),
        num_classes=5,
        cls_agnostic_bbox_reg=agnostic,
        **arguments,
    )


def proposals(count=40):
    corners = torch.rand(count, 2) * 60
    boxes = torch.cat([corners, corners + 10 + torch.rand(count, 2) * 40], dim=1)
    return [Instances((100, 80), proposal_boxes=Boxes(boxes))]


def predictions(layers, count=40):
    layers.cls_score.weight.data *= 200
    return layers(torch.randn(count, 8))


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_a_box_head_selects_by_soft_nms(agnostic, method):
    layers = predictor(
        agnostic=agnostic,
        test_nms_method=method,
        test_nms_thresh=0.4,
        test_nms_sigma=0.3,
        test_score_thresh=0.01,
        test_topk_per_image=25,
    )
    with torch.no_grad():
        outputs, regions = predictions(layers), proposals()
        (found,), (rows,) = layers.inference(outputs, regions)
        (boxes,) = layers.predict_boxes(outputs, regions)
        (scores,) = layers.predict_probs(outputs, regions)
    boxes = boxes.view(40, -1, 4).expand(40, 5, 4).reshape(-1, 4).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([80.0, 100, 80, 100]))
    indexes, final = soft_nms(
        boxes,
        scores[:, :-1].reshape(-1),
        torch.arange(5).repeat(40),
        method=method,
        iou_threshold=0.4,
        sigma=0.3,
        score_threshold=0.01,
        max_detections=25,
    )
    assert len(found) == 25
    assert torch.equal(found.scores, final)
    assert torch.equal(found.pred_boxes.tensor, boxes[indexes])
    assert torch.equal(found.pred_classes, indexes % 5)
    assert torch.equal(rows, indexes // 5)


def test_infinite_predictions_are_dropped_as_by_detectron2():
    layers = predictor(test_nms_method="linear")
    boxes = torch.tensor([[0.0, 0, 10, 10], [float("nan"), 0, 10, 10]])
    (found,), _ = layers.select([boxes], [torch.full((2, 6), 0.1)], [(20, 20)])
    assert len(found) == 5


def test_hard_nms_is_that_of_detectron2():
    ours, theirs = predictor(), predictor(FastRCNNOutputLayers)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.manual_seed(1)
    with torch.no_grad():
        outputs, regions = predictions(ours), proposals()
        (found,), (rows,) = ours.inference(outputs, regions)
        (expected,), (expected_rows,) = theirs.inference(outputs, regions)
    assert len(found) > 0
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(rows, expected_rows)


def detect(name, **fields):
    """Instances of an untrained small detector, with changed fields of all its box heads."""
    torch.manual_seed(0)
    model = LazyConfig.load(str(CONFIGS / "shapes" / f"{name}.py")).model
    fields = {"test_score_thresh": 0.0, **fields}
    if "roi_heads" in model:
        heads = model.roi_heads.get("box_predictors") or [model.roi_heads.box_predictor]
    else:
        heads = [model]
    for head in heads:
        head.update(fields)
    model = instantiate(model).eval()
    image = torch.randint(0, 256, (3, 128, 96), dtype=torch.uint8)
    with torch.no_grad():
        return model([{"image": image}])[0]["instances"]


@pytest.mark.parametrize(
    "name",
    ["mask_rcnn_mvitv2_pico", "cascade_mask_rcnn_mvitv2_pico", "retinanet_mvitv2_pico"],
)
def test_every_detector_has_the_fields(name):
    hard, linear, gaussian, never = (
        detect(name, **fields)
        for fields in (
            dict(),
            dict(test_nms_method="linear"),
            dict(test_nms_method="gaussian"),
            dict(test_nms_method="linear", test_nms_thresh=1.1),
        )
    )
    # All scores are alike before training, so none that overlaps a better one stays as high.
    assert len(linear) >= len(hard)
    assert linear.scores.sum() < never.scores.sum()
    assert gaussian.scores.sum() < never.scores.sum()
    assert hard.has("pred_masks") == linear.has("pred_masks") == ("mask" in name)
    for found in (linear, gaussian):
        assert (found.scores.diff() <= 0).all()
        assert found.scores[0] == hard.scores[0]
        assert torch.equal(found.pred_boxes.tensor[0], hard.pred_boxes.tensor[0])


def test_a_threshold_that_undoes_soft_nms_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        predictor(test_nms_method="linear", test_score_thresh=0.001)
        predictor(test_score_thresh=0.05)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        predictor(test_nms_method="linear", test_score_thresh=0.05)
    assert "test_score_thresh=0.05" in caplog.text


@pytest.mark.parametrize(
    ("fields", "value"),
    [(dict(test_nms_method="quadratic"), "quadratic"), (dict(test_nms_sigma=0), "0")],
)
def test_fields_out_of_range(fields, value):
    with pytest.raises(ConfigError, match=f"{next(iter(fields))}.*{value}"):
        predictor(**fields)


def test_soft_nms_of_a_stage_that_does_not_select():
    config = LazyConfig.load(str(CONFIGS / "shapes" / "cascade_mask_rcnn_mvitv2_pico.py")).model
    config.roi_heads.box_predictors[0].test_nms_method = "linear"
    with pytest.raises(ConfigError, match=r"box_predictors\.2\.test_nms_method=linear"):
        instantiate(config)

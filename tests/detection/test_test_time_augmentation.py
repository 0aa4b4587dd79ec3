"""Test-time augmentation: equal to Detectron2's, and its fields."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import GeneralizedRCNNWithTTA

from mvit_det.detection.merging import MergeSettings
from mvit_det.detection.test_time_augmentation import DetectorWithTTA, TTASettings
from mvit_det.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHORT_SIDES = [48, 64]


def build(name, score_threshold=0.0):
    """An untrained small detector whose class scores differ as after training."""
    torch.manual_seed(0)
    config = LazyConfig.load(str(CONFIGS / "shapes" / f"{name}.py")).model
    if "roi_heads" in config:
        heads = config.roi_heads.get("box_predictors") or [config.roi_heads.box_predictor]
        for head in heads:
            head.update(test_score_thresh=score_threshold, test_topk_per_image=12)
        config.proposal_generator.update(pre_nms_topk=[60, 60], post_nms_topk=[30, 30])
    else:
        config.update(test_score_thresh=score_threshold, max_detections_per_image=12)
    model = instantiate(config).eval()
    for key, tensor in model.state_dict().items():
        if "cls_score.weight" in key:
            tensor.mul_(30)
    return model


def image(height=60, width=80):
    torch.manual_seed(1)
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8)}


def reference(model, masks, short_sides=SHORT_SIDES, flip=True):
    """Detectron2's, which pads the views of a batch to the same size: so one at a time."""
    config = get_cfg()
    config.TEST.AUG.MIN_SIZES = short_sides
    config.TEST.AUG.MAX_SIZE = 100
    config.TEST.AUG.FLIP = flip
    config.TEST.DETECTIONS_PER_IMAGE = 12
    config.MODEL.ROI_HEADS.NUM_CLASSES = 5
    config.MODEL.MASK_ON = masks
    return GeneralizedRCNNWithTTA(config, model, batch_size=1)


@pytest.mark.parametrize(
    "name",
    ["mask_rcnn_mvitv2_pico", "cascade_mask_rcnn_mvitv2_pico", "faster_rcnn_mvitv2_pico"],
)
def test_equals_detectron2(name):
    model = build(name)
    entry = {**image(45, 60), "height": 90, "width": 120}
    ours = DetectorWithTTA(model, TTASettings(SHORT_SIDES, max_size=100))
    with torch.no_grad():
        (expected,) = reference(model, masks="mask" in name)([entry])
        (found,) = ours([entry])
    found, expected = found["instances"], expected["instances"]
    assert len(found) > 5
    assert found.image_size == expected.image_size == (90, 120)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor.float(), rtol=0, atol=1e-4
    )
    if "mask" in name:
        assert expected.pred_masks.any()
        assert torch.equal(found.pred_masks, expected.pred_masks)


def test_every_view_is_alone_in_memory():
    """And no larger than asked for; the mask head stays as it was."""
    model = build("mask_rcnn_mvitv2_pico")
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    DetectorWithTTA(model, TTASettings([32, 64], max_size=80))([image(), image()])
    assert {shape[0] for shape in seen} == {1}
    # Two sizes, each flipped, once for boxes and once for masks, of two images.
    assert len(seen) == 2 * 2 * 2 * 2
    assert model.roi_heads.mask_on


@pytest.mark.parametrize("method", ["nms", "linear", "gaussian", "fusion"])
def test_one_view_as_it_is_changes_nothing(method):
    """Up to the merge: each method takes the boxes of a single view for different objects."""
    model = build("mask_rcnn_mvitv2_pico")
    entry = image()
    with torch.no_grad():
        expected = model([entry])[0]["instances"]
    settings = TTASettings([60], max_size=100, flip=False)
    merge = MergeSettings(method, iou_threshold=1.0, sigma=1e9)
    (found,) = DetectorWithTTA(model, settings, merge)([entry])
    found = found["instances"]
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3


def test_retinanet_gives_boxes():
    model = build("retinanet_mvitv2_pico")
    (found,) = DetectorWithTTA(model, TTASettings(SHORT_SIDES, max_size=100))([image()])
    assert 0 < len(found["instances"]) <= 12
    assert not found["instances"].has("pred_masks")


def test_scores_below_the_threshold_are_dropped():
    model = build("faster_rcnn_mvitv2_pico")
    detector = DetectorWithTTA(model, TTASettings(SHORT_SIDES, max_size=100))
    scores = detector([image()])[0]["instances"].scores
    detector.score_threshold = threshold = float(scores.median())
    assert torch.equal(detector([image()])[0]["instances"].scores, scores[scores > threshold])


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        (dict(short_sides=[]), "[]"),
        (dict(short_sides=[0, 400]), "[0, 400]"),
        (dict(short_sides=[800], max_size=700), "700"),
    ],
)
def test_fields_out_of_range(fields, value):
    with pytest.raises(ConfigError) as caught:
        TTASettings(**fields)
    assert "inference.tta." in str(caught.value)
    assert value in str(caught.value)


def test_a_view_of_one_column():
    model = build("mask_rcnn_mvitv2_pico")
    entry = {"image": torch.zeros(3, 1, 1, dtype=torch.uint8), "height": 1, "width": 1}
    (found,) = DetectorWithTTA(model, TTASettings([1], max_size=1))([entry])
    assert found["instances"].image_size == (1, 1)


def test_models_that_cannot_be_augmented():
    panoptic = LazyConfig.load(str(CONFIGS / "shapes" / "panoptic_fpn_mvitv2_pico.py")).model
    with pytest.raises(ConfigError, match="PanopticFPN"):
        DetectorWithTTA(instantiate(panoptic))
    model = build("mask_rcnn_mvitv2_pico")
    model.backbone._square_pad = 64
    with pytest.raises(ConfigError, match="short_sides has 96.*64"):
        DetectorWithTTA(model, TTASettings([48, 96], max_size=100))

"""The detectors of Detectron2's ViTDet project with MViTv2, against Detectron2's own classes."""

from functools import partial
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import MViT
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)
from torch import nn

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MASK_RCNN = Path(detectron2.__file__).parent / "model_zoo/configs/common/models/mask_rcnn_fpn.py"
COCO = [f"COCO/cascade_mask_rcnn_mvitv2_{size}_in21k_1024" for size in "blh"]
LVIS = [f"LVIS/cascade_mask_rcnn_mvitv2_{size}_in21k_lvis" for size in "blh"]
# Detectron2's words for the sizes.
BACKBONES = {
    "b": dict(embed_dim=96, depth=24, num_heads=1, last_block_indexes=(1, 4, 20, 23)),
    "l": dict(embed_dim=144, depth=48, num_heads=2, last_block_indexes=(1, 7, 43, 47)),
    "h": dict(embed_dim=192, depth=80, num_heads=3, last_block_indexes=(3, 11, 71, 79)),
}
DROP_PATH = {"b": 0.4, "l": 0.5, "h": 0.6}


def load(name):
    """The config, without the federated loss: its weights come from images that are not here."""
    config = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    for predictor in config.model.roi_heads.box_predictors:
        predictor.use_fed_loss = False
    return config


def size_of(name):
    return name.split("mvitv2_")[1][0]


def reference(num_classes=80, square_pad=1024, **backbone):
    """Detectron2's Mask R-CNN, changed as the ViTDet project changes it for MViTv2."""
    model = LazyConfig.load(str(MASK_RCNN)).model
    model.update(
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], input_format="RGB"
    )
    model.backbone.bottom_up = L(MViT)(
        residual_pooling=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_features=("scale2", "scale3", "scale4", "scale5"),
        **backbone,
    )
    model.backbone.update(
        in_features="${.bottom_up.out_features}", square_pad=square_pad, norm="LN"
    )
    model.proposal_generator.head.conv_dims = [-1, -1]
    heads = model.roi_heads
    heads.mask_head.conv_norm = "LN"
    for name in ("box_head", "box_predictor", "proposal_matcher"):
        heads.pop(name)
    heads.update(
        _target_=CascadeROIHeads,
        num_classes=num_classes,
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=256, height=7, width=7),
                conv_dims=[256] * 4,
                fc_dims=[1024],
                conv_norm="LN",
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=1024),
                box2box_transform=L(Box2BoxTransform)(weights=(2 * w, 2 * w, w, w)),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
                test_score_thresh=0.05,
            )
            for w in (5, 10, 15)
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
            for iou in (0.5, 0.6, 0.7)
        ],
    )
    return model


@pytest.mark.parametrize("name", [*COCO, LVIS[0]])
def test_parameter_names_and_shapes_are_those_of_detectron2(name, monkeypatch):
    # Detectron2's MViT reads its drop path rates from a tensor, which meta tensors do not allow.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    size = size_of(name)
    theirs = reference(
        1203 if name in LVIS else 80, drop_path_rate=DROP_PATH[size], **BACKBONES[size]
    )
    with torch.device("meta"):
        ours, theirs = instantiate(load(name).model), instantiate(theirs)
    ours, theirs = (
        {key: tensor.shape for key, tensor in model.state_dict().items()}
        for model in (ours, theirs)
    )
    assert ours == theirs


@pytest.mark.parametrize("name", [COCO[0], LVIS[0]])
def test_outputs_are_those_of_detectron2_with_the_same_weights(name):
    """The heads in full, under a backbone of four thin blocks that pads to 192 pixels."""
    torch.manual_seed(0)
    num_classes = 1203 if name in LVIS else 80
    theirs = reference(
        num_classes,
        square_pad=192,
        drop_path_rate=0.0,
        embed_dim=24,
        depth=4,
        num_heads=1,
        last_block_indexes=(0, 1, 2, 3),
    )
    config = load(name).model
    config.backbone.square_pad = 192
    config.backbone.bottom_up.update(depths=[1, 1, 1, 1], embed_dim=24, drop_path_rate=0.0)
    for model in (config, theirs):
        model.proposal_generator.update(pre_nms_topk=[50, 50], post_nms_topk=[30, 30])
        for predictor in model.roi_heads.box_predictors:
            predictor.update(test_score_thresh=0.0, test_topk_per_image=20)
            predictor.use_sigmoid_ce = name in LVIS
    ours, theirs = instantiate(config).eval(), instantiate(theirs).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    # Random class scores are all but equal, and rounding would decide on the order of instances.
    for model in (ours, theirs):
        for predictor in model.roi_heads.box_predictor:
            predictor.cls_score.weight.data *= 100
    image = torch.randint(0, 256, (3, 150, 180), dtype=torch.uint8)
    with torch.no_grad():
        (ours,), (theirs,) = (model([{"image": image}]) for model in (ours, theirs))
    ours, theirs = ours["instances"], theirs["instances"]
    assert len(ours) == len(theirs) == 20
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3, rtol=1e-4
    )
    assert (ours.pred_masks != theirs.pred_masks).float().mean() < 1e-4


@pytest.mark.parametrize(
    ("name", "iterations", "milestones", "rate"),
    [
        (COCO[0], 184375, [163889, 177546], 8e-5),
        (COCO[1], 92187, [81944, 88773], 8e-5),
        (COCO[2], 67500, [52500, 62500], 1.6e-4),
        (LVIS[0], 156250, [138889, 150463], 1e-4),
        (LVIS[1], 78125, [69444, 75231], 4e-5),
        (LVIS[2], 78125, [69444, 75231], 2e-5),
    ],
)
def test_training_is_the_published_one(name, iterations, milestones, rate):
    config = load(name)
    assert config.train.max_iter == iterations
    assert config.lr_multiplier.scheduler.milestones == milestones
    assert config.lr_multiplier.warmup_length == 250 / iterations
    assert config.optimizer.lr == rate
    assert config.model.backbone.bottom_up.drop_path_rate == DROP_PATH[size_of(name)]
    assert config.model.backbone.bottom_up.get("use_checkpoint", False) == (size_of(name) == "h")
    loaders = config.dataloader
    assert loaders.train.total_batch_size == 64
    flip, scale, crop = loaders.train.mapper.augmentations
    assert (scale.min_scale, scale.max_scale, scale.target_height) == (0.1, 2.0, 1024)
    assert crop.crop_size == [1024, 1024]
    assert not crop.pad
    assert loaders.train.mapper.recompute_boxes
    (resize,) = loaders.test.mapper.augmentations
    assert (resize.short_edge_length, resize.max_size) == (1024, 1024)


@pytest.mark.parametrize("name", LVIS)
def test_lvis_is_trained_and_evaluated_as_published(name):
    config = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    assert config.dataloader.train.dataset.names == "lvis_v1_train"
    assert config.dataloader.train.repeat_threshold == 0.001
    assert config.dataloader.test.dataset.names == "lvis_v1_val"
    assert config.dataloader.evaluator.max_dets_per_image == 300
    for predictor in config.model.roi_heads.box_predictors:
        assert predictor.use_sigmoid_ce
        assert predictor.use_fed_loss
        assert predictor.test_score_thresh == 0.02
        assert predictor.test_topk_per_image == 300
        assert predictor.get_fed_loss_cls_weights.power == 0.5
        assert predictor.get_fed_loss_cls_weights.dataset_name == "lvis_v1_train"

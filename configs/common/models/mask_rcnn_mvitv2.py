"""Mask R-CNN on MViTv2-T with a feature pyramid, for images in RGB."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from mvit_det import MViTv2Backbone
from mvit_det.detection.heads import BoxPredictor

backbone = L(FPN)(
    bottom_up=L(MViTv2Backbone)(
        depths=[1, 2, 5, 2],
        embed_dim=96,
        num_heads=1,
        drop_path_rate=0.2,
        out_features=["scale2", "scale3", "scale4", "scale5"],
    ),
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    norm="",
    top_block=L(LastLevelMaxPool)(),
)

proposal_generator = L(RPN)(
    in_features=["p2", "p3", "p4", "p5", "p6"],
    head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64],
        offset=0.0,
    ),
    anchor_matcher=L(Matcher)(
        thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    batch_size_per_image=256,
    positive_fraction=0.5,
    pre_nms_topk=[2000, 1000],  # training, inference
    post_nms_topk=[1000, 1000],
    nms_thresh=0.7,
)

roi_heads = L(StandardROIHeads)(
    num_classes=80,
    batch_size_per_image=512,
    positive_fraction=0.25,
    proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
    box_in_features=["p2", "p3", "p4", "p5"],
    box_pooler=L(ROIPooler)(
        output_size=7,
        scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    ),
    box_head=L(FastRCNNConvFCHead)(
        input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
        conv_dims=[],
        fc_dims=[1024, 1024],
    ),
    box_predictor=L(BoxPredictor)(
        input_shape=L(ShapeSpec)(channels=1024),
        box2box_transform=L(Box2BoxTransform)(weights=[10, 10, 5, 5]),
        num_classes="${..num_classes}",
        test_score_thresh=0.05,
    ),
    mask_in_features="${.box_in_features}",
    mask_pooler=L(ROIPooler)(
        output_size=14,
        scales="${..box_pooler.scales}",
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    ),
    mask_head=L(MaskRCNNConvUpsampleHead)(
        input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=14, width=14),
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256, 256],
    ),
)

model = L(GeneralizedRCNN)(
    backbone=backbone,
    proposal_generator=proposal_generator,
    roi_heads=roi_heads,
    # ImageNet's mean and standard deviation in the range of pixels, 0 to 255.
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

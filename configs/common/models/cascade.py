"""From one box head to a cascade of three."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from mvit_det.detection.heads import BoxPredictor, CascadeROIHeads

# Batch norm over all processes that weighs each by its number of regions; it may be 0 in one.
HEAD_NORM = "naiveSyncBN_N"


def cascade(model, conv_dims=(256, 256, 256, 256), fc_dims=(1024,), norm=HEAD_NORM):
    """Turns a Mask R-CNN into a Cascade Mask R-CNN, in place.

    Its heads have norms, and the head that proposes regions has two convolutions, as published.
    """
    for single in ("box_head", "box_predictor", "proposal_matcher"):
        model.roi_heads.pop(single)
    model.roi_heads.update(
        _target_=CascadeROIHeads,
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=L(ShapeSpec)(
                    channels="${.....backbone.out_channels}", height=7, width=7
                ),
                conv_dims=list(conv_dims),
                fc_dims=list(fc_dims),
                conv_norm=norm,
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(BoxPredictor)(
                input_shape=L(ShapeSpec)(channels=fc_dims[-1]),
                box2box_transform=L(Box2BoxTransform)(weights=weights),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
                test_score_thresh=0.05,
            )
            for weights in ([10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15])
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
            for iou in (0.5, 0.6, 0.7)
        ],
    )
    model.roi_heads.mask_head.conv_norm = norm
    # Each convolution as wide as what comes in.
    model.proposal_generator.head.conv_dims = [-1, -1]

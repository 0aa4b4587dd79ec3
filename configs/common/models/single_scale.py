"""From a feature pyramid to one map of features."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN


def single_scale(model, bottom_up, level=4):
    """Has the heads of a Mask R-CNN look at one stage alone (MViTv2, table 9), in place.

    A pyramid of one level is a 1x1 and a 3x3 convolution. All sizes of anchors are at that level.

    Args:
        model: a Mask R-CNN, or a cascade.
        bottom_up: its backbone, which then builds no stage behind that one.
        level: of the stage; its stride is 2 to the power of it.
    """
    bottom_up.out_features = [f"scale{level}"]
    model.backbone = L(FPN)(
        bottom_up=bottom_up,
        in_features=[f"scale{level}"],
        out_channels=model.backbone.out_channels,
        norm="",
        top_block=None,
    )
    proposals = model.proposal_generator
    sizes = [size for level in proposals.anchor_generator.sizes for size in level]
    proposals.anchor_generator.update(sizes=[sizes], strides=[2**level])
    proposals.head.num_anchors = 3 * len(sizes)
    proposals.in_features = [f"p{level}"]
    model.roi_heads.box_in_features = [f"p{level}"]
    model.roi_heads.box_pooler.scales = [1 / 2**level]

"""From a feature pyramid to the one map of features that "scale4" is."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN


def single_scale(model, bottom_up):
    """Has the heads of a Mask R-CNN look at "scale4" alone (MViTv2, table 9), in place.

    A pyramid of one level is a 1x1 and a 3x3 convolution. All sizes of anchors are at that level.

    Args:
        model: a Mask R-CNN, or a cascade.
        bottom_up: its backbone, which then builds no stage behind "scale4".
    """
    bottom_up.out_features = ["scale4"]
    model.backbone = L(FPN)(
        bottom_up=bottom_up, in_features=["scale4"], out_channels=256, norm="", top_block=None
    )
    proposals = model.proposal_generator
    sizes = [size for level in proposals.anchor_generator.sizes for size in level]
    proposals.anchor_generator.update(sizes=[sizes], strides=[16])
    proposals.head.num_anchors = 3 * len(sizes)
    proposals.in_features = ["p4"]
    model.roi_heads.box_in_features = ["p4"]
    model.roi_heads.box_pooler.scales = [1 / 16]

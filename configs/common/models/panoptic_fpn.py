"""From Mask R-CNN to Panoptic FPN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead


def panoptic(model, num_classes, conv_dims=128, smallest_stuff=4096):
    """Gives a Mask R-CNN a head for semantic segmentation, in place (Kirillov et al., 2019).

    Args:
        model: a Mask R-CNN, or a cascade, on p2 to p5.
        num_classes: of semantic maps: 0 for things, and the kinds of stuff.
        conv_dims: channels of the head.
        smallest_stuff: pixels that stuff needs in a panoptic map.
    """
    model._target_ = PanopticFPN
    model.sem_seg_head = L(SemSegFPNHead)(
        input_shape={
            f"p{level}": L(ShapeSpec)(stride=2**level, channels="${....backbone.out_channels}")
            for level in (2, 3, 4, 5)
        },
        ignore_value=255,
        num_classes=num_classes,
        conv_dims=conv_dims,
        common_stride=4,
        loss_weight=0.5,
        norm="GN",
    )
    model.combine_overlap_thresh = 0.5
    model.combine_stuff_area_thresh = smallest_stuff
    model.combine_instances_score_thresh = 0.5

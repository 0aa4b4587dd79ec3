"""Arguments that can be passed by name, also through the layers of a class."""

import functools

import torch
from detectron2.data import DatasetMapper
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from mvit_det import MViTv2, MViTv2Backbone
from mvit_det.config.signatures import Arguments, arguments_of


class Base:
    def __init__(self, a, *, b=1):
        pass


class Inherits(Base):
    pass


class HandsOn(Inherits):
    def __init__(self, *, c, **rest):
        super().__init__(
            1,
            **rest,
        )


class Keeps(Base):
    def __init__(self, c, **rest):
        super().__init__(1, b=2)
        self.rest = rest


class HandsOnToKeeps(Keeps):
    def __init__(self, d, **rest):
        super().__init__(c=1, **rest)


class Decorated(Base):
    @functools.wraps(HandsOn.__init__)
    def __init__(self, *args, **kwargs):
        HandsOn.__init__(self, *args, **kwargs)


def test_classes_that_hand_arguments_on_take_those_of_their_parents():
    assert arguments_of(Base) == arguments_of(Inherits) == Arguments(("a", "b"), False)
    assert arguments_of(HandsOn) == Arguments(("c", "a", "b"), False)
    assert arguments_of(Decorated) == Arguments(("c", "a", "b"), False)
    backbone, model = arguments_of(MViTv2Backbone), arguments_of(MViTv2)
    assert set(model.names) < set(backbone.names)
    assert "embed_dim" in model.names
    assert not backbone.is_open


def test_arguments_that_go_elsewhere_may_have_any_name():
    assert arguments_of(Keeps) == Arguments(("c",), True)
    assert arguments_of(HandsOnToKeeps) == Arguments(("d", "c"), True)
    assert arguments_of(lambda x, /, y, *z, k=1, **rest: None) == Arguments(("y", "k"), True)


def test_parts_of_detectors_say_what_they_take():
    for part, some in (
        (GeneralizedRCNN, {"backbone", "pixel_mean", "vis_period"}),
        (StandardROIHeads, {"box_pooler", "num_classes", "batch_size_per_image"}),
        (CascadeROIHeads, {"box_heads", "mask_head", "num_classes", "proposal_append_gt"}),
        (MaskRCNNConvUpsampleHead, {"input_shape", "num_classes", "conv_dims", "vis_period"}),
        (DatasetMapper, {"is_train", "augmentations", "recompute_boxes"}),
        (torch.optim.AdamW, {"params", "lr", "betas", "fused"}),
    ):
        arguments = arguments_of(part)
        assert some <= set(arguments.names)
        assert not arguments.is_open, part
        assert "self" not in arguments.names

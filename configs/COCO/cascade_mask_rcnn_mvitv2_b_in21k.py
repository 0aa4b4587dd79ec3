"""The same from ImageNet-21K weights. Published: box AP 54.9, mask AP 47.4."""

from .cascade_mask_rcnn_mvitv2_b import (
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_B_in21k.pyth"

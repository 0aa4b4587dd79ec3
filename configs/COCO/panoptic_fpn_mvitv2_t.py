"""Panoptic FPN with MViTv2-T, 36 epochs ("3x"): things, 53 kinds of stuff, one class for things."""

from ..common.data.coco_panoptic import data, dataloader
from ..common.models.panoptic_fpn import panoptic
from .mask_rcnn_mvitv2_t import lr_multiplier, model, optimizer, train

panoptic(model, num_classes=54)

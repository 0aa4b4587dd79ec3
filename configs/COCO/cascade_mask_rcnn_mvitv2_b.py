"""Cascade Mask R-CNN with MViTv2-B, 36 epochs ("3x"). Published: box AP 54.1, mask AP 46.7."""

from ..common.models.cascade import cascade
from .mask_rcnn_mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

cascade(model)

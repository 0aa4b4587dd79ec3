"""Mask R-CNN with MViTv2-S on one map of features instead of a pyramid (MViTv2, table 9)."""

from ..common.models.single_scale import single_scale
from .mask_rcnn_mvitv2_s import data, dataloader, lr_multiplier, model, optimizer, train

single_scale(model, model.backbone.bottom_up)

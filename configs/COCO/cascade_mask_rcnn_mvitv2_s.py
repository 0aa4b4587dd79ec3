"""Cascade Mask R-CNN with MViTv2-S, 36 epochs ("3x"). Published: box AP 53.2, mask AP 46.0."""

from ..common.models.cascade import cascade
from .mask_rcnn_mvitv2_s import data, dataloader, lr_multiplier, model, optimizer, train

cascade(model)

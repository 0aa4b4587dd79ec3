"""Cascade Mask R-CNN with MViTv2-T, 36 epochs ("3x"). Published: box AP 52.2, mask AP 45.0."""

from ..common.models.cascade import cascade
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

cascade(model)

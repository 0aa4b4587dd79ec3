"""Faster R-CNN with MViTv2-T, 36 epochs ("3x"): Detectron2's heads on another backbone."""

from ..common.models.faster_rcnn import without_masks
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

without_masks(model, dataloader)

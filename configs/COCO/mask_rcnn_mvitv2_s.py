"""Mask R-CNN with MViTv2-S, 36 epochs ("3x")."""

from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depths=[1, 2, 11, 2])

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_S_in1k.pyth"

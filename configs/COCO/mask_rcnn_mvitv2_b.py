"""Mask R-CNN with MViTv2-B, 36 epochs ("3x")."""

from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depths=[2, 3, 16, 3], drop_path_rate=0.4)

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_B_in1k.pyth"

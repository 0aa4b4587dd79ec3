"""Mask R-CNN with MViTv2-S on one GPU with 12 GB: micro-batches of 1 image, 12 epochs ("1x")."""

from ..mask_rcnn_mvitv2_s import model
from .mask_rcnn_mvitv2_t_12gb import data, dataloader, lr_multiplier, optimizer, train

train.grad_accum_steps = 16

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_S_in1k.pyth"

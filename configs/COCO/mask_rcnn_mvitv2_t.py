"""Mask R-CNN with MViTv2-T, 36 epochs ("3x"). Published: box AP 48.3, mask AP 43.8."""

from ..common.data.coco import data, dataloader
from ..common.models.mask_rcnn_mvitv2 import model
from ..common.optimizer import optimizer
from ..common.schedule import COCO_EPOCH_3X, iterations, multi_step
from ..common.train import train

dataloader.train.total_batch_size = 64
train.max_iter = iterations(COCO_EPOCH_3X, epochs=36, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(7 / 9, 25 / 27))
optimizer.lr = 1.6e-4

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_T_in1k.pyth"

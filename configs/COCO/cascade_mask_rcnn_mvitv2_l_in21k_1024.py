"""Cascade Mask R-CNN with MViTv2-L at 1024 pixels, large-scale jittering, 50 epochs.

Published with ViTDet: box AP 55.7, mask AP 48.3.
"""

from ..common.schedule import COCO_EPOCH_LSJ, iterations, multi_step
from .cascade_mask_rcnn_mvitv2_b_in21k_1024 import data, dataloader, model, optimizer, train

model.backbone.bottom_up.update(
    depths=[2, 6, 36, 4], embed_dim=144, num_heads=2, drop_path_rate=0.5
)

train.max_iter = iterations(COCO_EPOCH_LSJ, epochs=50, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(8 / 9, 26 / 27))

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_L_in21k.pyth"

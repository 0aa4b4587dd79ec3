"""Cascade Mask R-CNN with MViTv2-L, large-scale jittering, 50 epochs.

Published: box AP 55.8, mask AP 48.3.
"""

from ..common.data.coco_lsj import data, dataloader
from ..common.schedule import COCO_EPOCH_LSJ, iterations, multi_step
from .cascade_mask_rcnn_mvitv2_t import model, optimizer, train

model.backbone.bottom_up.update(
    depths=[2, 6, 36, 4], embed_dim=144, num_heads=2, drop_path_rate=0.5
)

dataloader.train.total_batch_size = 64
train.max_iter = iterations(COCO_EPOCH_LSJ, epochs=50, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(8 / 9, 26 / 27))
optimizer.lr = 1e-4

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_L_in21k.pyth"

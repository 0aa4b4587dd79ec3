"""Cascade Mask R-CNN with MViTv2-H at 1024 pixels, large-scale jittering, 36 epochs.

Published with ViTDet: box AP 55.9, mask AP 48.3.
"""

from ..common.schedule import COCO_EPOCH_3X, iterations, multi_step
from .cascade_mask_rcnn_mvitv2_b_in21k_1024 import data, dataloader, model, optimizer, train

model.backbone.bottom_up.update(
    depths=[4, 8, 60, 8],
    embed_dim=192,
    num_heads=3,
    drop_path_rate=0.6,
    use_checkpoint=True,
)

train.max_iter = iterations(COCO_EPOCH_3X, epochs=36, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(7 / 9, 25 / 27))
optimizer.lr = 1.6e-4

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_H_in21k.pyth"

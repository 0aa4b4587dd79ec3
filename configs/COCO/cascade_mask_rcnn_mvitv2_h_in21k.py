"""Cascade Mask R-CNN with MViTv2-H, large-scale jittering, 36 epochs ("3x").

Published: box AP 56.1, mask AP 48.5.
"""

from ..common.data.coco_lsj import data, dataloader
from .cascade_mask_rcnn_mvitv2_t import lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(
    depths=[4, 8, 60, 8],
    embed_dim=192,
    num_heads=3,
    drop_path_rate=0.6,
    use_checkpoint=True,
)

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_H_in21k.pyth"

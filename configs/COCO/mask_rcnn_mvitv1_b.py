"""Mask R-CNN with MViTv1-B and Hwin, 36 epochs ("3x"). Published: box AP 48.8, mask AP 44.2.

So MViTv2's paper calls the MViT-B with 24 blocks of MViTv1's.
"""

from .mask_rcnn_mvitv1_t import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depths=[2, 3, 16, 3], drop_path_rate=0.4)

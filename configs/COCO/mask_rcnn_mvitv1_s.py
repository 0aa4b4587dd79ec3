"""Mask R-CNN with MViTv1-S and Hwin, 36 epochs ("3x"). Published: box AP 47.6, mask AP 43.4.

So MViTv2's paper calls the MViT-B with 16 blocks of MViTv1's.
"""

from .mask_rcnn_mvitv1_t import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depths=[1, 2, 11, 2])

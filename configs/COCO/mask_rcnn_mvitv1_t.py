"""Mask R-CNN with MViTv1-T and Hwin, 36 epochs ("3x"). Published: box AP 45.9, mask AP 42.1.

ImageNet weights of MViTv1 to start from are to be named with `train.init_checkpoint`.
"""

from ..common.models.mvitv1 import MVITV1
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(MVITV1)

train.init_checkpoint = ""

"""Mask R-CNN with ViT-B on its one map of features (MViTv2, table 9). Published: box AP 45.1.

ImageNet weights to start from, under timm's names, are to be named with `train.init_checkpoint`.
"""

from ..common.models.single_scale import single_scale
from ..common.models.vit import VIT_B
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

backbone = model.backbone.bottom_up
backbone.update(VIT_B)
single_scale(model, backbone)

train.init_checkpoint = ""

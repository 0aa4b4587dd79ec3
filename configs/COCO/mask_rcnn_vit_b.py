"""Mask R-CNN with ViT-B and global attention, its map resized to a pyramid. Published: box AP 46.6.

`model.backbone.net.attention` and `model.backbone.net.key_stride` make the other rows of ViT-B in
the paper's comparison of attentions; ImageNet weights are to be named with `train.init_checkpoint`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid

from ..common.models.vit import VIT_B
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

backbone = model.backbone.bottom_up
backbone.update(VIT_B)
model.backbone = L(SimpleFeaturePyramid)(
    net=backbone,
    in_feature="scale4",
    out_channels=256,
    scale_factors=[4.0, 2.0, 1.0, 0.5],
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
)

train.init_checkpoint = ""

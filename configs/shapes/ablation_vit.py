"""A small ViT for comparisons: one stage of eight blocks, its map resized to a pyramid."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid

from ..common.models.vit import VIT_B
from .ablation_mvitv2 import data, dataloader, lr_multiplier, model, optimizer, train

# Patches of 8 pixels, so that an image of 128 has as many tokens as one of 256 in a ViT-B.
backbone = model.backbone.bottom_up
backbone.update(VIT_B)
backbone.update(
    depths=[8],
    embed_dim=64,
    num_heads=2,
    patch_kernel=8,
    patch_stride=8,
    window_size=8,
    out_features=["scale3"],
)
model.backbone = L(SimpleFeaturePyramid)(
    net=backbone,
    in_feature="scale3",
    out_channels=64,
    scale_factors=[2.0, 1.0, 0.5],
    norm="LN",
)
model.proposal_generator.in_features = ["p2", "p3", "p4"]
# No shape is larger than 64 pixels.
model.proposal_generator.anchor_generator.update(sizes=[[16], [32], [64]], strides=[4, 8, 16])

train.output_dir = "./output/ablation_vit"

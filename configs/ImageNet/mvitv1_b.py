"""MViTv1-B with 16 blocks on ImageNet-1K, with the recipe of MViTv2 (Fan et al., 2021, table 8)."""

from .mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(
    depths=[1, 2, 11, 2],
    class_token=True,
    position="absolute",
    residual_pooling=False,
    full_query_pooling=False,
    expand_attn=False,
    rel_pos_std=0.0,
    drop_path_rate=0.1,
)

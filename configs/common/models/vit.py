"""ViT-B (Dosovitskiy et al., 2021) as values of MViTv2's fields: one stage, and nothing pooled."""

VIT_B = dict(
    depths=[12],
    embed_dim=768,
    num_heads=12,
    patch_kernel=16,
    patch_stride=16,
    patch_padding=0,
    key_stride=1,
    full_query_pooling=False,
    full_key_pooling=False,
    residual_pooling=False,
    attention="global",
    # As large as the grid of pre-training.
    window_size=14,
    position="absolute",
    out_features=["scale4"],
)

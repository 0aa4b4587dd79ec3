"""MViTv1 (Fan et al., 2021) as values of MViTv2's fields.

Absolute positions (of an image, which has no time axis, one table), no relative ones, no residual
pooling, queries pooled only where a stage begins, and widening in the MLP before that. Detection
with it combines it with Hwin (MViTv2, section 5.2), whose global blocks pool no more than others:
so the multiply-adds are the published ones.
"""

MVITV1 = dict(
    position="absolute",
    residual_pooling=False,
    full_query_pooling=False,
    expand_attn=False,
    pool_global_more=False,
)

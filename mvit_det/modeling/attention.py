"""Pooling attention (MViTv2, section 4.1; MViT, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decomposed_attention import decomposed_attention
from .layers import NormLayer
from .plan import BlockPlan
from .position import position_terms, relative_positions
from .window import window_partition, window_unpartition


class MultiScaleAttention(nn.Module):
    """Multi-head attention over pooled queries, keys and values, in windows or global.

    Attn(Q, K, V) = softmax(QKᵀ / √d + E) V + Q: decomposed relative positions E, and residual
    pooling, the last term (MViTv2, equations 2 to 4).

    Tokens stay in the layout (N, H, W, heads · C) from the projection through pooling to the
    windows. The depthwise convolutions, whose kernels all heads share, so run on all heads at once
    in the channels-last layout, where they are fastest, and nothing is copied for them.
    """

    def __init__(
        self,
        plan: BlockPlan,
        *,
        pool_kernel: int,
        qkv_bias: bool,
        residual_pooling: bool,
        use_rel_pos: bool,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.num_heads = plan.num_heads
        self.query_stride = plan.query_stride
        self.key_stride = plan.key_stride
        self.window_size = plan.window_size
        self.residual_pooling = residual_pooling
        self.use_rel_pos = use_rel_pos

        head_dim = plan.attention_dim // plan.num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(plan.dim, 3 * plan.attention_dim, bias=qkv_bias)
        self.proj = nn.Linear(plan.attention_dim, plan.attention_dim)

        def pool(stride: int) -> nn.Conv2d:
            return nn.Conv2d(
                head_dim,
                head_dim,
                pool_kernel,
                stride=stride,
                padding=pool_kernel // 2,
                groups=head_dim,
                bias=False,
            )

        self.pool_q, self.norm_q = pool(plan.query_stride), norm_layer(head_dim)
        self.pool_k, self.norm_k = pool(plan.key_stride), norm_layer(head_dim)
        self.pool_v, self.norm_v = pool(plan.key_stride), norm_layer(head_dim)

        if use_rel_pos:
            # In pre-training the finer of the two pooled grids decides how many distances exist.
            size = plan.table_size // min(plan.query_stride, plan.key_stride)
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, head_dim))

    def _pool(self, x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
        """Pools each head, (N, H, W, heads · C) to (N, H / stride, W / stride, heads, C)."""
        weight = conv.weight.repeat(self.num_heads, 1, 1, 1)
        x = F.conv2d(
            x.permute(0, 3, 1, 2), weight, None, conv.stride, conv.padding, groups=len(weight)
        )
        return norm(x.permute(0, 2, 3, 1).unflatten(-1, (self.num_heads, -1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, dim) to (N, ceil(H / query stride), ceil(W / query stride), attention_dim)."""
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        # Three products write three contiguous tensors, which one product and a split would not.
        query, key, value = (F.linear(x, *wb) for wb in zip(weights, biases, strict=True))
        query = self._pool(query, self.pool_q, self.norm_q)
        key = self._pool(key, self.pool_k, self.norm_k)
        value = self._pool(value, self.pool_v, self.norm_v)

        query_grid = query.shape[1], query.shape[2]
        key_grid = key.shape[1], key.shape[2]
        if self.window_size:
            side = self.window_size // self.query_stride
            key_side = self.window_size // self.key_stride
            query_window, key_window = (side, side), (key_side, key_side)
        else:
            query_window, key_window = query_grid, key_grid
        # (N * windows, heads, tokens of a window, C)
        queries = window_partition(query, query_window)
        keys = window_partition(key, key_window)
        values = window_partition(value, key_window)

        height, width = self._positions(queries, query_window, key_window)
        out = decomposed_attention(queries, keys, values, height, width, self.scale)
        out = window_unpartition(out, query_window, query_grid)
        if self.residual_pooling:
            out = out + query
        return self.proj(out.flatten(3))

    def _positions(
        self, queries: Tensor, query_window: tuple[int, int], key_window: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The position terms of a window's rows and columns, zeros without relative positions."""
        if not self.use_rel_pos:
            height, width = (queries.new_zeros(*queries.shape[:3], side) for side in key_window)
            return height, width
        rows = relative_positions(self.rel_pos_h, query_window[0], key_window[0])
        columns = relative_positions(self.rel_pos_w, query_window[1], key_window[1])
        return position_terms(queries.unflatten(2, query_window), rows, columns)

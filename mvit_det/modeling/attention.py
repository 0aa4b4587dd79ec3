"""Pooling attention (MViTv2, section 4.1; MViT, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from .kernels import attention
from .layers import NormLayer
from .padding import Sizes, fill_padding, key_masks, pad_to, pooled_sizes
from .plan import BlockPlan
from .position import (
    RelativePositions,
    joint_relative_positions,
    joint_terms,
    position_terms,
    sum_of_terms,
)
from .window import Grid, effective_shift, shift_terms, window_partition, window_unpartition


class MultiScaleAttention(nn.Module):
    """Multi-head attention over pooled queries, keys and values, in windows or global.

    Attn(Q, K, V) = softmax(QKᵀ / √d + E) V + Q: relative positions E, decomposed or joint, and
    residual pooling, the last term (MViTv2, equations 2 to 5).

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
        relative: str | None,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.num_heads = plan.num_heads
        self.query_stride = plan.query_stride
        self.key_stride = plan.key_stride
        self.window_size = plan.window_size
        self.shift = plan.shift
        self.residual_pooling = residual_pooling
        self.relative = relative

        head_dim = plan.attention_dim // plan.num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(plan.dim, 3 * plan.attention_dim, bias=qkv_bias)
        self.proj = nn.Linear(plan.attention_dim, plan.attention_dim)

        def pool(stride: int, pools: bool) -> tuple[nn.Module, nn.Module]:
            if not pools:
                return nn.Identity(), nn.Identity()
            conv = nn.Conv2d(
                head_dim,
                head_dim,
                pool_kernel,
                stride=stride,
                padding=pool_kernel // 2,
                groups=head_dim,
                bias=False,
            )
            return conv, norm_layer(head_dim)

        self.pool_q, self.norm_q = pool(plan.query_stride, plan.pools_query)
        self.pool_k, self.norm_k = pool(plan.key_stride, plan.pools_key)
        self.pool_v, self.norm_v = pool(plan.key_stride, plan.pools_key)

        # In pre-training the finer of the two pooled grids decides how many distances exist.
        distances = 2 * (plan.table_size // min(plan.query_stride, plan.key_stride)) - 1
        if relative == "joint":
            self.rel_pos_joint = nn.Parameter(torch.zeros(distances, distances, head_dim))
        elif relative == "decomposed":
            self.rel_pos_h = nn.Parameter(torch.zeros(distances, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(distances, head_dim))
            self.positions_h, self.positions_w = RelativePositions(), RelativePositions()

    def forward(self, x: Tensor, sizes: Sizes | None = None) -> Tensor:
        """Computes attention.

        Args:
            x: tokens, (N, H, W, dim).
            sizes: sizes in tokens of the images in the batch, whose padding then has no effect
                on them; None attends to padding as to anything else.

        Returns:
            (N, ceil(H / query stride), ceil(W / query stride), attention_dim).
        """
        query, key, value = self._pooled(x, sizes)
        query_grid, key_grid = (query.shape[1], query.shape[2]), (key.shape[1], key.shape[2])
        if self.window_size:
            side, key_side = (self.window_size // s for s in (self.query_stride, self.key_stride))
            query_window, key_window = (side, side), (key_side, key_side)
        else:
            query_window, key_window = query_grid, key_grid
        shift = effective_shift(query_grid, query_window, self.shift)
        query_shift = (shift[0] // self.query_stride, shift[1] // self.query_stride)
        key_shift = (shift[0] // self.key_stride, shift[1] // self.key_stride)
        # (N * windows, heads, tokens of a window, C)
        queries = window_partition(query, query_window, query_shift)
        keys = window_partition(key, key_window, key_shift)
        values = window_partition(value, key_window, key_shift)

        height, width, joint = self._positions(queries, query_window, key_window, sizes)
        if sizes is not None:
            key_sizes = pooled_sizes(sizes, self.key_stride)
            row_mask, column_mask = key_masks(key_sizes, key_grid, key_window, like=height)
            height, width = height + row_mask, width + column_mask
        if any(shift):
            windows, shifts = (query_window, key_window), (query_shift, key_shift)
            terms = shift_terms(query_grid, windows, shifts, like=height)
            images = (len(x), -1)
            height, width = (
                (position.unflatten(0, images) + term).flatten(0, 1)
                for position, term in zip((height, width), terms, strict=True)
            )
        if joint is None:
            out = attention(queries, keys, values, [height, width], self.scale)
        else:
            bias = (joint + sum_of_terms([height, width])).to(queries.dtype)
            out = F.scaled_dot_product_attention(queries, keys, values, bias, scale=self.scale)
        out = window_unpartition(out, query_window, query_grid, query_shift)
        if self.residual_pooling:
            # Fused kernels keep their output for the backward pass: it must not change in place.
            out = out + query
        return self.proj(out.flatten(3))

    def train(self, mode: bool = True) -> Self:
        """Switches between training and inference, and forgets position tables of before."""
        if self.relative == "decomposed":
            self.positions_h.forget()
            self.positions_w.forget()
        return super().train(mode)

    def _pooled(self, x: Tensor, sizes: Sizes | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of each head, pooled: (N, H / stride, W / stride, heads, C)."""
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        # Three products write three contiguous tensors, which one product and a split would not.
        query, key, value = (F.linear(x, *wb) for wb in zip(weights, biases, strict=True))
        if sizes is not None:
            # At the edge of an image, pooling shall see zeros, as at the edge of the batch.
            for projected in (query, key, value):
                fill_padding(projected, sizes)
        return (
            self._pool(query, self.pool_q, self.norm_q),
            self._pool(key, self.pool_k, self.norm_k),
            self._pool(value, self.pool_v, self.norm_v),
        )

    def _pool(self, x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        if isinstance(conv, nn.Conv2d):
            weight = conv.weight.repeat(self.num_heads, 1, 1, 1)
            x = F.conv2d(
                x.permute(0, 3, 1, 2), weight, None, conv.stride, conv.padding, groups=len(weight)
            ).permute(0, 2, 3, 1)
        return norm(x.unflatten(-1, (self.num_heads, -1)))

    def _positions(
        self, queries: Tensor, query_window: Grid, key_window: Grid, sizes: Sizes | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The position terms of a window's rows and columns, zeros where there are none, and those
        of joint positions."""
        grid = queries.unflatten(2, query_window)
        if self.relative != "decomposed":
            height, width = (queries.new_zeros(*queries.shape[:3], side) for side in key_window)
            if self.relative is None:
                return height, width, None
            table = joint_relative_positions(self.rel_pos_joint, query_window, key_window)
            return height, width, joint_terms(grid, table, key_window)
        if sizes is None or self.window_size:
            return *position_terms(grid, *self._tables(query_window, key_window)), None
        # Global attention interpolates its tables to the size of each image, not of the batch.
        query_sizes = pooled_sizes(sizes, self.query_stride)
        key_sizes = pooled_sizes(sizes, self.key_stride)
        terms = []
        for query, query_size, key_size in zip(grid, query_sizes, key_sizes, strict=True):
            rows, columns = self._tables(query_size, key_size)
            rows = pad_to(rows, (query_window[0], key_window[0]))
            columns = pad_to(columns, (query_window[1], key_window[1]))
            terms.append(position_terms(query[None], rows, columns))
        heights, widths = zip(*terms, strict=True)
        return torch.cat(heights), torch.cat(widths), None

    def _tables(self, query_size: Grid, key_size: Grid) -> tuple[Tensor, Tensor]:
        """R^h and R^w for windows of these sizes."""
        return (
            self.positions_h(self.rel_pos_h, query_size[0], key_size[0]),
            self.positions_w(self.rel_pos_w, query_size[1], key_size[1]),
        )

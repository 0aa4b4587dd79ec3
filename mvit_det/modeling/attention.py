"""Pooling attention (MViTv2, section 4.1; MViT, section 3.1)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import (
    attention,
    depthwise_conv3d,
    linear,
    position_terms,
    product_dtype,
    relative_positions,
    window_partition,
    window_unpartition,
)
from .layers import Linear, NormLayer
from .padding import Sizes, fill_padding, key_masks, pad_to, pooled_sizes
from .plan import BlockPlan
from .position import joint_relative_positions, joint_terms, sum_of_terms
from .window import effective_shift, shift_terms


class MultiScaleAttention(nn.Module):
    """Multi-head attention over pooled queries, keys and values, in windows or global.

    Attn(Q, K, V) = softmax(QKᵀ / √d + E) V + Q: relative positions E, decomposed or joint, and
    residual pooling, the last term (MViTv2, equations 2 to 5).

    Tokens stay in the layout (N, *grid, heads · C) from the projection through pooling to the
    windows. The depthwise convolutions, whose kernels all heads share, so run on all heads at once
    in the channels-last layout, where they are fastest, and nothing is copied for them.

    A class token takes part in attention and in nothing that needs a grid: it is not pooled, has no
    relative position and gets no residual pooling (facebookresearch/mvit and SlowFast).
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
        frames: int | None = None,
    ) -> None:
        """Builds the projections, poolings and position tables.

        Args:
            plan: geometry of the block.
            pool_kernel: odd size of the depthwise convolutions, along each axis.
            qkv_bias: whether query, key and value have a bias.
            residual_pooling: adds the pooled query to the output.
            relative: "decomposed", "joint" (images only) or None.
            norm_layer: makes the norms behind the convolutions.
            frames: length of the grid's time axis in pre-training, in tokens, for clips, whose
                time is not pooled; None is for images.
        """
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
        self.proj = Linear(plan.attention_dim, plan.attention_dim)

        def pool(stride: int, pools: bool) -> tuple[nn.Module, nn.Module]:
            if not pools:
                return nn.Identity(), nn.Identity()
            conv: Any = nn.Conv2d if frames is None else nn.Conv3d
            pooling = conv(
                head_dim,
                head_dim,
                pool_kernel,
                stride=(stride, stride) if frames is None else (1, stride, stride),
                padding=pool_kernel // 2,
                groups=head_dim,
                bias=False,
            )
            return pooling, norm_layer(head_dim)

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
            if frames is not None:
                self.rel_pos_t = nn.Parameter(torch.zeros(2 * frames - 1, head_dim))

    def forward(
        self, x: Tensor, sizes: Sizes | None = None, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """Computes attention.

        Args:
            x: tokens of images, (N, H, W, dim), or with `grid` (N, 1 + tokens, dim).
            sizes: sizes in tokens of the images in the batch, whose padding then has no effect
                on them; None attends to padding as to anything else.
            grid: the tokens are a class token and a grid of this size, row by row; attention is
                global.

        Returns:
            (N, ceil(H / query stride), ceil(W / query stride), attention_dim), or with `grid`
            (N, 1 + tokens of the pooled grid, attention_dim).
        """
        if grid is not None:
            return self._with_class_token(x, grid)
        projected = self._project(x)
        if sizes is not None:
            # At the edge of an image, pooling shall see zeros, as at the edge of the batch.
            for tokens in projected:
                fill_padding(tokens, sizes)
        query, key, value = (
            self._pool(tokens, *pooling)
            for tokens, pooling in zip(projected, self._poolings(), strict=True)
        )

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

        on_grid = queries.unflatten(2, query_window)
        terms = self._terms(on_grid, key_window, sizes)
        dtype = product_dtype(queries)
        if sizes is not None:
            key_sizes = pooled_sizes(sizes, self.key_stride)
            masks = key_masks(key_sizes, key_grid, key_window, dtype, x.device)
            terms = _add_masks(terms, masks, queries)
        if any(shift):
            windows, shifts = (query_window, key_window), (query_shift, key_shift)
            masks = shift_terms(query_grid, windows, shifts, dtype, x.device)
            masks_of_images = [mask.repeat(len(x), 1, 1, 1) for mask in masks]
            terms = _add_masks(terms, masks_of_images, queries)

        if self.relative == "joint":
            table = joint_relative_positions(self.rel_pos_joint, query_window, key_window)
            bias = joint_terms(on_grid, table, key_window).to(dtype)
            bias = bias + sum_of_terms(terms) if terms else bias
            out = F.scaled_dot_product_attention(queries, keys, values, bias, scale=self.scale)
        else:
            out = attention(queries, keys, values, terms, self.scale)
        out = window_unpartition(out, query_window, query_grid, query_shift)
        if self.residual_pooling:
            # Not in place: fused kernels keep their output for the backward pass.
            out = out + query
        return self.proj(out.flatten(3))

    def _with_class_token(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Global attention among a class token and a grid, (N, 1 + tokens, dim)."""
        # (N, heads, 1 + tokens, C)
        (query, query_grid), (key, key_grid), (value, _) = (
            self._pool_grid(tokens, grid, *pooling)
            for tokens, pooling in zip(self._project(x), self._poolings(), strict=True)
        )
        on_grid = query[:, :, 1:]
        if self.relative == "joint":
            table = joint_relative_positions(self.rel_pos_joint, query_grid, key_grid)
            bias = joint_terms(on_grid.unflatten(2, query_grid), table, key_grid)
            bias = F.pad(bias, (1, 0, 1, 0)).to(product_dtype(query))
            out = F.scaled_dot_product_attention(query, key, value, bias, scale=self.scale)
        else:
            terms = self._terms(on_grid.unflatten(2, query_grid), key_grid)
            terms = [F.pad(term, (0, 0, 1, 0)) for term in terms]
            out = attention(query, key, value, terms, self.scale)
        if self.residual_pooling:
            out = out + F.pad(on_grid, (0, 0, 1, 0))
        return self.proj(out.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> list[Tensor]:
        """Query, key and value of all heads: (…, dim) to three of (…, heads · C)."""
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        # Three products write three contiguous tensors, which one product and a split would not.
        return [linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def _poolings(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """Convolution and norm of query, key and value."""
        return (
            (self.pool_q, self.norm_q),
            (self.pool_k, self.norm_k),
            (self.pool_v, self.norm_v),
        )

    def _pool(self, x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        """Pools a grid and splits it into heads: (N, *grid, heads · C) to (N, *grid, heads, C)."""
        if isinstance(conv, (nn.Conv2d, nn.Conv3d)):
            weight = conv.weight.repeat(self.num_heads, *(1,) * (conv.weight.ndim - 1))
            x = x.movedim(-1, 1)
            if isinstance(conv, nn.Conv2d):
                x = F.conv2d(x, weight, None, conv.stride, conv.padding, groups=len(weight))
            else:
                x = depthwise_conv3d(x, weight, conv.stride)
            x = x.movedim(1, -1)
        return norm(x.unflatten(-1, (self.num_heads, -1)))

    def _pool_grid(
        self, x: Tensor, grid: tuple[int, ...], conv: nn.Module, norm: nn.Module
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Pools all but the class token: (N, 1 + tokens, heads · C) to (N, heads, 1 + tokens, C),
        and the size of the pooled grid."""
        if isinstance(conv, nn.Identity):
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2), grid
        token, rest = x.split([1, x.shape[1] - 1], dim=1)
        token = norm(token.unflatten(-1, (self.num_heads, -1)))
        pooled = self._pool(rest.unflatten(1, grid), conv, norm)
        tokens = (token.transpose(1, 2), pooled.flatten(1, -3).transpose(1, 2))
        return torch.cat(tokens, dim=2), tuple(pooled.shape[1:-2])

    def _terms(
        self, queries: Tensor, key_grid: tuple[int, ...], sizes: Sizes | None = None
    ) -> list[Tensor]:
        """Decomposed relative positions of queries (B, heads, *grid, C), one term for each axis:
        (B, heads, queries, keys along the axis). None at all where there are no such positions."""
        if self.relative != "decomposed":
            return []
        query_grid = tuple(queries.shape[2:-1])
        if sizes is None or self.window_size:
            return position_terms(queries, self._tables(query_grid, key_grid))
        # Global attention interpolates its tables to the size of each image, not of the batch.
        images = []
        for query, size in zip(queries, sizes, strict=True):
            (query_size,) = pooled_sizes([size], self.query_stride)
            (key_size,) = pooled_sizes([size], self.key_stride)
            tables = self._tables(query_size, key_size)
            padded = zip(tables, query_grid, key_grid, strict=True)
            tables = [pad_to(table, (rows, columns)) for table, rows, columns in padded]
            images.append(position_terms(query[None], tables))
        return [torch.cat(terms) for terms in zip(*images, strict=True)]

    def _tables(self, query_grid: tuple[int, ...], key_grid: tuple[int, ...]) -> list[Tensor]:
        """R of each axis, (queries along the axis, keys along the axis, C)."""
        tables = [self.rel_pos_h, self.rel_pos_w]
        if len(query_grid) == 3:
            tables.insert(0, self.rel_pos_t)
        axes = zip(tables, query_grid, key_grid, strict=True)
        return [relative_positions(table, queries, keys) for table, queries, keys in axes]


def _add_masks(terms: list[Tensor], masks: Sequence[Tensor], queries: Tensor) -> list[Tensor]:
    """Adds masks, which broadcast over heads and queries, to terms, if there are any."""
    if terms:
        return [term + mask for term, mask in zip(terms, masks, strict=True)]
    return [mask.expand(*queries.shape[:3], -1) for mask in masks]

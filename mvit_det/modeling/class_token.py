"""Blocks with a class token beside the grid of tokens (facebookresearch/mvit, `CLS_EMBED_ON`).

A class token adds no parameters to a block. It takes the way of all tokens, attention included, and
passes by what needs a grid: pooling and relative positions. So these functions run the blocks of
the backbone on sequences (N, 1 + H · W, C), the class token first, and the blocks themselves, which
detection uses on grids, know nothing of it. They are written for clarity: classification is for
checking weights here, and its images are small.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import MultiScaleAttention
from .mvit import MultiScaleBlock
from .position import sum_of_terms


def block_with_class_token(
    block: MultiScaleBlock, tokens: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """What `block` computes, with a class token.

    Args:
        block: of a plan without windows.
        tokens: class token and grid, row by row, (N, 1 + H · W, dim).
        grid: H and W.

    Returns:
        (N, 1 + H' · W', dim_out), and H' and W', the grid pooled by the query stride.
    """
    normed = block.norm1(tokens)
    skip = block.proj(normed) if block.widens_in_attention else tokens
    pooled = block.pool_skip(skip[:, 1:].unflatten(1, grid))
    skip = torch.cat([skip[:, :1], pooled.flatten(1, 2)], dim=1)
    attended, grid = attention_with_class_token(block.attn, normed, grid)
    tokens = skip + block.drop_path(attended)
    normed = block.norm2(tokens)
    skip = block.proj(normed) if block.widens_in_mlp else tokens
    return skip + block.drop_path(block.mlp(normed)), grid


def attention_with_class_token(
    attention: MultiScaleAttention, tokens: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Global pooling attention with a class token, from and to which there are no positions.

    Residual pooling adds the query of the class token to it as well, which is not pooled.

    Args:
        attention: whose parameters to use.
        tokens: (N, 1 + H · W, dim).
        grid: H and W.

    Returns:
        (N, 1 + H' · W', attention_dim), and H' and W', the grid pooled by the query stride.
    """
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    query, query_grid = _pool(attention, query, grid, attention.pool_q, attention.norm_q)
    key, key_grid = _pool(attention, key, grid, attention.pool_k, attention.norm_k)
    value, _ = _pool(attention, value, grid, attention.pool_v, attention.norm_v)

    height, width, joint = attention._positions(query[:, :, 1:], query_grid, key_grid, None)
    position = sum_of_terms([height, width])
    if joint is not None:
        position = position + joint
    position = F.pad(position, (1, 0, 1, 0))
    out = F.scaled_dot_product_attention(query, key, value, position, scale=attention.scale)
    if attention.residual_pooling:
        out = out + query
    return attention.proj(out.transpose(1, 2).flatten(2)), query_grid


def _pool(
    attention: MultiScaleAttention,
    tokens: Tensor,
    grid: tuple[int, int],
    conv: nn.Module,
    norm: nn.Module,
) -> tuple[Tensor, tuple[int, int]]:
    """Pools all but the class token, (N, 1 + H · W, heads · C) to (N, heads, 1 + H' · W', C)."""
    token = norm(tokens[:, :1].unflatten(-1, (attention.num_heads, -1)))
    # (N, H', W', heads, C)
    pooled = attention._pool(tokens[:, 1:].unflatten(1, grid), conv, norm)
    tokens = torch.cat([token, pooled.flatten(1, 2)], dim=1)
    return tokens.transpose(1, 2), (pooled.shape[1], pooled.shape[2])

"""Softmax attention whose logits carry decomposed position terms: softmax(scale·QKᵀ + E) V.

E_ij = height[i, row of key j] + width[i, column of key j] never exists as a tensor of its own. Two
ways of computing the same thing keep it out of memory, and `decomposed_attention` chooses:

- `blocked_attention` goes through the queries in blocks whose logits fit into the cache. E is what
  a block's logits start from before the product is added in place, and the backward pass computes
  a block's logits again instead of keeping them. On the CPU this beats everything that was tried.
- `augmented_attention` moves E into the product, [Q·scale, height, width]·[K, one-hot rows, one-hot
  columns]ᵀ, so that the fused kernels of PyTorch apply, which know of no such bias.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .operators import custom_operators_enabled, in_autocast_dtype

# Logits of one block, 4 MB in fp32: large enough for the matrix products, small enough for the
# cache. Where there are many keys, the products need so many queries all the same.
BLOCK_LOGITS = 2**20
LEAST_QUERIES = 1024


def decomposed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height: Tensor,
    width: Tensor,
    scale: float,
    joint: Tensor | None = None,
) -> Tensor:
    """Attention with decomposed position terms, on the fastest way there is for the device.

    Args:
        query: (B, heads, queries, C).
        key: (B, heads, key rows * key columns, C), row by row.
        value: as `key`.
        height: what the row of a key adds to its logit, (B, heads, queries, key rows).
        width: what the column of a key adds to its logit, (B, heads, queries, key columns).
        scale: factor of the product of query and key.
        joint: terms that do not decompose, (B, heads, queries, keys). With them there is no fast
            way: all logits have to be written.

    Returns:
        (B, heads, queries, C).
    """
    if joint is not None:
        bias = joint + whole_term(height, width)
        return F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), scale=scale)
    query, key, value, height, width = in_autocast_dtype(query, key, value, height, width)
    if query.device.type == "cpu" and custom_operators_enabled():
        merged = (x.flatten(0, 1) for x in (query, key, value, height, width))
        return blocked_attention(*merged, scale).view_as(query)
    return augmented_attention(query, key, value, height, width, scale)


def whole_term(height: Tensor, width: Tensor) -> Tensor:
    """E: what the position of each key adds to its logit, (B, heads, queries, keys)."""
    return (height[..., :, None] + width[..., None, :]).flatten(-2)


def augmented_attention(
    query: Tensor, key: Tensor, value: Tensor, height: Tensor, width: Tensor, scale: float
) -> Tensor:
    """As `decomposed_attention`, through PyTorch's fused attention."""
    key_rows, key_columns = height.shape[-1], width.shape[-1]
    row = torch.arange(key_rows, device=key.device).repeat_interleave(key_columns)
    column = torch.arange(key_columns, device=key.device).repeat(key_rows)
    position = torch.cat([F.one_hot(row, key_rows), F.one_hot(column, key_columns)], dim=1)
    position = position.to(key.dtype).expand(*key.shape[:2], -1, -1)
    # The fused kernels want widths that are multiples of eight.
    fill = -(key.shape[-1] + key_rows + key_columns) % 8
    query = F.pad(torch.cat([query * scale, height, width], dim=-1), (0, fill))
    key = F.pad(torch.cat([key, position], dim=-1), (0, fill))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cuts (batch, queries) into blocks of about `BLOCK_LOGITS` logits: slices of both axes."""
    batch, queries, keys = *query.shape[:2], key.shape[1]
    rows = max(BLOCK_LOGITS // keys, LEAST_QUERIES)
    batch_step = max(rows // queries, 1)
    for start in range(0, batch, batch_step):
        for first in range(0, queries, rows):
            yield slice(start, start + batch_step), slice(first, first + rows)


def _attention_weights(
    query: Tensor, key: Tensor, height: Tensor, width: Tensor, scale: float
) -> Tensor:
    """softmax(scale·QKᵀ + E) of one block, (B, queries, keys)."""
    logits = whole_term(height, width)
    logits.baddbmm_(query, key.transpose(1, 2), alpha=scale)
    return torch.softmax(logits, dim=-1, out=logits)


@torch.library.custom_op("mvit_det::blocked_attention", mutates_args=())
def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, height: Tensor, width: Tensor, scale: float
) -> Tensor:
    """As `decomposed_attention` with batch and heads merged into one axis."""
    output = torch.empty_like(query)
    for batch, rows in _blocks(query, key):
        weights = _attention_weights(
            query[batch, rows], key[batch], height[batch, rows], width[batch, rows], scale
        )
        torch.bmm(weights, value[batch], out=output[batch, rows])
    return output


@blocked_attention.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("mvit_det::blocked_attention_backward", mutates_args=())
def blocked_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height: Tensor,
    width: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, height and width, given that of the output."""
    grad_query, grad_height, grad_width = map(torch.empty_like, (query, height, width))
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    key_grid = (height.shape[-1], width.shape[-1])
    for batch, rows in _blocks(query, key):
        weights = _attention_weights(
            query[batch, rows], key[batch], height[batch, rows], width[batch, rows], scale
        )
        grad_value[batch].baddbmm_(weights.transpose(1, 2), grad[batch, rows])
        grad_weights = grad[batch, rows] @ value[batch].transpose(1, 2)
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        torch.sum(grad_logits.unflatten(-1, key_grid), -1, out=grad_height[batch, rows])
        torch.sum(grad_logits.unflatten(-1, key_grid), -2, out=grad_width[batch, rows])
        grad_query[batch, rows].baddbmm_(grad_logits, key[batch], beta=0, alpha=scale)
        grad_key[batch].baddbmm_(grad_logits.transpose(1, 2), query[batch, rows], alpha=scale)
    return grad_query, grad_key, grad_value, grad_height, grad_width


@blocked_attention_backward.register_fake
def _(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    *tensors, _ = inputs
    return tuple(torch.empty_like(tensor) for tensor in tensors)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *blocked_attention_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale), None


blocked_attention.register_autograd(_backward, setup_context=_save_inputs)


@register_flop_formula(torch.ops.mvit_det.blocked_attention)
def _count_operations(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    """For PyTorch's counter: two products, each of as many multiplications as additions."""
    batch, queries, channels = query
    return 4 * batch * queries * key[1] * channels

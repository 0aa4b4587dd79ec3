"""Attention with position terms for the CPU, in blocks whose logits stay in the cache.

The position terms are what a block's logits start from before the product is added in place, and
the backward pass computes a block's logits again instead of keeping them. On the CPU this beats
PyTorch's kernels, plain and fused.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..position import sum_of_terms
from .products import add_product

# Logits of one block, 4 MB in fp32: large enough for the matrix products, small enough for the
# cache. Where there are many keys, the products need so many queries all the same.
BLOCK_LOGITS = 2**20
LEAST_QUERIES = 1024


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Attention as all kernels compute it, see `dispatch.py`."""
    query_, key_, value_ = (x.flatten(0, 1) for x in (query, key, value))
    terms = [term.flatten(0, 1) for term in terms]
    return attention_operator(query_, key_, value_, terms, scale).view_as(query)


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cuts (batch, queries) into blocks of about `BLOCK_LOGITS` logits: slices of both axes."""
    batch, queries, keys = *query.shape[:2], key.shape[1]
    rows = max(BLOCK_LOGITS // keys, LEAST_QUERIES)
    batch_step = max(rows // queries, 1)
    for start in range(0, batch, batch_step):
        for first in range(0, queries, rows):
            yield slice(start, start + batch_step), slice(first, first + rows)


def _attention_weights(query: Tensor, key: Tensor, terms: Sequence[Tensor], scale: float) -> Tensor:
    """softmax(scale · QKᵀ + E) of one block, (B, queries, keys)."""
    logits = query.new_empty(*query.shape[:2], key.shape[1])
    if terms:
        before_grid = key.shape[1] - math.prod(term.shape[-1] for term in terms)
        logits[..., :before_grid] = 0
        _write_sum_of_terms(terms, logits[..., before_grid:])
    add_product(logits, query, key, scale, overwrite=not terms)
    return torch.softmax(logits, dim=-1, out=logits)


def _write_sum_of_terms(terms: Sequence[Tensor], output: Tensor) -> None:
    """Writes E on the grid: terms (…, keys along an axis) into (…, keys), row by row."""
    first, *others = terms
    if not others:
        output.copy_(first)
        return
    rest = sum_of_terms(others)
    grid = output.unflatten(-1, (first.shape[-1], rest.shape[-1]))
    torch.add(first[..., :, None], rest[..., None, :], out=grid)


@torch.library.custom_op("mvit_det::blocked_attention", mutates_args=())
def attention_operator(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """As `blocked_attention` with batch and heads merged into one axis."""
    output = torch.empty_like(query)
    for batch, rows in _blocks(query, key):
        block_terms = [term[batch, rows] for term in terms]
        weights = _attention_weights(query[batch, rows], key[batch], block_terms, scale)
        add_product(output[batch, rows], weights, value[batch].mT, overwrite=True)
    return output


@attention_operator.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("mvit_det::blocked_attention_backward", mutates_args=())
def attention_backward_operator(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    terms: Sequence[Tensor],
    scale: float,
) -> list[Tensor]:
    """Gradients of query, key, value and the terms, given that of the output."""
    grad_query = torch.empty_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    grad_terms = [torch.empty_like(term) for term in terms]
    grid = [term.shape[-1] for term in terms]
    before_grid = key.shape[1] - math.prod(grid)
    for batch, rows in _blocks(query, key):
        block_terms = [term[batch, rows] for term in terms]
        weights = _attention_weights(query[batch, rows], key[batch], block_terms, scale)
        add_product(grad_value[batch], weights.mT, grad[batch, rows].mT)
        grad_weights = torch.empty_like(weights)
        add_product(grad_weights, grad[batch, rows], value[batch], overwrite=True)
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        key_ = key[batch].mT
        add_product(grad_query[batch, rows], grad_logits, key_, scale, overwrite=True)
        add_product(grad_key[batch], grad_logits.mT, query[batch, rows].mT, scale)
        if terms:
            on_grid = grad_logits[..., before_grid:].unflatten(-1, grid)
            for axis, grad_term in enumerate(grad_terms):
                others = [2 + other for other in range(len(grid)) if other != axis]
                grad_term[batch, rows] = on_grid.sum(others) if others else on_grid
    return [grad_query, grad_key, grad_value, *grad_terms]


@attention_backward_operator.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (query, key, value, *terms)]


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, terms, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *terms)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    query, key, value, *terms = ctx.saved_tensors
    gradients = attention_backward_operator(grad.contiguous(), query, key, value, terms, ctx.scale)
    return *gradients[:3], gradients[3:], None


attention_operator.register_autograd(_backward, setup_context=_save_inputs)


@register_flop_formula(torch.ops.mvit_det.blocked_attention)
def _count_operations(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    """For PyTorch's counter: two products, each of as many multiplications as additions."""
    batch, queries, channels = query
    return 4 * batch * queries * key[1] * channels

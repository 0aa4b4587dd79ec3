"""Products of queries with relative positions, in little memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .execution import in_autocast_dtype


def position_terms(query: Tensor, positions: Sequence[Tensor]) -> list[Tensor]:
    """Adds decomposed relative positions to the logits (MViTv2, equation 4), axis by axis.

    The logit of a query and a key gets the sum over the axes of the term of the key's coordinate.

    Args:
        query: queries on their grid, (B, heads, *grid, C), not scaled.
        positions: for each axis of the grid (queries along the axis, keys along the axis, C).

    Returns:
        For each axis (B, heads, queries, keys along the axis).
    """
    query, *positions = in_autocast_dtype(query, *positions)
    terms = [_AxisTerms.apply(query, table, 2 + axis) for axis, table in enumerate(positions)]
    return [term.flatten(2, -2) for term in terms]


class _AxisTerms(torch.autograd.Function):
    """Products of queries with the positions of their coordinate on one axis, as one product for
    each coordinate.

    The backward pass makes the copy of the queries again that the products are made of.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, positions: Tensor, axis: int) -> Tensor:
        """Maps (…, size, …, C) and (size, keys, C) to (…, size, …, keys)."""
        ctx.save_for_backward(query, positions)
        ctx.axis = axis
        return _undo(_by_coordinate(query, axis) @ positions.transpose(1, 2), query, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of queries and positions."""
        query, positions = ctx.saved_tensors
        grad = _by_coordinate(grad, ctx.axis)
        grad_query = _undo(grad @ positions, query, ctx.axis)
        return grad_query, grad.transpose(1, 2) @ _by_coordinate(query, ctx.axis), None


def _by_coordinate(x: Tensor, axis: int) -> Tensor:
    """(…, size, …, C) to (size, all others, C)."""
    return x.movedim(axis, 0).reshape(x.shape[axis], -1, x.shape[-1])


def _undo(x: Tensor, like: Tensor, axis: int) -> Tensor:
    """Undoes `_by_coordinate`; all sizes but the last are those of `like`."""
    sizes = like.movedim(axis, 0).shape[:-1]
    return x.view(*sizes, -1).movedim(0, axis)

"""Position embeddings: tables resized to the grid at hand, and the terms they add to logits."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import custom_operators_enabled, in_autocast_dtype


def relative_coordinates(query_size: int, key_size: int, device: torch.device) -> Tensor:
    """Row of the relative position table for each pair of query and key along one axis.

    The coarser of the two axes is stretched to the finer one, so that distances count in steps of
    the finer; fractions are cut off, as in the implementation the published weights come from.

    Returns:
        Indexes (query_size, key_size) in [0, 2 * max(query_size, key_size) - 2].
    """
    query_step = max(key_size / query_size, 1.0)
    key_step = max(query_size / key_size, 1.0)
    queries = torch.arange(query_size, device=device)[:, None] * query_step
    keys = torch.arange(key_size, device=device)[None, :] * key_step
    return (queries - keys + (key_size - 1) * key_step).long()


def relative_positions(table: Tensor, query_size: int, key_size: int) -> Tensor:
    """Relative position embedding of each pair of query and key along one axis: R^h or R^w.

    The table is interpolated linearly when it was made for another size.

    Args:
        table: one row per distance, (distances, C).
        query_size: number of queries along the axis.
        key_size: number of keys along the axis.

    Returns:
        (query_size, key_size, C).
    """
    if torch.compiler.is_compiling() and custom_operators_enabled():
        return _positions_operator(table, query_size, key_size)
    return _relative_positions(table, query_size, key_size)


def _relative_positions(table: Tensor, query_size: int, key_size: int) -> Tensor:
    distances = 2 * max(query_size, key_size) - 1
    if table.shape[0] != distances:
        table = F.interpolate(table.t()[None], size=distances, mode="linear")[0].t()
    return table[relative_coordinates(query_size, key_size, table.device)]


# An operator of its own for the same reason as those of windows, see `window.py`.
@torch.library.custom_op("mvit_det::relative_positions", mutates_args=())
def _positions_operator(table: Tensor, query_size: int, key_size: int) -> Tensor:
    return _relative_positions(table, query_size, key_size)


@_positions_operator.register_fake
def _(table: Tensor, query_size: int, key_size: int) -> Tensor:
    return table.new_empty(query_size, key_size, table.shape[1])


@torch.library.custom_op("mvit_det::relative_positions_backward", mutates_args=())
def _positions_backward(grad: Tensor, rows: int) -> Tensor:
    query_size, key_size, channels = grad.shape
    distances = 2 * max(query_size, key_size) - 1
    coordinates = relative_coordinates(query_size, key_size, grad.device).flatten()
    resized = grad.new_zeros(distances, channels)
    resized.index_add_(0, coordinates, grad.flatten(0, 1))
    if rows == distances:
        return resized
    table = torch.ops.aten.upsample_linear1d_backward(
        resized.t()[None], [distances], [1, channels, rows], False
    )
    return table[0].t().contiguous()


@_positions_backward.register_fake
def _(grad: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[-1])


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.rows = inputs[0].shape[0]


_positions_operator.register_autograd(
    lambda ctx, grad: (_positions_backward(grad, ctx.rows), None, None),
    setup_context=_save_rows,
)


class RelativePositions:
    """`relative_positions` for one table, which keeps its last result while that stays right.

    For inference only: where gradients are to reach the table, it is interpolated each time. The
    result is dropped when the table is changed, except through `table.data`, which PyTorch does
    not count as a change; `forget` drops it in any case.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drops what is kept."""
        self._key: tuple[Any, ...] | None = None
        self._kept: tuple[Tensor, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Copies start without a result."""
        return {"_key": None, "_kept": ()}

    def __call__(self, table: Tensor, query_size: int, key_size: int) -> Tensor:
        """As `relative_positions`."""
        has_gradient = table.requires_grad and torch.is_grad_enabled()
        if has_gradient or torch.compiler.is_compiling() or not custom_operators_enabled():
            return relative_positions(table, query_size, key_size)
        key = (table.data_ptr(), table._version, table.dtype, query_size, key_size)
        if key != self._key:
            # Holding on to the table keeps its address from being used again.
            self._kept = relative_positions(table, query_size, key_size), table.detach()
            self._key = key
        return self._kept[0]


def position_terms(query: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What decomposed relative positions add to the logits (MViTv2, equation 4), still separated.

    The logit of query i and key j gets `height[i, row of j] + width[i, column of j]`.

    Args:
        query: queries on their grid, (B, heads, query rows, query columns, C), not scaled.
        rows: R^h, (query rows, key rows, C).
        columns: R^w, (query columns, key columns, C).

    Returns:
        height, (B, heads, queries, key rows), and width, (B, heads, queries, key columns).
    """
    query, rows, columns = in_autocast_dtype(query, rows, columns)
    height = _AxisTerms.apply(query, rows)
    width = _AxisTerms.apply(query.transpose(2, 3), columns).transpose(2, 3)
    return height.flatten(2, 3), width.flatten(2, 3)


def sum_of_terms(terms: Sequence[Tensor]) -> Tensor:
    """E: terms (…, keys along an axis), one for each axis, to (…, keys), row by row."""
    *others, total = terms
    for term in reversed(others):
        total = (term[..., :, None] + total[..., None, :]).flatten(-2)
    return total


def joint_relative_positions(
    table: Tensor, query_window: tuple[int, int], key_window: tuple[int, int]
) -> Tensor:
    """Joint relative positions: a row for each pair of distances (MViTv2, equation 3).

    The table is interpolated bilinearly when it was made for another size.

    Args:
        table: (vertical distances, horizontal distances, C).
        query_window: rows and columns of queries.
        key_window: rows and columns of keys.

    Returns:
        (query rows, key rows, horizontal distances, C): the vertical distance of each pair is
        looked up, the horizontal one is left to `joint_terms`, as the whole would be queries ×
        keys × C.
    """
    distances = [2 * max(sizes) - 1 for sizes in zip(query_window, key_window, strict=True)]
    if list(table.shape[:2]) != distances:
        grid = table.permute(2, 0, 1)[None]
        grid = F.interpolate(grid, size=distances, mode="bilinear", align_corners=False)
        table = grid[0].permute(1, 2, 0)
    return table[relative_coordinates(query_window[0], key_window[0], table.device)]


def joint_terms(query: Tensor, table: Tensor, key_window: tuple[int, int]) -> Tensor:
    """What joint relative positions add to the logits: Q_i · R_ij (MViTv2, equation 3).

    Args:
        query: queries on their grid, (B, heads, query rows, query columns, C), not scaled.
        table: as `joint_relative_positions` returns it.
        key_window: rows and columns of keys.

    Returns:
        (B, heads, queries, keys).
    """
    query, table = in_autocast_dtype(query, table)
    # (B, heads, query rows, query columns, key rows, horizontal distances)
    products = torch.einsum("bnhwc,hkdc->bnhwkd", query, table)
    columns = relative_coordinates(query.shape[3], key_window[1], query.device)
    columns = columns[:, None].expand(*products.shape[:-1], -1)
    return products.gather(-1, columns).flatten(4).flatten(2, 3)


class _AxisTerms(torch.autograd.Function):
    """Products of queries with the positions of their row: one for each row, over all windows.

    The copy of the queries, row by row, that the products are made of is made again in the backward
    pass instead of being kept.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, positions: Tensor) -> Tensor:
        """Maps (B, heads, rows, columns, C) and (rows, keys, C) to (B, heads, rows, columns, keys).

        Under autocast, both come in its type.
        """
        ctx.save_for_backward(query, positions)
        return _by_position(_by_row(query) @ positions.transpose(1, 2), query)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of queries and positions."""
        query, positions = ctx.saved_tensors
        grad = _by_row(grad)
        return _by_position(grad @ positions, query), grad.transpose(1, 2) @ _by_row(query)


def _by_row(x: Tensor) -> Tensor:
    """(B, heads, rows, columns, C) to (rows, B * heads * columns, C)."""
    return x.permute(2, 0, 1, 3, 4).reshape(x.shape[2], -1, x.shape[4])


def _by_position(x: Tensor, like: Tensor) -> Tensor:
    """Undoes `_by_row`; `like` tells B, heads, rows and columns."""
    batch, heads, rows, columns, _ = like.shape
    return x.view(rows, batch, heads, columns, -1).permute(1, 2, 0, 3, 4)


def resize_absolute_positions(table: Tensor, grid: tuple[int, int], class_token: bool) -> Tensor:
    """Absolute position embeddings for a grid of tokens, interpolated bicubically where need be.

    Args:
        table: embeddings of the square grid of pre-training, (1, positions, C), row by row.
        grid: height and width of the grid at hand.
        class_token: whether the first position belongs to a class token; it is left out.

    Returns:
        (1, grid height, grid width, C).
    """
    if class_token:
        table = table[:, 1:]
    side = math.isqrt(table.shape[1])
    table = table.view(1, side, side, -1)
    if (side, side) == tuple(grid):
        return table
    table = F.interpolate(table.permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1)

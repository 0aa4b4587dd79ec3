"""Position embeddings: tables resized to the grid at hand, and the terms they add to logits."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_positions(table: Tensor, query_size: int, key_size: int) -> Tensor:
    """Looks up the relative position of each pair of query and key along one axis: R^h or R^w.

    The table is interpolated linearly when it was made for another size.

    Args:
        table: one row per distance, (distances, C).
        query_size: number of queries along the axis.
        key_size: number of keys along the axis.

    Returns:
        (query_size, key_size, C).
    """
    distances = 2 * max(query_size, key_size) - 1
    if table.shape[0] != distances:
        table = F.interpolate(table.t()[None], size=distances, mode="linear")[0].t()
    return table[relative_coordinates(query_size, key_size, table.device)]


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


def sum_of_terms(terms: Sequence[Tensor]) -> Tensor:
    """E: terms (…, keys along an axis), one for each axis, to (…, keys), row by row."""
    *others, total = terms
    for term in reversed(others):
        total = (term[..., :, None] + total[..., None, :]).flatten(-2)
    return total


def joint_relative_positions(
    table: Tensor, query_window: Sequence[int], key_window: Sequence[int]
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


def joint_terms(query: Tensor, table: Tensor, key_window: Sequence[int]) -> Tensor:
    """Adds joint relative positions to the logits: Q_i · R_ij (MViTv2, equation 3).

    There is no way around a tensor of size queries × keys, as each pair has a term of its own.

    Args:
        query: queries on their grid, (B, heads, query rows, query columns, C), not scaled.
        table: as `joint_relative_positions` returns it.
        key_window: rows and columns of keys.

    Returns:
        (B, heads, queries, keys).
    """
    # (B, heads, query rows, query columns, key rows, horizontal distances)
    products = torch.einsum("bnhwc,hkdc->bnhwkd", query, table)
    columns = relative_coordinates(query.shape[3], key_window[1], query.device)
    columns = columns[:, None].expand(*products.shape[:-1], -1)
    return products.gather(-1, columns).flatten(4).flatten(2, 3)


def resize_absolute_positions(table: Tensor, grid: tuple[int, int], class_token: bool) -> Tensor:
    """Interpolates absolute position embeddings bicubically to a grid of tokens, if need be.

    Args:
        table: embeddings of the square grid of pre-training, (1, positions, C), row by row.
        grid: height and width of the grid at hand.
        class_token: whether the first position belongs to a class token, and is skipped.

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

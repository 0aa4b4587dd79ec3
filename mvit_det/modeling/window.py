"""Windows of attention: cutting a grid of tokens into windows and putting it back together.

Global attention is one window as large as the grid, so everything below handles both alike.

Cutting and putting together are each other's gradient. They are also operators of their own, for
`torch.compile` with dynamic sizes: seen through, their arithmetic on symbolic sizes multiplies from
block to block until the compiler does not come back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import custom_operators_enabled

Grid = tuple[int, int]


def windows_to_cover(grid: Grid, size: Grid) -> Grid:
    """How many windows down and across it takes to cover a grid."""
    return (grid[0] + size[0] - 1) // size[0], (grid[1] + size[1] - 1) // size[1]


def effective_shift(grid: Grid, size: Grid, shift: int) -> Grid:
    """How far windows move along each axis: not at all along one that a single window covers."""
    if not shift:
        return 0, 0
    rows, columns = (shift if side > window else 0 for side, window in zip(grid, size, strict=True))
    return rows, columns


def window_partition(x: Tensor, size: Grid, shift: Grid = (0, 0)) -> Tensor:
    """Cuts a grid into windows that do not overlap, filled up with zeros at the bottom and right.

    Args:
        x: tokens, (N, H, W, heads, C).
        size: height and width of a window in tokens.
        shift: rows and columns by which the windows are moved down and to the right. What then lies
            before the first of them goes into the last (Swin's cyclic shift); `shift_terms` keep it
            apart from the rest there.

    Returns:
        (N * windows, heads, size[0] * size[1], C), the windows of one image row by row.
    """
    if any(shift):
        x = _fill_up(x, size).roll((-shift[0], -shift[1]), (1, 2))
    if torch.compiler.is_compiling() and custom_operators_enabled():
        return _partition_operator(x, *size)
    return _partition(x, size)


def window_unpartition(windows: Tensor, size: Grid, grid: Grid, shift: Grid = (0, 0)) -> Tensor:
    """Undoes `window_partition` and cuts off what it had filled up.

    Args:
        windows: (N * windows, heads, size[0] * size[1], C).
        size: height and width of a window in tokens.
        grid: height and width of the grid of tokens that was partitioned.
        shift: as there.

    Returns:
        (N, H, W, heads, C), not necessarily contiguous.
    """
    if any(shift):
        down, across = windows_to_cover(grid, size)
        whole = window_unpartition(windows, size, (down * size[0], across * size[1]))
        return whole.roll(shift, (1, 2))[:, : grid[0], : grid[1]]
    if torch.compiler.is_compiling() and custom_operators_enabled():
        return _unpartition_operator(windows, *size, *grid)
    return _unpartition(windows, size, grid)


def shift_terms(
    grid: Grid, windows: tuple[Grid, Grid], shifts: tuple[Grid, Grid], like: Tensor
) -> tuple[Tensor, Tensor]:
    """What keeps apart, in the last windows of a cyclic shift, tokens from opposite borders.

    Args:
        grid: height and width of the grid of queries.
        windows: sizes of a window of queries and of keys.
        shifts: of queries and of keys, as `window_partition` takes them.
        like: gives type and device.

    Returns:
        Terms of the logits by row and by column of the key, (windows, 1, queries, key rows) and
        (windows, 1, queries, key columns): 0 on the same side of the border, a large negative
        number across it.
    """
    (query_window, key_window), (query_shift, key_shift) = windows, shifts
    counts = windows_to_cover(grid, query_window)
    rows, columns = (
        _border_terms(
            counts[axis],
            query_window[axis],
            key_window[axis],
            query_shift[axis],
            key_shift[axis],
            like,
        )
        for axis in (0, 1)
    )
    shape = (*counts, *query_window)
    rows = rows[:, None, :, None].expand(*shape, -1)
    columns = columns[None, :, None, :].expand(*shape, -1)
    return rows.flatten(2, 3).flatten(0, 1)[:, None], columns.flatten(2, 3).flatten(0, 1)[:, None]


def _border_terms(
    count: int, queries: int, keys: int, query_shift: int, key_shift: int, like: Tensor
) -> Tensor:
    """`shift_terms` along one axis, (count, queries, keys)."""
    query_side = torch.arange(queries, device=like.device) >= queries - query_shift
    key_side = torch.arange(keys, device=like.device) >= keys - key_shift
    terms = like.new_zeros(count, queries, keys)
    # The sum of two must still be finite.
    terms[-1].masked_fill_(query_side[:, None] != key_side, torch.finfo(like.dtype).min / 4)
    return terms


def _fill_up(x: Tensor, size: Grid) -> Tensor:
    """Fills the grid of (N, H, W, heads, C) up to whole windows, with zeros."""
    height, width = x.shape[1], x.shape[2]
    down, across = windows_to_cover((height, width), size)
    if (down * size[0], across * size[1]) == (height, width):
        return x
    return F.pad(x, (0, 0, 0, 0, 0, across * size[1] - width, 0, down * size[0] - height))


def _partition(x: Tensor, size: Grid) -> Tensor:
    batch, height, width, heads, channels = x.shape
    rows, columns = size
    down, across = windows_to_cover((height, width), size)
    x = _fill_up(x, size)
    # (N, windows down, rows, windows across, columns, heads, C)
    x = x.view(batch, down, rows, across, columns, heads, channels)
    # -> (N, windows down, windows across, heads, rows, columns, C)
    x = x.permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, heads, rows * columns, channels)


def _unpartition(windows: Tensor, size: Grid, grid: Grid) -> Tensor:
    heads, channels = windows.shape[1], windows.shape[-1]
    rows, columns = size
    height, width = grid
    down, across = windows_to_cover(grid, size)
    x = windows.view(-1, down, across, heads, rows, columns, channels)
    # -> (N, windows down, rows, windows across, columns, heads, C)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, down * rows, across * columns, heads, channels)
    return x[:, :height, :width]


def _copy(x: Tensor) -> Tensor:
    """Contiguous, and memory of its own, as the output of an operator has to be."""
    return x.clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("mvit_det::window_partition", mutates_args=())
def _partition_operator(x: Tensor, rows: int, columns: int) -> Tensor:
    return _copy(_partition(x, (rows, columns)))


@_partition_operator.register_fake
def _(x: Tensor, rows: int, columns: int) -> Tensor:
    batch, height, width, heads, channels = x.shape
    down, across = windows_to_cover((height, width), (rows, columns))
    return x.new_empty(batch * down * across, heads, rows * columns, channels)


@torch.library.custom_op("mvit_det::window_unpartition", mutates_args=())
def _unpartition_operator(
    windows: Tensor, rows: int, columns: int, height: int, width: int
) -> Tensor:
    return _copy(_unpartition(windows, (rows, columns), (height, width)))


@_unpartition_operator.register_fake
def _(windows: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    count, heads, _, channels = windows.shape
    down, across = windows_to_cover((height, width), (rows, columns))
    return windows.new_empty(count // (down * across), height, width, heads, channels)


def _save_partition(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.size = inputs
    ctx.grid = x.shape[1:3]


def _save_unpartition(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size = inputs[1:3]


_partition_operator.register_autograd(
    lambda ctx, grad: (_unpartition_operator(grad.contiguous(), *ctx.size, *ctx.grid), None, None),
    setup_context=_save_partition,
)
_unpartition_operator.register_autograd(
    lambda ctx, grad: (_partition_operator(grad.contiguous(), *ctx.size), *(None,) * 4),
    setup_context=_save_unpartition,
)

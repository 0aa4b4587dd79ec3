"""Windows of attention: cutting a grid of tokens into windows and putting it back together.

Global attention is one window as large as the grid, so everything below handles both alike.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
    batch, height, width, heads, channels = x.shape
    rows, columns = size
    down, across = windows_to_cover((height, width), size)
    if (down * rows, across * columns) != (height, width):
        x = F.pad(x, (0, 0, 0, 0, 0, across * columns - width, 0, down * rows - height))
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
    # (N, windows down, rows, windows across, columns, heads, C)
    x = x.view(batch, down, rows, across, columns, heads, channels)
    # -> (N, windows down, windows across, heads, rows, columns, C)
    x = x.permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, heads, rows * columns, channels)


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
    heads, channels = windows.shape[1], windows.shape[-1]
    rows, columns = size
    down, across = windows_to_cover(grid, size)
    x = windows.view(-1, down, across, heads, rows, columns, channels)
    # -> (N, windows down, rows, windows across, columns, heads, C)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, down * rows, across * columns, heads, channels)
    if any(shift):
        x = x.roll(shift, (1, 2))
    return x[:, : grid[0], : grid[1]]


def shift_terms(
    grid: Grid,
    windows: tuple[Grid, Grid],
    shifts: tuple[Grid, Grid],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Masks that keep tokens from opposite borders apart in the last windows of a cyclic shift.

    Args:
        grid: height and width of the grid of queries.
        windows: sizes of a window of queries and of keys.
        shifts: of queries and of keys, as `window_partition` takes them.
        dtype: that the products are computed in.
        device: of the result.

    Returns:
        Terms of the logits by row and by column of the key, (windows, 1, queries, key rows) and
        (windows, 1, queries, key columns): 0 on the same side of the border, a large negative
        number across it.
    """
    (query_window, key_window), (query_shift, key_shift) = windows, shifts
    counts = windows_to_cover(grid, query_window)
    axes = zip(counts, query_window, key_window, query_shift, key_shift, strict=True)
    rows, columns = (_border_terms(*axis, dtype, device) for axis in axes)
    shape = (*counts, *query_window)
    rows = rows[:, None, :, None].expand(*shape, -1)
    columns = columns[None, :, None, :].expand(*shape, -1)
    return rows.flatten(2, 3).flatten(0, 1)[:, None], columns.flatten(2, 3).flatten(0, 1)[:, None]


def _border_terms(
    count: int,
    queries: int,
    keys: int,
    query_shift: int,
    key_shift: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """`shift_terms` along one axis, (count, queries, keys)."""
    query_side = torch.arange(queries, device=device) >= queries - query_shift
    key_side = torch.arange(keys, device=device) >= keys - key_shift
    terms = torch.zeros(count, queries, keys, dtype=dtype, device=device)
    # The sum of two must still be finite.
    terms[-1].masked_fill_(query_side[:, None] != key_side, torch.finfo(dtype).min / 4)
    return terms

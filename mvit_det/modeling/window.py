"""Windows of attention: cutting a grid of tokens into windows and putting it back together.

Global attention is one window as large as the grid, so everything below handles both alike.
"""

import torch.nn.functional as F
from torch import Tensor


def window_partition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts a grid into windows that do not overlap, filled up with zeros at the bottom and right.

    Args:
        x: tokens, (N, H, W, heads, C).
        size: height and width of a window in tokens.

    Returns:
        (N * windows, heads, size[0] * size[1], C), the windows of one image row by row.
    """
    batch, height, width, heads, channels = x.shape
    rows, columns = size
    pad_bottom, pad_right = -height % rows, -width % columns
    if pad_bottom or pad_right:
        x = F.pad(x, (0, 0, 0, 0, 0, pad_right, 0, pad_bottom))
    # (N, windows down, rows, windows across, columns, heads, C)
    x = x.view(batch, (height + pad_bottom) // rows, rows, -1, columns, heads, channels)
    # -> (N, windows down, windows across, heads, rows, columns, C)
    x = x.permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, heads, rows * columns, channels)


def window_unpartition(windows: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Undoes `window_partition` and cuts off what it had filled up.

    Args:
        windows: (N * windows, heads, size[0] * size[1], C).
        size: height and width of a window in tokens.
        grid: height and width of the grid of tokens that was partitioned.

    Returns:
        A view or copy of shape (N, H, W, heads, C), not necessarily contiguous.
    """
    heads, channels = windows.shape[1], windows.shape[-1]
    rows, columns = size
    height, width = grid
    down, across = -(-height // rows), -(-width // columns)
    x = windows.view(-1, down, across, heads, rows, columns, channels)
    # -> (N, windows down, rows, windows across, columns, heads, C)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, down * rows, across * columns, heads, channels)
    return x[:, :height, :width]

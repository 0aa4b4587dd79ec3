"""Images in a padded batch: where they end, and keeping what lies beyond out of them.

A batch holds images of several sizes, filled up at the bottom and right. Sizes below are
(height, width) pairs, one per image, in the unit of the grid at hand.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .window import windows_to_cover

Sizes = Sequence[tuple[int, int]]


def unpadded_sizes(images: Tensor) -> Sizes:
    """Sizes in pixels of the images in a batch that is filled up with zeros.

    An image ends with the last row and column that are not zero in all channels. Normalised
    images hold no such rows: no pixel equals ImageNet's mean, which is not an integer.

    Args:
        images: (N, channels, H, W), normalised, then padded.
    """
    used = images.ne(0).any(1)
    ends = []
    for axis in (2, 1):
        line = used.any(axis)
        numbers = torch.arange(1, line.shape[1] + 1, device=images.device)
        # An image that is zero throughout has one row and column.
        ends.append((line * numbers).amax(1).clamp(min=1))
    return [(height, width) for height, width in torch.stack(ends, dim=1).tolist()]


def pooled_sizes(sizes: Sizes, stride: int) -> Sizes:
    """Sizes on a grid that is coarser by `stride`."""
    return [(-(-height // stride), -(-width // stride)) for height, width in sizes]


def fill_padding(x: Tensor, sizes: Sizes, value: float = 0.0) -> Tensor:
    """Sets what lies beyond each image to a value, in place.

    Args:
        x: (N, H, W, …), changed.
        sizes: of the N images on this grid.

    Returns:
        x.
    """
    for index, (height, width) in enumerate(sizes):
        x[index, height:] = value
        x[index, :, width:] = value
    return x


def key_masks(
    sizes: Sizes,
    grid: tuple[int, int],
    window: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Masks added to the logits, so that keys beyond the images get no attention.

    Args:
        sizes: of the N images on the grid of keys.
        grid: height and width of that grid.
        window: height and width of a window of keys.
        dtype: that the products are computed in.
        device: of the result.

    Returns:
        For rows of keys (N * windows, 1, 1, window height) and for columns
        (N * windows, 1, 1, window width): 0 inside, a large negative number beyond.
    """
    # The sum of two must still be finite.
    beyond = torch.finfo(dtype).min / 4
    down, across = windows_to_cover(grid, window)
    rows = torch.full((len(sizes), down * window[0]), beyond, dtype=dtype, device=device)
    columns = torch.full((len(sizes), across * window[1]), beyond, dtype=dtype, device=device)
    for index, (height, width) in enumerate(sizes):
        rows[index, :height] = 0
        columns[index, :width] = 0
    windows = (len(sizes), down, across)
    return (
        rows.view(-1, down, 1, window[0]).expand(*windows, -1).reshape(-1, 1, 1, window[0]),
        columns.view(-1, 1, across, window[1]).expand(*windows, -1).reshape(-1, 1, 1, window[1]),
    )


def pad_to(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Fills the leading axes of x up with zeros to the given sizes; the last one stays."""
    missing = [size - actual for size, actual in zip(sizes, x.shape)]
    return F.pad(x, (0, 0, *(step for gap in reversed(missing) for step in (0, gap))))

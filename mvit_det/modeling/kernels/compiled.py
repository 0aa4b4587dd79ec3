"""Windows and relative positions as single operators while `torch.compile` traces the model.

Seen through with dynamic sizes, their arithmetic on symbolic sizes multiplies from block to block
until the compiler does not come back. In eager mode and in exports these functions are those of
`window.py` and `position.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import position, window
from .execution import custom_operators_enabled


def _traced_by_compiler() -> bool:
    return torch.compiler.is_compiling() and custom_operators_enabled()


def window_partition(x: Tensor, size: window.Grid, shift: window.Grid = (0, 0)) -> Tensor:
    """As `window.window_partition`."""
    run = _partition if _traced_by_compiler() else window.window_partition
    return run(x, size, shift)


def window_unpartition(
    windows: Tensor, size: window.Grid, grid: window.Grid, shift: window.Grid = (0, 0)
) -> Tensor:
    """As `window.window_unpartition`."""
    run = _unpartition if _traced_by_compiler() else window.window_unpartition
    return run(windows, size, grid, shift)


def relative_positions(table: Tensor, query_size: int, key_size: int) -> Tensor:
    """As `position.relative_positions`."""
    run = _relative_positions if _traced_by_compiler() else position.relative_positions
    return run(table, query_size, key_size)


def _copy(x: Tensor) -> Tensor:
    """Contiguous, and memory of its own, as the output of an operator has to be."""
    return x.clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("mvit_det::window_partition", mutates_args=())
def _partition(x: Tensor, size: Sequence[int], shift: Sequence[int]) -> Tensor:
    return _copy(window.window_partition(x, (size[0], size[1]), (shift[0], shift[1])))


@_partition.register_fake
def _(x: Tensor, size: Sequence[int], shift: Sequence[int]) -> Tensor:
    batch, height, width, heads, channels = x.shape
    down, across = window.windows_to_cover((height, width), (size[0], size[1]))
    return x.new_empty(batch * down * across, heads, size[0] * size[1], channels)


@torch.library.custom_op("mvit_det::window_unpartition", mutates_args=())
def _unpartition(
    windows: Tensor, size: Sequence[int], grid: Sequence[int], shift: Sequence[int]
) -> Tensor:
    sizes = (size[0], size[1]), (grid[0], grid[1]), (shift[0], shift[1])
    return _copy(window.window_unpartition(windows, *sizes))


@_unpartition.register_fake
def _(windows: Tensor, size: Sequence[int], grid: Sequence[int], shift: Sequence[int]) -> Tensor:
    count, heads, _, channels = windows.shape
    down, across = window.windows_to_cover((grid[0], grid[1]), (size[0], size[1]))
    return windows.new_empty(count // (down * across), grid[0], grid[1], heads, channels)


# Cutting into windows and putting them together are each other's gradient.
def _save_partition(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.size, ctx.shift = inputs
    ctx.grid = x.shape[1:3]


def _save_unpartition(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.size, _, ctx.shift = inputs


_partition.register_autograd(
    lambda ctx, grad: (_unpartition(grad.contiguous(), ctx.size, ctx.grid, ctx.shift), None, None),
    setup_context=_save_partition,
)
_unpartition.register_autograd(
    lambda ctx, grad: (_partition(grad.contiguous(), ctx.size, ctx.shift), None, None, None),
    setup_context=_save_unpartition,
)


@torch.library.custom_op("mvit_det::relative_positions", mutates_args=())
def _relative_positions(table: Tensor, query_size: int, key_size: int) -> Tensor:
    return position.relative_positions(table, query_size, key_size)


@_relative_positions.register_fake
def _(table: Tensor, query_size: int, key_size: int) -> Tensor:
    return table.new_empty(query_size, key_size, table.shape[1])


@torch.library.custom_op("mvit_det::relative_positions_backward", mutates_args=())
def _relative_positions_backward(grad: Tensor, rows: int) -> Tensor:
    query_size, key_size, channels = grad.shape
    distances = 2 * max(query_size, key_size) - 1
    coordinates = position.relative_coordinates(query_size, key_size, grad.device).flatten()
    resized = grad.new_zeros(distances, channels)
    resized.index_add_(0, coordinates, grad.flatten(0, 1))
    if rows == distances:
        return resized
    table = torch.ops.aten.upsample_linear1d_backward(
        resized.t()[None], [distances], [1, channels, rows], False
    )
    return table[0].t().contiguous()


@_relative_positions_backward.register_fake
def _(grad: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[-1])


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.rows = inputs[0].shape[0]


_relative_positions.register_autograd(
    lambda ctx, grad: (_relative_positions_backward(grad, ctx.rows), None, None),
    setup_context=_save_rows,
)

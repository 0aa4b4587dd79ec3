import pytest
import torch

from mvit_det.modeling.window import window_partition, window_unpartition


@pytest.mark.parametrize("grid", [(8, 12), (9, 13), (3, 2), (4, 4)])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (9, 13)])
def test_round_trip(grid, size):
    x = torch.randn(2, *grid, 3, 5)
    windows = window_partition(x, size)
    down, across = -(-grid[0] // size[0]), -(-grid[1] // size[1])
    assert windows.shape == (2 * down * across, 3, size[0] * size[1], 5)
    assert torch.equal(window_unpartition(windows, size, grid), x)


def test_windows_hold_their_part_of_the_grid_row_by_row():
    x = torch.arange(6 * 4).view(1, 6, 4, 1, 1)
    windows = window_partition(x, (3, 2)).view(4, 6)
    assert windows.tolist() == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
        [12, 13, 16, 17, 20, 21],
        [14, 15, 18, 19, 22, 23],
    ]


def test_filled_with_zeros_at_bottom_and_right():
    windows = window_partition(torch.ones(1, 3, 3, 1, 1), (2, 2)).view(4, 2, 2)
    assert windows.tolist() == [
        [[1, 1], [1, 1]],
        [[1, 0], [1, 0]],
        [[1, 1], [0, 0]],
        [[1, 0], [0, 0]],
    ]


def test_global_window_is_the_whole_grid():
    x = torch.randn(2, 5, 7, 3, 4)
    windows = window_partition(x, (5, 7))
    assert torch.equal(windows, x.permute(0, 3, 1, 2, 4).flatten(2, 3))

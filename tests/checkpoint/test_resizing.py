"""Resizing against direct computations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvit_det import MViTv2
from mvit_det.checkpoint.resizing import (
    resize_absolute_table,
    resize_joint_table,
    resize_patch_embedding,
    resize_relative_table,
    splits_into_grid,
)


@pytest.mark.parametrize("distances", [7, 31, 63, 111])
def test_relative_tables_are_interpolated_linearly(distances):
    table = torch.randn(31, 4)
    # Rows lie at the centres of equal parts of the same interval.
    places = (np.arange(distances) + 0.5) * 31 / distances - 0.5
    expected = np.stack([np.interp(places, np.arange(31), column) for column in table.T.numpy()], 1)
    resized = resize_relative_table(table, distances)
    torch.testing.assert_close(resized, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


def cubic(x, a=-0.75):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def bicubic_matrix(size, target):
    """Weights of `size` values for each of `target`, with the borders repeated."""
    matrix = np.zeros((target, size))
    for row in range(target):
        place = (row + 0.5) * size / target - 0.5
        for index in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[row, np.clip(index, 0, size - 1)] += cubic(place - index)
    return matrix


@pytest.mark.parametrize("has_token", [False, True])
@pytest.mark.parametrize("wants_token", [False, True])
@pytest.mark.parametrize("target", [4, 6, 9])
def test_absolute_tables_are_interpolated_bicubically(has_token, wants_token, target):
    side, channels = 6, 3
    table = torch.randn(1, side**2 + has_token, channels)
    grid = table[0, int(has_token) :].view(side, side, channels).numpy()
    matrix = bicubic_matrix(side, target)
    expected = np.einsum("ih,jw,hwc->ijc", matrix, matrix, grid).reshape(-1, channels)
    resized = resize_absolute_table(table, target**2 + wants_token)
    found = resized[0, int(wants_token) :]
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)
    if wants_token:
        token = table[0, 0] if has_token else torch.zeros(channels)
        assert torch.equal(resized[0, 0], token)


def test_grids_are_told_from_those_with_a_token():
    assert splits_into_grid(196) == (14, False)
    assert splits_into_grid(197) == (14, True)
    assert splits_into_grid(198) is None
    with pytest.raises(ValueError, match="cannot resize 198 positions to 196"):
        resize_absolute_table(torch.zeros(1, 198, 3), 196)


@torch.no_grad()
def test_a_grey_image_gives_what_it_gave_as_rgb():
    weight, grey = torch.randn(8, 3, 7, 7), torch.randn(2, 1, 28, 28)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for channels in (1, 3, 6, 9):
        resized = resize_patch_embedding(weight, channels)
        found = F.conv2d(grey.expand(-1, channels, -1, -1), resized)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_more_channels_repeat_in_turn():
    weight = torch.randn(8, 3, 7, 7)
    resized = resize_patch_embedding(weight, 5)
    for channel, source in enumerate((0, 1, 2, 0, 1)):
        torch.testing.assert_close(resized[:, channel], weight[:, source] * (3 / 5))


@torch.no_grad()
def test_the_model_resizes_joint_tables_in_the_same_way():
    arguments = dict(
        depths=(1,), embed_dim=16, window_size=16, out_features=("scale2",), position="joint"
    )
    old = MViTv2(**arguments, pretrain_img_size=128, rel_pos_std=0.5).eval()
    new = MViTv2(**arguments, pretrain_img_size=64).eval()
    name, state = "blocks.0.attn.rel_pos_joint", old.state_dict()
    assert state[name].shape == (63, 63, 16)
    state[name] = resize_joint_table(state[name], 31, 31)
    new.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(new(images)["scale2"], old(images)["scale2"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_model_resizes_tables_in_the_same_way():
    """Resizing on load to the size in use gives what the model makes of the old table then."""
    arguments = dict(depths=(1,), embed_dim=16, window_size=16, out_features=("scale2",))
    old = MViTv2(**arguments, pretrain_img_size=128, rel_pos_std=0.5).eval()
    new = MViTv2(**arguments, pretrain_img_size=64).eval()
    state = old.state_dict()
    for axis in "hw":
        name = f"blocks.0.attn.rel_pos_{axis}"
        state[name] = resize_relative_table(state[name], 31)
    new.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(new(images)["scale2"], old(images)["scale2"], rtol=1e-4, atol=1e-5)

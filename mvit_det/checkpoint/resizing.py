"""Weights for another size of image or number of channels than those they were trained with."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_relative_table(table: Tensor, distances: int) -> Tensor:
    """Interpolates a table of relative positions linearly, (rows, C) to (distances, C)."""
    rows = F.interpolate(table.float().t()[None], size=distances, mode="linear")[0].t()
    return rows.to(table.dtype)


def resize_joint_table(table: Tensor, vertical: int, horizontal: int) -> Tensor:
    """Interpolates a table of joint relative positions bilinearly, (rows, columns, C) to
    (vertical, horizontal, C)."""
    grid = table.float().permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=(vertical, horizontal), mode="bilinear", align_corners=False)
    return grid[0].permute(1, 2, 0).to(table.dtype)


def resize_separate_table(table: Tensor, positions: int, is_space: bool) -> Tensor:
    """Interpolates embeddings of space bilinearly or of time linearly, (1, rows, C) to
    (1, positions, C).

    Raises:
        ValueError: the rows of space are no square grid.
    """
    axis = table.float().transpose(1, 2)
    if not is_space:
        resized = F.interpolate(axis, size=positions, mode="linear")
    else:
        side, target = math.isqrt(table.shape[1]), math.isqrt(positions)
        if (side**2, target**2) != (table.shape[1], positions):
            raise ValueError(f"cannot resize {table.shape[1]} positions to {positions}")
        grid = axis.unflatten(2, (side, side))
        resized = F.interpolate(grid, size=(target, target), mode="bilinear").flatten(2)
    return resized.transpose(1, 2).to(table.dtype)


def inflate_kernel(kernel: Tensor, frames: int) -> Tensor:
    """Puts the kernel of an image model into the centre frame of one for clips, zeros elsewhere.

    (out, in, height, width) to (out, in, frames, height, width). On a clip whose frames are all
    the same, the model then computes for each frame what it did for the image (MViTv2, section
    4.3).
    """
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def splits_into_grid(positions: int) -> tuple[int, bool] | None:
    """How a table of absolute positions is made up.

    Args:
        positions: rows of the table.

    Returns:
        The side of its square grid, and whether a class token stands before it; None where it is
        no square with or without one.
    """
    for has_token in (False, True):
        side = math.isqrt(positions - has_token)
        if side and side**2 == positions - has_token:
            return side, has_token
    return None


def resize_absolute_table(table: Tensor, positions: int) -> Tensor:
    """Interpolates absolute position embeddings bicubically, (1, rows, C) to (1, positions, C).

    The embedding of a class token, the first row, is kept as it is where both have one, and
    dropped where the target has none. Where only the target has one it becomes zero.

    Raises:
        ValueError: one of the two is no square grid with or without a class token.
    """
    source, target = splits_into_grid(table.shape[1]), splits_into_grid(positions)
    if source is None or target is None:
        raise ValueError(f"cannot resize {table.shape[1]} positions to {positions}")
    (side, has_token), (target_side, wants_token) = source, target
    token, grid = table[:, : int(has_token)], table[:, int(has_token) :]
    if side != target_side:
        image = grid.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=target_side, mode="bicubic", align_corners=False)
        grid = image.flatten(2).transpose(1, 2).to(table.dtype)
    if not wants_token:
        return grid
    if not has_token:
        token = torch.zeros_like(grid[:, :1])
    return torch.cat((token, grid), dim=1)


def resize_patch_embedding(weight: Tensor, channels: int) -> Tensor:
    """Patch embedding for images of another number of channels.

    One channel gets the sum over the old ones: a grey image then gives what it gave as grey RGB.
    Otherwise the old channels are repeated in turn and scaled by old / new, so that the response
    keeps its size.

    Args:
        weight: kernel (embed_dim, old channels, height, width).
        channels: how many the images have.

    Returns:
        (embed_dim, channels, height, width).
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / old), 1, 1)[:, :channels]
    return repeated * (old / channels)

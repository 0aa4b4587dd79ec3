"""Tiles of an image, and which detections of different tiles are the same object.

Regions and boxes are x0, y0, x1, y1 in pixels of the image.
"""

import math

import torch
from torch import Tensor


def tile_regions(height: int, width: int, tile_size: int, overlap: float) -> Tensor:
    """(T, 4) square tiles, spread evenly over an image, row by row.

    Args:
        height, width: of the image; a smaller side is a tile's.
        tile_size: side of a tile in pixels.
        overlap: least overlap of neighbours, as a fraction of a tile in [0, 1).
    """
    return torch.tensor(
        [
            (left, top, min(left + tile_size, width), min(top + tile_size, height))
            for top in _starts(height, tile_size, overlap)
            for left in _starts(width, tile_size, overlap)
        ],
        dtype=torch.float32,
    )


def cut_sides(regions: Tensor, height: int, width: int) -> Tensor:
    """(R, 4) bool: the left, upper, right and lower sides that are not the image's."""
    image = regions.new_tensor([0, 0, width, height])
    return regions != image


def are_cut(boxes: Tensor, regions: Tensor, cut: Tensor, border: float) -> Tensor:
    """Whether boxes may go on beyond the region that they were found in.

    Args:
        boxes: (N, 4).
        regions: (N, 4), the one of each box.
        cut: (N, 4) bool of `cut_sides`.
        border: pixels within which a box counts as ending at a side.

    Returns:
        (N,) bool.
    """
    return ((_distances(boxes, regions) <= border) & cut).any(dim=-1)


def are_whole_elsewhere(boxes: Tensor, regions: Tensor, cut: Tensor, border: float) -> Tensor:
    """Whether there is a region that shows all of a box, and not at a cut side.

    Args:
        boxes: (N, 4).
        regions: (R, 4), of all tiles.
        cut: (R, 4) bool of `cut_sides`.
        border: as for `are_cut`.

    Returns:
        (N,) bool.
    """
    found = torch.zeros(len(boxes), dtype=torch.bool)
    for region, sides in zip(regions, cut):
        distances = _distances(boxes, region.expand_as(boxes))
        found |= torch.where(sides, distances > border, distances >= 0).all(dim=1)
    return found


def agreement(box: Tensor, region: Tensor, boxes: Tensor, regions: Tensor) -> Tensor:
    """IoU of what two regions both see of two boxes; 0 where that is nothing.

    Args:
        box: (4,).
        region: (4,), that the box was found in.
        boxes: (N, 4) to compare it with.
        regions: (N, 4) that these were found in.

    Returns:
        (N,) in [0, 1].
    """
    low = torch.maximum(region[:2], regions[:, :2])
    high = torch.minimum(region[2:], regions[:, 2:])
    first = _clip(box.expand_as(boxes), low, high)
    second = _clip(boxes, low, high)
    sides = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    intersection = sides.clamp(min=0).prod(dim=1)
    union = _area(first) + _area(second) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=1e-12), 0.0)


def join_pieces(
    boxes: Tensor, classes: Tensor, regions: Tensor, iou_threshold: float
) -> list[list[int]]:
    """Groups of boxes that are pieces of one object.

    Two are if their classes are the same, their regions are not, and these agree on what both see.

    Args:
        boxes, regions: (N, 4).
        classes: (N,).
        iou_threshold: from which `agreement` on they agree.

    Returns:
        Indexes of each group, in ascending order.
    """
    group = list(range(len(boxes)))
    for index in range(1, len(boxes)):
        agrees = (
            (
                agreement(boxes[index], regions[index], boxes[:index], regions[:index])
                >= iou_threshold
            )
            & (classes[:index] == classes[index])
            & (regions[:index] != regions[index]).any(dim=1)
        )
        for other in agrees.nonzero()[:, 0].tolist():
            old, new = group[index], group[other]
            group = [new if number == old else number for number in group]
    members: dict[int, list[int]] = {}
    for index, number in enumerate(group):
        members.setdefault(number, []).append(index)
    return list(members.values())


def _starts(length: int, tile_size: int, overlap: float) -> list[int]:
    if length <= tile_size:
        return [0]
    count = math.ceil((length - tile_size) / max(tile_size * (1 - overlap), 1)) + 1
    return [round(index * (length - tile_size) / (count - 1)) for index in range(count)]


def _distances(boxes: Tensor, regions: Tensor) -> Tensor:
    """(N, 4) pixels from the sides of boxes inwards to those of their regions."""
    return torch.cat([boxes[:, :2] - regions[:, :2], regions[:, 2:] - boxes[:, 2:]], dim=1)


def _clip(boxes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    corners = [torch.minimum(torch.maximum(boxes[:, i : i + 2], low), high) for i in (0, 2)]
    return torch.cat(corners, dim=1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)

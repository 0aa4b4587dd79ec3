"""Masks as run-length encoding, which for a large image takes a thousandth of a bitmap."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from pycocotools import mask as mask_util
from torch import Tensor

RLE = dict[str, Any]

# Masks are pasted in strips of so many pixels, which bounds the memory for those of large objects.
STRIP_PIXELS = 2**22


class RLEMasks:
    """Masks of one image in COCO's run-length encoding, as a field of Detectron2's `Instances`.

    An index gives one mask, (H, W) bool; a slice, a list or a tensor of indexes or bools gives
    `RLEMasks`. Iterating decodes one mask at a time.
    """

    def __init__(self, encoded: Sequence[RLE], height: int, width: int) -> None:
        """Takes N dicts of `size` and compressed `counts`, all for images of this size."""
        self.encoded = list(encoded)
        self.height, self.width = height, width

    @classmethod
    def encode(cls, masks: Tensor) -> "RLEMasks":
        """Encodes bitmaps, (N, H, W) bool."""
        bitmaps = (np.asfortranarray(mask.numpy().astype(np.uint8)) for mask in masks)
        return cls([mask_util.encode(bitmap) for bitmap in bitmaps], *masks.shape[1:])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, (int, np.integer)):
            return torch.from_numpy(mask_util.decode(self.encoded[item])).bool()
        if isinstance(item, slice):
            return RLEMasks(self.encoded[item], self.height, self.width)
        indexes = torch.arange(len(self))[torch.as_tensor(item).cpu()].tolist()
        return RLEMasks([self.encoded[index] for index in indexes], self.height, self.width)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def to(self, *_: Any, **__: Any) -> "RLEMasks":
        """Itself: encodings are on no device."""
        return self

    def areas(self) -> Tensor:
        """(N,) pixels of each mask."""
        return torch.as_tensor(mask_util.area(self.encoded).astype(np.int64))


def paste_as_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> RLEMasks:
    """Pastes masks of boxes into an image, as Detectron2 does, without the image's pixels.

    Args:
        masks: (N, M, M) probabilities in [0, 1].
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        height, width: of the image.
        threshold: from which probability on a pixel belongs to the object.
    """
    masks, boxes = masks.detach().cpu().float(), boxes.detach().cpu().float()
    encoded = [_paste_one(mask, box, height, width, threshold) for mask, box in zip(masks, boxes)]
    return RLEMasks(encoded, height, width)


def union(encoded: Sequence[RLE]) -> RLE:
    """The pixels that belong to any of the masks."""
    return encoded[0] if len(encoded) == 1 else mask_util.merge(list(encoded), intersect=False)


def _paste_one(mask: Tensor, box: Tensor, height: int, width: int, threshold: float) -> RLE:
    left, top = (max(int(low.floor()) - 1, 0) for low in box[:2])
    right = min(int(box[2].ceil()) + 1, width)
    bottom = min(int(box[3].ceil()) + 1, height)
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    if right > left and bottom > top:
        step = max(STRIP_PIXELS // (bottom - top), 1)
        for strip in range(left, right, step):
            size = bottom - top, min(step, right - strip)
            shifted = box - box.new_tensor([strip, top, strip, top])
            (pixels,) = paste_masks_in_image(mask[None], shifted[None], size, threshold)
            new_starts, new_ends = _runs(pixels.numpy(), strip, top, height)
            starts.append(new_starts)
            ends.append(new_ends)
    return _encode(np.concatenate(starts), np.concatenate(ends), height, width)


def _runs(pixels: np.ndarray, left: int, top: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last plus one positions, column by column, of the runs in a part of an image.

    Args:
        pixels: (h, w) bool, whose upper left pixel is at `left`, `top` of an image of `height`.
    """
    rows, columns = pixels.shape
    # A row of zeros below ends the runs of each column.
    padded = np.zeros((columns, rows + 1), np.int8)
    padded[:, :-1] = pixels.T
    change = np.diff(padded.ravel(), prepend=np.int8(0))
    first, last = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    return (
        (left + first // (rows + 1)) * height + top + first % (rows + 1),
        (left + last // (rows + 1)) * height + top + last % (rows + 1),
    )


def _encode(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> RLE:
    if len(starts):
        # Runs that reach the lower border go on at the upper border of the next column.
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    borders = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=height * width).tolist()
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()
    return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)

"""Masks of instances: pasted into the image, and run-length encoded, in NumPy."""

import math

import numpy as np

MASK_THRESHOLD = 0.5


def paste_masks(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resamples the mask of each box to the pixels of the image, as Detectron2 does.

    A pixel's value is interpolated bilinearly between the cells of the mask, which are 0 beyond its
    border. The weights of rows and columns are independent, so that two matrix products do it.

    Args:
        masks: (N, M, M) float32 in [0, 1].
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        height, width: of the image.

    Returns:
        (N, height, width) bool.
    """
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, (x0, y0, x1, y1), target in zip(masks, boxes, pasted, strict=True):
        rows = slice(max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, height))
        columns = slice(max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, width))
        down = _weights(rows, y0, y1, len(mask))
        across = _weights(columns, x0, x1, len(mask))
        target[rows, columns] = down @ mask @ across.T >= MASK_THRESHOLD
    return pasted


def encode_mask(mask: np.ndarray) -> dict[str, object]:
    """COCO's compressed run-length encoding, without pycocotools, which has to be compiled.

    Args:
        mask: (H, W) bool.

    Returns:
        `size`, [H, W], and `counts`, a string.
    """
    pixels = mask.flatten(order="F")
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], starts, [pixels.size]])).tolist()
    if pixels.size and pixels[0]:
        runs.insert(0, 0)  # the first run is of zeros
    characters = []
    for index, run in enumerate(runs):
        # From the fourth run on, its difference to the run before the last, in groups of five bits.
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr(48 + (bits | 0x20 if more else bits)))
    return {"size": list(mask.shape), "counts": "".join(characters)}


def _weights(pixels: slice, start: np.float32, end: np.float32, cells: int) -> np.ndarray:
    """How much each cell between start and end counts for each pixel, (pixels, cells)."""
    centers = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    position = (centers - start) / (end - start) * np.float32(cells) - np.float32(0.5)
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(1 - distance, 0)

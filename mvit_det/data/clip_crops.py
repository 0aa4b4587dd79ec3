"""The squares of its frames that a classifier sees of a clip, in NumPy and OpenCV."""

import math
from collections.abc import Sequence

import cv2
import numpy as np


def crop_squares(frame: np.ndarray, size: int, short_side: int, crops: int = 1) -> list[np.ndarray]:
    """Resizes a frame bilinearly, and cuts squares from it as an evaluation does.

    Args:
        frame: (H, W, 3) uint8.
        size: side of the squares in pixels.
        short_side: to which the frame is resized, at least `size`, in pixels.
        crops: 1, the centre, or 3 along the longer side.

    Returns:
        (size, size, 3) uint8 each.
    """
    frame = resize_short_side(frame, short_side)
    height, width = frame.shape[:2]
    rooms = height - size, width - size
    middle = [math.ceil(room / 2) for room in rooms]
    corners = [middle]
    if crops == 3:
        along = 0 if height > width else 1
        corners = [list(middle) for _ in range(crops)]
        for corner, start in zip(corners, (0, middle[along], rooms[along]), strict=True):
            corner[along] = start
    return [frame[top : top + size, left : left + size] for top, left in corners]


def resize_short_side(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Resizes a frame bilinearly, with the aspect ratio kept."""
    height, width = scaled_size(frame.shape[0], frame.shape[1], short_side)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width, of which the smaller becomes `short_side`."""
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def stack_views(frames: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Joins the views of T frames, (H, W, 3) each, to clips (views, 3, T, H, W)."""
    # (T, V, H, W, 3) -> (V, 3, T, H, W)
    return np.ascontiguousarray(np.stack(frames).transpose(1, 4, 0, 2, 3))

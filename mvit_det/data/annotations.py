"""Checks of what an annotation says about one object: its box and its mask."""

import math
from collections.abc import Sequence
from typing import Any

_FEWEST_POINTS = 3
# Training compares each object of an image with each anchor, and, as objects are proposals too,
# with each other: the memory for that grows with the number of objects and with its square.
MOST_OBJECTS = 5000
_LONGEST_RUN_CODE = 7  # characters, of 5 bits each


def box_error(box: Any) -> str:
    """What makes a box unusable; '' if nothing does.

    Args:
        box: shall be four finite numbers in pixels: x, y and either width, height or x, y.
    """
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        return "box that is not four numbers"
    return "" if _all_finite(box) else "box with NaN, infinite or no numbers"


def segmentation_error(segmentation: Any, height: int, width: int) -> str:
    """What makes a mask unusable; '' if nothing does.

    Args:
        segmentation: as in COCO: polygons, each a list x0, y0, x1, y1, … in pixels, or run-length
            encoding with `size` and `counts`, plain or compressed. None and [] are no mask.
        height, width: of the image in pixels.
    """
    if segmentation is None:
        return ""
    if isinstance(segmentation, dict):
        return _rle_error(segmentation, height, width)
    if not isinstance(segmentation, list):
        return "mask that is neither polygons nor run-length encoding"
    for polygon in segmentation:
        if not isinstance(polygon, Sequence) and hasattr(polygon, "tolist"):
            polygon = polygon.tolist()
        if not isinstance(polygon, Sequence) or isinstance(polygon, str):
            return "polygon that is not a list of numbers"
        if len(polygon) % 2:
            return "polygon with an odd number of coordinates"
        if len(polygon) < 2 * _FEWEST_POINTS:
            return "polygon with less than three points"
        if not _all_finite(polygon):
            return "polygon with NaN, infinite or no numbers"
    return ""


def _all_finite(numbers: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except (TypeError, OverflowError):
        return False


def _rle_error(encoded: dict[str, Any], height: int, width: int) -> str:
    """Lengths are checked here because libraries would write beyond the mask if they lie."""
    size, counts = encoded.get("size"), encoded.get("counts")
    if list(size if isinstance(size, Sequence) else ()) != [height, width]:
        return "run-length encoding of another size than the image's"
    if isinstance(counts, (str, bytes)):
        lengths = _decompressed(counts.encode("utf-8") if isinstance(counts, str) else counts)
    else:
        lengths = counts if isinstance(counts, list) else []
    try:
        fits = all(length >= 0 for length in lengths) and sum(lengths) == height * width
    except TypeError:
        fits = False
    return "" if fits else "run-length encoding that does not fill the image"


def _decompressed(code: bytes) -> list[int]:
    """Lengths of runs from COCO's compressed form; [] where it is damaged.

    Each number is a chain of characters that carry 5 bits each, the lowest first, and bit 6 where
    another one follows. From the fourth on, numbers are differences to the last but one.
    """
    lengths: list[int] = []
    value = position = 0
    for character in code:
        bits = character - 48
        if not 0 <= bits < 64 or position == _LONGEST_RUN_CODE:
            return []
        value |= (bits & 31) << (5 * position)
        position += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << (5 * position)
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = position = 0
    return [] if position else lengths

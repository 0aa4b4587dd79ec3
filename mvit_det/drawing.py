"""Instances drawn on an image; needs NumPy, OpenCV and Pillow only."""

import colorsys
import contextlib
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MASK_OPACITY = 0.4
PAPER, INK = (255, 255, 255), (40, 40, 40)
LONGEST_CAPTION = 60  # letters
# For letters that Pillow's own font lacks, such as 'ü': that of Linux and matplotlib, then those of
# Linux, Windows and macOS for other scripts.
FALLBACK_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc",
    "segoeui.ttf", "msyh.ttc", "malgun.ttf", "Arial Unicode.ttf", "PingFang.ttc",
)  # fmt: skip


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray] | None,
    labels: Sequence[int],
    scores: Sequence[float] | None,
    class_names: Sequence[str],
    track_ids: Sequence[int] | None = None,
) -> np.ndarray:
    """Draws boxes, masks, class names and scores on a copy of an image.

    A class has the same colour in every image. Large instances are drawn first, so that small
    ones stay visible.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) x0, y0, x1, y1 in pixels.
        masks: (N, H, W) bool, or a sequence of (H, W) that makes one at a time; None to draw boxes
            only.
        labels: N class indexes into ``class_names``.
        scores: N scores in [0, 1], or None as for ground truth.
        class_names: one name per class.
        track_ids: N ids, which then choose the colours and are shown; -1 for instances without.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, or the numbers of instances differ.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; it must be uint8 (H, W, 3)")
    captions = [class_names[label] for label in labels]
    if scores is not None:
        captions = [f"{text} {score:.2f}" for text, score in zip(captions, scores, strict=True)]
    if track_ids is not None:
        for index, number in enumerate(track_ids):
            if number >= 0:
                captions[index] = f"#{number} {captions[index]}"
        labels = [number if number >= 0 else label for number, label in zip(track_ids, labels)]
    return draw_captioned(image, boxes, masks, labels, captions)


def draw_captioned(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray] | None,
    labels: Sequence[int],
    captions: Sequence[str],
) -> np.ndarray:
    """:func:`draw_instances` with a finished caption for each instance."""
    counts = {len(boxes), len(labels), len(captions), len(boxes if masks is None else masks)}
    if len(counts) != 1:
        raise ValueError(f"numbers of boxes, masks, labels and captions differ: {sorted(counts)}")
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    image = image.copy()
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    thickness = max(1, round(max(image.shape[:2]) / 600))
    for index in order:
        colour = class_colour(labels[index])
        if masks is not None:
            mask = np.asarray(masks[index], dtype=bool)
            _blend(image, mask, colour)
            contours, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(image, contours, -1, colour, 2 * thickness, cv2.LINE_AA)
        x0, y0, x1, y1 = np.rint(boxes[index]).astype(int).tolist()
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, thickness, cv2.LINE_AA)

    canvas = Image.fromarray(image)
    for index in order:
        _draw_caption(canvas, captions[index], boxes[index], class_colour(labels[index]))
    return np.asarray(canvas)


def draw_labels(image: np.ndarray, captions: Mapping[int, str]) -> np.ndarray:
    """Writes captions below one another into the top left corner of a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        captions: text by class index, which chooses the colour.
    """
    canvas = Image.fromarray(image)
    top = 0.0
    for label, text in captions.items():
        place = np.array([0.0, top, 0.0, top])
        top += _draw_caption(canvas, text, place, class_colour(label), is_inside=True)
    return np.asarray(canvas)


def draw_stuff(
    image: np.ndarray, masks: Mapping[str, np.ndarray], labels: Sequence[int]
) -> np.ndarray:
    """Tints kinds of stuff on a copy of an image, and names each where it is widest.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool of each kind, by name.
        labels: a number for each kind, which chooses its colour.
    """
    image = image.copy()
    for mask, label in zip(masks.values(), labels, strict=True):
        _blend(image, mask, class_colour(label))
    canvas = Image.fromarray(image)
    for (name, mask), label in zip(masks.items(), labels):
        inside = np.pad(mask.astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(distance.argmax(), distance.shape)
        place = np.array([column, row, column, row], dtype=np.float64)
        _draw_caption(canvas, name, place, class_colour(label))
    return np.asarray(canvas)


def _blend(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Tints the pixels of a mask, in place and without a copy of them as floating point."""
    values = np.arange(256)
    for channel, value in enumerate(colour):
        tinted = ((1 - MASK_OPACITY) * values + MASK_OPACITY * value).astype(np.uint8)
        plane = image[..., channel]
        plane[mask] = tinted[plane[mask]]


def _draw_caption(
    canvas: Image.Image,
    text: str,
    box: np.ndarray,
    colour: tuple[int, int, int],
    is_inside: bool = False,
) -> float:
    """Writes ``text`` on a tag above the box, or inside it where the image ends.

    Returns:
        The height of the tag.
    """
    pen = ImageDraw.Draw(canvas)
    text = _on_one_line(text)
    font = font_for(text, 9 + max(canvas.size) / 120)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(box[0], 0), max(canvas.width - width, 0))
    y = max(box[1], 0) if is_inside or box[1] < height else box[1] - height
    pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=3, fill=colour)
    luminance = np.dot(colour, (0.299, 0.587, 0.114))
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=INK if luminance > 110 else PAPER)
    return height


def font_for(text: str, size: float) -> Font:
    """The font that has most letters of a caption: Pillow's own, or one of `FALLBACK_FONTS`."""
    return _font(frozenset(each for each in text if not each.isascii()), size)


@functools.lru_cache(maxsize=256)
def _font(letters: frozenset[str], size: float) -> Font:
    fonts: list[Font] = [ImageFont.load_default(size)]
    if letters:
        fonts += [font for name in FALLBACK_FONTS if (font := _load_font(name, size))]
    return min(fonts, key=lambda font: _count_missing(font, letters))


def _load_font(name: str, size: float) -> Font | None:
    matplotlib = importlib.util.find_spec("matplotlib")
    folder = Path((matplotlib and matplotlib.origin) or "").parent / "mpl-data" / "fonts" / "ttf"
    for path in (name, str(folder / name)):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(path, size)
    return None


def _count_missing(font: Font, letters: frozenset[str]) -> int:
    """The number of letters that a font draws as it draws one that no font has."""
    unknown = bytes(font.getmask("\U0010fffd"))
    return sum(bytes(font.getmask(each)) == unknown for each in letters)


def _on_one_line(text: str) -> str:
    """A caption without line breaks, and not longer than `LONGEST_CAPTION`."""
    text = " ".join(text.encode(errors="replace").decode().split())
    if len(text) <= LONGEST_CAPTION:
        return text
    # The end holds the score.
    return f"{text[: LONGEST_CAPTION - 16]}…{text[-15:]}"


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB in [0, 255] of a class: hues by the golden ratio, so that neighbours differ."""
    hue = (label * 0.618034) % 1.0
    value = 1.0 if label % 2 == 0 else 0.85
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)

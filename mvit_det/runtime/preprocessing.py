"""From an image or a video to the canvas or the clips that an exported model takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.clip_crops import crop_squares
from ..data.clip_cutting import Clip, cut_clips
from ..data.clip_sampling import DenseSampling, Sampling, SegmentSampling
from ..data.images import read_image
from ..errors import ImageError
from .metadata import Metadata

# An image: the path of its file, or (H, W, 3) uint8 RGB.
Source = str | Path | np.ndarray


def load_image(source: Source) -> np.ndarray:
    """Returns an image as (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file cannot be read, or the array has another shape or type.
    """
    if isinstance(source, (str, Path)):
        return read_image(source)
    check_array(source)
    return source


def check_array(image: Any) -> None:
    """Accepts arrays (H, W, 3) of uint8.

    Raises:
        ImageError: it is something else.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"a {type(image).__name__} is no image; pass a path, a NumPy array (height, width, 3) "
            "of uint8, or a list of these"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"the array of an image must have the shape (height, width, 3), in RGB order, not "
            f"{image.shape}"
        )
    if image.size == 0:
        raise ImageError(f"the image is empty: its shape is {image.shape}")
    if image.dtype != np.uint8:
        raise ImageError(
            f"the array of an image must be uint8 with values from 0 to 255, not {image.dtype}; "
            "convert values from 0 to 1 with (255 * image).round().astype('uint8')"
        )


def prepare_inputs(image: np.ndarray, metadata: Metadata) -> list[np.ndarray]:
    """The inputs of an exported model for one image, (H, W, 3) uint8 RGB."""
    return list(letterbox(image, metadata)) if metadata.resize == "fit" else [crop(image, metadata)]


def fitted_size(height: int, width: int, metadata: Metadata) -> tuple[int, int]:
    """Height and width to which an image is resized.

    Where the canvas is large enough these are the numbers of Detectron2's `ResizeShortestEdge`;
    elsewhere the largest ones, of the same shape, that it holds.
    """
    new_height, new_width = float(height), float(width)
    if metadata.short_edge:
        scale = metadata.short_edge / min(height, width)
        new_height, new_width = scale * height, scale * width
        longer = max(new_height, new_width)
        if metadata.max_size and longer > metadata.max_size:
            new_height *= metadata.max_size / longer
            new_width *= metadata.max_size / longer
    canvas_height, canvas_width = metadata.size
    shrink = min(canvas_height / new_height, canvas_width / new_width, 1.0)
    rounded = int(new_height * shrink + 0.5), int(new_width * shrink + 0.5)
    return max(rounded[0], 1), max(rounded[1], 1)


def letterbox(image: np.ndarray, metadata: Metadata) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image and puts it into the upper left corner of the model's canvas.

    Args:
        image: (H, W, 3) uint8 RGB.
        metadata: of the model.

    Returns:
        The canvas, (1, 3, height, width) uint8 in the model's channel order, and the height and
        width of the image on it, (2,) int64.
    """
    height, width = fitted_size(image.shape[0], image.shape[1], metadata)
    resized: Any = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    if metadata.channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    canvas = np.zeros((1, 3, *metadata.size), np.uint8)
    canvas[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    return canvas, np.array([height, width], np.int64)


def crop(image: np.ndarray, metadata: Metadata) -> np.ndarray:
    """Resizes and crops an image as an evaluation of classifiers does.

    Args:
        image: (H, W, 3) uint8 RGB.
        metadata: of a model whose images are resized by "crop" or "stretch".

    Returns:
        (1, 3, height, width) uint8 RGB.
    """
    height, width = metadata.size
    resized: Any = Image.fromarray(image)
    if metadata.resize == "stretch":
        resized = resized.resize((width, height), Image.Resampling.BICUBIC)
    else:
        short_edge, shorter = metadata.short_edge, min(resized.size)
        sides = (int(short_edge * side / shorter) for side in resized.size)
        resized = resized.resize(tuple(sides), Image.Resampling.BICUBIC)
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        resized = resized.crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1)[None])


def read_clips(video: str | Path, metadata: Metadata) -> Iterator[Clip]:
    """Yields the clips of a video as `cut_clips` does, for a model with these metadata."""
    sampling: Sampling = SegmentSampling(metadata.num_frames)
    if metadata.frame_step:
        sampling = DenseSampling(metadata.num_frames, metadata.frame_step, metadata.frame_rate)

    def squares(frame: np.ndarray) -> list[np.ndarray]:
        return crop_squares(frame, metadata.size[0], metadata.short_edge, metadata.crops)

    return cut_clips(video, sampling, squares)

"""Cutting a video into clips, one after the other and in constant memory."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ImageError
from .clip_crops import stack_views
from .clip_sampling import DenseSampling, Sampling
from .images import IMAGE_EXTENSIONS
from .videos import VideoReader, count_frames

logger = logging.getLogger(__name__)

# Images are videos of one frame to OpenCV; only a GIF may be an animation.
STILL_EXTENSIONS = tuple(name for name in IMAGE_EXTENSIONS if name != ".gif")


@dataclass(frozen=True)
class Clip:
    """A clip of a video.

    Attributes:
        start, end: in seconds.
        views: what a model takes, (views, 3, T, H, W) uint8 RGB.
    """

    start: float
    end: float
    views: np.ndarray


def cut_clips(
    video: str | Path, sampling: Sampling, crop: Callable[[np.ndarray], list[np.ndarray]]
) -> Iterator[Clip]:
    """Yields clip after clip of a video; of segments the whole video as one clip.

    A rest shorter than half a clip counts to the clip before it. A truncated video gives the clips
    before its end, with a warning.

    Args:
        video: path of the file.
        sampling: chooses the frames of a clip.
        crop: makes the views of a frame, (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the video is missing, is an image, or no frame of it can be read.
    """
    if Path(video).suffix.lower() in STILL_EXTENSIONS:
        raise ImageError(f"'{video}' is an image, and the model takes videos; name a video")
    with VideoReader(video) as reader:
        if isinstance(sampling, DenseSampling):
            span = sampling.span(reader.rate)
        else:
            span = reader.num_frames or count_frames(video)
        last: Clip | None = None
        for number in itertools.count():
            start, stop = round(number * span), round((number + 1) * span)
            (chosen,) = sampling.uniform(stop - start, reader.rate, 1)
            distinct, inverse = np.unique(chosen + start, return_inverse=True)
            crops = [crop(frame) for frame in reader.frames_at(distinct.tolist())]
            if len(crops) < len(distinct):
                break
            if last:
                yield last
            views = stack_views([crops[index] for index in inverse.ravel().tolist()])
            last = Clip(start / reader.rate, stop / reader.rate, views)
        problem, end = reader.problem(), reader.position / reader.rate
        if crops and (last is None or reader.position - start >= span / 2):
            if last:
                yield last
            # The last frame is repeated.
            frames = [crops[min(index, len(crops) - 1)] for index in inverse.ravel().tolist()]
            last = Clip(start / reader.rate, end, stack_views(frames))
    if last is None:
        raise ImageError(problem)
    if problem:
        logger.warning("%s", problem)
    yield replace(last, end=end)

"""Video files as frames, decoded in order by OpenCV."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ..errors import ImageError
from .images import read_image

# File extensions that are taken for videos where folders are searched.
VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

# Frames per second, for videos without a frame rate.
DEFAULT_RATE = 25.0

# Share of the frames that may be missing: containers round or estimate their number. Clips for
# training may lack more, because their last frame is repeated.
_TOLERANCE, _CLIP_TOLERANCE = 0.02, 0.1

Result = TypeVar("Result")


class VideoReader:
    """Iterates over the frames of a video that can be decoded.

    Attributes:
        rate: frames per second.
        num_frames: according to the file; None if unknown.
        position: number of frames that were read.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Opens a video.

        Args:
            path: of the video.
            threads: that decode it; 0 is one per core, which is faster for large frames alone.

        Raises:
            ImageError: the file is missing, or OpenCV cannot read it as a video.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"there is no video '{path}'; check the path")
        check_video_path(path)
        self._capture = _open(path, threads)
        if not self._capture.isOpened():
            raise ImageError(
                f"OpenCV cannot read the video '{path}': it is truncated, corrupt or in an unknown "
                "format; play it to check, then download it again or convert it to MP4"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate: float = rate if math.isfinite(rate) and rate > 0 else DEFAULT_RATE
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(frames) if math.isfinite(frames) and frames > 0 else None
        self.position = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields upright frames, (H, W, 3) uint8 RGB."""
        while True:
            success, frame = self._capture.read()
            if not success:
                return
            self.position += 1
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def frames_at(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yields chosen frames; frames between them are decoded, but not converted.

        Args:
            indices: ascending, from `position` on. The iteration ends at the first that is behind
                the end of the video.
        """
        for index in indices:
            while self.position <= index:
                if not self._capture.grab():
                    return
                self.position += 1
            success, frame = self._capture.retrieve()
            if not success:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def problem(self, tolerance: float = _TOLERANCE) -> str:
        """Describes in a sentence what was wrong, once all frames are read; '' if nothing was.

        Args:
            tolerance: share of the frames that may be missing.
        """
        if self.position == 0:
            return f"the video '{self.path}' has no readable frame; download or record it again"
        expected = self.num_frames or 0
        if self.position < min(expected - 1, expected * (1 - tolerance)):
            return (
                f"the video '{self.path}' ends after {self.position} of {expected} frames; it is "
                "truncated or corrupt"
            )
        return ""

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


def read_frames(
    path: str | Path,
    choose: Callable[[int, float], np.ndarray],
    process: Callable[[np.ndarray], Result],
) -> list[Result]:
    """Reads chosen frames of a video in one pass, and keeps only what becomes of them.

    The number of frames in a video's header can be too large: the last frame then stands for
    those that are missing. A header without a number costs a second pass.

    Args:
        path: of the video.
        choose: maps the number of frames and the frames per second to indexes in any order.
        process: is called once per chosen frame, (H, W, 3) uint8 RGB, in the order of time. All
            frames have the size of the first.

    Returns:
        For each index what `process` made of its frame.

    Raises:
        ImageError: the file is missing or no video, or more than a tenth of its frames are missing.
    """
    # DataLoader workers keep all cores busy; more threads cost a third more CPU time.
    with VideoReader(path, threads=1) as reader:
        length = reader.num_frames or count_frames(path)
        indices = choose(length, reader.rate)
        distinct, inverse = np.unique(indices, return_inverse=True)
        results: list[Result] = []
        size: tuple[int, int] | None = None
        for frame in reader.frames_at(distinct.tolist()):
            size = size or (frame.shape[1], frame.shape[0])
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size)
            results.append(process(frame))
        if len(results) < len(distinct):
            if not results:
                # The video ends before the first chosen frame.
                return _read_last(path, process, len(indices), reader)
            if problem := reader.problem(_CLIP_TOLERANCE):
                raise ImageError(problem)
    last = len(results) - 1
    return [results[min(number, last)] for number in inverse.ravel().tolist()]


def read_preview(path: str | Path) -> np.ndarray:
    """An image, or a frame from the middle of a video, (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file cannot be read.
    """
    if Path(path).suffix.lower() not in VIDEO_EXTENSIONS:
        return read_image(path)
    (frame,) = read_frames(path, lambda length, rate: np.array([length // 2]), lambda frame: frame)
    return frame


def _read_last(
    path: str | Path, process: Callable[[np.ndarray], Result], count: int, reader: VideoReader
) -> list[Result]:
    """The last frame of a video, `count` times."""
    if problem := reader.problem(_CLIP_TOLERANCE):
        raise ImageError(problem)
    with VideoReader(path) as again:
        (frame,) = collections.deque(again, maxlen=1)
    return [process(frame)] * count


def count_frames(path: str | Path) -> int:
    """Number of frames, by decoding all of them.

    Raises:
        ImageError: there are none.
    """
    capture = _open(path)
    count = next(number for number in itertools.count() if not capture.grab())
    capture.release()
    if not count:
        raise ImageError(f"the video '{path}' has no readable frame; download or record it again")
    return count


def check_video_path(path: str | Path) -> None:
    """Refuses a path that is not UTF-8, at which OpenCV crashes.

    Raises:
        ImageError: names the path.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            f"the path of the video {str(path)!r} is not UTF-8, which OpenCV cannot open; rename it"
        ) from error


def _open(path: str | Path, threads: int = 0) -> cv2.VideoCapture:
    # OpenCV's limit of 30 s also ends the videos of a process that was suspended meanwhile.
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 0, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 0]
    return cv2.VideoCapture(str(path), cv2.CAP_ANY, [*options, cv2.CAP_PROP_N_THREADS, threads])

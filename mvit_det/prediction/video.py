"""Reading and writing videos frame by frame, in constant memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..errors import ImageError

# MPEG-4, which OpenCV's wheels write on every platform and players read.
CODEC = "mp4v"

# Frames per second, for videos without a frame rate.
DEFAULT_RATE = 25.0

# Containers round or estimate their number of frames.
_TOLERANCE = 0.02


class VideoReader:
    """Iterates over the frames of a video that can be decoded.

    Attributes:
        rate: frames per second.
        num_frames: according to the file; None if unknown.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a video.

        Raises:
            ImageError: the file is missing, or OpenCV cannot read it as a video.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"there is no video '{path}'; check the path")
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ImageError(
                f"OpenCV cannot read the video '{path}': it is truncated, corrupt or in an unknown "
                "format; play it to check, then download it again or convert it to MP4"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate: float = rate if math.isfinite(rate) and rate > 0 else DEFAULT_RATE
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(frames) if math.isfinite(frames) and frames > 0 else None
        self._read = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields upright frames, (H, W, 3) uint8 RGB."""
        while True:
            success, frame = self._capture.read()
            if not success:
                return
            self._read += 1
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def problem(self) -> str:
        """Describes in a sentence what was wrong, once all frames are read; '' if nothing was."""
        if self._read == 0:
            return f"the video '{self.path}' has no readable frame; download or record it again"
        expected = self.num_frames or 0
        if self._read < min(expected - 1, expected * (1 - _TOLERANCE)):
            return (
                f"the video '{self.path}' ends after {self._read} of {expected} frames; it is "
                "truncated or corrupt"
            )
        return ""

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames to an MP4 file, and checks it when it is closed.

    The codec needs even sizes: an odd last row or column is cropped.
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        """Prepares the writer; the file and its folder are created with the first frame.

        Args:
            path: with the extension `.mp4`; an existing file is replaced.
            rate: frames per second.
        """
        self.path = Path(path)
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, (H, W, 3) uint8 RGB, of the same size as the first.

        Raises:
            ImageError: the file cannot be written.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            codec = cv2.VideoWriter.fourcc(*CODEC)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            except OSError as error:
                reason = error.strerror or error
                raise ImageError(f"cannot write '{self.path}' ({reason})") from error
            if not self._writer.isOpened():
                raise ImageError(
                    f"cannot write the video '{self.path}'; choose a writable folder, or install "
                    f"opencv-python-headless if your OpenCV lacks the codec {CODEC}"
                )
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self._written += 1

    def close(self) -> None:
        """Finishes the file.

        Raises:
            ImageError: frames are missing in it, for example because the disk is full.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with VideoReader(self.path) as reader:
            if reader.num_frames != self._written:
                raise ImageError(
                    f"'{self.path}' has {reader.num_frames or 0} of the {self._written} frames "
                    "written; is the disk full?"
                )

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            # The frames so far stay playable.
            self._writer.release()

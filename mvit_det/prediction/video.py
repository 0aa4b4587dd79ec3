"""Videos, frame by frame, in constant memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..errors import ImageError

# What OpenCV's wheels can write everywhere, and players read: MPEG-4.
CODEC = "mp4v"

# For videos that do not say how many frames they show in a second.
DEFAULT_RATE = 25.0

# Containers round, and some only estimate, how many frames they hold.
_TOLERANCE = 0.02


class VideoReader:
    """The frames of a video, from the first to the last that can be decoded.

    Attributes:
        rate: frames per second.
        num_frames: as the file says; None where it does not.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a video.

        Raises:
            ImageError: there is no such file, or it is no video that OpenCV can read.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"there is no video '{path}'; check its name")
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ImageError(
                f"'{path}' is no video that OpenCV can read, or is cut short or damaged; play it "
                "to see which, and get it anew or convert it to MP4"
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
        """What was wrong with the frames, once all are read: a sentence, or '' if nothing was."""
        if self._read == 0:
            return f"the video '{self.path}' holds no frame that can be read; get it anew"
        expected = self.num_frames or 0
        if self._read < min(expected - 1, expected * (1 - _TOLERANCE)):
            return (
                f"the video '{self.path}' breaks off after {self._read} of {expected} frames; it "
                "is cut short or damaged"
            )
        return ""

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames to an MP4 file, which `close` checks.

    Of frames with an odd height or width the last row or column is left out, which the codec wants.
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        """Prepares a file, which is made, with its folder, when the first frame is written.

        Args:
            path: ends in `.mp4`; an existing file is replaced.
            rate: frames per second.
        """
        self.path = Path(path)
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, (H, W, 3) uint8 RGB, of the size of the first.

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
                    f"cannot write the video '{self.path}'; name a place that can be written, or "
                    f"install opencv-python-headless, if your OpenCV lacks the codec {CODEC}"
                )
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self._written += 1

    def close(self) -> None:
        """Ends the file.

        Raises:
            ImageError: it does not hold all frames, as on a full disk.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with VideoReader(self.path) as reader:
            if reader.num_frames != self._written:
                raise ImageError(
                    f"of {self._written} frames '{self.path}' holds {reader.num_frames or 0}; is "
                    "the disk full?"
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
            # Frames up to here can be watched.
            self._writer.release()

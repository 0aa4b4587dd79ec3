"""Writing videos frame by frame, in constant memory."""

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..errors import ImageError
from .videos import VideoReader, check_video_path

# MPEG-4, which OpenCV's wheels write on every platform and players read.
CODEC = "mp4v"


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
            check_video_path(self.path)
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

"""Writing videos frame by frame, in constant memory."""

import errno
import os
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
        self._unfinished = self.path.with_name(f".{self.path.stem[:50]}.{os.getpid()}.tmp.mp4")
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
                if self.path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = cv2.VideoWriter(
                    str(self._unfinished), codec, self.rate, (width, height)
                )
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
            ImageError: frames are missing in it, for example because the disk is full; an older
                file stays as it is.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            found = _count_frames(self._unfinished)
            if found != self._written:
                raise ImageError(
                    f"'{self.path}' has {found} of the {self._written} frames written; is the "
                    "disk full?"
                )
            os.replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)

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
            if self._unfinished.is_file():
                os.replace(self._unfinished, self.path)


def _count_frames(path: Path) -> int:
    try:
        with VideoReader(path) as reader:
            return reader.num_frames or 0
    except ImageError:
        return 0

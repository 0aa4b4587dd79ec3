"""Writing videos frame by frame, in constant memory."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..errors import ImageError
from .folders import new_file
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
            path: with the extension `.mp4`; an existing file is replaced at the end.
            rate: frames per second.

        Raises:
            ImageError: the path has another extension, or OpenCV cannot open it.
        """
        if os.path.splitext(path)[1].lower() != ".mp4":
            raise ImageError(f"cannot write a video to '{path}'; name an .mp4 file")
        check_video_path(path)
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._file = ExitStack()  # holds `new_file` from the first frame to the last
        self._unfinished = Path()
        self._written = 0

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, (H, W, 3) uint8 RGB, of the same size as the first.

        Raises:
            ImageError: the file cannot be written.
        """
        if self._writer is None:
            self._writer = self._open(*frame.shape[:2])
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
        with self._explain_write_errors(), self._file:
            found = self._finish()
            if found != self._written:
                raise ImageError(
                    f"'{self.path}' has {found} of the {self._written} frames written; is the "
                    "disk full?"
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
        elif self._finish():
            # The frames so far stay playable.
            self._file.close()
        else:
            self._file.__exit__(kind, error, traceback)

    def _open(self, height: int, width: int) -> cv2.VideoWriter:
        with self._explain_write_errors(), ExitStack() as file:
            self._unfinished = file.enter_context(new_file(self.path))
            codec = cv2.VideoWriter.fourcc(*CODEC)
            writer = cv2.VideoWriter(str(self._unfinished), codec, self.rate, (width, height))
            if not writer.isOpened():
                raise ImageError(
                    f"cannot write the video '{self.path}'; choose a writable folder, or install "
                    f"opencv-python-headless if your OpenCV lacks the codec {CODEC}"
                )
            self._file = file.pop_all()
        return writer

    def _finish(self) -> int:
        """Ends the unfinished file, and returns the number of frames in it."""
        if self._writer is None:
            return 0
        self._writer.release()
        self._writer = None
        try:
            with VideoReader(self._unfinished) as reader:
                return reader.num_frames or 0
        except ImageError:
            return 0

    @contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"cannot write '{self.path}' ({reason})") from error

"""Which frames of a video make a clip: at a fixed rate, or one from each of equal segments."""

import math
import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DenseSampling:
    """Frames at a fixed distance in time, as for Kinetics.

    A clip spans num_frames · step frames of a video with 30 frames per second, and as much time of
    other videos. In videos that are shorter, their last frame is repeated.

    Attributes:
        num_frames: frames of a clip.
        step: distance of the frames.
        rate: frames per second that `step` counts in.
    """

    num_frames: int = 16
    step: float = 4
    rate: float = 30.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.num_frames < 1 or self.step <= 0 or self.rate <= 0:
            raise ValueError(
                "num_frames, step and rate must be positive, not "
                f"{self.num_frames}, {self.step} and {self.rate}"
            )

    def span(self, rate: float) -> float:
        """Length of a clip in frames of a video with `rate` frames per second."""
        return max(1.0, self.num_frames * self.step * rate / self.rate)

    def at_random(self, length: int, rate: float) -> np.ndarray:
        """Draws a clip from Python's global generator; arguments as for `uniform`.

        Returns:
            (num_frames,) int64, indexes of frames.
        """
        span = self.span(rate)
        return self._frames(random.uniform(0, max(length - span, 0)), span, length)

    def uniform(self, length: int, rate: float, clips: int) -> np.ndarray:
        """Spreads clips evenly over a video; a single one is taken from its middle.

        Args:
            length: number of frames of the video.
            rate: its frames per second.
            clips: number of clips.

        Returns:
            (clips, num_frames) int64, indexes of frames.
        """
        span = self.span(rate)
        room = max(length - span, 0)
        if clips == 1:
            starts = [math.floor(room / 2)]
        else:
            starts = [number * math.floor(room / (clips - 1)) for number in range(clips)]
        return np.stack([self._frames(start, span, length) for start in starts])

    def _frames(self, start: float, span: float, length: int) -> np.ndarray:
        positions = np.linspace(start, start + span - 1, self.num_frames)
        return np.clip(positions, 0, length - 1).astype(np.int64)


@dataclass(frozen=True)
class SegmentSampling:
    """One frame from each of `num_frames` equal segments of a video, as for Something-Something.

    Attributes:
        num_frames: frames of a clip.
    """

    num_frames: int = 16

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be positive, not {self.num_frames}")

    def at_random(self, length: int, rate: float) -> np.ndarray:
        """Draws a frame of each segment from Python's global generator.

        Arguments and result are those of `DenseSampling.at_random`.
        """
        edges = self._edges(length)
        return np.array([random.randint(low, high) for low, high in zip(edges, edges[1:])])

    def uniform(self, length: int, rate: float, clips: int) -> np.ndarray:
        """The middle of each segment; further clips are spread evenly over the segments.

        Arguments and result are those of `DenseSampling.uniform`.
        """
        edges = np.array(self._edges(length))
        shares = (np.arange(clips) + 0.5)[:, None] / clips
        return np.floor(edges[:-1] + shares * np.diff(edges)).astype(np.int64)

    def _edges(self, length: int) -> list[int]:
        """First and last frames of the segments; neighbours share one."""
        size = (length - 1) / self.num_frames
        return [round(size * number) for number in range(self.num_frames + 1)]


# Either of them.
Sampling = DenseSampling | SegmentSampling

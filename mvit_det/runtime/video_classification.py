"""Video classification over time and in constant memory, and classifiers in exported files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.clip_cutting import Clip
from ..data.video_writer import VideoWriter
from ..data.videos import VideoReader
from ..drawing import draw_labels
from .checks import check_count, check_task
from .classification import ClassScore, rank_classes
from .preprocessing import read_clips
from .sessions import OnnxSession, OpenVinoSession, Session


@dataclass(frozen=True)
class ClipScores:
    """The classes of one clip of a video.

    Attributes:
        start, end: of the clip in seconds.
        classes: the most probable ones, the best first.
    """

    start: float
    end: float
    classes: list[ClassScore]


class BaseVideoClassifier(ABC):
    """The interface of all video classifiers.

    A video is cut into clips as long as those of the training, one after the other. Models that
    take frames from segments of a whole video (Something-Something) see it as one clip.

    Attributes:
        batch_size: number of clips that are classified at once.
    """

    batch_size: int

    @abstractmethod
    def clips(self, video: str | Path) -> Iterator[Clip]:
        """Yields what the model takes of a video, see `cut_clips`."""

    @abstractmethod
    def classify(self, clips: Sequence[np.ndarray]) -> list[list[ClassScore]]:
        """Finds the most probable classes of clips, (views, 3, T, S, S) uint8 RGB each."""

    def __call__(self, video: str | Path) -> list[ClipScores]:
        """Finds the most probable classes of each clip; memory does not grow with the length.

        A rest shorter than half a clip counts to the clip before it. A truncated video gives the
        clips before its end, with a warning.

        Raises:
            ImageError: the video is missing, or no frame of it can be read.
        """
        results: list[ClipScores] = []
        clips = self.clips(video)
        while batch := list(islice(clips, self.batch_size)):
            classes = self.classify([clip.views for clip in batch])
            results += [
                ClipScores(clip.start, clip.end, best)
                for clip, best in zip(batch, classes, strict=True)
            ]
        return results

    def draw(
        self, video: str | Path, results: list[ClipScores], output: str | Path, labels: int = 1
    ) -> None:
        """Writes a copy of a video with the names and scores of the classes of each clip.

        Args:
            video: as for a call, which gave `results`.
            results: at least one.
            output: an `.mp4` file; an existing one is replaced.
            labels: number of classes to show.

        Raises:
            ImageError: the video cannot be read, or the output cannot be written.
        """
        remaining = iter(results)
        current = next(remaining)
        with VideoReader(video) as reader, VideoWriter(output, reader.rate) as writer:
            for number, frame in enumerate(reader):
                if number >= round(current.end * reader.rate):
                    current = next(remaining, current)
                captions = {
                    each.class_id: f"{each.name} {each.score:.2f}"
                    for each in current.classes[:labels]
                }
                writer.write(draw_labels(frame, captions))


class RuntimeVideoClassifier(BaseVideoClassifier):
    """A video classifier in an exported file, called as `mvit_det.VideoClassifier` is.

    Attributes:
        class_names: one for each class.
        session: the loaded file.
    """

    def __init__(self, session: Session, top: int = 5, batch_size: int = 1) -> None:
        """Takes a loaded file.

        Args:
            session: of a video classifier.
            top: number of classes to return for each clip.
            batch_size: number of clips that are read, and of views that go through the model, at
                once.

        Raises:
            ConfigError: `top` or `batch_size` is below 1.
            ExportError: the file is no video classifier.
        """
        check_count("top", top)
        check_count("batch_size", batch_size)
        check_task(session.metadata, "video_classification")
        self.session = session
        self.top = top
        self.batch_size = batch_size
        self.class_names = session.metadata.class_names

    def clips(self, video: str | Path) -> Iterator[Clip]:
        """Yields the clips of a video, see `cut_clips`."""
        return read_clips(video, self.session.metadata)

    def classify(self, clips: Sequence[np.ndarray]) -> list[list[ClassScore]]:
        """Finds the most probable classes of clips, (views, 3, T, S, S) uint8 RGB each."""
        ends = np.cumsum([len(views) for views in clips])[:-1]
        scores = np.split(self._score(np.concatenate(clips)), ends)
        return [rank_classes(each.mean(axis=0), self.class_names, self.top) for each in scores]

    def scores(self, views: np.ndarray) -> np.ndarray:
        """Mean probabilities of all classes over the views of a clip or a video.

        Args:
            views: (views, 3, T, S, S) uint8 RGB.

        Returns:
            (classes,) float32.
        """
        mean: np.ndarray = self._score(views).mean(axis=0)
        return mean

    def _score(self, views: np.ndarray) -> np.ndarray:
        """Probabilities of all classes for each view, (views, classes)."""
        starts = range(0, len(views), self.batch_size)
        batches = [views[start : start + self.batch_size] for start in starts]
        return np.concatenate([self.session.run(batch)["scores"] for batch in batches])


class OnnxVideoClassifier(RuntimeVideoClassifier):
    """A video classifier in ONNX Runtime.

    classifier = OnnxVideoClassifier("clips.onnx", top=3)
    for clip in classifier("clip.mp4"):
        print(f"{clip.start:.1f} to {clip.end:.1f} s: {clip.classes[0].name}")
    """

    def __init__(
        self, path: str | Path, *, top: int = 5, batch_size: int = 1, **options: Any
    ) -> None:
        """Loads a file.

        Args:
            path: of the file.
            top, batch_size: as for `RuntimeVideoClassifier`.
            options: of `OnnxSession`.

        Raises:
            ConfigError, ExportError: as `RuntimeVideoClassifier` and `OnnxSession`.
        """
        super().__init__(OnnxSession(path, **options), top, batch_size)


class OpenVinoVideoClassifier(RuntimeVideoClassifier):
    """A video classifier in OpenVINO, from its own format (.xml) or from ONNX."""

    def __init__(
        self, path: str | Path, *, top: int = 5, batch_size: int = 1, **options: Any
    ) -> None:
        """Loads a file.

        Args:
            path: of the file.
            top, batch_size: as for `RuntimeVideoClassifier`.
            options: of `OpenVinoSession`, such as `precision` and `threads`.

        Raises:
            ConfigError, ExportError: as `RuntimeVideoClassifier` and `OpenVinoSession`.
        """
        # The last of several batches may be smaller.
        options = {"batch": 1 if batch_size == 1 else 0, **options}
        super().__init__(OpenVinoSession(path, **options), top, batch_size)

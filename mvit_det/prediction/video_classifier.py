"""Video classification with a trained model, over time and in constant memory."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_weight

from ..data.clip_mapper import ClipMapper, to_clips
from ..data.clip_sampling import DenseSampling
from ..data.videos import VideoReader, count_frames
from ..drawing import draw_labels
from ..errors import ImageError
from .classifier import ClassScore, TrainedClassifier
from .video import VideoWriter

logger = logging.getLogger(__name__)

KINETICS_CLASSES = 400


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


class VideoClassifier(TrainedClassifier):
    """A video classifier; arguments are those of `TrainedClassifier`.

    classifier = VideoClassifier("video_mvitv2_s_k400")
    for clip in classifier("clip.mp4"):
        print(f"{clip.start:.1f} to {clip.end:.1f} s: {clip.classes[0].name}")

    A video is cut into clips as long as those of the training, one after the other. Models that
    take frames from segments of a whole video (Something-Something) see it as one clip.
    """

    kind = "a video classifier"
    mapper_class = ClipMapper
    configs = "configs/Kinetics/"

    def __call__(self, video: str | Path) -> list[ClipScores]:
        """Finds the most probable classes of each clip; memory does not grow with the length.

        A rest shorter than half a clip counts to the clip before it. A truncated video gives the
        clips before its end, with a warning.

        Raises:
            ImageError: the video is missing, or no frame of it can be read.
        """
        results: list[ClipScores] = []
        with VideoReader(video) as reader:
            batch: list[tuple[int, int, Tensor]] = []
            for clip in self._clips(reader):
                batch.append(clip)
                if len(batch) == self.batch_size:
                    results += self._classify(batch, reader.rate)
                    batch = []
            results += self._classify(batch, reader.rate)
            problem = reader.problem()
            end = reader.position / reader.rate
        if not results:
            raise ImageError(problem)
        if problem:
            logger.warning("%s", problem)
        last = results[-1]
        return [*results[:-1], ClipScores(last.start, end, last.classes)]

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

    def standard_names(self, num_classes: int) -> tuple[str, ...]:
        """Kinetics-400's names, as torchvision spells them, for as many classes; else ()."""
        if num_classes == KINETICS_CLASSES:
            return tuple(get_weight("MViT_V2_S_Weights.KINETICS400_V1").meta["categories"])
        return ()

    def _clips(self, reader: VideoReader) -> Iterator[tuple[int, int, Tensor]]:
        """Yields first frame, end and views, (V, 3, T, S, S) uint8, of clip after clip."""
        sampling = self.mapper.sampling
        if isinstance(sampling, DenseSampling):
            span = sampling.span(reader.rate)
        else:
            span = reader.num_frames or count_frames(reader.path)
        number = 0
        while True:
            start, stop = round(number * span), round((number + 1) * span)
            (chosen,) = sampling.uniform(stop - start, reader.rate, 1)
            distinct, inverse = np.unique(chosen + start, return_inverse=True)
            crops = [self.mapper.crop(frame) for frame in reader.frames_at(distinct.tolist())]
            is_last = len(crops) < len(distinct)
            if is_last:
                # The last frame is repeated.
                stop = reader.position
                if not crops or (number and stop - start < span / 2):
                    return
            frames = [crops[min(index, len(crops) - 1)] for index in inverse.ravel().tolist()]
            yield start, stop, to_clips(np.stack(frames))
            if is_last:
                return
            number += 1

    @torch.no_grad()
    def _classify(self, batch: list[tuple[int, int, Tensor]], rate: float) -> list[ClipScores]:
        if not batch:
            return []
        outputs = self.model([{"image": views} for _, _, views in batch])
        return [
            ClipScores(start / rate, stop / rate, self.best(output["scores"]))
            for (start, stop, _), output in zip(batch, outputs, strict=True)
        ]

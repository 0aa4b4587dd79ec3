"""Video classification with a trained model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.models import get_weight

from ..data.clip_cutting import Clip, cut_clips
from ..data.clip_mapper import ClipMapper
from ..runtime.video_classification import BaseVideoClassifier, ClipScores
from .classifier import ClassScore, TrainedClassifier

__all__ = ["ClipScores", "VideoClassifier"]

KINETICS_CLASSES = 400


class VideoClassifier(BaseVideoClassifier, TrainedClassifier):
    """A video classifier; arguments are those of `TrainedClassifier`.

    classifier = VideoClassifier("video_mvitv2_s_k400")
    for clip in classifier("clip.mp4"):
        print(f"{clip.start:.1f} to {clip.end:.1f} s: {clip.classes[0].name}")
    """

    kind = "a video classifier"
    mapper_class = ClipMapper
    configs = "configs/Kinetics/"

    def clips(self, video: str | Path) -> Iterator[Clip]:
        """Yields the clips of a video, see `cut_clips`."""
        return cut_clips(video, self.mapper.sampling, self.mapper.crop)

    def classify(self, clips: Sequence[np.ndarray]) -> list[list[ClassScore]]:
        """Finds the most probable classes of clips, (views, 3, T, S, S) uint8 RGB each."""
        return self.rank(map(torch.from_numpy, clips))

    def standard_names(self, num_classes: int) -> tuple[str, ...]:
        """Kinetics-400's names, as torchvision spells them, for as many classes; else ()."""
        if num_classes == KINETICS_CLASSES:
            return tuple(get_weight("MViT_V2_S_Weights.KINETICS400_V1").meta["categories"])
        return ()

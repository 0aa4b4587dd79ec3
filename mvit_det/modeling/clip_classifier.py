"""A video classifier as a trainer uses it: records in, a loss or scores out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .image_classifier import ImageClassifier


class ClipClassifier(ImageClassifier):
    """An `ImageClassifier` for clips, whose records have several views.

    Mixing and erasing are the same in all frames of a clip. In evaluation the scores of a record
    are the mean of the softmax over its views.
    """

    def __init__(self, *, max_views: int = 8, **arguments: Any) -> None:
        """Wraps a classifier.

        Args:
            max_views: that go through the model at once, in evaluation.
            arguments: those of `ImageClassifier`; the classifier takes clips (N, C, T, H, W).

        Raises:
            ValueError: an argument is out of its range.
        """
        super().__init__(**arguments)
        if max_views < 1:
            raise ValueError(f"max_views must be positive, not {max_views}")
        self.max_views = max_views

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        """Computes losses in training, and scores in evaluation.

        Args:
            batch: records with `image`, (V, C, T, H, W) uint8 with V views of a video, and in
                training `label`, the class.

        Returns:
            As `ImageClassifier`.
        """
        counts = [len(record["image"]) for record in batch]
        clips = torch.cat([record["image"] for record in batch])
        if not self.training:
            scores = [self._score(chunk) for chunk in clips.split(self.max_views)]
            return [{"scores": views.mean(0)} for views in torch.cat(scores).split(counts)]
        labels = torch.tensor([record["label"] for record in batch], device=self.device)
        labels = labels.repeat_interleave(torch.tensor(counts, device=self.device))
        # As images with C · T channels, for which one rectangle is drawn.
        time = clips.shape[2]
        images, labels = self.augment(self.normalise(clips).flatten(1, 2), labels)
        return self.loss(self.classifier(images.unflatten(1, (-1, time))), labels)

    def _score(self, clips: Tensor) -> Tensor:
        return self.classifier(self.normalise(clips)).float().softmax(dim=1)

    def normalise(self, clips: Tensor) -> Tensor:
        """Moves clips (N, C, T, H, W) to the device, with mean 0 and standard deviation 1."""
        mean, std = self.pixel_mean[..., None], self.pixel_std[..., None]
        return (clips.to(self.device) - mean) / std

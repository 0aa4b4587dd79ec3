"""A classifier as a trainer uses it: records in, a loss or scores out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2


class ImageClassifier(nn.Module):
    """Normalises and mixes images, and computes the loss or the scores of their classes.

    The recipe is MViTv2's for ImageNet (appendix B.2): mixup (Zhang et al., 2018) or CutMix (Yun
    et al., 2019) for each batch, random erasing after normalisation, and soft cross-entropy with
    label smoothing. All randomness is drawn from PyTorch's global generator.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        classifier: nn.Module,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        mixup: float = 0.0,
        cutmix: float = 0.0,
        random_erasing: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """Wraps a classifier.

        Args:
            classifier: maps normalised images (N, C, H, W) to logits (N, num_classes).
            num_classes: number of classes.
            pixel_mean, pixel_std: of each channel, for values in [0, 255].
            mixup, cutmix: alpha of the Beta distribution of the share of the second image; 0
                switches either off. With both, each batch gets one of them with equal probability.
            random_erasing: probability of replacing a rectangle of an image by noise.
            label_smoothing: share of the target that is spread over all classes, in [0, 1).

        Raises:
            ValueError: an argument is out of its range.
        """
        super().__init__()
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if alpha < 0:
                raise ValueError(f"{name} must be at least 0, not {alpha}")
        if not 0 <= random_erasing <= 1:
            raise ValueError(f"random_erasing must be from 0 to 1, not {random_erasing}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1: {label_smoothing}")
        self.classifier = classifier
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), persistent=False)
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        self.erase = None
        if random_erasing:
            self.erase = v2.RandomErasing(random_erasing, value="random", inplace=True)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        """Computes losses in training, and scores in evaluation.

        Args:
            batch: records with `image`, (C, H, W) uint8 of one size, and in training `label`, the
                class.

        Returns:
            In training `{"loss_cls": loss}`, in evaluation for each record `{"scores": scores}`
            with (num_classes,) fp32 that sum to 1.
        """
        images = torch.stack([record["image"] for record in batch]).to(self.device)
        images = (images - self.pixel_mean).div_(self.pixel_std)
        if not self.training:
            scores = self.classifier(images).float().softmax(dim=1)
            return [{"scores": score} for score in scores]
        labels = torch.tensor([record["label"] for record in batch], device=self.device)
        images, labels = self.augment(images, labels)
        return self.loss(self.classifier(images), labels)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Erases normalised images (N, C, H, W) in place, and mixes them and their labels (N,)."""
        if self.erase is not None:
            for image in images:
                self.erase(image)
        return (images, labels) if self.mix is None else self.mix(images, labels)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy with labels, (N,), or mixed ones, (N, K)."""
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return {"loss_cls": loss}


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)

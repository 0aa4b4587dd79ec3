"""Merging what several views of an image show: by NMS, soft-NMS or weighted boxes fusion."""

from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from ..errors import ConfigError
from .fusion import weighted_boxes_fusion
from .soft_nms import METHODS as SOFT_METHODS
from .soft_nms import soft_nms

METHODS = ("nms", *SOFT_METHODS, "fusion")

# Detectron2's, when it merges views.
LOWEST_SCORE = 1e-8


@dataclass(frozen=True)
class MergeSettings:
    """How boxes of several views become one set.

    Attributes:
        method: "nms", soft-NMS ("linear" or "gaussian"), or weighted boxes "fusion".
        iou_threshold: from which boxes are taken for the same object; unused by "gaussian".
        sigma: of "gaussian".
    """

    method: str = "nms"
    iou_threshold: float = 0.5
    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ConfigError: one is out of its range.
        """
        if self.method not in METHODS:
            raise ConfigError(
                f"inference.merge.method must be one of {', '.join(METHODS)}, not '{self.method}'"
            )
        if not 0 < self.iou_threshold <= 1:
            raise ConfigError(
                "inference.merge.iou_threshold must be above 0 and at most 1, not "
                f"{self.iou_threshold}"
            )
        if not self.sigma > 0:
            raise ConfigError(f"inference.merge.sigma must be above 0, not {self.sigma}")


@dataclass(frozen=True, eq=False)
class MergedBoxes:
    """Boxes of the whole image, best first.

    Attributes:
        boxes: (M, 4) x0, y0, x1, y1.
        scores: (M,) in [0, 1].
        classes: (M,).
        sources: (M,) indexes of the boxes that they were; of a fused one, that of the best member.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    sources: Tensor


def merge_boxes(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    settings: MergeSettings,
    *,
    num_views: int = 1,
    score_threshold: float = LOWEST_SCORE,
    max_detections: int = -1,
) -> MergedBoxes:
    """Merges boxes of several views, class by class.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        scores: (N,) in [0, 1].
        classes: (N,) integers.
        settings: the method.
        num_views: that could have shown each object, for "fusion".
        score_threshold: boxes whose final score is not above it are dropped.
        max_detections: how many to keep, best first; negative keeps all.
    """
    candidates = (scores > max(score_threshold, 0)).nonzero()[:, 0]
    if settings.method == "fusion":
        # A fused score may be above the threshold although a member's is not.
        candidates = (scores > LOWEST_SCORE).nonzero()[:, 0]
    boxes, scores, classes = boxes[candidates], scores[candidates], classes[candidates]
    if settings.method == "nms":
        kept = batched_nms(boxes, scores, classes, settings.iou_threshold)
        merged = MergedBoxes(boxes[kept], scores[kept], classes[kept], candidates[kept])
    elif settings.method == "fusion":
        fused = weighted_boxes_fusion(
            *(tensor.cpu().numpy() for tensor in (boxes, scores, classes)),
            iou_threshold=settings.iou_threshold,
            num_views=num_views,
        )
        new_boxes, new_scores, new_classes, sources = (
            torch.from_numpy(array).to(boxes.device) for array in fused
        )
        kept = new_scores > score_threshold
        merged = MergedBoxes(
            new_boxes[kept], new_scores[kept], new_classes[kept], candidates[sources[kept]]
        )
    else:
        kept, final = soft_nms(
            boxes,
            scores,
            classes,
            method=settings.method,
            iou_threshold=settings.iou_threshold,
            sigma=settings.sigma,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )
        merged = MergedBoxes(boxes[kept], final, classes[kept], candidates[kept])
    if max_detections < 0:
        return merged
    return MergedBoxes(
        merged.boxes[:max_detections],
        merged.scores[:max_detections],
        merged.classes[:max_detections],
        merged.sources[:max_detections],
    )

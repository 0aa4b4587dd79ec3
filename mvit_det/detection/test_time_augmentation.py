"""Test-time augmentation: an image at several sizes, and flipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..errors import ConfigError
from .merging import LOWEST_SCORE, MergeSettings, merge_boxes
from .views import View, ViewDetector


@dataclass(frozen=True)
class TTASettings:
    """The views of an image.

    Attributes:
        short_sides: pixels that the shorter side is resized to, one view for each.
        max_size: pixels that the longer side must not exceed.
        flip: adds each view flipped from left to right.
    """

    short_sides: Sequence[int] = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    max_size: int = 4000
    flip: bool = True

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ConfigError: one is out of its range.
        """
        if not self.short_sides or min(self.short_sides) < 1:
            raise ConfigError(
                "inference.tta.short_sides must be positive integers, at least one, not "
                f"{list(self.short_sides)}"
            )
        if self.max_size < max(self.short_sides):
            raise ConfigError(
                f"inference.tta.max_size is {self.max_size} and less than a short side of "
                f"{max(self.short_sides)}"
            )


class DetectorWithTTA:
    """A detector that looks at several views of an image; called as the detector itself.

    Boxes of all views are merged; then each view gives masks within the merged boxes, and these are
    averaged, as in Detectron2's `GeneralizedRCNNWithTTA`. One view is in memory at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TTASettings | None = None,
        merge: MergeSettings | None = None,
        *,
        score_threshold: float = LOWEST_SCORE,
    ) -> None:
        """Wraps a model, which stays as it is.

        Args:
            model: a Mask, Cascade or Faster R-CNN or a RetinaNet, in evaluation mode when called.
            settings: the views; by default Detectron2's.
            merge: how boxes are merged; by default by NMS, as in Detectron2.
            score_threshold: merged boxes whose score is not above it are dropped.

        Raises:
            ConfigError: the model is of another kind, or takes no views of this size.
        """
        self.detector = ViewDetector(model)
        self.settings = settings or TTASettings()
        self.merge = merge or MergeSettings()
        self.score_threshold = score_threshold
        largest = max(self.settings.short_sides)
        if largest > self.detector.largest_side:
            raise ConfigError(
                f"inference.tta.short_sides has {largest}, and the model pads images to "
                f"{self.detector.largest_side:g} pixels: take smaller sides, or set "
                "model.backbone.square_pad=0"
            )

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Takes and returns the same as Detectron2's detectors.

        Args:
            batched_inputs: dicts with `image`, (3, H, W) uint8, best at its original size, and
                perhaps `height` and `width`, for which results are returned.
        """
        return [{"instances": self._detect(entry)} for entry in batched_inputs]

    def views(self, entry: dict[str, Any]) -> Iterator[View]:
        """The views of an image, one after the other, from the shortest side given first."""
        pixels = np.ascontiguousarray(entry["image"].permute(1, 2, 0).cpu().numpy())
        height, width = _output_size(entry)
        steps = []
        if pixels.shape[:2] != (height, width):
            steps.append(T.ResizeTransform(height, width, *pixels.shape[:2]))
        max_size = int(min(self.settings.max_size, self.detector.largest_side))
        for short_side in self.settings.short_sides:
            resize = T.ResizeShortestEdge(short_side, max_size).get_transform(pixels)
            resized = resize.apply_image(pixels)
            yield View(_to_tensor(resized), T.TransformList([*steps, resize]))
            if self.settings.flip:
                flip = T.HFlipTransform(resized.shape[1])
                flipped = _to_tensor(flip.apply_image(resized))
                yield View(flipped, T.TransformList([*steps, resize, flip]))

    def _detect(self, entry: dict[str, Any]) -> Instances:
        size = _output_size(entry)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for view in self.views(entry):
            instances = self.detector.find(view, masks=False)
            seen = Boxes(view.to_image(instances.pred_boxes.tensor))
            seen.clip(size)
            found.append((seen.tensor, instances.scores, instances.pred_classes))
        boxes, scores, classes = (torch.cat(tensors) for tensors in zip(*found))
        merged = merge_boxes(
            boxes,
            scores,
            classes,
            self.merge,
            num_views=len(found),
            score_threshold=self.score_threshold,
            max_detections=self.detector.max_detections,
        )
        result = Instances(
            size,
            pred_boxes=Boxes(merged.boxes),
            scores=merged.scores,
            pred_classes=merged.classes,
        )
        if self.detector.has_masks:
            masks = [
                self.detector.masks(view, merged.boxes, merged.classes)
                for view in self.views(entry)
            ]
            result.pred_masks = torch.stack(masks).mean(dim=0)
        return detector_postprocess(result, *size)


def _output_size(entry: dict[str, Any]) -> tuple[int, int]:
    height, width = entry["image"].shape[1:]
    return entry.get("height", height), entry.get("width", width)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """From (h, w, 3) to (3, h, w)."""
    # A copy in any case: NumPy takes a flipped image of one column for contiguous.
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
